package verify

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// messagePool has the newest messages of each conversation. A sender takes a message to change it,
// so each is changed by one sender at a time, and the outcome of two changes is known.
type messagePool struct {
	mu   sync.Mutex         // guards free
	free [][]*pooledMessage // by conversation, the oldest first
}

// pooledMessage is a message that may be changed.
type pooledMessage struct {
	id       string
	key      string
	author   int
	edits    int
	editedAt *time.Time
	restores int // of the database, until the message was sent
	// reactions has every reaction that was tried. The value is true if it may be removed.
	reactions map[action]bool
}

// poolSize is how many messages of a conversation the pool keeps.
const poolSize = 20

func newMessagePool(conversations int) *messagePool {
	return &messagePool{free: make([][]*pooledMessage, conversations)}
}

func (p *messagePool) put(conversation int, m *pooledMessage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := append(p.free[conversation], m)
	p.free[conversation] = list[max(0, len(list)-poolSize):]
}

// get takes a random message out of the pool: nil if there is none. restores is how often the
// database was restored: what was sent before the last time may be undone, or be changed in another
// way than is known.
func (p *messagePool) get(conversation int, r *rand.Rand, restores int) *pooledMessage {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := slices.DeleteFunc(p.free[conversation], func(m *pooledMessage) bool {
		return m.restores < restores
	})
	p.free[conversation] = list
	if len(list) == 0 {
		return nil
	}
	i := r.IntN(len(list))
	m := list[i]
	p.free[conversation] = slices.Delete(list, i, i+1)
	return m
}

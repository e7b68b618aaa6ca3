package ratelimit

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// remembered bounds the memory.
const remembered = 100_000

// Memory keeps values by key in the memory of one node: 100,000 of them, of which the longest
// unused goes first.
type Memory[K comparable, V any] struct {
	mu     sync.Mutex // guards values, and what they point to
	values *simplelru.LRU[K, *V]
}

// NewMemory makes an empty one.
func NewMemory[K comparable, V any]() *Memory[K, V] {
	values, _ := simplelru.NewLRU[K, *V](remembered, nil) // fails for a size below 1 only
	return &Memory[K, V]{values: values}
}

// Update changes the value of one key, the zero value if there is none, and nobody else sees it
// half changed. change must not block.
func (m *Memory[K, V]) Update(key K, change func(*V)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.values.Get(key)
	if !ok {
		v = new(V)
		m.values.Add(key, v)
	}
	change(v)
}

// Keys are those that have a value, the longest unused first.
func (m *Memory[K, V]) Keys() []K {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values.Keys()
}

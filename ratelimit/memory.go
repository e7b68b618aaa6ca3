package ratelimit

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// memorySize is how many values a Memory keeps.
const memorySize = 100_000

// Memory keeps values by key in the memory of one node, 100,000 at most. It drops the least
// recently used.
type Memory[K comparable, V any] struct {
	mu     sync.Mutex // guards values, and what they point to
	values *simplelru.LRU[K, *V]
}

// NewMemory returns an empty Memory.
func NewMemory[K comparable, V any]() *Memory[K, V] {
	values, _ := simplelru.NewLRU[K, *V](memorySize, nil) // fails for a size below 1 only
	return &Memory[K, V]{values: values}
}

// Update calls change with the value of a key, which is the zero value if the key is new. change
// has the Memory locked, so it must not block.
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

// Keys returns the keys that have a value, the least recently used first.
func (m *Memory[K, V]) Keys() []K {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values.Keys()
}

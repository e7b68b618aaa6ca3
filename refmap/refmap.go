// Package refmap has a map whose values are shared by their users, and are there while they have
// some: it counts references.
//
// Lock order: the map's lock → the locks that open and close take. They run with the map locked, so
// that a value is never opened while the one before it still closes; they must not call the map.
package refmap

import "sync"

// Map is a map of reference-counted values. The zero Map is empty. It may be used by any number of
// goroutines.
type Map[K comparable, V any] struct {
	mu      sync.Mutex // guards entries and their counts
	entries map[K]*entry[V]
}

type entry[V any] struct {
	value      V
	references int
}

// Acquire returns the value of a key, which open makes if the key has none. Each call needs one of
// Release.
func (m *Map[K, V]) Acquire(key K, open func() V) V {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[key]
	if e == nil {
		if m.entries == nil {
			m.entries = map[K]*entry[V]{}
		}
		e = &entry[V]{value: open()}
		m.entries[key] = e
	}
	e.references++
	return e.value
}

// Release takes back one Acquire. After the last one the value is no longer in the map, and is
// passed to close, which may be nil.
func (m *Map[K, V]) Release(key K, close func(V)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[key]
	if e == nil {
		panic("refmap: released more often than acquired")
	}
	if e.references--; e.references > 0 {
		return
	}
	delete(m.entries, key)
	if close != nil {
		close(e.value)
	}
}

// Get returns the value of a key, if it has users. It counts no reference.
func (m *Map[K, V]) Get(key K) (v V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[key]; e != nil {
		return e.value, true
	}
	return v, false
}

// Values returns all values, in no order.
func (m *Map[K, V]) Values() []V {
	m.mu.Lock()
	defer m.mu.Unlock()
	values := make([]V, 0, len(m.entries))
	for _, e := range m.entries {
		values = append(values, e.value)
	}
	return values
}

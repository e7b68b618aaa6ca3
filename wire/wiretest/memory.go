// Package wiretest connects tests to a server within the process.
package wiretest

import (
	"net"
	"sync"
)

// Memory is a listener within the process, for tests with a clock of their own (testing/synctest).
// Its connections have no buffer: a write waits until the other side reads.
type Memory struct {
	dialled chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

// Listen makes a Memory. It belongs to the synctest bubble in which it is made.
func Listen() *Memory { return &Memory{dialled: make(chan net.Conn), closed: make(chan struct{})} }

// Dial waits until the connection is accepted.
func (m *Memory) Dial() (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case m.dialled <- theirs:
		return ours, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

// Accept waits for a Dial.
func (m *Memory) Accept() (net.Conn, error) {
	select {
	case conn := <-m.dialled:
		return conn, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

// Close ends the calls of Dial and Accept that wait.
func (m *Memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

// Addr is a placeholder.
func (m *Memory) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

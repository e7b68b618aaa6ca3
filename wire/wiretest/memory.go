// Package wiretest lets tests talk to a server without the operating system.
package wiretest

import (
	"net"
	"sync"
)

// Memory is a listener inside the process, so that a test can have a clock of its own
// (testing/synctest). What one side writes waits nowhere: it is written when the other side reads
// it.
type Memory struct {
	dialled chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

// Listen makes a Memory. It belongs to the bubble that it is made in.
func Listen() *Memory { return &Memory{dialled: make(chan net.Conn), closed: make(chan struct{})} }

// Dial connects, once the connection is accepted.
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

// Close ends those that wait.
func (m *Memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

// Addr names no place.
func (m *Memory) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

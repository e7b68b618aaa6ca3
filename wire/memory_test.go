package wire

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
)

// memory listens without the operating system, so that a test can have a clock of its own (testing/synctest). What one side
// writes waits nowhere: it is written when the other side reads it.
type memory struct {
	dialled chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func (m *memory) dial() (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case m.dialled <- theirs:
		return ours, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case conn := <-m.dialled:
		return conn, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

func (m *memory) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

// mustServeInMemory is mustServe for a test in a bubble.
func mustServeInMemory(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	w := newWorld(t, change...)
	m := &memory{dialled: make(chan net.Conn), closed: make(chan struct{})}
	w.dialTo = m.dial
	server := &http.Server{Handler: w}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(m) })
	t.Cleanup(func() {
		w.server.Drain(context.Background())
		_ = server.Close()
		serving.Wait()
	})
	return w
}

package verify

import (
	"io"
	"net"
	"sync"
)

// relay forwards TCP connections to a server, which may change, or to none.
type relay struct {
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	to     string     // the server; empty for none
	open   map[net.Conn]struct{}
	closed bool
}

// listenRelay starts a relay.
func listenRelay(to string) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // answers at once
	if err != nil {
		return nil, err
	}
	r := &relay{listener: l, to: to, open: map[net.Conn]struct{}{}}
	r.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.running.Go(func() { r.forward(conn) })
		}
	})
	return r, nil
}

func (r *relay) address() string { return r.listener.Addr().String() }

// redirect closes the open connections, and forwards new ones to another server; to none if the
// address is empty.
func (r *relay) redirect(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
	for conn := range r.open {
		_ = conn.Close()
	}
}

func (r *relay) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	_ = r.listener.Close()
	r.redirect("")
	r.running.Wait()
}

func (r *relay) forward(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	r.mu.Lock()
	to := r.to
	r.mu.Unlock()
	if to == "" {
		return
	}
	server, err := net.Dial("tcp", to) //nolint:noctx // on this machine, which answers at once
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	if !r.add(to, conn, server) {
		return
	}
	defer r.remove(conn, server)
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{conn, server}, {server, conn}} {
		both.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			_ = conn.Close()
			_ = server.Close()
		})
	}
	both.Wait()
}

// add adds open connections, unless the relay was redirected meanwhile.
func (r *relay) add(to string, conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.to != to {
		return false
	}
	for _, conn := range conns {
		r.open[conn] = struct{}{}
	}
	return true
}

func (r *relay) remove(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range conns {
		delete(r.open, conn)
	}
}

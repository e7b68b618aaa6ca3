package verify

import (
	"io"
	"net"
	"sync"
)

// relay passes TCP connections on to a server, which may change, or to none.
type relay struct {
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	to     string     // the server; empty while it is cut
	open   map[net.Conn]struct{}
	closed bool
}

// listenRelay begins to pass on.
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
			r.running.Go(func() { r.pass(conn) })
		}
	})
	return r, nil
}

func (r *relay) address() string { return r.listener.Addr().String() }

// lead cuts what is open, and passes on to another server from now on; to none with an empty
// address.
func (r *relay) lead(to string) {
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
	r.lead("")
	r.running.Wait()
}

func (r *relay) pass(conn net.Conn) {
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
	if !r.keep(to, conn, server) {
		return
	}
	defer r.forget(conn, server)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{conn, server}, {server, conn}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = conn.Close()
			_ = server.Close()
		})
	}
	both.Wait()
}

// keep remembers connections that are open, unless the relay leads elsewhere by now.
func (r *relay) keep(to string, conns ...net.Conn) bool {
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

func (r *relay) forget(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range conns {
		delete(r.open, conn)
	}
}

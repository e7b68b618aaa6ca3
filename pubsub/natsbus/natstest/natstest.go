// Package natstest runs a real NATS server in the process of a test, which can stop it, start it
// again and make it hang.
package natstest

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Server is a NATS server behind a listener on loopback. The listener stays while the server is
// stopped, so the address is the same after a restart, and no other process can get the port.
type Server struct {
	tb       testing.TB
	opts     *server.Options // of its own server; nil if it forwards
	to       *Server         // the server that it forwards to; nil if it has its own
	listener net.Listener
	work     sync.WaitGroup

	mu    sync.Mutex     // guards what follows
	nats  *server.Server // nil while it is stopped
	via   string         // the address that connections are forwarded to; "" while it is stopped
	conns map[net.Conn]struct{}
	hung  chan struct{} // closed while nothing hangs
	tries int
}

// MustStart starts a server without accounts. It ends with the test.
func MustStart(tb testing.TB) *Server {
	tb.Helper()
	return MustStartWith(tb, server.Options{})
}

// MustStartWith starts a server with other options, such as users.
func MustStartWith(tb testing.TB, opts server.Options) *Server {
	tb.Helper()
	opts.Host, opts.Port, opts.NoSigs, opts.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	s := mustListen(tb)
	s.opts = &opts
	s.Start()
	return s
}

// MustForward makes another address for a server. Its Stop, Start and Hang affect only connections
// to this address.
func MustForward(tb testing.TB, to *Server) *Server {
	tb.Helper()
	s := mustListen(tb)
	s.to = to
	s.Start()
	return s
}

func mustListen(tb testing.TB) *Server {
	tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{tb: tb, listener: listener, conns: map[net.Conn]struct{}{}, hung: closed()}
	s.work.Go(s.accept)
	tb.Cleanup(func() {
		_ = listener.Close()
		s.Resume()
		s.Stop()
		s.work.Wait()
	})
	return s
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// URL returns the server's URL, which is the same while it is stopped.
func (s *Server) URL() string { return "nats://" + s.Addr() }

// Addr returns the host and port of URL.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Start starts the server again. It has no state of before.
func (s *Server) Start() {
	s.tb.Helper()
	if s.to != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.via = s.to.Addr()
		return
	}
	opts := *s.opts
	nats, err := server.NewServer(&opts)
	if err != nil {
		s.tb.Fatal(err)
	}
	go nats.Start()
	if !nats.ReadyForConnections(30 * time.Second) {
		s.tb.Fatal("NATS does not start")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nats, s.via = nats, nats.Addr().String()
}

// Stop ends the server and its connections. It closes new ones at once.
func (s *Server) Stop() {
	s.mu.Lock()
	nats := s.nats
	s.nats, s.via = nil, ""
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	if nats != nil {
		nats.Shutdown()
		nats.WaitForShutdown()
	}
}

// Hang stops forwarding data, in both directions, and keeps the connections open.
func (s *Server) Hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hung = make(chan struct{})
}

// Resume forwards data again.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.hung:
	default:
		close(s.hung)
	}
}

// Subscriptions returns the subjects that begin with prefix, one for each subscription of each
// connection, sorted.
func (s *Server) Subscriptions(prefix string) (subjects []string) {
	s.tb.Helper()
	s.mu.Lock()
	nats := s.nats
	s.mu.Unlock()
	state, err := nats.Subsz(&server.SubszOptions{Subscriptions: true, Limit: 1 << 20})
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, sub := range state.Subs {
		if strings.HasPrefix(sub.Subject, prefix) {
			subjects = append(subjects, sub.Subject)
		}
	}
	slices.Sort(subjects)
	return subjects
}

// Tries returns how many connections were made, also while the server was stopped.
func (s *Server) Tries() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tries
}

func (s *Server) accept() {
	for {
		client, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.work.Go(func() { s.serve(client) })
	}
}

func (s *Server) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	s.mu.Lock()
	via := s.via
	s.tries++
	s.mu.Unlock()
	if via == "" {
		return
	}
	to, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", via)
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	s.mu.Lock()
	if s.via != via { // it was stopped or started meanwhile
		s.mu.Unlock()
		return
	}
	s.conns[client], s.conns[to] = struct{}{}, struct{}{}
	s.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, to}, {to, client}} {
		both.Go(func() {
			_, _ = io.Copy(gate{s, way[0]}, way[1])
			_, _ = way[0].Close(), way[1].Close()
		})
	}
	both.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, client)
	delete(s.conns, to)
}

// gate is a writer that waits while the server hangs. (It is not a net.Conn, so that io.Copy cannot
// leave the copying to the kernel.)
type gate struct {
	server *Server
	to     io.Writer
}

func (g gate) Write(p []byte) (int, error) {
	g.server.mu.Lock()
	hung := g.server.hung
	g.server.mu.Unlock()
	<-hung
	return g.to.Write(p)
}

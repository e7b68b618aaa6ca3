package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"parley/auth"
	"parley/errs"
)

// connectionLimit is a listener that bounds how many connections one address has at once, because
// each of them uses memory before its client is known. An IPv6 address counts as its /64 network.
// A connection counts until it is closed, also as a WebSocket. Connections over loopback and from
// trusted proxies do not count: all clients behind a proxy have its address.
//
// A connection beyond the limit is answered with 429, whatever it requests, and closed. Accept does
// not wait for that: each refusal runs on a goroutine of its own, and Close waits for all of them.
type connectionLimit struct {
	net.Listener
	max     int
	proxies []netip.Prefix
	log     *slog.Logger
	answer  []byte // to connections beyond the limit

	slots    chan struct{} // a semaphore of maxRefusals
	refusals sync.WaitGroup

	mu   sync.Mutex                  // guards open
	open map[string]*connectionCount // by address or /64 network
}

// connectionCount counts the connections of one address or network. Guarded by connectionLimit.mu.
type connectionCount struct {
	open   int
	warned bool // the log has a warning about this address
}

const (
	maxRefusals    = 64          // at once; one more connection is closed without an answer
	refusalTimeout = time.Second // for a client to read the answer and to close
)

func limitConnections(
	listener net.Listener, maximum int, proxies []netip.Prefix, log *slog.Logger,
) *connectionLimit {
	return &connectionLimit{
		Listener: listener, max: maximum, proxies: proxies, log: log, answer: refusal(maximum),
		slots: make(chan struct{}, maxRefusals), open: map[string]*connectionCount{},
	}
}

// refusal returns the bytes of the answer 429. It answers a connection whose request is not read.
func refusal(maximum int) []byte {
	body, _ := json.Marshal(map[string]any{"errors": []any{map[string]any{ // cannot fail
		"message": fmt.Sprintf(
			"At most %d connections at once from one address: close some.", maximum),
		"extensions": map[string]any{"code": errs.RateLimited},
	}}})
	header := defaultHeaders()
	header.Set("Content-Type", "application/json; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Connection", "close")
	var answer bytes.Buffer
	const status = http.StatusTooManyRequests
	_, _ = fmt.Fprintf(&answer, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	_ = header.Write(&answer) // a buffer never fails
	answer.WriteString("\r\n")
	answer.Write(body)
	return answer.Bytes()
}

// Accept waits for a connection that is within the limit.
func (l *connectionLimit) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		network, counts := l.networkOf(conn.RemoteAddr())
		if !counts {
			return conn, nil
		}
		if l.acquire(network) {
			return counted(conn, sync.OnceFunc(func() { l.release(network) })), nil
		}
		l.refuse(conn)
	}
}

// networkOf returns the address or network that a peer counts as. counts is false for peers without
// a limit: loopback, trusted proxies, and connections that are not TCP.
func (l *connectionLimit) networkOf(peer net.Addr) (network string, counts bool) {
	tcp, ok := peer.(*net.TCPAddr)
	if !ok {
		return "", false
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	isProxy := slices.ContainsFunc(l.proxies, func(p netip.Prefix) bool { return p.Contains(addr) })
	if addr.IsLoopback() || isProxy {
		return "", false
	}
	return auth.Client{IP: addr.String()}.Network(), true
}

// acquire counts a connection. It reports false if the network has as many as it may have.
func (l *connectionLimit) acquire(network string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := l.open[network]
	if count == nil {
		count = new(connectionCount)
		l.open[network] = count
	}
	if count.open < l.max {
		count.open++
		return true
	}
	if !count.warned {
		count.warned = true
		l.log.Warn("an address has reached its limit of connections; more are refused "+
			"(PARLEY_MAX_CONNS_PER_ADDRESS)",
			"address", network, "connections", count.open)
	}
	return false
}

func (l *connectionLimit) release(network string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := l.open[network]
	if count.open--; count.open == 0 {
		delete(l.open, network)
	}
}

// refuse answers and closes a connection. It does not wait.
func (l *connectionLimit) refuse(conn net.Conn) {
	select {
	case l.slots <- struct{}{}:
	default:
		_ = conn.Close()
		return
	}
	l.refusals.Go(func() {
		defer func() { <-l.slots }()
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(refusalTimeout))
		if _, err := conn.Write(l.answer); err != nil {
			return
		}
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		// Closing a connection with unread bytes sends a reset, which can overtake the answer.
		_, _ = io.Copy(io.Discard, conn)
	})
}

// Close closes the listener, and waits for the refusals that are running.
func (l *connectionLimit) Close() error {
	err := l.Listener.Close()
	l.refusals.Wait()
	return err
}

// counted returns conn with a Close that also calls release. A TCP connection keeps its other
// methods, because package wire uses its descriptor.
func counted(conn net.Conn, release func()) net.Conn {
	if tcp, ok := conn.(*net.TCPConn); ok {
		return &countedTCPConn{tcp, release}
	}
	return &countedConn{conn, release}
}

type countedTCPConn struct {
	*net.TCPConn
	release func()
}

func (c *countedTCPConn) Close() error {
	defer c.release()
	return c.TCPConn.Close()
}

type countedConn struct {
	net.Conn
	release func()
}

func (c *countedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

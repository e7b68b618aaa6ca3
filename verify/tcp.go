package verify

import (
	"context"
	"errors"
	"net"
	"net/url"
	"sync/atomic"
)

// tcpConn is a TCP connection that can be cut at any byte.
type tcpConn struct {
	net.Conn
	budget atomic.Int64 // bytes to read until the connection is cut
	cut    atomic.Bool
}

// unlimited is the budget of a connection that is not cut.
const unlimited = int64(1) << 60

var errCut = errors.New("the connection was cut, as planned")

func (c *tcpConn) Read(b []byte) (int, error) {
	budget := c.budget.Load()
	if budget <= 0 {
		c.reset()
		return 0, errCut
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), budget)])
	c.budget.Add(-int64(n))
	if c.cut.Load() {
		err = errCut
	}
	return n, err
}

// reset ends the connection with a TCP reset, and drops what was not sent.
func (c *tcpConn) reset() {
	c.cut.Store(true)
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// dialTCP opens the connection before net/http is involved. The transport of net/http would dial in
// a goroutine of its own, and after a timeout leave a connection behind.
func dialTCP(
	ctx context.Context, address string, smallBuffers bool, budget int64,
) (*tcpConn, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	dialer := &net.Dialer{}
	if smallBuffers {
		dialer.Control = shrinkBuffers
	}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, err
	}
	c := &tcpConn{Conn: conn}
	c.budget.Store(budget)
	return c, nil
}

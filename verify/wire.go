package verify

import (
	"context"
	"errors"
	"net"
	"net/url"
	"sync/atomic"
)

// wire is the TCP connection, which can be cut at any byte.
type wire struct {
	net.Conn
	left atomic.Int64 // bytes to be read until it is cut
	cut  atomic.Bool
}

const uncut = int64(1) << 60

var errCut = errors.New("the connection was cut, as planned")

func (w *wire) Read(b []byte) (int, error) {
	left := w.left.Load()
	if left <= 0 {
		w.reset()
		return 0, errCut
	}
	n, err := w.Conn.Read(b[:min(int64(len(b)), left)])
	w.left.Add(-int64(n))
	if w.cut.Load() {
		err = errCut
	}
	return n, err
}

// reset ends the connection with no goodbye: what was not sent is dropped, and the other side gets
// a TCP reset.
func (w *wire) reset() {
	w.cut.Store(true)
	if tcp, ok := w.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = w.Close()
}

// dialWire opens the TCP connection, before net/http has a part in it: the transport would dial in
// a goroutine of its own, and leave a connection behind that comes after the time is up.
func dialWire(ctx context.Context, address string, tight bool, budget int64) (*wire, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	dialer := &net.Dialer{}
	if tight {
		dialer.Control = smallBuffers
	}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: conn}
	w.left.Store(budget)
	return w, nil
}

package main

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"parley/wire/wiretest"
)

// addressed is a listener in memory. The test chooses the addresses of its connections.
type addressed struct {
	*wiretest.Memory
	from chan net.Addr
}

func listenAddressed() *addressed {
	return &addressed{Memory: wiretest.Listen(), from: make(chan net.Addr, 1)}
}

func (l *addressed) Accept() (net.Conn, error) {
	conn, err := l.Memory.Accept()
	if err != nil {
		return nil, err
	}
	return addressedConn{conn, <-l.from}, nil
}

type addressedConn struct {
	net.Conn
	from net.Addr
}

func (c addressedConn) RemoteAddr() net.Addr { return c.from }

func (l *addressed) dial(t *testing.T, ip string) net.Conn {
	t.Helper()
	l.from <- net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 50123))
	conn, err := l.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// mustLimit serves at most so many connections of one address. The path /hijack does what a
// WebSocket does to net/http.
func mustLimit(t *testing.T, maximum int, log io.Writer) *addressed {
	t.Helper()
	listener := listenAddressed()
	logger := slog.New(slog.NewTextHandler(log, nil))
	limit := limitConnections(listener, maximum,
		[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, logger)
	server := newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hijack" {
			_, _ = io.WriteString(w, "ok")
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
		_ = conn.Close() // a second time, which must not release the connection again
	}), logger)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(limit) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return listener
}

// status requests path on a connection, which stays open, and returns the answer.
func status(t *testing.T, conn net.Conn, path string) (code int, body string) {
	t.Helper()
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: parley\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if code = res.StatusCode; code == http.StatusSwitchingProtocols {
		return code, ""
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return code, string(b)
}

// refused checks that conn is beyond the limit: the answer 429 comes without a request, and then
// the end.
func refused(t *testing.T, conn net.Conn) {
	t.Helper()
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil || res.StatusCode != http.StatusTooManyRequests || !res.Close ||
		!strings.Contains(string(body), "RATE_LIMITED") ||
		res.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("%s %v %s %v", res.Status, res.Header, body, err)
	}
	for name := range defaultHeaders() {
		if got, want := res.Header.Get(name), defaultHeaders().Get(name); got != want ||
			want == "" {
			t.Errorf("the refusal has %s: %q, want %q", name, got, want)
		}
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is not closed: %v", err)
	}
}

func TestConnectionsOfOneAddressAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newOutput()
		l := mustLimit(t, 3, log)
		open := func(ip, path string, want int) net.Conn {
			t.Helper()
			conn := l.dial(t, ip)
			if code, body := status(t, conn, path); code != want {
				t.Fatalf("%s: %d %s", ip, code, body)
			}
			return conn
		}
		idle := l.dial(t, "192.0.2.7") // a connection without a request counts too
		open("192.0.2.7", "/", 200)
		socket := open("::ffff:192.0.2.7", "/hijack", 101)
		refused(t, l.dial(t, "192.0.2.7"))
		refused(t, l.dial(t, "192.0.2.7"))
		open("192.0.2.8", "/", 200)

		for range 3 {
			open("2001:db8:1:2::1", "/", 200)
		}
		refused(t, l.dial(t, "2001:db8:1:2:ffff::9")) // of the same /64
		open("2001:db8:1:3::1", "/", 200)

		for range 5 { // loopback and proxies
			open("127.0.0.1", "/", 200)
			open("::1", "/", 200)
			open("10.1.2.3", "/", 200)
			open("::ffff:10.1.2.3", "/", 200)
		}

		_ = socket.Close() // a WebSocket counts until it is closed
		synctest.Wait()
		open("192.0.2.7", "/", 200)
		refused(t, l.dial(t, "192.0.2.7"))
		_ = idle.Close()
		synctest.Wait()
		open("192.0.2.7", "/", 200)
		refused(t, l.dial(t, "192.0.2.7"))

		if got := strings.Count(log.String(), "address=192.0.2.7 connections=3"); got != 1 {
			t.Errorf("%d warnings: %s", got, log)
		}
		if !strings.Contains(log.String(), "PARLEY_MAX_CONNS_PER_ADDRESS") {
			t.Error(log)
		}
	})
}

// A refusal takes a second at most, and the number of refusals at once is bounded. One more is
// closed without an answer.
func TestRefusingIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := mustLimit(t, 1, io.Discard)
		_ = l.dial(t, "192.0.2.7")
		start := time.Now()
		conns := make([]net.Conn, maxRefusals)
		for i := range conns {
			conns[i] = l.dial(t, "192.0.2.7") // and reads nothing
		}
		if _, err := l.dial(t, "192.0.2.7").Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("one more: %v", err)
		}
		if code, _ := status(t, l.dial(t, "192.0.2.8"), "/"); code != 200 ||
			time.Since(start) != 0 {
			t.Errorf("another address had %d after %v", code, time.Since(start))
		}
		<-time.After(refusalTimeout)
		synctest.Wait()
		if _, err := conns[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("a client that read nothing: %v", err)
		}
		refused(t, l.dial(t, "192.0.2.7"))
	})
}

// Connections that have ended do not count, no matter which side has closed them.
func TestEndedConnectionsDoNotCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := mustLimit(t, 1, io.Discard)
		for range 10 {
			conn := l.dial(t, "192.0.2.7")
			if code, body := status(t, conn, "/"); code != 200 {
				t.Fatalf("%d %s", code, body)
			}
			_ = conn.Close()
			synctest.Wait()
		}
		conn := l.dial(t, "192.0.2.7")
		// after 10 seconds without a request
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		synctest.Wait()
		if code, _ := status(t, l.dial(t, "192.0.2.7"), "/"); code != 200 {
			t.Errorf("got %d", code)
		}
	})
}

// Package wire uses the descriptor of a connection, and closes one half of it. It can do both with
// a counted TCP connection.
func TestCountedTCPConnections(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	ours, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ours.Close() }()
	theirs, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	released := 0
	conn := counted(theirs, func() { released++ })
	if _, ok := conn.(interface {
		syscall.Conn
		io.ReaderFrom
		CloseWrite() error
	}); !ok {
		t.Errorf("a %T cannot do what a TCP connection can", conn)
	}
	if err := conn.Close(); err != nil || released != 1 {
		t.Errorf("%v, released %d times", err, released)
	}
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("it is not closed: %v", err)
	}
}

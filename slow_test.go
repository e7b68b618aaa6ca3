package main

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"parley/wire/wiretest"
)

// TestSlowRequests checks how long a connection stays open for a client that is slow to send its
// request or to read the answer. Another client is answered meanwhile. The clock is that of a
// synctest bubble.
func TestSlowRequests(t *testing.T) {
	t.Parallel()
	const (
		quick = "GET /livez HTTP/1.1\r\nHost: parley\r\n\r\n"
		other = "GET /livez HTTP/1.1\r\nHost: parley\r\nConnection: Upgrade\r\nUpgrade: "
		slow  = "GET /slow HTTP/1.1\r\nHost: parley\r\n\r\n"
	)
	for name, c := range map[string]struct {
		sends  string
		pause  time.Duration // after each byte
		reads  time.Duration // when it starts to read
		status int           // 0: no answer
		held   time.Duration
	}{
		"nothing": {"", 0, 0, 0, 10 * time.Second},
		"headers byte by byte": {
			"GET /livez HTTP/1.1\r\nHost: parley\r\nUpgrade: websocket\r\n",
			time.Second, 0, 400, 10 * time.Second,
		},
		"headers without an end": {
			"GET /livez HTTP/1.1\r\nHost: parley\r\n", 0, 0, 0,
			10 * time.Second,
		},
		"a body that is not read": {"POST /livez HTTP/1.1\r\nHost: parley\r\nContent-Length: " +
			"9\r\n\r\nx", 0, 0, 200, 15 * time.Second},
		"a body byte by byte": {
			"POST /body HTTP/1.1\r\nHost: parley\r\nContent-Length: 900\r\n\r\n" +
				strings.Repeat("x", 900), time.Second / 30, 0, 200, 15 * time.Second,
		},
		"a body with a GET": {"GET /livez HTTP/1.1\r\nHost: " +
			"parley\r\nTransfer-Encoding: chunked\r\n\r\n", 0, 0, 200, 15 * time.Second},
		"no second request": {quick, 0, 0, 200, 2 * time.Minute},
		"an answer that is read late": {
			quick, 0, 59 * time.Second, 200,
			2*time.Minute + 59*time.Second,
		},
		"an answer that is not read": {quick, 0, 61 * time.Second, 0, 61 * time.Second},
		"a long answer":              {slow, 0, 0, 200, 2*time.Minute + 50*time.Second},

		// The header Upgrade changes none of these times, unless a handler makes a WebSocket of the
		// request.
		"an upgrade to anything, not read": {
			other + "anything\r\n\r\n", 0, 61 * time.Second,
			0, 61 * time.Second,
		},
		"an upgrade to a WebSocket, not read": {
			other + "websocket\r\n\r\n", 0,
			61 * time.Second, 0, 61 * time.Second,
		},
		"an upgrade to HTTP/2, read late": {
			other + "h2c\r\n\r\n", 0, 59 * time.Second, 200,
			2*time.Minute + 59*time.Second,
		},
		"an upgrade with a body that is not read": {other +
			"anything\r\nContent-Length: 9\r\n\r\nx", 0, 0, 200, 15 * time.Second},
		// Answers of net/http itself.
		"no HTTP, not read": {
			"GET /livez HTTP/x\r\n\r\n", 0, 61 * time.Second, 0,
			61 * time.Second,
		},
		"two hosts, not read": {
			"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 0,
			61 * time.Second, 0, 61 * time.Second,
		},
		"long headers, not read": {"GET /livez HTTP/1.1\r\nHost: a\r\nX: " +
			strings.Repeat("x", 40<<10) + "\r\n\r\n", 0, 61 * time.Second, 0, 61 * time.Second},
		"an expectation, not read": {"POST /body HTTP/1.1\r\nHost: a\r\nExpect: " +
			"x\r\nContent-Length: 9\r\n\r\n", 0, 61 * time.Second, 0, 61 * time.Second},
		"OPTIONS of it all, not read": {
			"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 0,
			61 * time.Second, 0, 61 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				dial := mustListenInMemory(t)
				conn := dial()
				start := time.Now()
				go func() {
					for i := range c.sends {
						if _, err := io.WriteString(conn, c.sends[i:i+1]); err != nil {
							return
						}
						select {
						case <-time.After(c.pause):
						case <-t.Context().Done():
							return
						}
					}
				}()
				other := dial()
				if status := exchange(t, other,
					"GET /livez HTTP/1.1\r\nHost: parley\r\nConnection: close\r\n\r\n",
				); status != 200 || time.Since(start) != 0 {
					t.Errorf("another client had %d after %v", status, time.Since(start))
				}
				<-time.After(c.reads)
				if status := exchange(t, conn, ""); status != c.status {
					t.Errorf("got %d, want %d", status, c.status)
				}
				if held := time.Since(start); held != c.held {
					t.Errorf("it was held for %v, want %v", held, c.held)
				}
			})
		})
	}
}

// An answer is cut after a minute if a client reads it a little at a time.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	for _, header := range []string{
		"", "Upgrade: anything\r\n",
		"Connection: Upgrade\r\nUpgrade: websocket\r\n",
	} {
		t.Run(header, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				conn := mustListenInMemory(t)()
				start := time.Now()
				if _, err := io.WriteString(conn,
					"GET /large HTTP/1.1\r\nHost: parley\r\n"+header+"\r\n"); err != nil {
					t.Fatal(err)
				}
				for part := make([]byte, 1<<10); ; {
					if _, err := conn.Read(part); err != nil {
						break
					}
					<-time.After(7 * time.Second)
				}
				// at the first read after the minute
				if held := time.Since(start); held != 63*time.Second {
					t.Errorf("it was held for %v", held)
				}
			})
		})
	}
}

// mustListenInMemory serves slow handlers, and handlers that do not read, with the program's
// server.
func mustListenInMemory(t *testing.T) (dial func() net.Conn) {
	t.Helper()
	routes := http.NewServeMux()
	routes.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		_,
			_ = io.WriteString(w, "ok\n")
	})
	routes.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) {
		_,
			_ = w.Write(make([]byte, 1<<20))
	})
	routes.HandleFunc("/body", func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			t.Error("the body came whole")
		}
		_, _ = io.WriteString(w, "no\n")
	})
	routes.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(50 * time.Second):
		case <-r.Context().Done():
			t.Error("the request was cancelled")
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	m := wiretest.Listen()
	server := newHTTPServer(routes, slog.New(slog.DiscardHandler))
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(m) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return func() net.Conn {
		conn, err := m.Dial()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
}

// exchange sends a request, and reads until the connection is closed.
func exchange(t *testing.T, conn net.Conn, request string) (status int) {
	t.Helper()
	if request != "" {
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err == nil {
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		status = res.StatusCode
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is not closed: %v", err)
	}
	return status
}

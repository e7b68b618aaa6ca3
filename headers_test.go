package main

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/go-chi/chi/v5"

	"parley/config"
	"parley/wire/wiretest"
)

// deadlines is a listener in memory that reports writes without a deadline.
type deadlines struct {
	*wiretest.Memory
	t *testing.T
}

func (l deadlines) Accept() (net.Conn, error) {
	conn, err := l.Memory.Accept()
	if err != nil {
		return nil, err
	}
	return &deadlineConn{Conn: conn, t: l.t}, nil
}

type deadlineConn struct {
	net.Conn
	t *testing.T

	mu sync.Mutex // guards by
	by time.Time
}

func (c *deadlineConn) SetWriteDeadline(by time.Time) error {
	c.mu.Lock()
	c.by = by
	c.mu.Unlock()
	return c.Conn.SetWriteDeadline(by)
}

func (c *deadlineConn) SetDeadline(by time.Time) error {
	c.mu.Lock()
	c.by = by
	c.mu.Unlock()
	return c.Conn.SetDeadline(by)
}

func (c *deadlineConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	by := c.by
	c.mu.Unlock()
	if by.IsZero() || time.Until(by) > answerTimeout {
		c.t.Errorf("written without a deadline (%v): %.100q", by, b)
	}
	return c.Conn.Write(b)
}

// mustServeRoutes serves the routes of the whole program, in memory.
func mustServeRoutes(t *testing.T) (routes chi.Routes, dial func() net.Conn) {
	t.Helper()
	settings := new(config.Settings)
	parser, err := kong.New(settings, config.Defaults())
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--addr=127.0.0.1:0", "--data-dir=" + t.TempDir()}
	if _, err := parser.Parse(args); err != nil {
		t.Fatal(err)
	}
	srv, err := start(t.Context(), settings, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l := deadlines{wiretest.Listen(), t}
	handler := srv.routes()
	server := newHTTPServer(handler, slog.New(slog.DiscardHandler))
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
		if err := srv.stop(); err != nil {
			t.Error(err)
		}
	})
	return handler.(chi.Routes), func() net.Conn {
		conn, err := l.Dial()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
}

// Every answer of every route has a write deadline and the default headers, whatever the method and
// the header Upgrade are.
func TestEveryAnswer(t *testing.T) {
	t.Parallel()
	routes, dial := mustServeRoutes(t)
	paths := map[string]bool{
		"/nothing": true, "/graphql?query={__typename}": true, "/graphql?query={": true,
		"/graphql?query=%ff":    true,
		"/account/verify-email": true, "/account/nothing": true,
		"/playground/x/playground.js": true, "/": true,
	}
	err := chi.Walk(routes, func(_, route string, _ http.Handler,
		_ ...func(http.Handler) http.Handler,
	) error {
		paths[strings.ReplaceAll(route, "*", "x")] = true
		return nil
	})
	if err != nil || len(paths) < 10 {
		t.Fatalf("%v: %v", paths, err)
	}
	for path := range paths {
		for _, method := range []string{
			http.MethodGet, http.MethodHead, http.MethodPost,
			http.MethodPut, http.MethodDelete, http.MethodOptions, "BREW",
		} {
			for _, header := range []string{
				"", "Upgrade: anything\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n",
				"Origin: https://evil.example.org\r\n",
				"Accept: text/event-stream\r\n",
				"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
					"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: " +
					"graphql-transport-ws\r\n",
			} {
				res := answerTo(t, dial(), method, path, header)
				h := res.Header
				upgraded := res.StatusCode == http.StatusSwitchingProtocols
				if !upgraded && (h.Get("X-Content-Type-Options") != "nosniff" ||
					h.Get("Referrer-Policy") != "no-referrer" ||
					!strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") ||
					h.Get("Cross-Origin-Resource-Policy") == "") {
					t.Errorf("%s %s %q: %s %v", method, path, header, res.Status, h)
				}
				if cache := h.Get("Cache-Control"); !upgraded &&
					strings.HasPrefix(path, "/graphql") && cache != "no-store" {
					t.Errorf("%s %s %q: %s may be cached: %q", method, path, header, res.Status,
						cache)
				} else if !upgraded && cache == "" {
					t.Errorf("%s %s %q: %s has no Cache-Control", method, path, header, res.Status)
				}
			}
		}
	}
}

// answerTo sends a request, and reads the header of its answer.
func answerTo(t *testing.T, conn net.Conn, method, path, header string) *http.Response {
	t.Helper()
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn,
		method+" "+path+" HTTP/1.1\r\nHost: parley\r\n"+header+"\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s %q: %v", method, path, header, err)
	}
	_ = res.Body.Close()
	return res
}

// Links on other sites open the server's own pages, and execute no operation.
func TestLinksOnOtherSites(t *testing.T) {
	t.Parallel()
	_, dial := mustServeRoutes(t)
	const link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: " +
		"document\r\n"
	for path, want := range map[string]int{
		"/": 200, "/account/verify-email": 200, "/account/reset-password": 200, "/livez": 200,
		"/graphql?query={__typename}": 403, "/graphql": 403,
	} {
		if res := answerTo(t, dial(), http.MethodGet, path, link); res.StatusCode != want {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}

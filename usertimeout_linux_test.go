package main

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// The server sets the timeout after which the operating system gives up a peer that is gone.
func TestAcceptedConnectionsHaveAUserTimeout(t *testing.T) {
	t.Parallel()
	const tcpUserTimeout = 18 // of linux/tcp.h
	server := newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		raw, err := conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Error(err)
			return
		}
		var got int
		var failed error
		err = raw.Control(func(fd uintptr) {
			got, failed = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout)
		})
		if err != nil || failed != nil {
			t.Error(err, failed)
		}
		_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\n"+strconv.Itoa(got))
	}), slog.New(slog.DiscardHandler))
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	if status, body := get(t, "http://"+listener.Addr().String()); status != http.StatusOK ||
		body != "60000" {
		t.Errorf("%d: %q milliseconds", status, body)
	}
}

package store

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// The operating system ends a connection to a machine that is gone.
func TestConnectionsEndWhenTheOtherSideIsSilent(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	conn, err := dialer(time.Minute)(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const tcpUserTimeout = 18 // of linux/tcp.h
	err = raw.Control(func(fd uintptr) {
		for name, c := range map[string]struct{ level, option, want int }{
			"keepalive":    {syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
			"idle":         {syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 5},
			"interval":     {syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 5},
			"count":        {syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, 2},
			"user timeout": {syscall.IPPROTO_TCP, tcpUserTimeout, 15000},
		} {
			got, err := syscall.GetsockoptInt(int(fd), c.level, c.option)
			if err != nil || got != c.want {
				t.Errorf("%s is %d (%v)", name, got, err)
			}
		}
	})
	if err != nil {
		t.Error(err)
	}
}

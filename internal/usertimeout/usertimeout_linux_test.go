package usertimeout

import (
	"net"
	"syscall"
	"testing"
	"time"
)

func TestSet(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	dialled, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dialled.Close() }()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = accepted.Close() }()
	Set(accepted, time.Minute)
	raw, err := accepted.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	var failed error
	err = raw.Control(func(fd uintptr) {
		got, failed = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout)
	})
	if err != nil || failed != nil || got != 60_000 {
		t.Errorf("the timeout is %d milliseconds: %v, %v", got, err, failed)
	}
}

// A connection in memory has no descriptor, and is left alone.
func TestSetInMemory(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	Set(ours, time.Minute)
	_, _ = ours.Close(), theirs.Close()
}

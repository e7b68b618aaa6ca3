package main

import (
	"net"
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h (RFC 5482 has the idea), which package syscall
// does not name.
const tcpUserTimeout = 18

// boundPeer has the operating system end a connection whose peer acknowledges nothing of what was
// sent for so long. It is asked for with each connection and not once where they are listened for,
// because that is a socket of Multipath TCP by default, and refuses it. So does a connection that
// really has several paths: there, it stays as it is.
func boundPeer(conn net.Conn, d time.Duration) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(d.Milliseconds()))
	})
}

// Package usertimeout sets the time after which the operating system closes a TCP connection whose
// peer is gone.
package usertimeout

import (
	"net"
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h, which package syscall does not name.
const tcpUserTimeout = 18

// Set makes the operating system close conn once its peer has acknowledged nothing of what was sent
// for d (RFC 5482 describes this timeout). A server sets it on each accepted connection, not on the
// listener: a listener of Go uses Multipath TCP by default, which refuses the option. A connection
// that really has several paths refuses it too, and stays as it is. So does a conn that is not of
// the operating system. On systems other than Linux, Set does nothing.
func Set(conn net.Conn, d time.Duration) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		ms := int(d.Milliseconds())
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, ms)
	})
}

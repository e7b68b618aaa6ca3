//go:build !linux

package wire

import (
	"net"
	"time"
)

// SetTCPUserTimeout does nothing: only Linux has the option.
func SetTCPUserTimeout(net.Conn, time.Duration) {}

//go:build !linux

package usertimeout

import (
	"net"
	"time"
)

// Set does nothing: only Linux has the option.
func Set(net.Conn, time.Duration) {}

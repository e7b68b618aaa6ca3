//go:build !linux

package main

import (
	"net"
	"time"
)

// boundPeer leaves it to the operating system how long it sends again.
func boundPeer(net.Conn, time.Duration) {}

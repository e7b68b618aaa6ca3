//go:build !linux

package privatepg

import "syscall"

// dieWithUs is for Linux alone: elsewhere a server outlives a process that is killed.
func dieWithUs(*syscall.SysProcAttr) {}

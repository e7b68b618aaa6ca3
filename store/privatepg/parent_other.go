//go:build !linux

package privatepg

import "syscall"

// endWithParent does nothing: except on Linux, the server outlives a process that is killed.
func endWithParent(*syscall.SysProcAttr) {}

//go:build unix && !linux

package wire

import "syscall"

func writeSome(fd uintptr, b []byte) (int, error) {
	return syscall.Write(int(fd), b) //nolint:gosec // it was an int before
}

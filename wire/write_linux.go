package wire

import (
	"syscall"
	"unsafe"
)

// writeSome makes the system call without notifying the Go scheduler. The descriptor does not
// block, so the processor does not have to be handed to another goroutine, which would cost more
// than the call.
func writeSome(fd uintptr, b []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd,
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil //nolint:gosec // at most len(b)
}

package wire

import (
	"syscall"
	"unsafe"
)

// writeSome does not tell the runtime that the operating system is at work: the descriptor does not
// block, and what would be done meanwhile, looking for somebody else to have the processor, costs
// more than it could bring.
func writeSome(fd uintptr, b []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil //nolint:gosec // at most len(b)
}

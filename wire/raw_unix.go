//go:build unix

package wire

import (
	"errors"
	"io"
	"syscall"
)

const hasRaw = true

// tryRead reads without waiting. again reports that there is nothing to read.
func tryRead(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		n, err = syscall.Read(int(fd), b) //nolint:gosec // it was an int before
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return 0, true, nil
		case err != nil:
			return 0, false, err
		case n == 0:
			return 0, false, io.EOF
		}
		return n, false, nil
	}
}

// tryWrite writes as much as fits into the send buffer of the operating system, without waiting.
func tryWrite(fd uintptr, b []byte) (written int, err error) {
	for written < len(b) {
		n, err := writeSome(fd, b[written:])
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return written, nil
		case err != nil:
			return written, err
		}
		written += n
	}
	return written, nil
}

//go:build !unix

package wire

import "errors"

// On other systems, a socket reads and writes through net only: its raw stays nil.
const hasRaw = false

func tryRead(uintptr, []byte) (n int, again bool, err error) {
	return 0, false, errors.ErrUnsupported
}

func tryWrite(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

//go:build unix

package store

import (
	"errors"
	"os"
	"syscall"
)

// flock takes a lock that belongs to the open file. It does not touch the locks that SQLite takes
// with fcntl, which a process loses when it closes any descriptor of the file.
func flock(file *os.File, exclusive bool) error {
	how := syscall.LOCK_SH
	if exclusive {
		how = syscall.LOCK_EX
	}
	for {
		err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return ErrLocked
		}
		return err
	}
}

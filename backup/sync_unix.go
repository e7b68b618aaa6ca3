//go:build unix

package backup

import (
	"errors"
	"os"
)

// syncDir flushes the names in a folder to disk.
func syncDir(dir string) (err error) {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return file.Sync()
}

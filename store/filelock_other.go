//go:build !unix

package store

import "os"

// flock does nothing: these systems do not let an open file be replaced.
func flock(*os.File, bool) error { return nil }

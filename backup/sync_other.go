//go:build !unix

package backup

// syncDir does nothing: these systems do not open folders.
func syncDir(string) error { return nil }

package main

import (
	"fmt"
	"io"
	"runtime/debug"
)

type versionCommand struct{}

func (versionCommand) Run(out io.Writer) error {
	_, err := fmt.Fprintln(out, "parley", version())
	return err
}

// version returns the module's version or the commit, as the Go toolchain recorded it in the build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && v == "(devel)" {
			v = s.Value
		}
	}
	if v == "(devel)" {
		return "from source, commit unknown"
	}
	return v
}

//go:build !linux

package verify

import (
	"context"
	"errors"
	"io"
)

// cluster needs Linux, where the kernel ends processes with the one that started them.
type cluster struct{ nodes *nodes }

func startCluster(context.Context, Options, io.Writer) (*cluster, error) {
	return nil,
		errors.New("--chaos needs Linux; without it, verify runs against servers that you start")
}

func (*cluster) stop() error { return nil }

func (*cluster) injectFaults(context.Context, *verification) error { return nil }

func (*cluster) warnings(int) []string { return nil }

func (*cluster) crashes() []string { return nil }

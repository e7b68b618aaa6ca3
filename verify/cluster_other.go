//go:build !linux

package verify

import (
	"context"
	"errors"
	"io"
)

// cluster is for Linux, where processes can be made to end with the one that started them.
type cluster struct{ nodes *nodes }

func startCluster(context.Context, Options, io.Writer) (*cluster, error) {
	return nil, errors.New("--chaos needs Linux; without it, verify runs against servers that you start")
}

func (*cluster) stop() error { return nil }

func (*cluster) play(context.Context, *world) error { return nil }

func (*cluster) logged(int) []string { return nil }

func (*cluster) crashed() []string { return nil }

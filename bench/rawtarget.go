package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
)

// rawTarget is the client's side of the yardstick. Its messages have the form of the one in frame.
type rawTarget struct {
	*serverProcess
	dir   string
	frame func() []byte
	seqs  []atomic.Int64
}

func (*rawTarget) title() string { return "raw" }

func (y *rawTarget) begin(ctx context.Context, topics, _ int) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(y.dir, 0o700); err != nil {
		return err
	}
	y.seqs = make([]atomic.Int64, topics)
	y.serverProcess, err = startServer(ctx, y.dir, nil, self, yardstickArgument)
	return err
}

func (y *rawTarget) address(topic int) string { return fmt.Sprintf("%s/?%d", y.url, topic) }

func (y *rawTarget) join(topic, _ int, _ int64) (*conn, error) { return dial(y.address(topic), 0) }

func (y *rawTarget) send(ctx context.Context, topic int) error {
	_, err := post(ctx, y.address(topic), "", withStamp(y.frame()))
	if err == nil {
		y.seqs[topic].Add(1)
	}
	return err
}

func (y *rawTarget) last(topic int) int64 { return y.seqs[topic].Load() }

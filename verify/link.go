package verify

import (
	"context"
	"errors"
	"time"
)

// link is one connection on which something is followed: a WebSocket (socket) or a stream of
// server-sent events (eventStream).
type link interface {
	// open says who is there.
	open(ctx context.Context, token string) error
	// operate begins an operation. What comes of it are frames with its id.
	operate(ctx context.Context, id, query string, variables map[string]any) error
	write(ctx context.Context, f frame) error
	received() <-chan frame // closed when nothing more comes
	failure() error         // why, once that is closed
	next(ctx context.Context, patience time.Duration) (frame, error)
	// because prefers what the server has said to what became of our own write.
	because(err error) error
	cutAfter(bytes int64)
	silence(patience time.Duration) time.Duration
	// close ends the connection with a reset, and what reads it. It may be called more than once.
	close()
	// goodbye closes in order, as a client does that moves elsewhere.
	goodbye()
}

// dial opens a connection. It is cut after budget bytes. A tight one has small buffers.
func dial(ctx context.Context, address string, how transport, tight bool, budget int64) (link, error) {
	if how == overSSE {
		return dialEvents(ctx, address, tight, budget)
	}
	return dialSocket(ctx, address, tight, budget)
}

// inbox is where a goroutine puts what it reads; while nobody takes that, it reads no more, and the
// server has to wait.
type inbox struct {
	frames chan frame // closed when nothing more comes
	err    error      // why, once frames is closed
}

func newInbox() inbox { return inbox{frames: make(chan frame)} }

func (in *inbox) received() <-chan frame { return in.frames }

func (in *inbox) failure() error { return in.err }

// next takes a frame, within a time.
func (in *inbox) next(ctx context.Context, patience time.Duration) (frame, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case f, ok := <-in.frames:
		if !ok {
			return frame{}, in.err
		}
		return f, nil
	case <-timer.C:
		return frame{}, errSilent
	case <-ctx.Done():
		return frame{}, errOver
	}
}

var errSilent = errors.New("the server is silent")

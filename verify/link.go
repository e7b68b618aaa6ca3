package verify

import (
	"context"
	"errors"
	"time"

	api "parley/internal/client"
)

// link is one connection of a follower: a WebSocket (socket) or a stream of server-sent events
// (eventStream).
type link interface {
	// open authenticates the connection.
	open(ctx context.Context, token string) error
	// subscribe starts an operation. Its results are messages with its id.
	subscribe(ctx context.Context, id string, operation api.Operation) error
	write(ctx context.Context, m api.Message) error
	// received is closed when no message can follow.
	received() <-chan api.Message
	// failure returns why received was closed.
	failure() error
	// next waits for a message, at most for patience.
	next(ctx context.Context, patience time.Duration) (api.Message, error)
	// cause returns why a write failed: the server's reason if it sent one, else err.
	cause(err error) error
	// cutAfter resets the connection after so many more bytes.
	cutAfter(bytes int64)
	// maxSilence returns how long a live server may send nothing.
	maxSilence(patience time.Duration) time.Duration
	// close resets the connection, and waits for its goroutines. It may be called more than once.
	close()
	// closeGracefully closes the connection as a client does that moves to another node.
	closeGracefully()
}

// dial opens a connection that is cut after budget bytes. If smallBuffers is true, its buffers are
// small, so that a server notices soon when the client does not read.
func dial(
	ctx context.Context, address string, over transport, smallBuffers bool, budget int64,
) (link, error) {
	if over == overSSE {
		return dialEvents(ctx, address, smallBuffers, budget)
	}
	return dialSocket(ctx, address, smallBuffers, budget)
}

// receiver takes the messages of a goroutine that reads a connection. The channel has no buffer: if
// nothing takes a message, nothing is read, and the server has to wait.
type receiver struct {
	messages chan api.Message // closed when no message can follow
	err      error            // set when messages is closed
}

func newReceiver() receiver { return receiver{messages: make(chan api.Message)} }

func (r *receiver) received() <-chan api.Message { return r.messages }

func (r *receiver) failure() error { return r.err }

func (r *receiver) next(ctx context.Context, patience time.Duration) (api.Message, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case m, ok := <-r.messages:
		if !ok {
			return api.Message{}, r.err
		}
		return m, nil
	case <-timer.C:
		return api.Message{}, errSilent
	case <-ctx.Done():
		return api.Message{}, errOver
	}
}

var errSilent = errors.New("the server is silent")

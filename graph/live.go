package graph

import (
	"context"
	"sync"

	"github.com/99designs/gqlgen/graphql/handler/transport"
	"github.com/vektah/gqlparser/v2/gqlerror"
)

// Close codes of a WebSocket, as clients of graphql-transport-ws act on them.
const (
	closeUnsupportedProtocol = 1002
	closeServiceRestart      = 1012 // connect again, and resume
	closeBadRequest          = 4400
	closeForbidden           = 4403 // connect again with fresh connection parameters
	closeInitTimeout         = 4408
)

// connection is a client that stays: a WebSocket, or a server-sent stream.
type connection interface {
	// end stops all that runs on the connection, tells the client why, and lets nothing more through.
	end(code int, reason string)
}

// live knows the connections of this node, so that they can be ended together.
type live struct {
	mu       sync.Mutex // guards what follows
	open     map[connection]struct{}
	draining bool
	gone     chan struct{} // closed when draining, and the last one has been removed
}

// add reports false when the node is stopping, and takes no more.
func (l *live) add(c connection) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining {
		return false
	}
	l.open[c] = struct{}{}
	return true
}

func (l *live) remove(c connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
	l.noticeGone()
}

func (l *live) noticeGone() {
	if l.draining && len(l.open) == 0 {
		close(l.gone)
	}
}

// drain ends every connection, lets none begin any more, and waits until all have said goodbye: the process that ends
// right after this would take the close frames with it.
func (l *live) drain(ctx context.Context) {
	l.mu.Lock()
	l.draining = true
	l.gone = make(chan struct{})
	l.noticeGone()
	all := make([]connection, 0, len(l.open))
	for c := range l.open {
		all = append(all, c)
	}
	l.mu.Unlock()
	for _, c := range all {
		c.end(closeServiceRestart, "The server is restarting: connect again and resume.")
	}
	select {
	case <-l.gone:
	case <-ctx.Done():
	}
}

// streaming is what a transport that can carry subscriptions puts into the context.
type streaming struct {
	present func(context.Context, error) *gqlerror.Error
	// fail sends the error that ends one subscription; nil where gqlgen's transport does that by itself.
	fail func(*gqlerror.Error)
}

type streamingKey struct{}

func withStreaming(ctx context.Context, s *streaming) context.Context {
	return context.WithValue(ctx, streamingKey{}, s)
}

// failStream ends the subscription that ctx belongs to with an error that its client sees. It has to be called before the
// subscription's channel is closed.
func failStream(ctx context.Context, err error) {
	s, ok := ctx.Value(streamingKey{}).(*streaming)
	if !ok {
		return
	}
	shown := s.present(ctx, err)
	if s.fail == nil {
		transport.AddSubscriptionError(ctx, shown)
		return
	}
	s.fail(shown)
}

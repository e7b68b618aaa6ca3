package wire

import (
	"context"
	"sync"
	"time"
)

// connection is a client that stays: a WebSocket, or a server-sent stream.
type connection interface {
	// end stops all that runs on the connection, tells the client why, and lets nothing more
	// through. It does not wait.
	end(code int, reason string)
	// leave is end once what has begun to be answered is answered. It does not wait either.
	endGracefully(code int, reason string)
}

// live knows the connections of this node, so that they can be ended together.
type connections struct {
	mu       sync.Mutex // guards what follows
	open     map[connection]struct{}
	draining bool
	empty    chan struct{} // closed when draining, and the last one has been removed
}

// add reports false when the node is stopping, and takes no more.
func (l *connections) add(c connection) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining {
		return false
	}
	l.open[c] = struct{}{}
	return true
}

// remove may be called more than once.
func (l *connections) remove(c connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.open[c]; !known {
		return
	}
	delete(l.open, c)
	l.closeIfEmpty()
}

func (l *connections) closeIfEmpty() {
	if l.draining && len(l.open) == 0 {
		close(l.empty)
	}
}

// begin lets no connection begin any more, and returns those that there are; none when that has
// happened before.
func (l *connections) stopAccepting() []connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining {
		return nil
	}
	l.draining = true
	l.empty = make(chan struct{})
	l.closeIfEmpty()
	all := make([]connection, 0, len(l.open))
	for c := range l.open {
		all = append(all, c)
	}
	return all
}

// fewer than this many are ended in a moment, whatever time there is: so many clients that come
// back together are no storm.
const drainStep = 10 * time.Millisecond

const restartReason = "The server is restarting: connect again and resume."

// drain ends every connection, over the given time and after its answers, and waits until all have
// been told: the process that ends right after this would take the close frames with it. What is
// not answered when ctx ends is cut off.
func (l *connections) drain(ctx context.Context, spread time.Duration) {
	all := l.stopAccepting()
	pause := min(spread/time.Duration(max(1, len(all))), drainStep)
	const tick = 5 * time.Millisecond
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, c := range all {
		for pause > 0 && ctx.Err() == nil && time.Since(start) < time.Duration(i)*pause {
			timer.Reset(tick)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		c.endGracefully(CloseServiceRestart, restartReason)
	}
	select {
	case <-l.empty:
	case <-ctx.Done():
		for _, c := range all {
			c.end(CloseServiceRestart, restartReason)
		}
	}
}

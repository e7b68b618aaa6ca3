package wire

import (
	"context"
	"sync"
	"time"
)

// connection is a WebSocket or a server-sent stream.
type connection interface {
	// end discards the queued results, ends the connection with the code and reason, and cancels
	// its operations. It does not wait.
	end(code int, reason string)
	// endGracefully is end, once the queries and mutations that have started are answered. It does
	// not wait either.
	endGracefully(code int, reason string)
}

// connections are those of this node, so that they can be ended together.
type connections struct {
	mu       sync.Mutex // guards what follows
	open     map[connection]struct{}
	draining bool
	empty    chan struct{} // made when draining starts; closed when no connection is open any more
}

// add reports false if the node is stopping: then the connection is not added.
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
	if _, open := l.open[c]; !open {
		return
	}
	delete(l.open, c)
	l.closeIfEmpty()
}

// closeIfEmpty must be called with l.mu held.
func (l *connections) closeIfEmpty() {
	if l.draining && len(l.open) == 0 {
		close(l.empty)
	}
}

// startDraining makes add refuse connections, and returns the open ones. It returns none if it was
// called before.
func (l *connections) startDraining() []connection {
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

// maxDrainPause is the longest pause between the ends of two connections. So a few connections end
// quickly, however long the drain may take: few clients that connect again do no harm.
const maxDrainPause = 10 * time.Millisecond

const restartReason = "The server is restarting: connect again and resume."

// drain ends all connections gracefully, evenly over the time spread. It returns when all are
// closed, because the process may exit then, which would lose close frames. When ctx ends, drain
// ends the connections that are left, answered or not.
func (l *connections) drain(ctx context.Context, spread time.Duration) {
	all := l.startDraining()
	pause := min(spread/time.Duration(max(1, len(all))), maxDrainPause)
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

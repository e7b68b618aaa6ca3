package wire

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/errs"
)

// stream is a response of server-sent events
// (https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md): of one operation ("distinct
// connections"), or of all that name it by its token ("single connection").
type stream struct {
	outbox
	server  *Server
	w       http.ResponseWriter
	control *http.ResponseController
	cancel  context.CancelFunc
	bell    chan struct{} // has a value when there is something to write
	single  bool
	running sync.WaitGroup  // operations
	ctx     context.Context //nolint:containedctx // of the request that the stream answers, which other requests add to
}

func (s *Server) newStream(ctx context.Context, w http.ResponseWriter, single bool) *stream {
	st := &stream{
		server: s, w: w, control: http.NewResponseController(w), bell: make(chan struct{}, 1), single: single,
	}
	st.ctx, st.cancel = context.WithCancel(ctx)
	st.bounds, st.transport = &s.bounds, st
	return st
}

// stream answers with the results of one operation as they come.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, oc *graphql.OperationContext, list gqlerror.List) {
	st := s.newStream(ctx, w, false)
	ctx, cancel := context.WithCancel(st.ctx)
	op, _ := st.register("", cancel, s.opts.MaxOperations)
	st.serve(func() { st.start(func() (rest func()) { return s.run(ctx, op, oc, list) }) })
}

// start runs an operation beside the stream, which waits for it. It reports false when the stream
// has ended since the operation began: then it waits for nothing more, and nothing runs.
func (st *stream) start(run func() (rest func())) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended {
		return false
	}
	st.running.Go(func() {
		defer st.markReturned()
		rest := run()
		st.markExecuted()
		if rest != nil {
			rest()
		}
	})
	return true
}

// serve writes until the stream ends. begin is called when it has begun.
func (st *stream) serve(begin func()) {
	defer st.running.Wait()
	defer st.cancel()
	if !st.server.connections.add(st) {
		// No JSON type is accepted by name beside events: see negotiate.
		write(st.w, http.StatusServiceUnavailable, legacyJSON, encodeErrors(gqlerror.List{errorOf(errDraining)}))
		return
	}
	defer st.server.connections.remove(st)
	defer st.finish(nil)
	release := st.server.opts.OnConnect(st.ctx, st.fail)
	defer release()
	h := st.w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("X-Accel-Buffering", "no") // nginx would keep the events for itself
	st.w.WriteHeader(http.StatusOK)
	if !st.write([]byte(":\n\n")) {
		return
	}
	begin()
	beat := time.NewTicker(st.server.opts.Heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-st.bell:
			if !st.flush() {
				return
			}
			beat.Reset(st.server.opts.Heartbeat)
		case <-beat.C:
			if !st.write([]byte(":\n\n")) {
				return
			}
		case <-st.ctx.Done():
			st.flush() // the last words, if any
			return
		}
	}
}

// flush writes what waits, and reports whether the stream goes on.
func (st *stream) flush() bool {
	for {
		batch := st.dequeue(nil)
		if len(batch) == 0 {
			return !st.hasEnded()
		}
		var b []byte
		over := false
		for _, it := range batch {
			b = st.appendEvent(b, it)
			over = over || !st.single && it.kind != kindNext
		}
		if !st.write(b) || over {
			return false
		}
	}
}

// write reports whether the client has taken it. There is time for each part, as on a WebSocket, or
// a client that reads all the while would be cut off for what comes at once. Net/http keeps nothing
// back of a part that is flushed.
func (st *stream) write(b []byte) bool {
	for part := range slices.Chunk(b, slowWrite) {
		_ = st.control.SetWriteDeadline(time.Now().Add(st.server.opts.WriteTimeout))
		if _, err := st.w.Write(part); err != nil || st.control.Flush() != nil {
			return false
		}
	}
	return true
}

// appendEvent writes an item as events. An error is a result, and the end.
func (st *stream) appendEvent(b []byte, it item) []byte {
	switch it.kind {
	case kindNext:
		return st.appendNext(b, it.op, it.data)
	case kindError:
		errors := append(append([]byte(`{"errors":`), it.data...), '}')
		return st.appendComplete(st.appendNext(b, it.op, errors), it.op)
	case kindComplete:
		return st.appendComplete(b, it.op)
	case kindMessage, kindPing, kindPong, kindClose: // of WebSockets
	}
	return b
}

func (st *stream) appendNext(b []byte, op *Operation, payload []byte) []byte {
	b = append(b, "event: next\ndata: "...)
	if !st.single {
		return append(append(b, payload...), "\n\n"...)
	}
	b = append(append(b, `{"id":`...), op.quoted...)
	return append(append(append(b, `,"payload":`...), payload...), "}\n\n"...)
}

func (st *stream) appendComplete(b []byte, op *Operation) []byte {
	if !st.single {
		return append(b, "event: complete\ndata:\n\n"...)
	}
	return append(append(append(b, "event: complete\ndata: {\"id\":"...), op.quoted...), "}\n\n"...)
}

// fail ends the stream with an error for each of its operations: the same request would meet it
// again.
func (st *stream) fail(reason error) {
	data := mustMarshal(gqlerror.List{st.server.opts.Present(st.ctx, reason)})
	st.finish(data)
}

// end cuts the stream without completing it: the client is meant to come back.
func (st *stream) end(int, string) { st.finish(nil) }

// leave cuts the stream once what it has begun to answer is answered.
func (st *stream) endGracefully(int, string) {
	st.outbox.whenIdle(func() {
		if st.endAnswered(nil) {
			st.cancel()
		}
	})
}

func (st *stream) finish(errors []byte) {
	if st.outbox.end(nil, errors) {
		st.cancel()
	}
}

func (st *stream) wake(bool) {
	select {
	case st.bell <- struct{}{}:
	default:
	}
}

func (st *stream) overflow() { st.finish(nil) }

var errNoStream = errs.New(errs.NotFound, "There is no such stream: reserve one with PUT.")

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
	"parley/wake"
)

// stream is a response of server-sent events
// (https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md): for one operation ("distinct
// connections"), or for all operations with its token ("single connection").
type stream struct {
	outbox
	server  *Server
	w       http.ResponseWriter
	control *http.ResponseController
	cancel  context.CancelFunc
	queue   wake.Notifier   // notified when items are queued
	single  bool            // one stream for many operations
	running sync.WaitGroup  // operations
	ctx     context.Context //nolint:containedctx // of the request; other requests add operations
}

func (s *Server) newStream(ctx context.Context, w http.ResponseWriter, single bool) *stream {
	st := &stream{
		server: s, w: w, control: http.NewResponseController(w),
		queue: wake.NewNotifier(), single: single,
	}
	st.ctx, st.cancel = context.WithCancel(ctx)
	st.bounds, st.transport = &s.bounds, st
	return st
}

// stream answers with the results of one operation.
func (s *Server) stream(
	ctx context.Context, w http.ResponseWriter, oc *graphql.OperationContext, list gqlerror.List,
) {
	st := s.newStream(ctx, w, false)
	ctx, cancel := context.WithCancel(st.ctx)
	op, _ := st.register("", cancel, s.opts.MaxOperations)
	st.serve(func() { st.start(func() (rest func()) { return s.run(ctx, op, oc, list) }) })
}

// start runs an operation on a goroutine, for which serve waits. It reports false if the stream has
// ended since the operation was registered: then the operation does not run.
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

// serve writes until the stream ends, and waits for its operations. It calls started after the
// first write.
func (st *stream) serve(started func()) {
	defer st.running.Wait()
	defer st.cancel()
	if !st.server.connections.add(st) {
		// The client accepts events, and no JSON type by name: see negotiate.
		write(st.w, http.StatusServiceUnavailable, legacyJSON,
			encodeErrors(gqlerror.List{errorOf(errDraining)}))
		return
	}
	defer st.server.connections.remove(st)
	defer st.cut()
	release := st.server.opts.OnConnect(st.ctx, st.fail)
	defer release()
	h := st.w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("X-Accel-Buffering", "no") // nginx would buffer the events
	st.w.WriteHeader(http.StatusOK)
	if !st.write([]byte(":\n\n")) {
		return
	}
	started()
	heartbeat := time.NewTicker(st.server.opts.Heartbeat)
	defer heartbeat.Stop()
	for {
		select {
		case <-st.queue.C():
			if !st.flush() {
				return
			}
			heartbeat.Reset(st.server.opts.Heartbeat)
		case <-heartbeat.C:
			if !st.write([]byte(":\n\n")) {
				return
			}
		case <-st.ctx.Done():
			st.flush() // the errors of fail, if any
			return
		}
	}
}

// flush writes all queued items, and reports whether the stream goes on.
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

// write reports whether the client has accepted all of b. Each part has a deadline of its own, as
// on a WebSocket: otherwise a slow client that reads all the time would be cut off by one long
// write.
func (st *stream) write(b []byte) bool {
	for part := range slices.Chunk(b, slowWrite) {
		_ = st.control.SetWriteDeadline(time.Now().Add(st.server.opts.WriteTimeout))
		if _, err := st.w.Write(part); err != nil || st.control.Flush() != nil {
			return false
		}
	}
	return true
}

// appendEvent appends an item as events. An error becomes a result and the end of the operation.
func (st *stream) appendEvent(b []byte, it item) []byte {
	switch it.kind {
	case kindNext:
		return st.appendNext(b, it.op, it.data)
	case kindError:
		errors := append(append([]byte(`{"errors":`), it.data...), '}')
		return st.appendComplete(st.appendNext(b, it.op, errors), it.op)
	case kindComplete:
		return st.appendComplete(b, it.op)
	case kindMessage, kindPing, kindPong, kindClose: // only on WebSockets
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

// fail ends the stream with an error for each of its operations. Unlike after cut, the client does
// not connect again: the same request would fail again.
func (st *stream) fail(reason error) {
	data := mustMarshal(gqlerror.List{st.server.opts.Present(st.ctx, reason)})
	st.finish(ending{discard: allItems, errors: data})
}

// cut ends the stream without completing its operations, so that the client connects again.
func (st *stream) cut() { st.finish(ending{discard: allItems}) }

// end is cut: a stream has no close codes.
func (st *stream) end(int, string) { st.cut() }

// endGracefully is end, once the queries and mutations that have started are answered.
func (st *stream) endGracefully(int, string) {
	st.whenIdle(func() { st.finish(ending{discard: openOperationItems}) })
}

func (st *stream) finish(e ending) {
	if st.outbox.end(e) {
		st.cancel()
	}
}

func (st *stream) wakeWriter()  { st.queue.Notify() }
func (st *stream) writeOrWake() { st.queue.Notify() } // only the goroutine of serve writes
func (st *stream) overflow()    { st.cut() }

var errNoStream = errs.New(errs.NotFound, "There is no such stream: reserve one with PUT.")

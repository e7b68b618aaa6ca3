package wire

import (
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"sync"
	"time"

	"parley/errs"
)

// streamHeader carries the token of a stream that several operations share; a query parameter named token does too.
const streamHeader = "X-GraphQL-Event-Stream-Token"

func streamToken(r *http.Request) string {
	if token := r.Header.Get(streamHeader); token != "" {
		return token
	}
	return r.URL.Query().Get("token")
}

// maxReserved is how many streams may be reserved at once, and not yet connected.
const maxReserved = 10_000

// streams knows those that operations can be added to.
type streams struct {
	mu       sync.Mutex // guards what follows
	reserved map[string]*reservation
	waiting  int // those that are not connected
}

// reservation is a stream that may be connected once, before its time is up.
type reservation struct {
	stream *stream // nil before
	expiry *time.Timer
}

// reserve answers PUT with a token.
func (s *Server) reserve(w http.ResponseWriter, _ *http.Request) {
	token := rand.Text()
	if !s.streams.add(token, s.opts.ReservationLasts) {
		WriteError(w, http.StatusServiceUnavailable, errs.New(errs.Unavailable, "Too many streams are reserved. Try again."))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, token)
}

func (l *streams) add(token string, lasts time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting >= maxReserved {
		return false
	}
	l.waiting++
	l.reserved[token] = &reservation{expiry: time.AfterFunc(lasts, func() { l.expire(token) })}
	return true
}

func (l *streams) expire(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.reserved[token]; r != nil && r.stream == nil {
		l.waiting--
		delete(l.reserved, token)
	}
}

// connect gives a reservation its stream.
func (l *streams) connect(token string, st *stream) *problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.reserved[token]
	switch {
	case r == nil:
		return &problem{http.StatusNotFound, errNoStream}
	case r.stream != nil:
		return &problem{http.StatusConflict, errs.New(errs.BadUserInput, "The stream is connected already.")}
	}
	r.expiry.Stop()
	r.stream = st
	l.waiting--
	return nil
}

func (l *streams) remove(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.reserved, token)
}

func (l *streams) find(token string) *stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.reserved[token]; r != nil {
		return r.stream
	}
	return nil
}

// connectStream answers a GET with the results of all operations that will name the stream.
func (s *Server) connectStream(w http.ResponseWriter, r *http.Request, token string) {
	if negotiate(r.Header) != eventStream {
		WriteError(w, http.StatusNotAcceptable, errs.New(errs.BadUserInput, "A stream has to be accepted as text/event-stream."))
		return
	}
	st := s.newStream(r.Context(), w, true)
	if problem := s.streams.connect(token, st); problem != nil {
		st.cancel()
		problem.write(w)
		return
	}
	defer s.streams.remove(token)
	st.serve(func() {})
}

// streamOf finds the stream that a request names. Knowing the token is not enough: it has to be the same person's.
func (s *Server) streamOf(r *http.Request, token string) (*stream, *problem) {
	st := s.streams.find(token)
	if st == nil {
		return nil, &problem{http.StatusNotFound, errNoStream}
	}
	if !s.opts.Same(st.ctx, r.Context()) {
		return nil, &problem{http.StatusForbidden, errs.New(errs.Forbidden, "The stream is somebody else's.")}
	}
	return st, nil
}

// startOperation has an operation's results sent over the stream that the request names.
func (s *Server) startOperation(w http.ResponseWriter, r *http.Request, token string, p *params) {
	st, problem := s.streamOf(r, token)
	if problem != nil {
		problem.write(w)
		return
	}
	id, _ := p.Extensions["operationId"].(string)
	if id == "" || len(id) > maxID {
		badRequest("extensions.operationId has to be a text of 1 to %d bytes.", maxID).write(w)
		return
	}
	ctx, cancel := context.WithCancel(st.ctx)
	op, ok := st.begin(id, cancel, s.opts.MaxOperations)
	switch {
	case op == nil:
		cancel()
		WriteError(w, http.StatusConflict, errs.New(errs.BadUserInput, "An operation with this id is running, or the stream has ended."))
	case !ok:
		cancel()
		e := errs.New(errs.RateLimited, "At most %d operations run on one connection at once.", s.opts.MaxOperations)
		WriteError(w, http.StatusTooManyRequests, e)
	default:
		st.start(ctx, op, p)
		w.WriteHeader(http.StatusAccepted)
	}
}

// completeOperation ends an operation that the client wants no more of.
func (s *Server) completeOperation(w http.ResponseWriter, r *http.Request, token string) {
	st, problem := s.streamOf(r, token)
	if problem != nil {
		problem.write(w)
		return
	}
	id := r.URL.Query().Get("operationId")
	if id == "" {
		badRequest("The query parameter operationId is missing.").write(w)
		return
	}
	st.completed(id) // one that has ended by itself is none that is missing
	w.WriteHeader(http.StatusOK)
}

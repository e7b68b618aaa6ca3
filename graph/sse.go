package graph

import (
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/handler/transport"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/auth"
)

const heartbeat = 15 * time.Second

// serverSent carries one operation over server-sent events, in the "distinct connections" mode of graphql-sse
// (https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md), with gqlgen's transport on a stream of ours.
type serverSent struct {
	auth    *auth.Service
	live    *live
	present func(context.Context, error) *gqlerror.Error
}

var _ graphql.Transport = serverSent{}

// Supports prefers JSON where the client takes both: urql, for one, lists every type it knows with ordinary requests.
func (t serverSent) Supports(r *http.Request) bool {
	accepts := strings.ToLower(strings.Join(r.Header.Values("Accept"), ","))
	return transport.SSE{}.Supports(r) && !strings.Contains(accepts, "json")
}

func (t serverSent) Do(w http.ResponseWriter, r *http.Request, exec graphql.GraphExecutor) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s := &sentStream{ResponseWriter: w, control: http.NewResponseController(w), cancel: cancel}
	if !t.live.add(s) {
		writeError(w, http.StatusServiceUnavailable, errDraining)
		return
	}
	defer t.live.remove(s)
	defer s.end(0, "") // a lease or a heartbeat that is just under way must not write once this has returned
	if grant := identityOf(ctx).grant.Load(); grant != nil {
		lease := t.auth.Lease(*grant, func(reason error) {
			s.fail(t.present(ctx, reason))
			s.end(closeForbidden, "")
		})
		defer lease.Release()
	}
	// Not ctx itself: the lease's function reads it.
	streamCtx := withStreaming(ctx, &streaming{present: t.present, fail: s.next})
	transport.SSE{KeepAlivePingInterval: heartbeat}.Do(s, r.WithContext(streamCtx), exec)
}

// sentStream is the response that gqlgen's transport writes to.
type sentStream struct {
	http.ResponseWriter
	control *http.ResponseController
	cancel  context.CancelFunc

	mu    sync.Mutex // guards ended, and is held while writing
	ended bool
}

var (
	_ http.Flusher = (*sentStream)(nil)
	_ connection   = (*sentStream)(nil)
)

var errStreamEnded = errors.New("the stream has ended")

func (s *sentStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(p)
}

// write has the caller hold the lock. A client that takes nothing for too long loses its stream.
func (s *sentStream) write(p []byte) (int, error) {
	if s.ended {
		return 0, errStreamEnded
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	n, err := s.ResponseWriter.Write(p)
	if err != nil {
		s.cancel()
	}
	return n, err
}

func (s *sentStream) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		_ = s.control.Flush()
	}
}

// next sends an error as the last result; the transport completes the stream after it.
func (s *sentStream) next(e *gqlerror.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(e, "")
}

// fail sends an error as the last result, and completes the stream.
func (s *sentStream) fail(e *gqlerror.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(e, "event: complete\n\n")
}

func (s *sentStream) send(e *gqlerror.Error, end string) {
	body, err := json.Marshal(&graphql.Response{Errors: gqlerror.List{e}})
	if err != nil {
		return // an error of ours always marshals
	}
	if _, err := s.write([]byte("event: next\ndata: " + string(body) + "\n\n" + end)); err == nil {
		_ = s.control.Flush()
	}
}

// end cuts the stream without completing it: the client is meant to come back.
func (s *sentStream) end(int, string) {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.cancel()
}

// isJSON reports whether a request says that it is JSON, as all of ours have to.
func isJSON(r *http.Request) bool {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && media == "application/json"
}

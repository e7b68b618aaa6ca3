package wire

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"parley/errs"
)

// streamHeader carries the token of a stream that several operations share; a query parameter named
// token does too.
const streamHeader = "X-GraphQL-Event-Stream-Token"

func streamToken(r *http.Request, query url.Values) string {
	if token := r.Header.Get(streamHeader); token != "" {
		return token
	}
	return query.Get("token")
}

// streams knows those that operations can be added to. Of what is reserved and not yet connected it
// keeps nothing, because anybody may reserve: the token itself says until when it is good, and
// carries a signature.
type streams struct {
	key [sha256.Size]byte

	mu   sync.Mutex // guards open
	open map[string]*stream
}

func newStreams() *streams {
	l := &streams{open: map[string]*stream{}}
	_, _ = rand.Read(l.key[:]) // which never fails
	return l
}

// What a token is made of, in bytes, before it is written in base64: until when it can be
// connected, in milliseconds since 1970, something that makes it unlike any other, and a signature
// (HMAC-SHA-256) of these two.
const (
	tokenTime   = 8
	tokenSigned = tokenTime + 16
	tokenBytes  = tokenSigned + sha256.Size
)

//nolint:gochecknoglobals // a constant
var tokenText = base64.RawURLEncoding.Strict() // each token is written in one way

// reserve answers PUT with a token.
func (s *Server) reserve(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, s.streams.token(time.Now().Add(s.opts.ReservationLasts)))
}

func (l *streams) token(until time.Time) string {
	token := make([]byte, tokenSigned, tokenBytes)
	binary.BigEndian.PutUint64(token, uint64(until.UnixMilli())) //nolint:gosec // after 1970
	_, _ = rand.Read(token[tokenTime:])
	return tokenText.EncodeToString(append(token, l.sign(token)...))
}

func (l *streams) sign(text []byte) []byte {
	mac := hmac.New(sha256.New, l.key[:])
	_, _ = mac.Write(text)
	return mac.Sum(nil)
}

// isReserved reports whether a token is one of ours that can still be connected.
func (l *streams) isReserved(text string) bool {
	token, err := tokenText.DecodeString(text)
	if err != nil || len(token) != tokenBytes || !hmac.Equal(token[tokenSigned:], l.sign(token[:tokenSigned])) {
		return false
	}
	return time.Now().UnixMilli() < int64(binary.BigEndian.Uint64(token)) //nolint:gosec // we have written it
}

// connect gives a token its stream: one at a time.
func (l *streams) connect(token string, st *stream) *problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[token] != nil {
		return &problem{status: http.StatusConflict, err: errs.New(errs.BadUserInput, "The stream is connected already.")}
	}
	if !l.isReserved(token) {
		return &problem{status: http.StatusNotFound, err: errNoStream}
	}
	l.open[token] = st
	return nil
}

func (l *streams) remove(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, token)
}

func (l *streams) find(token string) *stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[token]
}

// connectStream answers a GET with the results of all operations that will name the stream.
func (s *Server) connectStream(w http.ResponseWriter, r *http.Request, token string) {
	if negotiate(r.Header) != eventStream {
		WriteError(w, r, http.StatusNotAcceptable, errs.New(errs.BadUserInput, "A stream has to be accepted as text/event-stream."))
		return
	}
	st := s.newStream(r.Context(), w, true)
	if problem := s.streams.connect(token, st); problem != nil {
		st.cancel()
		problem.write(w, r)
		return
	}
	defer s.streams.remove(token)
	st.serve(func() {})
}

// streamOf finds the stream that a request names. Knowing the token is not enough: it has to be the
// same person's.
func (s *Server) streamOf(r *http.Request, token string) (*stream, *problem) {
	st := s.streams.find(token)
	if st == nil {
		return nil, &problem{status: http.StatusNotFound, err: errNoStream}
	}
	if !s.opts.SameCaller(st.ctx, r.Context()) {
		return nil, &problem{status: http.StatusForbidden, err: errs.New(errs.Forbidden, "The stream is somebody else's.")}
	}
	return st, nil
}

// startOperation has an operation's results sent over the stream that the request names.
func (s *Server) startOperation(w http.ResponseWriter, r *http.Request, token string, p *params) {
	st, problem := s.streamOf(r, token)
	if problem != nil {
		problem.write(w, r)
		return
	}
	id, _ := p.Extensions["operationId"].(string)
	if id == "" || len(id) > maxID {
		badRequest("extensions.operationId has to be a text of 1 to %d bytes.", maxID).write(w, r)
		return
	}
	ctx, cancel := context.WithCancel(st.ctx)
	op, err := st.register(id, cancel, s.opts.MaxOperations)
	if err != nil {
		cancel()
	}
	switch {
	case errors.Is(err, errEnded):
		WriteError(w, r, http.StatusNotFound, errNoStream)
	case errors.Is(err, errInUse):
		WriteError(w, r, http.StatusConflict, errs.New(errs.BadUserInput, "An operation with this id is running."))
	case errors.Is(err, errTooMany):
		e := errs.New(errs.RateLimited, "At most %d operations run on one connection at once.", s.opts.MaxOperations)
		WriteError(w, r, http.StatusTooManyRequests, e)
	default:
		if !st.start(func() (rest func()) { return s.execute(ctx, op, p) }) {
			WriteError(w, r, http.StatusNotFound, errNoStream)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

// completeOperation ends an operation that the client wants no more of.
func (s *Server) completeOperation(w http.ResponseWriter, r *http.Request, query url.Values, token string) {
	st, problem := s.streamOf(r, token)
	if problem != nil {
		problem.write(w, r)
		return
	}
	id := query.Get("operationId")
	if id == "" {
		badRequest("The query parameter operationId is missing.").write(w, r)
		return
	}
	st.cancelOperation(id) // one that has ended by itself is none that is missing
	w.WriteHeader(http.StatusOK)
}

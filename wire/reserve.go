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

// streamHeader is the header with the token of a stream that several operations share. A request
// can have the query parameter token instead.
const streamHeader = "X-GraphQL-Event-Stream-Token"

func streamToken(r *http.Request, query url.Values) string {
	if token := r.Header.Get(streamHeader); token != "" {
		return token
	}
	return query.Get("token")
}

// streams are the connected streams to which operations can be added. Reserved tokens take no
// memory, because anonymous clients can reserve any number of them: the token itself contains its
// expiry and a signature.
type streams struct {
	key [sha256.Size]byte // of the signatures

	mu   sync.Mutex         // guards open
	open map[string]*stream // by token
}

func newStreams() *streams {
	l := &streams{open: map[string]*stream{}}
	_, _ = rand.Read(l.key[:]) // never fails
	return l
}

// The parts of a token, as offsets of their ends: its expiry in milliseconds since 1970, a random
// number, and a signature of both (HMAC-SHA-256).
const (
	tokenTime   = 8
	tokenSigned = tokenTime + 16
	tokenBytes  = tokenSigned + sha256.Size
)

// tokenText is the encoding of tokens. It is strict, so that each token has one text only.
//
//nolint:gochecknoglobals // a constant
var tokenText = base64.RawURLEncoding.Strict()

// reserve answers PUT with a token.
func (s *Server) reserve(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, s.streams.token(time.Now().Add(s.opts.ReservationLasts)))
}

// token makes a token.
func (l *streams) token(expires time.Time) string {
	token := make([]byte, tokenSigned, tokenBytes)
	binary.BigEndian.PutUint64(token, uint64(expires.UnixMilli())) //nolint:gosec // after 1970
	_, _ = rand.Read(token[tokenTime:])
	return tokenText.EncodeToString(append(token, l.sign(token)...))
}

func (l *streams) sign(text []byte) []byte {
	mac := hmac.New(sha256.New, l.key[:])
	_, _ = mac.Write(text)
	return mac.Sum(nil)
}

// isReserved reports whether this server has made the token, and it has not expired.
func (l *streams) isReserved(text string) bool {
	token, err := tokenText.DecodeString(text)
	if err != nil || len(token) != tokenBytes ||
		!hmac.Equal(token[tokenSigned:], l.sign(token[:tokenSigned])) {
		return false
	}
	expires := int64(binary.BigEndian.Uint64(token)) //nolint:gosec // as token has written it
	return time.Now().UnixMilli() < expires
}

// connect registers the stream of a token. A token has one stream at a time.
func (l *streams) connect(token string, st *stream) *problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[token] != nil {
		err := errs.New(errs.BadUserInput, "The stream is connected already.")
		return &problem{status: http.StatusConflict, err: err}
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

// connectStream answers a GET with a stream: of the results of all operations whose requests have
// its token.
func (s *Server) connectStream(w http.ResponseWriter, r *http.Request, token string) {
	if negotiate(r.Header) != eventStream {
		WriteError(w, r, http.StatusNotAcceptable,
			errs.New(errs.BadUserInput, "A stream has to be accepted as text/event-stream."))
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

// streamOf finds the stream of a request. The token alone gives no right to it: the request has to
// come from the caller of the stream.
func (s *Server) streamOf(r *http.Request, token string) (*stream, *problem) {
	st := s.streams.find(token)
	if st == nil {
		return nil, &problem{status: http.StatusNotFound, err: errNoStream}
	}
	if !s.opts.SameCaller(st.ctx, r.Context()) {
		err := errs.New(errs.Forbidden, "The stream belongs to another client.")
		return nil, &problem{status: http.StatusForbidden, err: err}
	}
	return st, nil
}

// startOperation adds an operation to the stream of the request.
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
		WriteError(w, r, http.StatusConflict,
			errs.New(errs.BadUserInput, "An operation with this id is running."))
	case errors.Is(err, errTooMany):
		e := errs.New(errs.RateLimited, "At most %d operations run on one connection at once.",
			s.opts.MaxOperations)
		WriteError(w, r, http.StatusTooManyRequests, e)
	default:
		if !st.start(func() (rest func()) { return s.execute(ctx, op, p) }) {
			WriteError(w, r, http.StatusNotFound, errNoStream)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

// completeOperation cancels an operation of a stream.
func (s *Server) completeOperation(
	w http.ResponseWriter, r *http.Request, query url.Values, token string,
) {
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
	st.cancelOperation(id) // it is not an error if the operation has ended
	w.WriteHeader(http.StatusOK)
}

package graph

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/handler/transport"
	"github.com/coder/websocket"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/auth"
	"parley/errs"
	"parley/model"
)

const (
	subprotocol  = "graphql-transport-ws"
	initTimeout  = 10 * time.Second
	pingInterval = 25 * time.Second // a client that leaves two unanswered is gone
	writeTimeout = 10 * time.Second // a client that takes nothing for so long is gone
)

// webSocket carries operations over graphql-transport-ws
// (https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md), with gqlgen's transport on a connection of ours.
type webSocket struct {
	auth      *auth.Service
	live      *live
	streaming *streaming
	limits    Limits
}

var _ graphql.Transport = webSocket{}

func (t webSocket) Supports(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

func (t webSocket) Do(w http.ResponseWriter, r *http.Request, exec graphql.GraphExecutor) {
	if problem := checkHandshake(r); problem != "" {
		writeError(w, http.StatusBadRequest, errs.New(errs.BadUserInput, "%s", problem))
		return
	}
	if !offers(r, subprotocol) {
		writeError(w, http.StatusBadRequest, errs.New(errs.BadUserInput, "The WebSocket has to offer the subprotocol %s.", subprotocol))
		return
	}
	ctx, cancel := context.WithCancel(withStreaming(r.Context(), t.streaming))
	defer cancel()
	s := &socket{cancel: cancel}
	if !t.live.add(s) {
		writeError(w, http.StatusServiceUnavailable, errDraining)
		return
	}
	defer t.live.remove(s)
	defer s.release()
	defer s.end(closeBadRequest, "The message is not valid.") // gqlgen leaves some connections open that it gives up
	inner := transport.Websocket{
		Implementation: s,
		InitFunc: func(ctx context.Context, payload transport.InitPayload) (context.Context, *transport.InitPayload, error) {
			return t.init(ctx, s, payload)
		},
		InitTimeout:      initTimeout,
		PingPongInterval: pingInterval,
		PayloadReadLimit: &t.limits.BodyBytes,
	}
	inner.Do(w, r.WithContext(ctx), exec)
}

var errDraining = errs.New(errs.Unavailable, "The server is stopping. Try again.")

// checkHandshake says what is wrong with the request for a WebSocket (RFC 6455, section 4.2.1): the library would write it to
// the log, where strangers have nothing to write.
func checkHandshake(r *http.Request) string {
	switch {
	case r.Method != http.MethodGet:
		return "A WebSocket begins with a GET."
	case !strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade"):
		return "A WebSocket begins with \"Connection: Upgrade\"."
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return "The Sec-WebSocket-Version has to be 13."
	case r.Header.Get("Sec-WebSocket-Key") == "":
		return "The Sec-WebSocket-Key is missing."
	}
	return ""
}

func offers(r *http.Request, protocol string) bool {
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		offered := strings.Split(line, ",")
		if slices.ContainsFunc(offered, func(p string) bool { return strings.TrimSpace(p) == protocol }) {
			return true
		}
	}
	return false
}

// init decides who is at the other end: by the connection's parameters or, where they say nothing, by the header that came
// with the upgrade. A token that is not valid is refused; without any, only @public fields are answered.
func (t webSocket) init(
	ctx context.Context, s *socket, payload transport.InitPayload,
) (context.Context, *transport.InitPayload, error) {
	who := identityOf(ctx)
	if authorization := payload.Authorization(); authorization != "" {
		who = authenticate(ctx, t.auth, authorization).with(who.client)
	}
	if who.err != nil {
		ctx = transport.AppendCloseReason(transport.WithWebsocketCloseCode(ctx, closeForbidden), why(who.err))
		return ctx, nil, who.err
	}
	if grant := who.grant.Load(); grant != nil {
		s.hold(who, t.auth.Lease(*grant, func(reason error) { s.end(closeForbidden, why(reason)) }))
	}
	return context.WithValue(withIdentity(ctx, who), socketKey{}, s), nil, nil
}

// why is an error in words for the client.
func why(err error) string {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e.Message
	}
	return "Forbidden"
}

// socket is one WebSocket, behind the interface that gqlgen's transport wants.
type socket struct {
	cancel context.CancelFunc // stops everything that runs on it
	failed string             // the operation that the frame before has ended with an error; for the writer alone

	mu         sync.Mutex // guards what follows; never held while writing
	conn       *websocket.Conn
	operations int         // that are running
	who        *identity   // nil when nobody is signed in
	lease      *auth.Lease // ends the socket with the session
	ended      bool
	dead       *time.Timer
}

type socketKey struct{}

// socketOf is the WebSocket that an operation came over, or nil. A nil socket is nobody's, and cannot be renewed.
func socketOf(ctx context.Context) *socket {
	s, _ := ctx.Value(socketKey{}).(*socket)
	return s
}

// maxOperations is how many operations may run on one socket at once.
const maxOperations = 100

// begin counts an operation, and reports false when there are too many.
func (s *socket) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.operations >= maxOperations {
		return false
	}
	s.operations++
	return true
}

func (s *socket) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.operations--
}

// boundOperations refuses an operation on a socket that has as many as it may.
func boundOperations(ctx context.Context, next graphql.OperationHandler) graphql.ResponseHandler {
	s := socketOf(ctx)
	if s == nil {
		return next(ctx)
	}
	if !s.begin() {
		return graphql.OneShot(&graphql.Response{Errors: gqlerror.List{{
			Message:    fmt.Sprintf("At most %d operations run on one socket at once.", maxOperations),
			Extensions: withCode(string(errs.RateLimited), nil),
		}}})
	}
	answers := next(ctx)
	finished := sync.OnceFunc(s.finish)
	return func(ctx context.Context) *graphql.Response {
		answer := answers(ctx)
		if answer == nil { // gqlgen asks until then
			finished()
		}
		return answer
	}
}

// account is whose the socket is, if anybody's.
func (s *socket) account() *model.UserID {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.who == nil {
		return nil
	}
	return &s.who.grant.Load().Actor.UserID
}

// renew has the socket live as long as the new tokens.
func (s *socket) renew(signedIn *auth.SignedIn) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.who == nil {
		return
	}
	grant := signedIn.Grant()
	s.who.grant.Store(&grant)
	s.lease.Renew(grant)
}

var (
	_ transport.WebsocketImplementation = (*socket)(nil)
	_ transport.WebsocketConn           = (*socket)(nil)
	_ transport.WebsocketReadLimiter    = (*socket)(nil)
	_ transport.WebsocketReadDeadliner  = (*socket)(nil)
	_ connection                        = (*socket)(nil)
)

func (s *socket) Accept(
	w http.ResponseWriter, r *http.Request, _ transport.WebsocketAcceptOptions,
) (transport.WebsocketConn, error) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{subprotocol},
		InsecureSkipVerify: true, // origins are checked for all requests alike, before this
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.conn = conn
	ended := s.ended
	s.mu.Unlock()
	if ended { // while the connection was being upgraded
		s.close(closeServiceRestart, "The server is restarting: connect again and resume.")
	}
	return s, nil
}

// hold keeps who the socket belongs to, and the lease that ends it.
func (s *socket) hold(who *identity, l *auth.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.who, s.lease = who, l
}

func (s *socket) release() {
	s.mu.Lock()
	lease := s.lease
	s.mu.Unlock()
	if lease != nil {
		lease.Release()
	}
}

func (s *socket) end(code int, reason string) {
	s.mu.Lock()
	already, conn := s.ended, s.conn
	s.ended = true
	s.mu.Unlock()
	if already {
		return
	}
	s.cancel()
	if conn != nil {
		s.close(code, reason)
	}
}

// close says goodbye without waiting for the other side's answer, which may never come.
func (s *socket) close(code int, reason string) {
	go func() { _ = s.conn.Close(websocket.StatusCode(code), closeReason(reason)) }()
}

// closeReason is cut to what a close frame can carry (RFC 6455, section 5.5).
func closeReason(reason string) string {
	for len(reason) > 123 {
		runes := []rune(reason)
		reason = string(runes[:len(runes)-1])
	}
	return reason
}

func (s *socket) isEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *socket) NextReader() (messageType int, r io.Reader, err error) {
	kind, data, err := s.conn.Read(context.Background()) //nolint:contextcheck // ends with the connection
	if err != nil {
		// Whatever the reason, nothing more comes; the transport has no use for it.
		return int(kind), nil, transport.ErrWebsocketClosed
	}
	return int(kind), bytes.NewReader(data), nil
}

func (s *socket) WriteJSON(v any) error {
	if s.isEnded() {
		return transport.ErrWebsocketClosed
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if s.repeatsEnd(data) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	return s.conn.Write(ctx, websocket.MessageText, data) // closes the connection when the time is up
}

// repeatsEnd reports that a frame completes an operation that an error has ended: gqlgen sends both, and the protocol has
// one. The transport writes one frame at a time.
func (s *socket) repeatsEnd(data []byte) bool {
	before := s.failed
	s.failed = ""
	failed, completed := bytes.HasSuffix(data, []byte(`"type":"error"}`)), bytes.HasSuffix(data, []byte(`"type":"complete"}`))
	if !failed && (!completed || before == "") {
		return false
	}
	var frame struct{ ID string }
	if err := json.Unmarshal(data, &frame); err != nil {
		return false
	}
	if failed {
		s.failed = frame.ID
	}
	return completed && frame.ID == before
}

// WriteClose is the transport's own goodbye. It answers violations of the protocol with 1002, where the protocol has codes
// of its own.
func (s *socket) WriteClose(code int, message string) error {
	switch {
	case code == closeUnsupportedProtocol && message == "connection initialisation timeout":
		code = closeInitTimeout
	case code == closeUnsupportedProtocol:
		code = closeBadRequest
	}
	s.end(code, message)
	return nil
}

// Close comes after WriteClose, whose goroutine ends the connection.
func (s *socket) Close() error { return nil }

func (s *socket) Subprotocol() string { return s.conn.Subprotocol() }

func (s *socket) SetReadLimit(limit int64) { s.conn.SetReadLimit(limit) }

// SetReadDeadline is how the transport notices a client that does not answer pings.
func (s *socket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead != nil {
		s.dead.Stop()
		s.dead = nil
	}
	if !t.IsZero() {
		s.dead = time.AfterFunc(time.Until(t), func() { _ = s.conn.CloseNow() })
	}
	return nil
}

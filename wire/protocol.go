package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/99designs/gqlgen/graphql"

	"parley/errs"
)

// Subprotocol is what a WebSocket speaks here
// (https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md).
const Subprotocol = "graphql-transport-ws"

// Close codes, as clients act on them; docs/wire.md says how.
const (
	closeProtocolError = 1002
	closeNoStatus      = 1005 // stands for a close frame without a code, and is never sent
	closeInvalidData   = 1007
	closeTooBig        = 1009

	CloseServiceRestart = 1012 // connect again, and resume
	CloseTryAgain       = 1013 // connect again after a while, and resume
	CloseBadRequest     = 4400
	CloseUnauthorized   = 4401
	CloseForbidden      = 4403 // connect again with fresh connection parameters
	CloseInitTimeout    = 4408
	CloseDuplicate      = 4409
	CloseTooManyInit    = 4429
)

const overflowReason = "Too much is waiting to be read: connect again and resume."

// violation is what a client did wrong, and what its socket is closed with.
type violation struct {
	code   int
	reason string
}

func (v *violation) Error() string { return fmt.Sprintf("%d %s", v.code, v.reason) }

func broken(reason string) *violation { return &violation{closeProtocolError, reason} }

func malformed(format string, args ...any) *violation {
	return &violation{CloseBadRequest, fmt.Sprintf(format, args...)}
}

func tooLong(limit int) *violation {
	return &violation{closeTooBig, fmt.Sprintf("The message is larger than %d bytes.", limit)}
}

var (
	errEnded = errors.New("the connection or the operation has ended")
	errDead  = errors.New("the client answers no more")
)

// maxID is how long the id of an operation may be, in bytes: it is kept, and sent with every
// result.
const maxID = 256

// message is one of a client's.
type message struct {
	kind    string
	id      string
	payload json.RawMessage // nil without one
	params  *params         // of subscribe
}

// parseMessage reads a message and finds everything that is wrong with it by itself.
func parseMessage(b []byte) (m message, problem error) {
	fields, err := parseObject(b)
	if err != nil {
		return m, malformed("The message is not valid: %s", why(err))
	}
	if !isString(fields["type"], &m.kind) {
		return m, malformed("The message has no type, which has to be a text.")
	}
	if payload := fields["payload"]; !isNull(payload) {
		m.payload = payload
	}
	switch m.kind {
	case "connection_init", "ping", "pong":
		if m.payload != nil && m.payload[0] != '{' {
			return m, malformed("The payload of %s has to be an object.", m.kind)
		}
		return m, nil
	case "connection_ack", "next", "error":
		return m, malformed("A client does not send %s.", m.kind)
	case "subscribe", "complete":
	default:
		return m, malformed("There is no message of this type.")
	}
	if !isString(fields["id"], &m.id) || m.id == "" {
		return m, malformed("%s needs an id, which is a text and not empty.", m.kind)
	}
	if len(m.id) > maxID {
		return m, malformed("An id has at most %d bytes.", maxID)
	}
	if m.kind == "complete" {
		return m, nil
	}
	if m.payload == nil || m.payload[0] != '{' {
		return m, malformed("The payload of subscribe has to be an object.")
	}
	if m.params, err = paramsOf(fieldsOf(m.payload)); err != nil {
		return m, malformed("The payload of subscribe is not valid: %s", why(err))
	}
	return m, nil
}

// receive handles a message. What it returns is to be done while reading goes on.
func (s *socket) receive(b []byte) (work func(), err error) {
	m, err := parseMessage(b)
	if err != nil {
		return nil, err
	}
	switch m.kind {
	case "connection_init":
		return s.startInit(m)
	case "ping":
		s.add(item{kind: kindMessage, data: withPayload(`{"type":"pong"`, m.payload)})
	case "subscribe":
		return s.subscribe(m)
	case "complete":
		s.cancelOperation(m.id)
	}
	return nil, nil
}

func withPayload(beginning string, payload json.RawMessage) []byte {
	if payload == nil {
		return append([]byte(beginning), '}')
	}
	return append(append(append([]byte(beginning), `,"payload":`...), payload...), '}')
}

func (s *socket) startInit(m message) (work func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != stateNew {
		return nil, &violation{CloseTooManyInit, "Too many initialisation requests"}
	}
	s.state = stateInit
	ctx := s.ctx
	return func() { s.init(ctx, m.payload) }, nil
}

// init asks who is there, which may take a while.
func (s *socket) init(ctx context.Context, payload json.RawMessage) {
	var connectionParams map[string]any
	if payload != nil {
		_ = json.Unmarshal(payload, &connectionParams) // it is an object
	}
	ctx, err := s.server.opts.Init(ctx, connectionParams)
	if err != nil {
		s.end(closeCodeFor(err), why(err))
		return
	}
	release := s.server.opts.OnConnect(ctx, func(reason error) { s.end(closeCodeFor(reason), why(reason)) })
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		release()
		return
	}
	s.ctx, s.release, s.state = ctx, release, stateReady
	wake := s.enqueue(item{kind: kindMessage, data: []byte(`{"type":"connection_ack"}`)})
	s.mu.Unlock()
	if wake {
		s.wake(false)
	}
}

// closeCodeFor tells who may not from what cannot be at present.
func closeCodeFor(err error) int {
	e, ok := errors.AsType[*errs.Error](err)
	if !ok || e.Code == errs.Unavailable || e.Code == errs.RateLimited {
		return CloseTryAgain
	}
	return CloseForbidden
}

// why is an error in words for the client.
func why(err error) string {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e.Message
	}
	return "Something went wrong on our side. Try again."
}

func (s *socket) subscribe(m message) (work func(), err error) {
	s.mu.Lock()
	ctx, ready := s.ctx, s.state == stateReady
	s.mu.Unlock()
	if !ready {
		return nil, &violation{CloseUnauthorized, "Unauthorized"}
	}
	ctx, cancel := context.WithCancel(ctx)
	op, err := s.register(m.id, cancel, s.server.opts.MaxOperations)
	if err != nil {
		cancel()
	}
	switch {
	case errors.Is(err, errEnded):
		return nil, nil // it has not begun when the socket ends, and so the client sends it again
	case errors.Is(err, errInUse):
		return nil, &violation{CloseDuplicate, fmt.Sprintf("Subscriber for %s already exists", m.id)}
	case errors.Is(err, errTooMany):
		op.Fail(tooManyOperations(s.server.opts.MaxOperations))
		return nil, nil
	}
	return func() {
		rest := s.server.execute(ctx, op, m.params)
		s.markExecuted()
		if rest == nil {
			s.markReturned()
			return
		}
		go func() {
			defer s.markReturned()
			rest()
		}()
	}, nil
}

// appendFrame writes an item as a frame.
func (s *socket) appendFrame(b []byte, it item) []byte {
	switch it.kind {
	case kindNext:
		return s.appendMessage(b, `{"id":`, it.op.quoted, `,"type":"next","payload":`, it.data)
	case kindError:
		return s.appendMessage(b, `{"id":`, it.op.quoted, `,"type":"error","payload":`, it.data)
	case kindComplete:
		return s.appendMessage(b, `{"id":`, it.op.quoted, `,"type":"complete"`, nil)
	case kindPing:
		return appendHeader(b, opPing, 0, false)
	case kindPong:
		return append(appendHeader(b, opPong, len(it.data), false), it.data...)
	case kindClose:
		return append(appendHeader(b, opClose, len(it.data), false), it.data...)
	case kindMessage:
	}
	return append(appendHeader(b, opText, len(it.data), false), it.data...)
}

// appendMessage writes a message that begins and continues like this, has the payload, and ends.
func (s *socket) appendMessage(b []byte, begins, id, continues string, payload []byte) []byte {
	size := len(begins) + len(id) + len(continues) + len(payload) + 1
	if s.deflates && size >= compressFrom {
		return s.appendCompressed(b, begins, id, continues, payload)
	}
	b = appendHeader(b, opText, size, false)
	b = append(b, begins...)
	b = append(b, id...)
	b = append(b, continues...)
	b = append(b, payload...)
	return append(b, '}')
}

// params of an operation, as the client sent them.
type params struct {
	graphql.RawParams
	documentID string // of a trusted document
	hashed     string // what the document was named by, once that is known to be a hash
}

// empty reports whether there is nothing that says what to run.
func (p *params) empty() bool {
	return p.Query == "" && p.documentID == "" && p.Extensions["persistedQuery"] == nil
}

// parseParams reads a request (GraphQL over HTTP, section 4.1), and says what is wrong with it in
// words for whoever wrote it.
func parseParams(b []byte) (*params, error) {
	fields, err := parseObject(b)
	if err != nil {
		return nil, err
	}
	return paramsOf(fields)
}

// paramsOf is parseParams for an object that has been parsed.
func paramsOf(fields map[string]json.RawMessage) (*params, error) {
	p := new(params)
	for name, to := range map[string]*string{
		"query": &p.Query, "operationName": &p.OperationName, "documentId": &p.documentID,
	} {
		if v := fields[name]; !isNull(v) && !isString(v, to) {
			return nil, errs.New(errs.BadUserInput, "%q has to be a JSON string, not %s.", name, kindOf(v))
		}
	}
	for name, to := range map[string]*map[string]any{"variables": &p.Variables, "extensions": &p.Extensions} {
		if v := fields[name]; !isNull(v) && !isObject(v, to) {
			return nil, errs.New(errs.BadUserInput, "%q has to be a JSON object, not %s.", name, kindOf(v))
		}
	}
	if p.empty() {
		return nil, errs.New(errs.BadUserInput, "The request has no query.")
	}
	return p, nil
}

// parseObject reads the fields of one JSON object, all of which is checked.
func parseObject(b []byte) (fields map[string]json.RawMessage, err error) {
	if bytes.HasPrefix(b, []byte(byteOrderMark)) {
		return nil, errByteOrderMark()
	}
	if err := checkDepth(b); err != nil {
		return nil, err
	}
	err = json.Unmarshal(b, &fields) // names count by case, other than with a struct
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return nil, errs.New(errs.BadUserInput, "It has to be one JSON object, not %s: operations are not batched.", wrong.Value)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return nil, errs.New(errs.BadUserInput, "It is not valid JSON, from byte %d on.", syntax.Offset)
	}
	if err != nil {
		return nil, errs.New(errs.BadUserInput, "It is not valid JSON.")
	}
	if fields == nil {
		return nil, errs.New(errs.BadUserInput, "It has to be one JSON object, not null.")
	}
	return fields, checkJSON(b, "")
}

// fieldsOf reads the fields of an object that is a part of what has been checked.
func fieldsOf(v json.RawMessage) (fields map[string]json.RawMessage) {
	_ = json.Unmarshal(v, &fields)
	return fields
}

func isNull(v json.RawMessage) bool { return len(v) == 0 || bytes.Equal(v, []byte("null")) }

func isString(v json.RawMessage, to *string) bool {
	return len(v) > 0 && v[0] == '"' && json.Unmarshal(v, to) == nil
}

// isObject keeps numbers as they were written, because an Int of GraphQL and a float are not the
// same.
func isObject(v json.RawMessage, to *map[string]any) bool {
	d := json.NewDecoder(bytes.NewReader(v))
	d.UseNumber()
	return v[0] == '{' && d.Decode(to) == nil
}

func kindOf(v json.RawMessage) string {
	switch v[0] {
	case '"':
		return "string"
	case '[':
		return "array"
	case '{':
		return "object"
	case 't', 'f':
		return "bool"
	}
	return "number"
}

func mustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // texts and errors of ours always marshal
	}
	return b
}

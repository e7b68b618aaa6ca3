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

// Subprotocol is the subprotocol of our WebSockets
// (https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md).
const Subprotocol = "graphql-transport-ws"

// Close codes. docs/wire.md says what clients do on each of them.
const (
	closeProtocolError = 1002
	closeNoStatus      = 1005 // a close frame without a code; never sent
	closeInvalidData   = 1007
	closeTooBig        = 1009

	CloseServiceRestart = 1012 // the client connects again, and resumes
	CloseTryAgain       = 1013 // the client connects again after a while, and resumes
	CloseBadRequest     = 4400
	CloseUnauthorized   = 4401
	CloseForbidden      = 4403 // the client connects again with fresh connection parameters
	CloseInitTimeout    = 4408
	CloseDuplicate      = 4409
	CloseTooManyInit    = 4429
)

const overflowReason = "The client's queue is full: connect again and resume."

// violation is an error of the client, with the code and the reason of the close frame.
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
	errDead  = errors.New("the client does not answer any more")
)

// maxID is the longest id of an operation, in bytes. The id is kept in memory, and sent with every
// result.
const maxID = 256

// message is a message of the client.
type message struct {
	kind    string
	id      string
	payload json.RawMessage // nil without one
	params  *params         // of a subscribe message
}

// parseMessage parses a message. It checks everything that does not depend on other messages.
func parseMessage(b []byte) (m message, problem error) {
	fields, err := parseObject(b)
	if err != nil {
		return m, malformed("The message is not valid: %s", clientMessage(err))
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
		return m, malformed("The payload of subscribe is not valid: %s", clientMessage(err))
	}
	return m, nil
}

// receive handles a message. The returned work, if any, takes long: see socket.read.
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

// withPayload completes the beginning of a message by the payload, if any, and a closing brace.
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

// init authenticates the client, which may take a while, and acknowledges the socket.
func (s *socket) init(ctx context.Context, payload json.RawMessage) {
	var connectionParams map[string]any
	if payload != nil {
		// parseMessage has checked that it is an object
		_ = json.Unmarshal(payload, &connectionParams)
	}
	ctx, err := s.server.opts.Init(ctx, connectionParams)
	if err != nil {
		s.end(closeCodeFor(err), clientMessage(err))
		return
	}
	release := s.server.opts.OnConnect(ctx,
		func(reason error) { s.end(closeCodeFor(reason), clientMessage(reason)) })
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		release()
		return
	}
	s.ctx, s.release, s.state = ctx, release, stateReady
	asleep := s.enqueue(item{kind: kindMessage, data: []byte(`{"type":"connection_ack"}`)})
	s.mu.Unlock()
	if asleep {
		s.wakeWriter()
	}
}

// closeCodeFor returns CloseTryAgain for errors that may pass, and CloseForbidden for others.
func closeCodeFor(err error) int {
	e, ok := errors.AsType[*errs.Error](err)
	if !ok || e.Code == errs.Unavailable || e.Code == errs.RateLimited {
		return CloseTryAgain
	}
	return CloseForbidden
}

// clientMessage returns the message of an error for the client.
func clientMessage(err error) string {
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
		return nil, nil // the socket ends, and the client repeats the operation after it
	case errors.Is(err, errInUse):
		reason := fmt.Sprintf("Subscriber for %s already exists", m.id)
		return nil, &violation{CloseDuplicate, reason}
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
		go func() { // on a small stack: see execute
			defer s.markReturned()
			rest()
		}()
	}, nil
}

// appendFrame appends an item as a frame.
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

// appendMessage appends a text frame, of begins, id, continues, payload and a closing brace.
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
	hashed     string // the hash that the document was requested by, once it was checked; or ""
}

// empty reports whether there is neither a document nor a hash of one.
func (p *params) empty() bool {
	return p.Query == "" && p.documentID == "" && p.Extensions["persistedQuery"] == nil
}

// parseParams parses the body of a request (GraphQL over HTTP, section 4.1). Its errors are for the
// client.
func parseParams(b []byte) (*params, error) {
	fields, err := parseObject(b)
	if err != nil {
		return nil, err
	}
	return paramsOf(fields)
}

// paramsOf is parseParams for a parsed object.
func paramsOf(fields map[string]json.RawMessage) (*params, error) {
	p := new(params)
	for name, to := range map[string]*string{
		"query": &p.Query, "operationName": &p.OperationName, "documentId": &p.documentID,
	} {
		if v := fields[name]; !isNull(v) && !isString(v, to) {
			return nil, errs.New(errs.BadUserInput, "%q has to be a JSON string, not %s.", name,
				kindOf(v))
		}
	}
	for name, to := range map[string]*map[string]any{
		"variables": &p.Variables, "extensions": &p.Extensions,
	} {
		if v := fields[name]; !isNull(v) && !isObject(v, to) {
			return nil, errs.New(errs.BadUserInput, "%q has to be a JSON object, not %s.", name,
				kindOf(v))
		}
	}
	if p.empty() {
		return nil, errs.New(errs.BadUserInput, "The request has no query.")
	}
	return p, nil
}

// parseObject parses a JSON object to its fields. It checks all of the JSON, at any depth.
func parseObject(b []byte) (fields map[string]json.RawMessage, err error) {
	if bytes.HasPrefix(b, []byte(byteOrderMark)) {
		return nil, errByteOrderMark()
	}
	if err := checkDepth(b); err != nil {
		return nil, err
	}
	err = json.Unmarshal(b, &fields) // a map, because a struct would ignore the case of names
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return nil, errs.New(errs.BadUserInput,
			"It has to be one JSON object, not %s: operations are not batched.", wrong.Value)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return nil, errs.New(errs.BadUserInput, "It is not valid JSON, from byte %d on.",
			syntax.Offset)
	}
	if err != nil {
		return nil, errs.New(errs.BadUserInput, "It is not valid JSON.")
	}
	if fields == nil {
		return nil, errs.New(errs.BadUserInput, "It has to be one JSON object, not null.")
	}
	return fields, checkJSON(b, "")
}

// fieldsOf parses an object within JSON that parseObject has checked.
func fieldsOf(v json.RawMessage) (fields map[string]json.RawMessage) {
	_ = json.Unmarshal(v, &fields)
	return fields
}

func isNull(v json.RawMessage) bool { return len(v) == 0 || bytes.Equal(v, []byte("null")) }

func isString(v json.RawMessage, to *string) bool {
	return len(v) > 0 && v[0] == '"' && json.Unmarshal(v, to) == nil
}

// isObject decodes an object. It keeps numbers as json.Number, because GraphQL distinguishes Int
// and Float.
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
		panic(err) // cannot happen: the values are our own
	}
	return b
}

package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

const (
	subprotocol = "graphql-transport-ws"
	dialTimeout = 5 * time.Second
)

// socket is one connection that speaks graphql-transport-ws. A goroutine reads it; while nobody takes what it has read, it
// reads no more, and the server has to wait.
type socket struct {
	conn   *websocket.Conn
	wire   *wire
	frames chan frame // closed when nothing more comes
	err    error      // why, once frames is closed
	stop   context.CancelFunc
}

// frame is a message of the protocol.
type frame struct {
	ID      string          `json:"id,omitempty"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// wire is the TCP connection, which can be cut at any byte.
type wire struct {
	net.Conn
	left atomic.Int64 // bytes to be read until it is cut
	cut  atomic.Bool
}

const uncut = int64(1) << 60

var errCut = errors.New("the connection was cut, as planned")

func (w *wire) Read(b []byte) (int, error) {
	left := w.left.Load()
	if left <= 0 {
		w.reset()
		return 0, errCut
	}
	n, err := w.Conn.Read(b[:min(int64(len(b)), left)])
	w.left.Add(-int64(n))
	if w.cut.Load() {
		err = errCut
	}
	return n, err
}

// reset ends the connection with no goodbye: what was not sent is dropped, and the other side gets a TCP reset.
func (w *wire) reset() {
	w.cut.Store(true)
	if tcp, ok := w.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = w.Close()
}

// dialWire opens the TCP connection, before net/http has a part in it: the transport would dial in a goroutine of its own,
// and leave a connection behind that comes after the time is up.
func dialWire(ctx context.Context, address string, tight bool, budget int64) (*wire, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	dialer := &net.Dialer{}
	if tight {
		dialer.Control = smallBuffers
	}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: conn}
	w.left.Store(budget)
	return w, nil
}

// dial opens a WebSocket, up to before connection_init. It is cut after budget bytes, the upgrade's included. A tight one
// has small buffers.
func dial(ctx context.Context, address string, tight bool, budget int64) (*socket, error) {
	timed, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	w, err := dialWire(timed, address, tight, budget)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return w, nil
	}}
	conn, resp, err := websocket.Dial(timed, address, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{subprotocol},
	})
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		w.reset()
		return nil, err
	}
	s := &socket{conn: conn, wire: w, frames: make(chan frame)}
	conn.SetReadLimit(8 << 20)
	reading, stop := context.WithCancel(context.WithoutCancel(ctx)) // until close
	s.stop = stop
	go s.read(reading)
	return s, nil
}

func (s *socket) read(ctx context.Context) {
	defer close(s.frames)
	for {
		_, data, err := s.conn.Read(ctx)
		if err != nil {
			s.err = err
			return
		}
		var f frame
		if err := json.Unmarshal(data, &f); err != nil {
			s.err = fmt.Errorf("a frame that is no JSON: %s", quoted(string(data)))
			return
		}
		select {
		case s.frames <- f:
		case <-ctx.Done():
			s.err = ctx.Err()
			return
		}
	}
}

// close ends the connection with a reset, and what reads it. It may be called more than once.
func (s *socket) close() {
	s.stop()
	s.wire.reset()
	_ = s.conn.CloseNow()
	for range s.frames { // until the reader has ended
	}
}

func (s *socket) write(ctx context.Context, f frame) error {
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return s.conn.Write(ctx, websocket.MessageText, data)
}

// next takes a frame, within a time.
func (s *socket) next(ctx context.Context, patience time.Duration) (frame, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case f, ok := <-s.frames:
		if !ok {
			return frame{}, s.err
		}
		return f, nil
	case <-timer.C:
		return frame{}, errSilent
	case <-ctx.Done():
		return frame{}, errOver
	}
}

var errSilent = errors.New("the server is silent")

// open says who is there, and waits until the server has agreed.
func (s *socket) open(ctx context.Context, token string) error {
	payload, err := json.Marshal(map[string]string{"Authorization": "Bearer " + token})
	if err != nil {
		return err
	}
	if err := s.write(ctx, frame{Type: "connection_init", Payload: payload}); err != nil {
		return s.because(err)
	}
	f, err := s.next(ctx, dialTimeout)
	if err != nil {
		return err
	}
	if f.Type != "connection_ack" {
		return fmt.Errorf("%s instead of connection_ack", f.Type)
	}
	return nil
}

// because prefers what the server has said to what became of our own write: a close frame may have come before it.
func (s *socket) because(err error) error {
	select {
	case _, ok := <-s.frames:
		if !ok && s.err != nil {
			return s.err
		}
	case <-time.After(time.Second):
	}
	return err
}

const followQuery = `subscription ($c: ID!, $a: Int) { messageAdded(conversationId: $c, afterSeq: $a) { id seq content } }`

func (s *socket) operate(ctx context.Context, id, query string, variables map[string]any) error {
	payload, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		return err
	}
	return s.write(ctx, frame{ID: id, Type: "subscribe", Payload: payload})
}

func (s *socket) follow(ctx context.Context, id, conversation string, after int64) error {
	return s.operate(ctx, id, followQuery, map[string]any{"c": conversation, "a": after})
}

// delivered reads a next frame of messageAdded: a message, or the errors that came instead.
func (f frame) delivered() (m *message, errs []apiError, err error) {
	var payload struct {
		Data   *struct{ MessageAdded *message }
		Errors []apiError
	}
	if err := json.Unmarshal(f.Payload, &payload); err != nil {
		return nil, nil, err
	}
	if payload.Data != nil {
		m = payload.Data.MessageAdded
	}
	return m, payload.Errors, nil
}

// closeCode is that of the server's close frame, or -1 where it sent none.
func closeCode(err error) int { return int(websocket.CloseStatus(err)) }

// kindOf tells how a connection ended that was not ended here.
func kindOf(err error) kind {
	switch code := closeCode(err); {
	case errors.Is(err, errSilent):
		return nodeSilent
	case code == 4403:
		return sessionOver
	case code == 1012:
		return nodeLeft
	case code == -1 || errors.Is(err, io.EOF):
		return nodeLost
	}
	return closedByOther
}

// goodbye closes in order, as a client does that moves elsewhere.
func (s *socket) goodbye() {
	go func() {
		for range s.frames {
		}
	}()
	_ = s.conn.Close(websocket.StatusNormalClosure, "")
	s.close()
}

package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

const (
	subprotocol = "graphql-transport-ws"
	dialTimeout = 5 * time.Second
)

// socket is one connection that speaks graphql-transport-ws. A goroutine reads it; while nobody
// takes what it has read, it reads no more, and the server has to wait.
type socket struct {
	inbox
	conn *websocket.Conn
	wire *wire
	stop context.CancelFunc
}

// frame is a message of the protocol.
type frame struct {
	ID      string          `json:"id,omitempty"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// dialSocket opens a WebSocket, up to before connection_init. It is cut after budget bytes, the
// upgrade's included. A tight one has small buffers.
func dialSocket(ctx context.Context, address string, tight bool, budget int64) (*socket, error) {
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
	s := &socket{inbox: newInbox(), conn: conn, wire: w}
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

// because prefers what the server has said to what became of our own write: a close frame may have
// come before it.
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

func (s *socket) operate(ctx context.Context, id, query string, variables map[string]any) error {
	payload, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		return err
	}
	return s.write(ctx, frame{ID: id, Type: "subscribe", Payload: payload})
}

func (s *socket) cutAfter(bytes int64) { s.wire.left.Store(bytes) }

// silence is how long the server may be silent: it answers every ping.
func (s *socket) silence(patience time.Duration) time.Duration { return patience }

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

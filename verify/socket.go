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

	api "parley/internal/client"
)

const dialTimeout = 5 * time.Second

// maxMessage bounds a message of a server, in bytes.
const maxMessage = 8 << 20

// socket is a WebSocket that speaks graphql-transport-ws. A goroutine reads it.
type socket struct {
	receiver
	conn *websocket.Conn
	tcp  *tcpConn
	stop context.CancelFunc
}

// dialSocket opens a WebSocket, up to before connection_init. The bytes of the upgrade count for
// the budget.
func dialSocket(
	ctx context.Context, address string, smallBuffers bool, budget int64,
) (*socket, error) {
	timed, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	tcp, err := dialTCP(timed, address, smallBuffers, budget)
	if err != nil {
		return nil, err
	}
	useTCP := func(context.Context, string, string) (net.Conn, error) { return tcp, nil }
	conn, resp, err := websocket.Dial(timed, address, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       useTCP,
		}},
		Subprotocols: []string{api.Subprotocol},
	})
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		tcp.reset()
		return nil, err
	}
	s := &socket{receiver: newReceiver(), conn: conn, tcp: tcp}
	conn.SetReadLimit(maxMessage)
	reading, stop := context.WithCancel(context.WithoutCancel(ctx)) // until close
	s.stop = stop
	go s.read(reading)
	return s, nil
}

func (s *socket) read(ctx context.Context) {
	defer close(s.messages)
	for {
		_, data, err := s.conn.Read(ctx)
		if err != nil {
			s.err = err
			return
		}
		var m api.Message
		if err := json.Unmarshal(data, &m); err != nil {
			s.err = fmt.Errorf("a message that is not JSON: %s", quoted(string(data)))
			return
		}
		select {
		case s.messages <- m:
		case <-ctx.Done():
			s.err = ctx.Err()
			return
		}
	}
}

func (s *socket) close() {
	s.stop()
	s.tcp.reset()
	_ = s.conn.CloseNow()
	for range s.messages { // until read has returned
	}
}

func (s *socket) write(ctx context.Context, m api.Message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return s.conn.Write(ctx, websocket.MessageText, data)
}

// open sends connection_init, and waits for the server to acknowledge it.
func (s *socket) open(ctx context.Context, token string) error {
	init, err := api.Init(token)
	if err != nil {
		return err
	}
	if err := s.write(ctx, init); err != nil {
		return s.cause(err)
	}
	m, err := s.next(ctx, dialTimeout)
	if err != nil {
		return err
	}
	if m.Type != api.TypeAck {
		return fmt.Errorf("%s instead of %s", m.Type, api.TypeAck)
	}
	return nil
}

// cause waits a moment for a close frame, which may have arrived before the write failed.
func (s *socket) cause(err error) error {
	select {
	case _, ok := <-s.messages:
		if !ok && s.err != nil {
			return s.err
		}
	case <-time.After(time.Second):
	}
	return err
}

func (s *socket) subscribe(ctx context.Context, id string, operation api.Operation) error {
	m, err := api.Subscribe(id, operation)
	if err != nil {
		return err
	}
	return s.write(ctx, m)
}

func (s *socket) cutAfter(bytes int64) { s.tcp.budget.Store(bytes) }

// maxSilence returns patience, because the server answers every ping.
func (s *socket) maxSilence(patience time.Duration) time.Duration { return patience }

// closeCode returns the code of the server's close frame, or api.CloseNone.
func closeCode(err error) int { return int(websocket.CloseStatus(err)) }

func hasCloseCode(err error) bool { return closeCode(err) != api.CloseNone }

// isForbidden reports whether the server closed a connection because its token is not valid.
func isForbidden(err error) bool { return closeCode(err) == api.CloseForbidden }

// kindOf returns the kind of break that ended a connection, if the client did not end it.
func kindOf(err error) kind {
	switch code := closeCode(err); {
	case errors.Is(err, errSilent):
		return nodeSilent
	case isForbidden(err):
		return sessionOver
	case code == api.CloseRestart:
		return nodeLeft
	case code == api.CloseNone || errors.Is(err, io.EOF):
		return nodeLost
	}
	return closedByOther
}

func (s *socket) closeGracefully() {
	go func() {
		for range s.messages {
		}
	}()
	_ = s.conn.Close(websocket.StatusNormalClosure, "")
	s.close()
}

package verify

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	api "parley/internal/client"
)

const (
	// heartbeat is how often a server writes at least a comment into a stream (docs/wire.md).
	heartbeat = 15 * time.Second

	mediaTypeEvents = "text/event-stream"
)

// eventStream is a connection that speaks graphql-sse in its mode of distinct connections: one
// request, whose answer is the stream of one operation. It writes HTTP on the TCP connection
// itself, so that the connection can be cut at any byte.
type eventStream struct {
	receiver
	conn    net.Conn // tcp, or TLS on it
	tcp     *tcpConn
	url     *url.URL
	token   string
	reading bool // a goroutine was started that reads
	stop    chan struct{}
	once    sync.Once // closes stop
}

// dialEvents opens the connection, up to before the request.
func dialEvents(
	ctx context.Context, address string, smallBuffers bool, budget int64,
) (*eventStream, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	tcp, err := dialTCP(ctx, address, smallBuffers, budget)
	if err != nil {
		return nil, err
	}
	s := &eventStream{
		receiver: newReceiver(), conn: tcp, tcp: tcp, url: u,
		stop: make(chan struct{}),
	}
	if u.Scheme == "https" {
		secure := tls.Client(tcp, &tls.Config{
			ServerName: u.Hostname(),
			MinVersion: tls.VersionTLS12,
		})
		if err := secure.HandshakeContext(ctx); err != nil {
			tcp.reset()
			return nil, err
		}
		s.conn = secure
	}
	return s, nil
}

// open keeps the token for the request.
func (s *eventStream) open(_ context.Context, token string) error {
	s.token = token
	return nil
}

// subscribe sends the request, and waits for the head of the answer.
func (s *eventStream) subscribe(ctx context.Context, id string, operation api.Operation) error {
	body, err := json.Marshal(operation)
	if err != nil {
		return err
	}
	r, err := api.NewRequest(ctx, s.url.String(), s.token, body)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", mediaTypeEvents)
	if err := s.conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	if err := r.Write(s.conn); err != nil {
		return err
	}
	reader := bufio.NewReader(s.conn)
	resp, err := http.ReadResponse(reader, r) //nolint:bodyclose // the goroutine below does it
	if err != nil {
		return err
	}
	if err := s.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	s.reading = true
	go func() {
		defer close(s.messages)
		// The connection is closed by then, so this reads nothing more.
		defer func() { _ = resp.Body.Close() }()
		if !strings.HasPrefix(resp.Header.Get("Content-Type"), mediaTypeEvents) {
			s.err = s.readRefusal(id, resp)
			return
		}
		s.err = s.read(id, resp.Body)
	}()
	return nil
}

// readRefusal reads an answer that is not a stream.
func (s *eventStream) readRefusal(id string, resp *http.Response) error {
	defer s.tcp.reset()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var answer struct{ Errors json.RawMessage }
	if err := json.Unmarshal(text, &answer); err != nil || answer.Errors == nil {
		return fmt.Errorf("%s, and neither events nor GraphQL: %s", resp.Status,
			quoted(string(text)))
	}
	s.put(api.Message{ID: id, Type: api.TypeError, Payload: answer.Errors})
	return io.EOF
}

// read reads events (https://html.spec.whatwg.org/multipage/server-sent-events.html, section
// 9.2.6). It drops an event that is cut off before its end. A comment, which shows that the server
// is alive, becomes a pong.
func (s *eventStream) read(id string, body io.Reader) error {
	lines := bufio.NewReader(body)
	var kind, data string
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			s.tcp.reset()
			return err
		}
		line = strings.TrimSuffix(line, "\n")
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		ok := true
		switch {
		case line == "" && kind != "":
			ok = s.put(api.Message{ID: id, Type: kind, Payload: json.RawMessage(data)})
			kind, data = "", ""
		case line == "":
		case field == "":
			ok = s.put(api.Message{Type: api.TypePong})
		case field == "event":
			kind = value
		case field == "data":
			data += value
		}
		if !ok {
			return errOver
		}
	}
}

// put reports false if the connection was closed.
func (s *eventStream) put(m api.Message) bool {
	select {
	case s.messages <- m:
		return true
	case <-s.stop:
		return false
	}
}

// write does nothing, because a client cannot write after the request.
func (s *eventStream) write(context.Context, api.Message) error { return nil }

func (s *eventStream) cause(err error) error {
	if s.tcp.cut.Load() {
		return errors.Join(errCut, err)
	}
	return err
}

func (s *eventStream) cutAfter(bytes int64) { s.tcp.budget.Store(bytes) }

// maxSilence includes the time between two comments.
func (s *eventStream) maxSilence(
	patience time.Duration,
) time.Duration {
	return heartbeat + patience
}

func (s *eventStream) close() {
	s.once.Do(func() { close(s.stop) })
	s.tcp.reset()
	if s.reading {
		for range s.messages { // until the reader has returned
		}
	}
}

func (s *eventStream) closeGracefully() {
	_ = s.conn.Close()
	s.close()
}

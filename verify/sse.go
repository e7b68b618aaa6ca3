package verify

import (
	"bufio"
	"bytes"
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
)

// heartbeat is how often a server writes at least a comment into a stream of events (docs/wire.md).
const heartbeat = 15 * time.Second

// eventStream is one connection that speaks graphql-sse in its mode of distinct connections: one
// request, whose answer is the stream of one operation. It is written by hand on the TCP
// connection, so that it can be cut at any byte.
type eventStream struct {
	inbox
	conn    net.Conn
	wire    *wire
	url     *url.URL
	token   string
	reading bool
	stop    chan struct{}
	once    sync.Once
}

// dialEvents opens the connection, up to before the request.
func dialEvents(ctx context.Context, address string, tight bool, budget int64) (*eventStream, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	w, err := dialWire(ctx, address, tight, budget)
	if err != nil {
		return nil, err
	}
	s := &eventStream{inbox: newInbox(), conn: w, wire: w, url: u, stop: make(chan struct{})}
	if u.Scheme == "https" {
		secure := tls.Client(w, &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12})
		if err := secure.HandshakeContext(ctx); err != nil {
			w.reset()
			return nil, err
		}
		s.conn = secure
	}
	return s, nil
}

// open keeps the token, which goes with the request.
func (s *eventStream) open(_ context.Context, token string) error {
	s.token = token
	return nil
}

// operate sends the request, and waits for the head of the answer.
func (s *eventStream) operate(ctx context.Context, id, query string, variables map[string]any) error {
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Authorization", "Bearer "+s.token)
	if err := s.conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	if err := r.Write(s.conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(s.conn), r) //nolint:bodyclose // by what reads it
	if err != nil {
		return err
	}
	if err := s.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	s.reading = true
	go func() {
		defer close(s.frames)
		// of a connection that is closed by then, so nothing more is read
		defer func() { _ = resp.Body.Close() }()
		if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
			s.err = s.readRefusal(id, resp)
			return
		}
		s.err = s.read(id, resp.Body)
	}()
	return nil
}

// readRefusal reads an answer that is no stream.
func (s *eventStream) readRefusal(id string, resp *http.Response) error {
	defer s.wire.reset()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var answer struct{ Errors json.RawMessage }
	if err := json.Unmarshal(said, &answer); err != nil || answer.Errors == nil {
		return fmt.Errorf("%s, and neither events nor GraphQL: %s", resp.Status, quoted(string(said)))
	}
	s.put(frame{ID: id, Type: "error", Payload: answer.Errors})
	return io.EOF
}

// read reads events (https://html.spec.whatwg.org/multipage/server-sent-events.html, section
// 9.2.6). One that is cut off before its end is none. A comment says that the server is there.
func (s *eventStream) read(id string, body io.Reader) error {
	lines := bufio.NewReader(body)
	var kind, data string
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			s.wire.reset()
			return err
		}
		line = strings.TrimSuffix(line, "\n")
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		ok := true
		switch {
		case line == "" && kind != "":
			ok = s.put(frame{ID: id, Type: kind, Payload: json.RawMessage(data)})
			kind, data = "", ""
		case line == "":
		case field == "":
			ok = s.put(frame{Type: "pong"})
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

// put reports false once nobody takes any more.
func (s *eventStream) put(f frame) bool {
	select {
	case s.frames <- f:
		return true
	case <-s.stop:
		return false
	}
}

// write does nothing: nothing is sent behind the request.
func (s *eventStream) write(context.Context, frame) error { return nil }

func (s *eventStream) because(err error) error {
	if s.wire.cut.Load() {
		return errors.Join(errCut, err)
	}
	return err
}

func (s *eventStream) cutAfter(bytes int64) { s.wire.left.Store(bytes) }

// silence is how long the server may be silent, which it is between two comments too.
func (s *eventStream) silence(patience time.Duration) time.Duration { return heartbeat + patience }

func (s *eventStream) close() {
	s.once.Do(func() { close(s.stop) })
	s.wire.reset()
	if s.reading {
		for range s.frames { // until the reader has ended
		}
	}
}

func (s *eventStream) goodbye() {
	_ = s.conn.Close()
	s.close()
}

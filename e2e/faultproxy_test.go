package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"parley/internal/client"
)

// faultProxy forwards everything to a server. It injects a fault into every tenth message of the
// streams of one kind.
type faultProxy struct {
	url      string
	upstream string
	fault    *fault // nil for none
	open     sync.WaitGroup
	passed   atomic.Int64 // messages that the fault applies to
}

// Transports.
const (
	overWebSocket = client.Subprotocol
	overSSE       = "graphql-sse"
)

// fault is a fault in the streams of one subscription over one transport.
type fault struct {
	of, over string
	item     func(c *faultConn, frame []byte) [][]byte // returns what the client receives instead
	restart  restart
}

// restart makes streams of everything start over, whatever cursor the client sends.
type restart int

const (
	noRestart restart = iota
	silentRestart
	reportedRestart // with StreamReset first
)

func lose(*faultConn, []byte) [][]byte { return nil }

func double(_ *faultConn, frame []byte) [][]byte { return [][]byte{frame, frame} }

// delay delivers a frame after the next one of its conversation.
func delay(c *faultConn, frame []byte) [][]byte {
	c.delayed = frame
	return nil
}

// cut drops the frame and the connection, as a network does. A client that resumes after its cursor
// receives the frame.
func cut(c *faultConn, _ []byte) [][]byte {
	c.cut = true
	return nil
}

func mustFaultProxy(t *testing.T, api string, fault *fault) *faultProxy {
	t.Helper()
	p := &faultProxy{upstream: api, fault: fault}
	target, err := url.Parse(api)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{
				Scheme: target.Scheme,
				Host:   target.Host,
			})
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request,
			_ error,
		) {
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.open.Add(1)
		defer p.open.Done()
		switch {
		case r.Header.Get("Upgrade") != "":
			p.forwardSocket(w, r)
		case r.Header.Get("Accept") == "text/event-stream":
			p.forwardEvents(w, r)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		server.Close()
		p.open.Wait()
	})
	p.url = server.URL
	return p
}

func (p *faultProxy) forwardSocket(w http.ResponseWriter, r *http.Request) {
	down, err := websocket.Accept(w, r,
		&websocket.AcceptOptions{Subprotocols: []string{client.Subprotocol}})
	if err != nil {
		return
	}
	defer func() { _ = down.CloseNow() }()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	up, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(p.upstream, "http"),
		&websocket.DialOptions{
			Subprotocols: []string{client.Subprotocol},
		})
	if err != nil {
		return
	}
	defer func() { _ = up.CloseNow() }()
	up.SetReadLimit(1 << 20)
	c := p.newConn(overWebSocket)
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyFrames(ctx, up, down,
			func(frame []byte) [][]byte { return [][]byte{c.fromClient(frame)} })
	}()
	copyFrames(ctx, down, up, func(frame []byte) [][]byte {
		frames := c.fromServer(frame)
		if c.cut {
			_ = down.CloseNow()
		}
		return frames
	})
	cancel()
	<-done
}

// copyFrames copies what change returns for each frame. When one connection ends, it ends both with
// the same code.
func copyFrames(ctx context.Context, to, from *websocket.Conn, change func([]byte) [][]byte) {
	for {
		kind, frame, err := from.Read(ctx)
		if err != nil {
			if e, ok := errors.AsType[websocket.CloseError](err); ok {
				_ = to.Close(e.Code, e.Reason)
			}
			_ = to.CloseNow()
			return
		}
		for _, frame := range change(frame) {
			if to.Write(ctx, kind, frame) != nil {
				_ = from.CloseNow()
				return
			}
		}
	}
}

func (p *faultProxy) forwardEvents(w http.ResponseWriter, r *http.Request) {
	c := p.newConn(overSSE)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	up, err := http.NewRequestWithContext(r.Context(), http.MethodPost, p.upstream,
		bytes.NewReader(c.fromClient(body)))
	if err != nil {
		return
	}
	up.Header = r.Header.Clone()
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(up)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	var event []byte
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadBytes('\n')
		if event = append(event, line...); err != nil {
			_, _ = w.Write(event) // an answer that is not a stream
			return
		}
		if len(line) > 1 {
			continue
		}
		for _, frame := range c.fromServer(event) {
			_, _ = w.Write(frame)
		}
		if c.cut {
			panic(http.ErrAbortHandler)
		}
		_ = http.NewResponseController(w).Flush()
		event = nil
	}
}

// faultConn is one connection through the proxy.
type faultConn struct {
	*faultProxy
	applies bool // the fault, to this transport

	mu      sync.Mutex // guards the fields below
	delayed []byte     // a frame to deliver after the next one of its conversation
	resets  bool       // the next item needs a StreamReset before it
	cut     bool
}

func (p *faultProxy) newConn(over string) *faultConn {
	return &faultConn{faultProxy: p, applies: p.fault != nil && p.fault.over == over}
}

var cursorOfEvents = regexp.MustCompile(`"variables":\{"a":"[^"]*"\}`)

// fromClient returns what the server receives instead of a message.
func (c *faultConn) fromClient(message []byte) []byte {
	if !c.applies || c.fault.restart == noRestart || !cursorOfEvents.Match(message) {
		return message
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resets = c.fault.restart == reportedRestart
	return cursorOfEvents.ReplaceAll(message, []byte(`"variables":{}`))
}

var conversationOfEvent = regexp.MustCompile(`"conversationId":"[^"]*"`)

// fromServer returns what the client receives instead of a frame.
func (c *faultConn) fromServer(frame []byte) (frames [][]byte) {
	if !c.applies || !bytes.Contains(frame, []byte(`"data":{"`+c.fault.of+`":`)) {
		return [][]byte{frame}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resets {
		c.resets = false
		return [][]byte{asReset(frame), frame}
	}
	if c.delayed != nil && bytes.Equal(conversationOfEvent.Find(c.delayed),
		conversationOfEvent.Find(frame)) {
		frames, c.delayed = [][]byte{frame, c.delayed}, nil
		return frames
	}
	isMessage := c.fault.of == "messageAdded" || bytes.Contains(frame, []byte(`"added":{`))
	if c.delayed == nil && isMessage && c.passed.Add(1)%10 == 0 {
		return c.fault.item(c, bytes.Clone(frame))
	}
	return [][]byte{frame}
}

var bodyOfEvent = regexp.MustCompile(`"event":\{[^}]*\}`)

// asReset turns CaughtUp, the first item of a stream without a cursor, into StreamReset.
func asReset(frame []byte) []byte {
	reset, err := json.Marshal(map[string]string{"__typename": "StreamReset"})
	if err != nil {
		panic(err)
	}
	return bodyOfEvent.ReplaceAll(frame, append([]byte(`"event":`), reset...))
}

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
)

// liar passes everything on, and does something else with every tenth message of the streams of one
// kind.
type liar struct {
	url      string
	upstream string
	lie      *lie // nil for none
	open     sync.WaitGroup
	passed   atomic.Int64
}

// lie is what becomes of a message in streams of one subscription, over one transport.
type lie struct {
	of, over string
	item     func(t *twist, frame []byte) [][]byte // what is passed on instead
	anew     anew
}

// anew is how a stream of everything is made to begin anew, whatever the cursor that the client
// comes with.
type anew int

const (
	not anew = iota
	silently
	honestly // with StreamReset first
)

func lose(*twist, []byte) [][]byte { return nil }

func double(_ *twist, frame []byte) [][]byte { return [][]byte{frame, frame} }

// delay has a frame come behind the next one of its conversation.
func delay(t *twist, frame []byte) [][]byte {
	t.waiting = frame
	return nil
}

// cut drops the frame with the connection, as a network does: whoever comes back with a cursor
// finds it.
func cut(t *twist, _ []byte) [][]byte {
	t.cut = true
	return nil
}

func mustLie(t *testing.T, api string, lie *lie) *liar {
	t.Helper()
	l := &liar{upstream: api, lie: lie}
	target, err := url.Parse(api)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: target.Scheme, Host: target.Host}) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.open.Add(1)
		defer l.open.Done()
		switch {
		case r.Header.Get("Upgrade") != "":
			l.passSocket(w, r)
		case r.Header.Get("Accept") == "text/event-stream":
			l.passEvents(w, r)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		server.Close()
		l.open.Wait()
	})
	l.url = server.URL
	return l
}

func (l *liar) passSocket(w http.ResponseWriter, r *http.Request) {
	const protocol = "graphql-transport-ws"
	client, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol}})
	if err != nil {
		return
	}
	defer func() { _ = client.CloseNow() }()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	server, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(l.upstream, "http"), &websocket.DialOptions{
		Subprotocols: []string{protocol},
	})
	if err != nil {
		return
	}
	defer func() { _ = server.CloseNow() }()
	server.SetReadLimit(1 << 20)
	t := l.twisting(protocol)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.copyFrames(ctx, server, client, func(frame []byte) [][]byte { return [][]byte{t.asked(frame)} })
	}()
	l.copyFrames(ctx, client, server, func(frame []byte) [][]byte {
		now := t.told(frame)
		if t.cut {
			_ = client.CloseNow()
		}
		return now
	})
	cancel()
	<-done
}

// copyFrames ends both connections when one ends, with the code of that.
func (l *liar) copyFrames(ctx context.Context, to, from *websocket.Conn, twist func([]byte) [][]byte) {
	for {
		kind, frame, err := from.Read(ctx)
		if err != nil {
			if e, ok := errors.AsType[websocket.CloseError](err); ok {
				_ = to.Close(e.Code, e.Reason)
			}
			_ = to.CloseNow()
			return
		}
		for _, frame := range twist(frame) {
			if to.Write(ctx, kind, frame) != nil {
				_ = from.CloseNow()
				return
			}
		}
	}
}

func (l *liar) passEvents(w http.ResponseWriter, r *http.Request) {
	t := l.twisting("graphql-sse")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	up, err := http.NewRequestWithContext(r.Context(), http.MethodPost, l.upstream, bytes.NewReader(t.asked(body)))
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
			_, _ = w.Write(event) // an answer that is no stream
			return
		}
		if len(line) > 1 {
			continue
		}
		for _, now := range t.told(event) {
			_, _ = w.Write(now)
		}
		if t.cut {
			panic(http.ErrAbortHandler)
		}
		_ = http.NewResponseController(w).Flush()
		event = nil
	}
}

// twist is what the liar does on one connection.
type twist struct {
	*liar
	applies bool
	waiting []byte // a frame that is to come behind the next of its conversation
	begins  bool   // the next item is the first of a stream that begins anew, and has to say so
	mu      sync.Mutex
	cut     bool
}

func (l *liar) twisting(over string) *twist {
	return &twist{liar: l, applies: l.lie != nil && l.lie.over == over}
}

var cursorOfEvents = regexp.MustCompile(`"variables":\{"a":"[^"]*"\}`)

// asked is what becomes of something that the client says.
func (t *twist) asked(said []byte) []byte {
	if !t.applies || t.lie.anew == not || !cursorOfEvents.Match(said) {
		return said
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begins = t.lie.anew == honestly
	return cursorOfEvents.ReplaceAll(said, []byte(`"variables":{}`))
}

var whereItHappened = regexp.MustCompile(`"conversationId":"[^"]*"`)

// told is what becomes of something that the server says.
func (t *twist) told(frame []byte) (now [][]byte) {
	if !t.applies || !bytes.Contains(frame, []byte(`"data":{"`+t.lie.of+`":`)) {
		return [][]byte{frame}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.begins {
		t.begins = false
		return [][]byte{asReset(frame), frame}
	}
	if t.waiting != nil && bytes.Equal(whereItHappened.Find(t.waiting), whereItHappened.Find(frame)) {
		now, t.waiting = [][]byte{frame, t.waiting}, nil
		return now
	}
	isMessage := t.lie.of == "messageAdded" || bytes.Contains(frame, []byte(`"added":{`))
	if t.waiting == nil && isMessage && t.passed.Add(1)%10 == 0 {
		return t.lie.item(t, bytes.Clone(frame))
	}
	return [][]byte{frame}
}

var bodyOfEvent = regexp.MustCompile(`"event":\{[^}]*\}`)

// asReset makes StreamReset of the CaughtUp with which a stream without a cursor begins.
func asReset(frame []byte) []byte {
	reset, err := json.Marshal(map[string]string{"__typename": "StreamReset"})
	if err != nil {
		panic(err)
	}
	return bodyOfEvent.ReplaceAll(frame, append([]byte(`"event":`), reset...))
}

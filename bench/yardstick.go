package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"

	"parley/bench/debug"
	"parley/internal/client"
)

// yardstickArgument runs this program as the yardstick of the wire: a server in its own process, so
// that its CPU time and memory do not include those of the clients. It is internal.
const yardstickArgument = "serve-yardstick"

// serveYardstick does the least that delivers one message to many WebSockets. A posted message gets
// the next number of its topic as its seq, is framed once, and is written to each WebSocket of the
// topic, one after another. There are no queues, so one client that does not read would block all.
func serveYardstick(ctx context.Context, stdout io.Writer) error {
	debug.Serve()
	return serve(ctx, stdout, &yardstick{
		topics:   map[string]*rawTopic{},
		upgrader: websocket.Upgrader{Subprotocols: []string{client.Subprotocol}},
	})
}

type yardstick struct {
	upgrader websocket.Upgrader

	mu     sync.Mutex // guards topics
	topics map[string]*rawTopic
}

type rawTopic struct {
	mu    sync.Mutex // guards the fields below, and serializes writes
	seq   int64
	conns []*websocket.Conn
}

func (y *yardstick) topic(name string) *rawTopic {
	y.mu.Lock()
	defer y.mu.Unlock()
	t := y.topics[name]
	if t == nil {
		t = &rawTopic{}
		y.topics[name] = t
	}
	return t
}

func (y *yardstick) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := y.topic(r.URL.RawQuery)
	if r.Method == http.MethodPost {
		frame, err := io.ReadAll(r.Body)
		if err == nil {
			err = t.broadcast(frame)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
		return
	}
	// during the handshake too, so that no message is posted before the connection is added
	t.mu.Lock()
	conn, err := y.upgrader.Upgrade(w, r, nil)
	if err == nil {
		t.conns = append(t.conns, conn)
	}
	t.mu.Unlock()
	for err == nil { // the reader answers pings
		_, _, err = conn.NextReader()
	}
}

func (t *rawTopic) broadcast(frame []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq++
	prepared, err := websocket.NewPreparedMessage(websocket.TextMessage, withSeq(frame, t.seq))
	if err != nil {
		return err
	}
	for _, conn := range t.conns {
		if err := conn.WritePreparedMessage(prepared); err != nil {
			return err
		}
	}
	return nil
}

// withSeq returns a frame with another seq.
func withSeq(frame []byte, seq int64) []byte {
	before, rest, _ := bytes.Cut(frame, []byte(seqField))
	rest = bytes.TrimLeft(rest, "0123456789")
	return fmt.Appendf(nil, "%s%s%d%s", before, seqField, seq, rest)
}

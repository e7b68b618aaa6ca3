package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"parley/bench/debug"
)

// yardstickArgument makes this program the yardstick of the wire: a server of its own process, so
// that its CPU time and memory can be told from those of the clients. It is not for people.
const yardstickArgument = "serve-yardstick"

// serveYardstick is the least that tells many WebSockets of one message: what is posted to a topic
// gets the next number in place of its seq, is framed once, and goes to each WebSocket of the topic
// as it is, one after the other. There are no queues, so one client that takes nothing would stop
// everybody.
func serveYardstick(ctx context.Context, stdout io.Writer) error {
	debug.Serve()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	y := &yardstick{topics: map[string]*rawTopic{}, upgrader: websocket.Upgrader{Subprotocols: []string{subprotocol}}}
	server := &http.Server{Handler: y, ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	fmt.Fprintf(stdout, `{"msg":%q,"api":"http://%s"}`+"\n", parleyIsUp, listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type yardstick struct {
	upgrader websocket.Upgrader

	mu     sync.Mutex // guards topics
	topics map[string]*rawTopic
}

type rawTopic struct {
	mu    sync.Mutex // guards what follows, and keeps messages from mixing
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
	t.mu.Lock() // also while the handshake is answered: nothing is to be posted between the two
	conn, err := y.upgrader.Upgrade(w, r, nil)
	if err == nil {
		t.conns = append(t.conns, conn)
	}
	t.mu.Unlock()
	for err == nil { // pings are answered meanwhile
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

// withSeq is the frame with another seq.
func withSeq(frame []byte, seq int64) []byte {
	before, rest, _ := bytes.Cut(frame, []byte(seqField))
	rest = bytes.TrimLeft(rest, "0123456789")
	return fmt.Appendf(nil, "%s%s%d%s", before, seqField, seq, rest)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// yardstickArgument makes this program the yardstick of the wire: a server of its own process, so that its CPU time and
// memory can be told from those of the clients. It is not for people.
const yardstickArgument = "serve-yardstick"

const yardstickUp = "the yardstick serves at "

// serveYardstick is the least that tells many WebSockets of one message: what is posted goes to each of them as it is, one
// after the other. There are no queues, so one client that takes nothing would stop everybody.
func serveYardstick(ctx context.Context, stdout io.Writer) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &yardstick{}, ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	fmt.Fprintf(stdout, "%shttp://%s\n", yardstickUp, listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type yardstick struct {
	mu    sync.Mutex // guards conns, and keeps messages from mixing
	conns []*websocket.Conn
}

func (y *yardstick) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		frame, err := io.ReadAll(r.Body)
		if err == nil {
			err = y.broadcast(frame)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{subprotocol}, CompressionMode: websocket.CompressionDisabled, // as Parley does
	})
	if err != nil {
		return // answered
	}
	y.mu.Lock()
	y.conns = append(y.conns, conn)
	y.mu.Unlock()
	_, _, _ = conn.Read(context.Background()) //nolint:contextcheck // ends with the connection, as does this handler
}

func (y *yardstick) broadcast(frame []byte) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, conn := range y.conns {
		if err := conn.Write(context.Background(), websocket.MessageText, frame); err != nil {
			return err
		}
	}
	return nil
}

// startYardstick runs this program again, as the yardstick.
func startYardstick(ctx context.Context) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, yardstickArgument) //nolint:noctx // ended by stop
	return startChild(ctx, cmd, func(line string) string {
		url, _ := strings.CutPrefix(line, yardstickUp)
		if url == line {
			return ""
		}
		return url
	})
}

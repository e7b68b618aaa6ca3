package e2e

import (
	"context"
	"errors"
	"testing"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// TestGoodbye stops a server that has nothing to do but to hold sockets. Each of them has to be told why it ends: a client
// takes 1012 for a reason to come back, and may take a connection that just breaks for a network that is down.
func TestGoodbye(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		srv := mustServe(t, on(databaseURL))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		const sockets = 200
		codes := make(chan websocket.StatusCode, sockets)
		for range sockets {
			socket := srv.mustConnect()
			go func() {
				_, _, err := socket.Read(ctx)
				codes <- websocket.CloseStatus(err)
			}()
		}
		srv.http.CloseIdleConnections()
		srv.stop()
		got := map[websocket.StatusCode]int{}
		for range sockets {
			got[<-codes]++
		}
		if got[websocket.StatusServiceRestart] != sockets {
			t.Errorf("the sockets were closed with %v (code: sockets; -1 is none), want 1012 for all", got)
		}
	})
}

// mustConnect opens a socket that carries nothing. It takes less than a client library, for tests that need many.
func (s *server) mustConnect() *websocket.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	socket, _, err := websocket.Dial(ctx, s.api, &websocket.DialOptions{
		Subprotocols: []string{"graphql-transport-ws"}, HTTPClient: s.http,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = socket.CloseNow() })
	var ack struct{ Type string }
	err = errors.Join(wsjson.Write(ctx, socket, map[string]string{"type": "connection_init"}), wsjson.Read(ctx, socket, &ack))
	if err != nil || ack.Type != "connection_ack" {
		s.t.Fatalf("got %q, %v instead of connection_ack", ack.Type, err)
	}
	return socket
}

package e2e

import (
	"context"
	"testing"

	"github.com/coder/websocket"
)

// TestCloseFrames stops a server with idle sockets. Each socket must get a close frame with 1012,
// which makes a client reconnect. A client may take a connection that just breaks for a network
// that is down.
func TestCloseFrames(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		srv := mustServe(t, on(databaseURL), "PARLEY_MAX_SOCKETS=200")
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		const sockets = 200
		codes := make(chan websocket.StatusCode, sockets)
		for range sockets {
			socket := srv.anonymous().connect()
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
			t.Errorf(
				"the sockets were closed with %v (code: sockets; -1 is none), want 1012 for all",
				got)
		}
	})
}

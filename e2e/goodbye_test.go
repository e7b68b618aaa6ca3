package e2e

import (
	"context"
	"testing"

	"github.com/coder/websocket"
)

// TestGoodbye stops a server that has nothing to do but to hold sockets. Each of them has to be
// told why it ends: a client takes 1012 for a reason to come back, and may take a connection that
// just breaks for a network that is down.
func TestGoodbye(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		srv := mustServe(t, on(databaseURL), "PARLEY_MAX_SOCKETS=200")
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		const sockets = 200
		codes := make(chan websocket.StatusCode, sockets)
		for range sockets {
			socket := srv.nobody().connect()
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

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"parley/internal/client"
)

// A server of another library reads the frames of conn, and conn reads that server's frames.
func TestConn(t *testing.T) {
	t.Parallel()
	upgrader := websocket.Upgrader{Subprotocols: []string{client.Subprotocol}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		for {
			kind, message, err := conn.ReadMessage()
			if err != nil || conn.WriteMessage(kind, message) != nil {
				return
			}
		}
	}))
	defer server.Close()
	c, err := dial(server.URL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for _, size := range []int{0, 100, 125, 126, 1000, 0xFFFF, 0x10000, 200_000} {
		id := strings.Repeat("x", size)
		if err := c.send(client.Message{ID: id, Type: "t"}, nil); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`{"id":"%s","type":"t"}`, id)
		if size == 0 {
			want = `{"type":"t"}`
		}
		if got, err := c.message(); err != nil || string(got) != want {
			t.Fatalf("%d bytes: got %d, want %d: %v", size, len(got), len(want), err)
		}
	}
}

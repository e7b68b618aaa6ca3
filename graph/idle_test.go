package graph_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"parley/store/storetest"
)

// An idle connection has one goroutine, and needs little memory: the log of this test has the
// figures (-v). A broadcast subscription has no goroutine, one that the executor runs has two. It
// runs alone, because it counts.
func TestIdleConnections(t *testing.T) { //nolint:paralleltest // see above
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	id := s.mustConversation(ann, s.mustRegister("bob"))
	const connections = 500
	for _, c := range []struct {
		name, field string
		goroutines  int // of each connection
	}{
		{"no subscription", "", 1},
		{"a broadcast subscription", "messageAdded(conversationId: $id) { id seq content }", 1},
		{
			"an executed subscription",
			"messageAdded(conversationId: $id) { conversation { draft } }",
			3,
		},
	} {
		before, bytes := used(t)
		for range connections {
			conn := s.mustOpen(ann.token)
			if c.field != "" {
				mustWrite(t, conn, fmt.Sprintf(
					`{"id":"1","type":"subscribe","payload":{"query":%q,"variables":{"id":%q}}}`,
					"subscription($id: ID!) { "+c.field+" }", id))
				mustWrite(t, conn, `{"type":"ping"}`)
				mustSkip(t, conn)
			}
		}
		after, with := used(t)
		t.Logf("%s: %.1f KiB, %.2f goroutines", c.name,
			float64(with-bytes)/connections/1024, float64(after-before)/connections)
		if after-before > c.goroutines*connections {
			t.Errorf("%s: %d goroutines for %d connections", c.name, after-before, connections)
		}
	}
}

// used waits until no goroutine starts or ends, and returns how many there are, and how many bytes
// heap and stacks have.
func used(t *testing.T) (goroutines, bytes int) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for same := 0; same < 100; same++ {
		<-tick.C
		if n := runtime.NumGoroutine(); n != goroutines {
			goroutines, same = n, 0
		}
	}
	runtime.GC()
	runtime.GC() // frees what was in pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return goroutines, int(m.HeapAlloc + m.StackInuse) //nolint:gosec // far from the largest
}

// mustOpen opens a socket that needs next to no memory in the client.
func (s *api) mustOpen(token string) net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	const request = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil ||
		res.StatusCode != 101 {
		s.t.Fatal(res, err)
	}
	mustWrite(s.t, conn,
		`{"type":"connection_init","payload":{"Authorization":"Bearer `+token+`"}}`)
	mustSkip(s.t, conn)
	return conn
}

// mustWrite sends a message with a mask of zeros.
func mustWrite(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	frame := append([]byte{0x81, 0x80 | 126, byte(len(text) >> 8), byte(len(text)), 0, 0, 0, 0},
		text...)
	if len(text) < 126 {
		frame = append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)
	}
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
}

// mustSkip reads a message of less than 126 bytes.
func mustSkip(t testing.TB, conn net.Conn) {
	t.Helper()
	var head [2]byte
	_, err := io.ReadFull(conn, head[:])
	if err == nil {
		_, err = io.CopyN(io.Discard, conn, int64(head[1]))
	}
	if err != nil {
		t.Fatal(err)
	}
}

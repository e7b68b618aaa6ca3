package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// goroutines waits until their number does not change any more, and returns it.
func goroutines(t *testing.T) int {
	t.Helper()
	last, same := -1, 0
	eventually(t, "as many goroutines as before", func() bool {
		if n := runtime.NumGoroutine(); n != last {
			last, same = n, 0
		}
		same++
		return same > 50
	})
	return last
}

// An idle connection has one goroutine at most. This test runs alone, because it counts goroutines.
func TestGoroutinesOfIdleConnections(t *testing.T) { //nolint:paralleltest // see above
	f := mustServe(t)
	before := goroutines(t)
	const connections = 500
	clients := make([]*client, connections)
	for i := range clients {
		clients[i] = f.open()
	}
	if got := goroutines(t) - before; got > connections {
		t.Errorf("%d goroutines for %d connections", got, connections)
	}
	// Subscriptions that the executor does not run have no goroutine either.
	for _, c := range clients {
		for i := range 3 {
			c.send(subscribe(itoa(i), "subscription { delegated }"))
			<-f.delegated
		}
	}
	if got := goroutines(t) - before; got > connections {
		t.Errorf("%d goroutines for %d connections with subscriptions", got, connections)
	}
	for _, c := range clients {
		_ = c.conn.Close()
	}
	if got := goroutines(t); got > before {
		t.Errorf("%d goroutines more than before", got-before)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // also what is in pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A client that reads nothing is disconnected with 1013. Its queue is bounded, and other clients do
// not notice.
func TestClientThatStalls(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.QueueBytes = 64 << 10 })
	stalled, other := f.open(), f.open()
	stalled.send(subscribe("s", "subscription { delegated }"))
	op := <-f.delegated
	other.send(subscribe("o", "subscription { delegated }"))
	others := <-f.delegated
	payload := bytes.Repeat([]byte("1"), 4<<10) // a thousand connections may share it
	queued := 0
	// until the operating system keeps no more either
	for ctx := t.Context(); op.Put(ctx, payload) == nil; queued++ {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
	}
	for op.Next(payload) {
		queued++
		op.box.mu.Lock()
		waiting := op.box.bytes
		op.box.mu.Unlock()
		if waiting > 64<<10 {
			t.Fatalf("%d bytes wait", waiting)
		}
	}
	others.Next([]byte(`{"data":{"delegated":1}}`))
	other.want(`{"id":"o","type":"next","payload":{"data":{"delegated":1}}}`)
	other.send(subscribe("p", "{ name }"))
	other.want(`{"id":"p","type":"next","payload":{"data":{"name":"parley"}}}`)

	received := 0
	for {
		opcode, b, err := stalled.read()
		if err != nil {
			t.Fatalf("after %d: %v", received, err)
		}
		if opcode == opClose {
			if code := int(b[0])<<8 | int(b[1]); code != CloseTryAgain ||
				string(b[2:]) != overflowReason {
				t.Errorf("closed with %d %s", code, b[2:])
			}
			break
		}
		received++
	}
	if received == 0 || received > queued {
		t.Errorf("%d were queued, %d came", queued, received)
	}
}

// A client that sends requests and does not read the answers is disconnected with 1013. The number
// of items in its queue is bounded.
func TestClientThatAsksAndNeverReads(t *testing.T) {
	t.Parallel()
	const items = 20
	f := mustServe(t, func(o *Options) { o.QueueItems = items })
	c := f.open()
	c.send(subscribe("s", "subscription { delegated }"))
	op := <-f.delegated
	// until the operating system keeps no more either
	for payload := bytes.Repeat([]byte("1"), 64<<10); op.TryNext(payload); {
	}
	ended := make(chan struct{})
	go func() { // frames of the WebSocket and messages, as many as it takes
		defer close(ended)
		both := append(frameOf(finBit|opPing, "x"), frameOf(finBit|opText, `{"type":"ping"}`)...)
		for !op.box.hasEnded() {
			if _, err := c.conn.Write(both); err != nil {
				return
			}
			op.box.mu.Lock()
			if n := op.box.rest.len(); n > items+1 { // and the close frame
				t.Errorf("%d items wait", n)
			}
			op.box.mu.Unlock()
		}
	}()
	<-ended
	for {
		opcode, payload, err := c.read()
		if err != nil {
			t.Fatalf("instead of a close frame: %v", err)
		}
		if opcode == opClose {
			if code := int(payload[0])<<8 | int(payload[1]); code != CloseTryAgain ||
				string(payload[2:]) != overflowReason {
				t.Errorf("closed with %d %s", code, payload[2:])
			}
			return
		}
	}
}

// Put waits for a slow client, and loses nothing.
func TestPutWaitsForSlowClient(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.QueueItems, o.QueueBytes = 10, 100<<10 })
	c := f.open()
	c.send(subscribe("s", "subscription { delegated }"))
	op := <-f.delegated
	const items = 2000
	padding := strings.Repeat("x", 8<<10) // more in all than the operating system keeps
	done := make(chan error, 1)
	go func() {
		for i := range items {
			if err := op.Put(t.Context(), fmt.Appendf(nil, `{"n":%d,"x":"%s"}`, i,
				padding)); err != nil {
				done <- err
				return
			}
		}
		op.Complete()
		done <- nil
	}()
	for i := range items {
		c.want(fmt.Sprintf(`{"id":"s","type":"next","payload":{"n":%d,"x":"%s"}}`, i, padding))
	}
	c.want(complete("s"))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A client that reads nothing loses its connection after the write timeout, and Put returns an
// error.
func TestClientThatNeverReads(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.WriteTimeout = 50 * time.Millisecond })
	c := f.open()
	c.send(subscribe("s", "subscription { delegated }"))
	op := <-f.delegated
	payload := bytes.Repeat([]byte("1"), 64<<10)
	for op.Put(t.Context(), payload) == nil {
	}
	eventually(t, "the connection is gone", func() bool { return f.connections() == 0 })
}

func (f *fixture) connections() int {
	f.server.connections.mu.Lock()
	defer f.server.connections.mu.Unlock()
	return len(f.server.connections.open)
}

// Clients that are gone without closing are disconnected. Clients that answer pings stay.
func TestDeadPeers(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.PingInterval = 100 * time.Millisecond })
	dead := make([]*client, 100)
	for i := range dead {
		dead[i] = f.open()
		dead[i].send(subscribe("s", "subscription { silence }"))
	}
	alive := f.open()
	answered := 0
	for f.connections() > 1 || answered < 5 {
		opcode, _, err := alive.read()
		if err != nil {
			t.Fatalf("after %d pings: %v", answered, err)
		}
		if opcode != opPing {
			t.Fatalf("got %d, want a ping", opcode)
		}
		alive.raw(frameOf(finBit|opPong, ""))
		answered++
	}
	for _, c := range dead {
		for pings := 0; ; pings++ {
			opcode, _, err := c.read()
			if err == nil && opcode == opPing {
				continue
			}
			// On a slow machine, a ping can still be queued when the connection is aborted.
			if pings > 2 || !errors.Is(err, io.EOF) && !isReset(err) {
				t.Fatalf("after %d pings: %d %v, want the end without a close frame", pings, opcode,
					err)
			}
			break
		}
	}
}

func isReset(err error) bool { _, ok := errors.AsType[*net.OpError](err); return ok }

// A message has to arrive completely within the message timeout, even if bytes keep coming.
func TestMessageThatTricklesIn(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.MessageTimeout = 100 * time.Millisecond })
	trickling, fragments := f.open(), f.open()
	trickling.raw(frameOf(finBit|opText, `{"type":"ping"}`)[:8])
	fragments.raw(frameOf(opText, `{"type":`))
	for name, c := range map[string]*client{"a frame": trickling, "a fragment": fragments} {
		if code, reason := c.closed(); code != CloseTryAgain || reason == "" {
			t.Errorf("%s: closed with %d %q", name, code, reason)
		}
	}
}

// Items that are queued for one connection are written together, in order.
func TestCoalescing(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	c := f.open()
	c.send(subscribe("s", "subscription { delegated }"))
	op := <-f.delegated
	for busy := true; busy; runtime.Gosched() { // the acknowledgement is being written
		op.box.mu.Lock()
		busy = op.box.writing
		op.box.writing = true // as if another write were running
		op.box.mu.Unlock()
	}
	var want []byte
	for i := range 20 {
		op.Next(fmt.Appendf(nil, "%d", i))
		text := fmt.Sprintf(`{"id":"s","type":"next","payload":%d}`, i)
		want = append(appendHeader(want, opText, len(text), false), text...)
	}
	s := op.box.transport.(*socket)
	buf := writeBuffers.Get().(*writeBuffer)
	defer writeBuffers.Put(buf)
	buf.items = s.dequeue(buf.items[:0])
	if s.encodeFrames(buf); !bytes.Equal(buf.frames, want) {
		t.Errorf("one write would carry %q", buf.frames)
	}
	op.Complete()
	if more := s.flush(buf); more {
		t.Error("the writer would flush again for nothing")
	}
	c.want(complete("s"))
	op.box.mu.Lock()
	defer op.box.mu.Unlock()
	if op.box.rest != nil || op.box.hasFirst || op.box.writing || op.box.bytes != 0 {
		t.Errorf("an idle outbox keeps %v %v %v %d", op.box.rest, op.box.first, op.box.writing,
			op.box.bytes)
	}
}

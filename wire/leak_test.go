package wire

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"
	"time"
	"weak"

	"parley/internal/race"
)

// sockets are those of a fixture, held by nothing: when all has been let go of them, they are gone.
func (f *fixture) sockets() []weak.Pointer[socket] {
	f.server.connections.mu.Lock()
	defer f.server.connections.mu.Unlock()
	var list []weak.Pointer[socket]
	for c := range f.server.connections.open {
		if s, ok := c.(*socket); ok {
			list = append(list, weak.Make(s))
		}
	}
	return list
}

// wantFreed waits until the garbage collector has found what nobody holds any more.
func wantFreed[T any](t *testing.T, what string, list []weak.Pointer[T]) {
	t.Helper()
	left := 0
	eventually(t, "all "+what+" are freed", func() bool {
		runtime.GC()
		left = 0
		for _, p := range list {
			if p.Value() != nil {
				left++
			}
		}
		return left == 0
	})
}

// burst is subscriptions of each kind, which end in each way: by the client, by the server, and
// with an error. They are sent at once, and it is waited until all have ended.
const burst = 50

func (f *fixture) burst(c *client) (taken []weak.Pointer[Operation]) {
	f.t.Helper()
	var b []byte
	add := func(text string) { b = append(b, frameOf(finBit|opText, text)...) }
	for i := range burst / 5 {
		id := itoa(i)
		add(subscribe("silent"+id, "subscription { silence }"))
		add(complete("silent" + id))
		add(subscribe("ticks"+id, "subscription { ticks(to: 1) }"))
		add(subscribe("refused"+id, "subscription { refused }"))
		add(subscribe("left"+id, "subscription { taken }"))
		add(subscribe("ended"+id, "subscription { taken }"))
	}
	c.raw(b)
	for range 2 * (burst / 5) {
		op := <-f.taken
		taken = append(taken, weak.Make(op))
		if op.Next([]byte("1")); op.id[0] == 'e' {
			op.Complete()
		}
	}
	ends := 0
	for ends < 4*(burst/5) { // a next, or an end
		_, payload, err := c.read()
		if err != nil {
			f.t.Fatal(err)
		}
		switch {
		case bytes.HasPrefix(payload, []byte(`{"id":"left`)):
			c.send(`{"type":"complete",` + string(payload[1:bytes.IndexByte(payload, ',')]) + "}")
			ends++
		case !bytes.Contains(payload, []byte(`"type":"next"`)):
			ends++
		}
	}
	return taken
}

// cycles is how many subscriptions begin and end where it is looked for what they leave behind.
const cycles = 100_000 / race.Slowness

// wantNothingLeft compares what there is after all cycles with what there was after a tenth of
// them: it must not grow with their number.
func wantNothingLeft(t *testing.T, cycle func(n int)) {
	t.Helper()
	cycle(cycles / 10)
	goroutinesBefore, heapBefore := goroutines(t), heap()
	cycle(cycles - cycles/10)
	if got := goroutines(t); got > goroutinesBefore {
		t.Errorf("%d goroutines more than before", got-goroutinesBefore)
	}
	const kept = 512 << 10 // by the tests' own clients
	if grown := int64(heap()) - int64(heapBefore); grown > kept+8*cycles {
		t.Errorf("the heap has grown by %d bytes with another %d", grown, cycles-cycles/10)
	}
}

// A hundred thousand subscriptions that begin and end on a socket leave nothing behind while it is
// open. It runs alone, because it counts.
func TestNothingIsLeftOfOperations(t *testing.T) { //nolint:paralleltest // see above
	f := mustServe(t, func(o *Options) { o.MaxOperations = 1 << 20 })
	c := f.open()
	_ = c.conn.SetDeadline(time.Time{}) // it takes a while
	wantNothingLeft(t, func(n int) {
		var operations []weak.Pointer[Operation]
		for done := 0; done < n; done += burst {
			operations = append(operations, f.burst(c)...)
		}
		wantFreed(t, "operations", operations)
	})
	c.send(`{"type":"ping"}`)
	c.want(`{"type":"pong"}`)
}

// The same on a thousand sockets that come and go. It runs alone, because it counts.
func TestNothingIsLeftOfSockets(t *testing.T) { //nolint:paralleltest // see above
	f := mustServe(t, func(o *Options) { o.MaxOperations = 1 << 20 })
	wantNothingLeft(t, func(n int) {
		var sockets []weak.Pointer[socket]
		for done := 0; done < n; done += 2 * burst {
			c := f.open()
			sockets = append(sockets, f.sockets()...)
			f.burst(c)
			f.burst(c)
			c.leave(done / burst / 2)
		}
		eventually(t, "all sockets are closed", func() bool { return f.connections() == 0 })
		f.mu.Lock()
		f.ends = nil // they know their sockets
		f.mu.Unlock()
		wantFreed(t, "sockets", sockets)
	})
}

// leave ends a socket in one of three ways.
func (c *client) leave(way int) {
	c.t.Helper()
	switch way % 3 {
	case 0:
		c.raw(frameOf(finBit|opClose, string(closeFrame(1000, ""))))
		c.closed()
	case 1:
		c.send("hello")
		c.closed()
	}
	_ = c.conn.Close()
}

// halfOpen are peers of which nothing is heard any more, each left in the middle of something else.
var halfOpen = map[string]func(f *fixture) *client{
	"before the initialisation": func(f *fixture) *client { return f.dial() },
	"in the middle of it": func(f *fixture) *client {
		c := f.dial()
		c.raw(frameOf(finBit|opText, `{"type":"connection_init"}`)[:9])
		return c
	},
	"idle": func(f *fixture) *client { return f.open() },
	"in the middle of a frame": func(f *fixture) *client {
		c := f.open()
		c.raw(frameOf(finBit|opText, `{"type":"ping"}`)[:9])
		return c
	},
	"in the middle of a message": func(f *fixture) *client {
		c := f.open()
		c.raw(frameOf(opText, `{"type":`))
		return c
	},
	"with a subscription": func(f *fixture) *client {
		c := f.open()
		c.send(subscribe("s", "subscription { silence }"))
		return c
	},
	"with a subscription that waits for room": func(f *fixture) *client {
		c := f.open()
		c.send(subscribe("s", "subscription { ticks(to: 100000000) }"))
		return c
	},
	"with one that the executor does not run": func(f *fixture) *client {
		c := f.open()
		c.send(subscribe("s", "subscription { taken }"))
		<-f.taken
		return c
	},
}

// Half-open connections by the thousand are noticed, all of them, and nothing is left: no
// goroutine, no memory, nothing that they held, while somebody who answers stays and is served. It
// runs alone, because it counts.
func TestHalfOpenByTheThousand(t *testing.T) { //nolint:paralleltest // see above
	const each = 200
	f := mustServe(t, func(o *Options) {
		// Long enough for whoever answers, on a machine that has much else to do.
		o.InitTimeout, o.MessageTimeout, o.PingInterval = 3*time.Second, 3*time.Second, 3*time.Second
		o.WriteTimeout, o.Linger, o.QueueItems = 3*time.Second, 100*time.Millisecond, 10
	})
	alive := f.open()
	if err := alive.conn.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	before := goroutines(t)
	served := make(chan error)
	stop := make(chan struct{})
	go func() { served <- alive.stayAlive(stop) }()
	held := 1 // by the one that stays
	var freed []weak.Pointer[socket]
	for name, leave := range halfOpen {
		n := each
		// which takes megabytes each until there is none
		if name == "with a subscription that waits for room" {
			n = each / 20
		}
		for range n {
			leave(f)
		}
		freed = append(freed, f.sockets()...)
		if name != "before the initialisation" && name != "in the middle of it" {
			held += n
		}
	}
	eventually(t, "those who do not answer are gone", func() bool { return f.connections() == 1 })
	f.mu.Lock()
	if len(f.ends) != held || f.release != held-1 {
		t.Errorf("%d connections held something, %d have given it back; want %d and one less", len(f.ends), f.release, held)
	}
	f.ends = nil // they know their sockets
	f.mu.Unlock()
	close(stop)
	if err := <-served; err != nil {
		t.Errorf("who answers was not served: %v", err)
	}
	if got := goroutines(t); got > before {
		t.Errorf("%d goroutines more than before", got-before)
	}
	_ = alive.conn.Close()
	eventually(t, "the last one is gone", func() bool { return f.connections() == 0 })
	wantFreed(t, "sockets", freed)
	f.open() // and others are let in
}

// stayAlive answers pings, and asks for something again and again, until it is stopped.
func (c *client) stayAlive(stop <-chan struct{}) error {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-stop:
			return nil
		case <-again.C:
		}
		if _, err := c.conn.Write(frameOf(finBit|opText, subscribe("q", "{ name }"))); err != nil {
			return err
		}
		for answered := false; !answered; {
			opcode, payload, err := c.read()
			if err != nil {
				return err
			}
			switch opcode {
			case opPing:
				_, err = c.conn.Write(frameOf(finBit|opPong, string(payload)))
			case opText:
				answered = string(payload) == complete("q")
			default:
				err = fmt.Errorf("got %d %q", opcode, payload)
			}
			if err != nil {
				return err
			}
		}
	}
}

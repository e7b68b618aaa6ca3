package wire

import (
	"bufio"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestTimes checks how long a slow client is served, and that other clients do not wait for it.
// Each row has what the client does, after which time its connection ends, and how. The clock is
// that of a synctest bubble.
func TestTimes(t *testing.T) {
	t.Parallel()
	const init = `{"type":"connection_init"}`
	for name, c := range map[string]struct {
		over time.Duration
		ends string // the close code and a part of the reason; "cut" without a close frame
		does func(f *fixture) *client
	}{
		"no initialisation": {
			10 * time.Second, "4408 timeout",
			func(f *fixture) *client { return f.dial() },
		},
		"an initialisation byte by byte": {
			10 * time.Second, "4408 timeout",
			func(f *fixture) *client {
				return f.dial().trickle(time.Second, frameOf(finBit|opText, init))
			},
		},
		"pings instead of an initialisation": {
			10 * time.Second, "4408 timeout",
			func(f *fixture) *client {
				return f.dial().repeat(time.Second/10, frameOf(finBit|opPing, "here"))
			},
		},
		"half a header": {15 * time.Second, "1013 whole in time", func(f *fixture) *client {
			return f.open().trickle(time.Minute, frameOf(finBit|opText, "x"))
		}},
		"a frame byte by byte": {15 * time.Second, "1013 whole in time", func(f *fixture) *client {
			return f.open().trickle(time.Second/2,
				frameOf(finBit|opText, `{"type":"ping","payload":{"a":"x"}}`))
		}},
		"a ping byte by byte": {15 * time.Second, "1013 whole in time", func(f *fixture) *client {
			return f.open().trickle(time.Second/2, frameOf(finBit|opPing, strings.Repeat("x", 100)))
		}},
		"fragments without an end": {
			15 * time.Second, "1013 whole in time",
			func(f *fixture) *client {
				c := f.open()
				c.raw(frameOf(opText, ""))
				return c.repeat(time.Second, frameOf(opContinuation, " "))
			},
		},
		"pings between fragments": {
			15 * time.Second, "1013 whole in time",
			func(f *fixture) *client {
				c := f.open()
				c.raw(frameOf(opText, `{"type":`))
				return c.repeat(time.Second, frameOf(finBit|opPing, "still here"))
			},
		},
		"no answer to pings": {75 * time.Second, "cut", func(f *fixture) *client {
			c := f.open()
			c.send(subscribe("s", "subscription { silence }"))
			return c
		}},
		"a flood instead of an answer to the close frame": {
			0, "4400 not valid JSON",
			func(f *fixture) *client {
				c := f.open()
				c.send("hello")
				return c.repeat(time.Millisecond, frameOf(finBit|opText, strings.Repeat(" ", 1000)))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := mustServeInMemory(t)
				start := time.Now()
				conn := c.does(f)
				other := f.open()
				other.send(subscribe("q", "{ name }"))
				other.want(`{"id":"q","type":"next","payload":{"data":{"name":"parley"}}}`)
				if waited := time.Since(start); waited != 0 {
					t.Errorf("another client had to wait for %v", waited)
				}
				_ = other.conn.Close()
				if got := conn.ending(); !matches(got, c.ends) {
					t.Errorf("it ended with %s, want %s", got, c.ends)
				}
				if held := time.Since(start); held != c.over {
					t.Errorf("it was held for %v, want %v", held, c.over)
				}
				if c.ends != "cut" { // a close frame may be answered
					_, _, err := conn.read()
					if lingered := time.Since(start) - c.over; !errors.Is(err, io.EOF) ||
						lingered != 2*time.Second {
						t.Errorf("after another %v: %v", lingered, err)
					}
				}
				synctest.Wait()
				if n := f.connections(); n != 0 {
					t.Errorf("%d connections are left", n)
				}
			})
		})
	}
}

// matches reports whether got has the code and the part of the reason in want.
func matches(got, want string) bool {
	code, reason, _ := strings.Cut(want, " ")
	return strings.HasPrefix(got, code) && strings.Contains(got, reason)
}

// trickle sends a byte at a time, until the connection ends.
func (c *client) trickle(pause time.Duration, b []byte) *client {
	go c.sendAll(pause, slices.Chunk(b, 1))
	return c
}

// repeat sends the same bytes until the connection ends.
func (c *client) repeat(pause time.Duration, b []byte) *client {
	go c.sendAll(pause, func(yield func([]byte) bool) {
		for yield(b) {
		}
	})
	return c
}

func (c *client) sendAll(pause time.Duration, parts iter.Seq[[]byte]) {
	for part := range parts {
		if _, err := c.conn.Write(part); err != nil {
			return
		}
		select {
		case <-time.After(pause):
		case <-c.t.Context().Done():
			return
		}
	}
}

// ending reads until the connection ends. It returns the code and the reason of the close frame, or
// "cut" if there is none.
func (c *client) ending() (how string) {
	for {
		opcode, payload, err := c.read()
		if err != nil {
			return "cut"
		}
		if opcode == opClose {
			return itoa(int(payload[0])<<8|int(payload[1])) + " " + string(payload[2:])
		}
	}
}

// A client that answers pings stays connected, and so does one that sends control frames without a
// pause: each of its frames has its own timeout.
func TestClientsThatAnswerStay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := mustServeInMemory(t)
		answering := f.open()
		start := time.Now()
		for pings := 1; time.Since(start) < time.Hour; pings++ {
			if opcode, _, err := answering.read(); err != nil || opcode != opPing {
				t.Fatalf("%d %v", opcode, err)
			}
			if at := time.Since(start); at != time.Duration(pings)*25*time.Second {
				t.Fatalf("ping %d came after %v", pings, at)
			}
			answering.raw(frameOf(finBit|opPong, ""))
		}
		busy, ping := f.open(), frameOf(finBit|opPing, "x")
		busy.raw(ping[:3])
		for range 60 { // what is written ends in the middle of the next one
			busy.raw(append(ping[3:], ping[:3]...))
			if opcode, _, err := busy.read(); err != nil || opcode != opPong {
				t.Fatalf("%d %v", opcode, err)
			}
			<-time.After(time.Second)
		}
		busy.raw(ping[3:])
		for _, c := range []*client{answering, busy} {
			_ = c.conn.Close()
		}
	})
}

// A client that answers no pings gets two, and is disconnected without a close frame.
func TestUnansweredPings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := mustServeInMemory(t).open()
		start := time.Now()
		for _, want := range []time.Duration{25 * time.Second, 50 * time.Second} {
			opcode, _, err := c.read()
			if at := time.Since(start); err != nil || opcode != opPing || at != want {
				t.Errorf("after %v: %d %v, want a ping after %v", at, opcode, err, want)
			}
		}
		_, _, err := c.read()
		if at := time.Since(start); !errors.Is(err, io.EOF) || at != 75*time.Second {
			t.Errorf("after %v: %v, want the end after 75s", at, err)
		}
	})
}

// A client that reads nothing is disconnected 10 seconds after the first byte that does not fit,
// and Put returns.
func TestWriteTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := mustServeInMemory(t)
		c := f.open()
		c.send(subscribe("s", "subscription { delegated }"))
		op := <-f.delegated
		start := time.Now()
		payload := []byte(strings.Repeat("1", 64<<10))
		for op.Put(t.Context(), payload) == nil {
		}
		if held := time.Since(start); held != 10*time.Second {
			t.Errorf("Put returned after %v", held)
		}
		synctest.Wait()
		if n := f.connections(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}

// drop reads a thousand bytes in half a second.
type drop struct{ net.Conn }

func (d drop) Read(b []byte) (int, error) {
	<-time.After(time.Second / 2)
	return d.Conn.Read(b[:min(len(b), 1000)])
}

// A client that reads slowly stays connected, however long that takes: each part of a write has its
// own timeout.
func TestSlowReadersStay(t *testing.T) {
	t.Parallel()
	payload := []byte(`"` + strings.Repeat("x", 100_000) + `"`)
	for name, takes := range map[string]func(*testing.T, *fixture){
		"a WebSocket": func(_ *testing.T, f *fixture) {
			c := f.open()
			c.send(subscribe("s", "subscription { delegated }"))
			(<-f.delegated).Next(payload)
			c.r = bufio.NewReader(drop{c.conn})
			c.want(`{"id":"s","type":"next","payload":` + string(payload) + `}`)
		},
		"a stream": func(t *testing.T, f *fixture) {
			conn := f.connect()
			mustWrite(t, conn,
				"GET /?query=subscription%7Bdelegated%7D HTTP/1.1\r\nHost: parley\r\nAccept: "+
					"text/event-stream\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(drop{conn}), nil)
			if err != nil {
				t.Fatal(err)
			}
			op := <-f.delegated
			op.Next(payload)
			op.Complete()
			want := ":\n\nevent: next\ndata: " + string(payload) + "\n\nevent: complete\ndata:\n\n"
			if got, err := io.ReadAll(res.Body); err != nil || string(got) != want {
				t.Errorf("%d bytes came, not %d: %v", len(got), len(want), err)
			}
			_ = res.Body.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := mustServeInMemory(t)
				start := time.Now()
				takes(t, f)
				if took := time.Since(start); took < 50*time.Second { // by the clock of the bubble
					t.Errorf("it took %v, which is not slow", took)
				}
			})
		})
	}
}

// A stream has a comment every 15 seconds. It ends if a client does not read one within 10 seconds.
func TestTimesOfStreams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := mustServeInMemory(t)
		conn := f.connect()
		// A GET with a body. Its read timeout must not end the stream.
		mustWrite(t, conn,
			"GET /?query=subscription%7Bsilence%7D HTTP/1.1\r\nHost: parley\r\nAccept: "+
				"text/event-stream\r\n"+
				"Content-Length: 3\r\n\r\nabc")
		start := time.Now()
		r := bufio.NewReader(conn)
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatal(res, err)
		}
		lines := bufio.NewScanner(res.Body)
		for beats := range 4 { // the first comes with the stream
			if lines.Scan(); lines.Text() != ":" ||
				time.Since(start) != time.Duration(beats)*15*time.Second {
				t.Errorf("after %v came %q", time.Since(start), lines.Text())
			}
			lines.Scan()
		}
		eventually(t, "the stream is gone", func() bool { return f.connections() == 0 })
		// 10 seconds after the next comment
		if held := time.Since(start).Truncate(time.Second); held != 70*time.Second {
			t.Errorf("it was held for %v", held)
		}
		_ = res.Body.Close()
	})
}

// A stream that is reserved has to be opened within 30 seconds.
func TestTimeOfReservations(t *testing.T) {
	t.Parallel()
	for after, status := range map[time.Duration]int{
		29 * time.Second: http.StatusOK,
		30 * time.Second: http.StatusNotFound,
	} {
		synctest.Test(t, func(t *testing.T) {
			f := mustServeInMemory(t)
			conn := f.connect()
			r := bufio.NewReader(conn)
			mustWrite(t, conn, "PUT / HTTP/1.1\r\nHost: parley\r\n\r\n")
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			token, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			<-time.After(after)
			synctest.Wait()
			mustWrite(t, conn, "GET /?token="+string(token)+
				" HTTP/1.1\r\nHost: parley\r\nAccept: text/event-stream\r\n\r\n")
			if res, err = http.ReadResponse(r, nil); err != nil || res.StatusCode != status {
				t.Errorf("after %v: %v %v", after, res, err)
			}
			_ = conn.Close()
		})
	}
}

// A request that announces a body and does not send it ends after 15 seconds, whether its handler
// reads the body or not.
func TestTimeOfRequests(t *testing.T) {
	t.Parallel()
	const (
		sized   = "Content-Length: 1000\r\n\r\nabc"
		chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
		json    = "Content-Type: application/json\r\n"
		name    = "GET /?query=%7Bname%7D HTTP/1.1\r\nHost: parley\r\n"
		silence = "GET /?query=subscription%7Bsilence%7D HTTP/1.1\r\nHost: parley\r\nAccept: " +
			"text/event-stream\r\n"
		post = "POST / HTTP/1.1\r\nHost: parley\r\n"
	)
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"a POST":           {post + json + sized, 408},
		"a POST in chunks": {post + json + chunked, 408},
		"a POST for a stream": {
			post + "Accept: text/event-stream\r\n" + json + sized,
			408,
		},
		"a POST of something else":    {post + sized, 415},
		"a POST that takes only HTML": {post + "Accept: text/html\r\n" + json + sized, 406},
		"a GET with a body":           {name + sized, 200},
		"a GET with chunks":           {name + chunked, 200},
		"a GET for a stream":          {silence + sized, 0}, // there is none
		"a WebSocket that is refused": {name + "Upgrade: websocket\r\n" + sized, 400},
		"a method that there is not":  {"PATCH / HTTP/1.1\r\nHost: parley\r\n" + sized, 405},
		"a reservation":               {"PUT / HTTP/1.1\r\nHost: parley\r\n" + sized, 201},
		"an end of an operation": {"DELETE /?operationId=1&token=x HTTP/1.1\r\nHost: " +
			"parley\r\n" + sized, 404},
		"an operation of some stream": {"POST /?token=x HTTP/1.1\r\nHost: parley\r\n" +
			json + sized, 408},
		"a POST that waits for its 100": {post + json + "Expect: 100-continue\r\n" + sized, 408},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := mustServeInMemory(t)
				conn := f.connect()
				start := time.Now()
				go mustWrite(t, conn, c.request)
				r := bufio.NewReader(conn)
				res, err := http.ReadResponse(r, nil)
				for err == nil && res.StatusCode == http.StatusContinue {
					res, err = http.ReadResponse(r, nil)
				}
				if held := time.Since(start); held != 15*time.Second {
					t.Errorf("it was answered after %v", held)
				}
				if c.status == 0 && errors.Is(err, io.ErrUnexpectedEOF) {
					return
				}
				if err != nil || res.StatusCode != c.status {
					t.Fatal(res, err)
				}
				_, _ = io.Copy(io.Discard, res.Body)
				if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("the connection is not closed: %v", err)
				}
				_ = res.Body.Close()
				if held := time.Since(start); held != 15*time.Second {
					t.Errorf("it was closed after %v", held)
				}
			})
		})
	}
}

func mustWrite(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Error(err)
	}
}

package wire

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// exchange is the bytes that a client sends after its initialisation, and what the server answers.
type exchange struct {
	bytes []byte
	pings []string // first, pong frames with these payloads
	text  string   // then this message; "" for none
	code  int      // then a close frame with this code; 0 for none
	says  string   // a part of its reason
}

// framesOf returns frames of a client, from pairs of the first byte and the payload.
func framesOf(parts ...any) (b []byte) {
	for i := 0; i < len(parts); i += 2 {
		b = append(b, frameOf(byte(parts[i].(int)), parts[i+1].(string))...)
	}
	return b
}

// check sends the bytes with one write, byte by byte, and in pieces.
func (c exchange) check(t *testing.T, f *fixture, headers ...string) {
	t.Helper()
	for _, chunk := range []int{len(c.bytes), 1, 1000} {
		if chunk == 1 && len(c.bytes) > 10_000 {
			continue
		}
		conn := f.open(headers...)
		for b := c.bytes; len(b) > 0; b = b[min(chunk, len(b)):] {
			if _, err := conn.conn.Write(b[:min(chunk, len(b))]); err != nil && c.code == 0 {
				t.Fatal(err) // otherwise the server may have closed already
			}
		}
		for _, want := range c.pings {
			opcode, payload, err := conn.read()
			if err != nil || opcode != opPong || string(payload) != want {
				t.Fatalf("got %d %q %v, want the pong %q", opcode, payload, err, want)
			}
		}
		if c.text != "" {
			conn.want(c.text)
		}
		if c.code == 0 {
			continue
		}
		if code, reason := conn.closed(); code != c.code || !strings.Contains(reason, c.says) {
			t.Errorf("closed with %d %q, want %d %s", code, reason, c.code, c.says)
		}
	}
}

// TestFrames has a rule of RFC 6455 in each row.
func TestFrames(t *testing.T) {
	t.Parallel()
	const fin = finBit
	ping, pong := `{"type":"ping","payload":{"a":"é"}}`, `{"type":"pong","payload":{"a":"é"}}`
	big := `{"type":"ping","payload":{"a":"` + strings.Repeat("x", 70_000) + `"}}`
	unmasked := frameOf(fin|opText, ping)
	unmasked[1] &^= maskBit
	frames := framesOf
	closeWith := func(code int, reason string) string { return string(closeFrame(code, reason)) }
	for name, c := range map[string]exchange{
		"text":            {bytes: frames(fin|opText, ping), text: pong},
		"a 16-bit length": {bytes: frames(fin|opText, ping+strings.Repeat(" ", 200)), text: pong},
		"a 64-bit length": {
			bytes: frames(fin|opText, big),
			text:  strings.Replace(big, "ping", "pong", 1),
		},
		"two fragments": {
			bytes: frames(opText, ping[:9], fin|opContinuation, ping[9:]),
			text:  pong,
		},
		"fragments inside a rune": {
			bytes: frames(opText, ping[:strings.Index(ping, "é")+1], fin|opContinuation,
				ping[strings.Index(ping, "é")+1:]), text: pong,
		},
		"empty fragments": {
			bytes: frames(opText, "", opContinuation, ping[:9], opContinuation, "", opContinuation,
				ping[9:], fin|opContinuation, ""), text: pong,
		},
		"a ping between fragments": {bytes: frames(opText, ping[:9], fin|opPing, "in between",
			fin|opContinuation, ping[9:]), pings: []string{"in between"}, text: pong},
		"a pong between fragments": {bytes: frames(opText, ping[:9], fin|opPong, "x",
			fin|opContinuation, ping[9:]), text: pong},
		"an empty ping": {
			bytes: frames(fin|opPing, "", fin|opText, ping),
			pings: []string{""}, text: pong,
		},
		"the longest ping": {bytes: frames(fin|opPing, strings.Repeat("x", 125), fin|opText,
			ping), pings: []string{strings.Repeat("x", 125)}, text: pong},
		"ten pings": {
			bytes: bytes.Repeat(frames(fin|opPing, "x"), 10),
			pings: strings.Split("xxxxxxxxxx", ""),
		},
		"a pong without a ping": {bytes: frames(fin|opPong, "hello", fin|opText, ping), text: pong},

		"a ping that is too long": {
			bytes: frames(fin|opPing, strings.Repeat("x", 126)),
			code:  1002, says: "125",
		},
		"a fragmented ping": {
			bytes: frames(opPing, "x", fin|opContinuation, "y"),
			code:  1002, says: "fragmented",
		},
		"RSV1": {
			bytes: frames(fin|0x40|opText, ping), code: 1002,
			says: "reserved bit",
		},
		"RSV2": {
			bytes: frames(fin|0x20|opText, ping), code: 1002,
			says: "reserved bit",
		},
		"RSV3 on a ping": {
			bytes: frames(fin|0x10|opPing, ""), code: 1002,
			says: "reserved bit",
		},
		"a ping, then a bad bit": {
			bytes: frames(fin|opPing, "first", fin|0x20|opText, ping),
			pings: []string{"first"}, code: 1002, says: "reserved bit",
		},
		"no mask": {bytes: unmasked, code: 1002, says: "mask"},
		"a continuation of nothing": {
			bytes: frames(fin|opContinuation, ping), code: 1002,
			says: "not begun",
		},
		"an unfinished one of those": {
			bytes: frames(opContinuation, ping), code: 1002,
			says: "not begun",
		},
		"text in the middle of text": {
			bytes: frames(opText, ping[:9], fin|opText, ping),
			code:  1002, says: "middle",
		},
		"a 16-bit length for little": {
			bytes: []byte{fin | opText, maskBit | 126, 0, 5, 1, 2, 3, 4},
			code:  1002, says: "shortest",
		},
		"a 64-bit length for little": {bytes: []byte{
			fin | opText, maskBit | 127, 0, 0, 0, 0, 0, 0,
			0xFF, 0xFF, 1, 2, 3, 4,
		}, code: 1002, says: "shortest"},
		"a negative length": {bytes: []byte{
			fin | opText, maskBit | 127, 0x80, 0, 0, 0, 0, 0, 0, 0,
			1, 2, 3, 4,
		}, code: 1002, says: "shortest"},
		"an endless length": {bytes: []byte{
			fin | opText, maskBit | 127, 0x7F, 0xFF, 0xFF, 0xFF,
			0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4,
		}, code: 1009, says: "larger than"},

		"too large": {
			bytes: frames(fin|opText, strings.Repeat("x", 100_001)),
			code:  1009, says: "larger than 100000",
		},
		"too large in fragments": {bytes: frames(opText, strings.Repeat("x", 60_000),
			fin|opContinuation, strings.Repeat("x", 60_000)), code: 1009, says: "larger than"},
		"binary": {bytes: frames(fin|opBinary, ping), code: 4400, says: "not binary"},
		"invalid UTF-8": {
			bytes: frames(fin|opText, "{\"type\":\"ping\",\"x\":\"\xff\"}"),
			code:  1007, says: "UTF-8",
		},
		"a surrogate in UTF-8": {
			bytes: frames(fin|opText, "\xed\xa0\x80"), code: 1007,
			says: "UTF-8",
		},
		"a rune that is cut": {
			bytes: frames(opText, "\xc3", fin|opContinuation, "x"), code: 1007,
			says: "UTF-8",
		},

		"close": {bytes: frames(fin|opClose, ""), code: 1005},
		"close with a code": {
			bytes: frames(fin|opClose, closeWith(1000, "")),
			code:  1000,
		},
		"close with a reason": {
			bytes: frames(fin|opClose, closeWith(1001, "é")),
			code:  1001,
		},
		"close with a code of ours": {
			bytes: frames(fin|opClose, closeWith(4999, "")),
			code:  4999,
		},
		"close in the middle of text": {bytes: frames(opText, "x", fin|opClose,
			closeWith(1000, "")), code: 1000},
		"ping, then close, then a ping": {bytes: frames(fin|opPing, "1", fin|opClose,
			closeWith(3000, ""), fin|opPing, "2"), pings: []string{"1"}, code: 3000},
		"close with one byte": {
			bytes: frames(fin|opClose, "x"), code: 1002,
			says: "two bytes",
		},
		"close with bad UTF-8": {
			bytes: frames(fin|opClose, "\x03\xe8\xff"), code: 1007,
			says: "UTF-8",
		},
		"close with a long reason": {
			bytes: frames(fin|opClose, strings.Repeat("x", 126)),
			code:  1002, says: "125",
		},
		"an unfinished close": {
			bytes: frames(opClose, ""), code: 1002,
			says: "fragmented",
		},
		"data behind a close is nothing": {bytes: frames(fin|opClose, closeWith(1000, ""),
			fin|opText, ping), code: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.check(t, mustServe(t, func(o *Options) { o.MaxMessage = 100_000 }))
		})
	}
}

func TestReservedOpcodesAndCloseCodes(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	for _, opcode := range []byte{3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF} {
		c := f.open()
		c.raw(frameOf(finBit|opcode, ""))
		if code, reason := c.closed(); code != closeProtocolError || reason == "" {
			t.Errorf("opcode %x: closed with %d %q", opcode, code, reason)
		}
	}
	for _, bad := range []int{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		c := f.open()
		c.raw(frameOf(finBit|opClose, string(closeFrame(bad, ""))))
		if code, _ := c.closed(); code != closeProtocolError {
			t.Errorf("close with %d: closed with %d", bad, code)
		}
	}
	for _, good := range []int{
		1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013,
		1014, 3000, 3999, 4000, 4999,
	} {
		c := f.open()
		c.raw(frameOf(finBit|opClose, string(closeFrame(good, ""))))
		if code, _ := c.closed(); code != good {
			t.Errorf("close with %d: closed with %d", good, code)
		}
	}
}

func TestCloseReasonsFit(t *testing.T) {
	t.Parallel()
	for _, reason := range []string{
		"", "short", strings.Repeat("é", 200),
		strings.Repeat("x", 123) + "é",
	} {
		b := closeFrame(1000, reason)
		if len(b) > maxControl || !utf8.Valid(b[2:]) || !strings.HasPrefix(reason, string(b[2:])) {
			t.Errorf("%q became %q", reason, b)
		}
	}
}

func TestCompression(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.Compression, o.MaxMessage = true, 50_000 })
	c, res := f.tryDial(
		"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9, " +
			"permessage-deflate; client_max_window_bits")
	if got := res.Header.Get("Sec-WebSocket-Extensions"); got != deflateAnswer {
		t.Fatalf("agreed on %q", got)
	}
	c.send(`{"type":"connection_init"}`)
	c.want(`{"type":"connection_ack"}`)
	ping := `{"type":"ping","payload":{"a":"` + strings.Repeat("x", 10_000) + `"}}`
	squeezed := compress(t, ping)
	if len(squeezed) > 200 {
		t.Fatalf("%d bytes", len(squeezed))
	}
	for range 3 { // each stands for itself
		c.raw(frameOf(finBit|compressedBit|opText, squeezed))
		c.want(strings.Replace(ping, "ping", "pong", 1))
	}
	c.raw(frameOf(compressedBit|opText, squeezed[:10]))
	c.raw(frameOf(finBit|opContinuation, squeezed[10:]))
	c.want(strings.Replace(ping, "ping", "pong", 1))
	c.send(`{"type":"ping"}`) // what is not compressed is understood too
	c.want(`{"type":"pong"}`)
	c.send(subscribe("s", "subscription { delegated }"))
	long := strings.Repeat("y", 5000)
	(<-f.delegated).Next([]byte(`"` + long + `"`))
	c.want(`{"id":"s","type":"next","payload":"` + long + `"}`)

	for name, bad := range map[string]struct {
		frame string
		code  int
	}{
		"a bomb":   {compress(t, strings.Repeat("x", 1_000_000)), closeTooBig},
		"nonsense": {"\xff\xff\xff\xff", closeInvalidData},
	} {
		c, _ := f.tryDial("Sec-WebSocket-Extensions: permessage-deflate")
		c.raw(frameOf(finBit|compressedBit|opText, bad.frame))
		if code, _ := c.closed(); code != bad.code {
			t.Errorf("%s: closed with %d", name, code)
		}
	}
	for _, offer := range []string{
		"permessage-deflate; server_max_window_bits=9",
		"permessage-deflate; nonsense", "x-deflate",
	} {
		if _, res := f.tryDial("Sec-WebSocket-Extensions: " + offer); res.StatusCode != 101 ||
			res.Header.Get("Sec-WebSocket-Extensions") != "" {
			t.Errorf("%s: %v", offer, res.Header)
		}
	}
}

func compress(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(text))
	_ = w.Flush()
	return strings.TrimSuffix(b.String(), tail)
}

// FuzzFrames checks that a header is parsed in pieces as it is at once, and that only headers are
// accepted that a client may send.
func FuzzFrames(f *testing.F) {
	f.Add(frameOf(finBit|opText, "hello"))
	f.Add(frameOf(finBit|opPing, ""))
	f.Add(frameOf(opText, strings.Repeat("x", 70_000))[:maxHeader])
	f.Add([]byte{
		0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
		0xFF,
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 20
		h, ok, problem := parseHeader(b, limit, false)
		for n := range min(len(b), maxHeader) {
			part, okPart, problemPart := parseHeader(b[:n], limit, false)
			if okPart && (part != h || !ok) || problemPart != nil && problem == nil {
				t.Fatalf("%x: %+v %v after %d bytes, %+v %v in all", b, part, problemPart, n, h,
					problem)
			}
		}
		if problem != nil || !ok {
			if ok || len(b) >= maxHeader && problem == nil {
				t.Fatalf("%x: neither read nor refused", b)
			}
			return
		}
		if h.size > len(b) || h.length < 0 || h.length > limit || h.control() &&
			h.length > maxControl || h.compressed {
			t.Fatalf("%x: %+v", b, h)
		}
		back := appendHeader(nil, h.opcode, h.length, false) // a server's: without mask
		if len(back) != h.size-4 || h.final && back[0] != b[0] || back[1]|maskBit != b[1] ||
			!bytes.Equal(back[2:], b[2:h.size-4]) {
			t.Fatalf("%x became %x", b[:h.size], back)
		}
	})
}

func FuzzUnmask(f *testing.F) {
	f.Add([]byte("hello, this is longer than a word"), uint32(0xA1B2C3D4))
	f.Fuzz(func(t *testing.T, b []byte, key uint32) {
		var mask [4]byte
		binary.BigEndian.PutUint32(mask[:], key)
		got := bytes.Clone(b)
		unmask(got, mask)
		for i := range b {
			if got[i] != b[i]^mask[i%4] {
				t.Fatalf("byte %d of %x with %x is %x", i, b, mask, got)
			}
		}
	})
}

// FuzzMessages checks that every input is a message or an error of the client, and that the meaning
// of a message does not depend on its spelling.
func FuzzMessages(f *testing.F) {
	for _, text := range []string{
		`{"type":"connection_init","payload":{}}`, `{"type":"ping"}`,
		`{"id":"1","type":"complete"}`,
		`{"id":"1","type":"subscribe","payload":{"query":"{ name }","variables":{"a":1.50},"extensions":{"persistedQuery":{"version":1}}}}`,
		`[]`, `null`, `{"type":null}`, `{"id":"\ud800","type":"complete"}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			v, ok := err.(*violation) //nolint:errorlint // the type itself
			if !ok || v.code != CloseBadRequest || v.reason == "" {
				t.Fatalf("%q: %v", b, err)
			}
			return
		}
		if m.kind == "subscribe" && (m.id == "" || m.params == nil || m.params.empty()) ||
			len(m.id) > maxID {
			t.Fatalf("%q: %+v", b, m)
		}
		if m.kind == "subscribe" {
			again, err := parseMessage(mustMarshal(map[string]any{
				"type": m.kind, "id": m.id,
				"payload": m.payload,
			}))
			if err != nil || fmt.Sprint(*again.params) != fmt.Sprint(*m.params) {
				t.Fatalf("%q: %+v, then %+v %v", b, m.params, again.params, err)
			}
		}
	})
}

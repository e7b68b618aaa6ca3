package wire

import (
	"bytes"
	"compress/flate"
	"fmt"
	"strings"
	"testing"
)

// These are the cases of the Autobahn test suite that are not in TestFrames, with the numbers of
// the suite. Instead of an echo, they use a ping message of graphql-transport-ws, whose payload
// comes back. Binary messages end the connection.

// pingOf returns a ping with a text, and the pong to it. Both have the same length.
func pingOf(text string) (ping, pong string) {
	return `{"type":"ping","payload":{"a":"` + text + `"}}`,
		`{"type":"pong","payload":{"a":"` + text + `"}}`
}

// pingOfLength returns a ping of this many bytes.
func pingOfLength(n int) (ping, pong string) {
	empty, _ := pingOf("")
	return pingOf(strings.Repeat("*", n-len(empty)))
}

// Sections 1, 9 and 10: lengths at the limits of each form, in both directions, in one frame and in
// fragments of many sizes.
func TestLengths(t *testing.T) {
	t.Parallel()
	const limit = 1 << 17
	f := mustServe(t, func(o *Options) { o.MaxMessage = limit })
	for _, n := range []int{60, 124, 125, 126, 127, 128, 65534, 65535, 65536, limit} {
		ping, pong := pingOfLength(n)
		exchange{bytes: frameOf(finBit|opText, ping), text: pong}.check(t, f)
		exchange{bytes: frameOf(finBit|opBinary, ping), code: 4400, says: "not binary"}.check(t, f)
		for _, size := range []int{1, 64, 125, 126, 997, 65535} {
			if n/size <= 2000 {
				exchange{bytes: fragments(ping, size), text: pong}.check(t, f)
			}
		}
	}
	tooLong, _ := pingOfLength(limit + 1)
	for _, b := range [][]byte{
		frameOf(finBit|opText, tooLong), fragments(tooLong, 1000), fragments(tooLong, limit),
		frameOf(finBit|opText, tooLong)[:10], // as soon as it is announced
	} {
		exchange{bytes: b, code: 1009, says: fmt.Sprintf("larger than %d bytes", limit)}.check(t, f)
	}
}

// fragments returns a message in fragments.
func fragments(text string, size int) (b []byte) {
	first := opText
	for ; len(text) > size; text = text[size:] {
		b = append(b, frameOf(byte(first), text[:size])...)
		first = opContinuation
	}
	return append(b, frameOf(byte(finBit|first), text)...)
}

// Sections 2 to 5, and 7: pings, reserved bits, fragments and ends.
func TestAutobahn(t *testing.T) {
	t.Parallel()
	const fin = finBit
	ping, pong := pingOf("Hello-µ@ßöäüàá-UTF-8!!")
	fatal := func(code int, says string, parts ...any) exchange {
		return exchange{bytes: framesOf(parts...), code: code, says: says}
	}
	tenPings, pongs := []byte(nil), []string(nil)
	for i := range 10 {
		pongs = append(pongs, fmt.Sprintf("payload-%d", i))
		tenPings = append(tenPings, frameOf(fin|opPing, pongs[i])...)
	}
	normal := string(closeFrame(1000, ""))
	for name, c := range map[string]exchange{
		"2.3 a ping that is not text": {
			bytes: framesOf(fin|opPing,
				"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"),
			pings: []string{"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"},
		},
		"2.7 a pong with nothing": {
			bytes: framesOf(fin|opPong, "", fin|opText, ping),
			text:  pong,
		},
		"2.9 a pong, then a ping": {bytes: framesOf(fin|opPong, "unsolicited",
			fin|opPing, "x"), pings: []string{"x"}},
		"2.10 ten pings, each its own":  {bytes: tenPings, pings: pongs},
		"3.3 RSV1 and RSV2":             fatal(1002, "reserved bit", fin|0x60|opText, ping),
		"3.5 RSV1 and RSV3 on a ping":   fatal(1002, "reserved bit", fin|0x50|opPing, "x"),
		"3.7 all bits on a close frame": fatal(1002, "reserved bit", fin|0x70|opClose, normal),
		"3 RSV2 on a continuation": fatal(1002, "reserved bit", opText, ping[:9],
			fin|0x20|opContinuation, ping[9:]),
		"3 RSV1 on a pong": fatal(1002, "reserved bit", fin|0x40|opPong, ""),
		"4.1.2 a reserved opcode with data": fatal(1002, "opcode", fin|4,
			"reserved opcode payload"),
		"4.2.5 one of control, with a ping": fatal(1002, "opcode", fin|0xF, "x", fin|opPing,
			"never"),
		"5.2 a fragmented pong": fatal(1002, "fragmented", opPong, "x",
			fin|opContinuation, "y"),
		"5.5 fragments of a byte": {bytes: fragments(ping, 1), text: pong},
		"5.9 a continuation, then text": fatal(1002, "not begun", fin|opContinuation, "x",
			fin|opText, ping),
		"5.15 another after the end": {bytes: framesOf(opText, ping[:9], fin|opContinuation,
			ping[9:], fin|opContinuation, "x"), text: pong, code: 1002, says: "not begun"},
		"5.18 a second text instead": fatal(1002, "middle", opText, ping[:9], opText,
			ping[9:]),
		"5 binary in the middle of text": fatal(4400, "not binary", opText, ping[:9],
			fin|opBinary, ping[9:]),
		"5 a message in binary fragments": fatal(4400, "not binary", opBinary, ping[:9],
			fin|opContinuation, ping[9:]),
		"5.19 pings everywhere in fragments": {bytes: framesOf(opText, ping[:5], fin|opPing, "1",
			opContinuation, ping[5:9], fin|opPing, "2", fin|opPong, "", fin|opContinuation,
			ping[9:]), pings: []string{"1", "2"}, text: pong},
		"7.1.1 a message, then close": {
			bytes: framesOf(fin|opText, ping, fin|opClose, normal),
			text:  pong, code: 1000,
		},
		"7.1.2 close twice":        fatal(1000, "", fin|opClose, normal, fin|opClose, normal),
		"7.1.3 a ping after close": fatal(1000, "", fin|opClose, normal, fin|opPing, "x"),
		"7.1.4 text after close":   fatal(1000, "", fin|opClose, normal, fin|opText, ping),
		"7.1.5 close between fragments": fatal(1000, "", opText, ping[:9], fin|opClose, normal,
			fin|opContinuation, ping[9:]),
		"7.1.6 much, then close": {
			bytes: framesOf(fin|opText,
				ping+strings.Repeat(" ", 90_000), fin|opClose, normal, fin|opPing, "x"), text: pong,
			code: 1000,
		},
		"7.3.5 close with the longest": fatal(1000, "", fin|opClose,
			normal+strings.Repeat("*", 123)),
		"7.3.6 close with a byte more": fatal(1002, "125", fin|opClose,
			normal+strings.Repeat("*", 124)),
		"7.5.1 close with a cut rune": fatal(1007, "UTF-8", fin|opClose, normal+"κόσμ\xce"),
		"nonsense after close":        fatal(1000, "", fin|opClose, normal, 0x7F, "\xff\xff"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.check(t, mustServe(t, func(o *Options) { o.MaxMessage = 100_000 }))
		})
	}
}

// Section 6: every kind of valid and invalid UTF-8, in one frame and in fragments of one byte.
// Invalid UTF-8 ends the connection with 1007, at the end of the message at the latest: section 6.4
// asks only strict implementations to do that earlier.
func TestUTF8(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	for _, valid := range []string{
		"κόσμε", "\u0080", "\u07ff", "\u0800", "\uffff", "\ufffd", "\ufffe", "\U00010000",
		"\U0010fffd", "\U0010fffe", "\U0010ffff",
		"\ud7ff", "\ue000", "\U0001fffe", "\u1f600",
	} {
		ping, pong := pingOf(valid)
		exchange{bytes: frameOf(finBit|opText, ping), text: pong}.check(t, f)
		exchange{bytes: fragments(ping, 1), text: pong}.check(t, f)
	}
	for _, bad := range []string{
		"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", // 6.3
		// 6.4, beyond the last code point
		"\xce\xba\xf4\x90\x80\x80edited",
		"\xce", "\xe1\xbd", "\xf0\x90\x80", // 6.6, cut
		// 6.8, 6.10: five bytes and more
		"\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80", "\xf7\xbf\xbf\xbf",
		"\xfb\xbf\xbf\xbf\xbf",
		"\x80", "\xbf", "\x80\xbf\x80", // 6.12, continuations of nothing
		"\xc0 ", "\xdf ", "\xef ", "\xf4 ", // 6.13, beginnings of nothing
		"\xfe", "\xff", "\xfe\xfe\xff\xff", // 6.15
		// 6.17 to 6.19, overlong
		"\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xc1\xbf", "\xe0\x9f\xbf",
		"\xf0\x8f\xbf\xbf", "\xc0\x80",
		// 6.20, 6.21, surrogates
		"\xed\xa0\x80", "\xed\xad\xbf", "\xed\xbf\xbf", "\xed\xa0\x80\xed\xb0\x80",
	} {
		ping, _ := pingOf(bad)
		exchange{bytes: frameOf(finBit|opText, ping), code: 1007, says: "UTF-8"}.check(t, f)
		exchange{bytes: fragments(ping, 1), code: 1007, says: "UTF-8"}.check(t, f)
	}
}

// Sections 12 and 13: compressed messages of many lengths and contents, in all forms that RFC 7692
// (section 7.2.3) allows.
func TestCompressedMessages(t *testing.T) {
	t.Parallel()
	const limit, fin, squeezed = 1 << 17, finBit, compressedBit
	f := mustServe(t, func(o *Options) { o.Compression, o.MaxMessage = true, limit })
	const offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
	for _, n := range []int{60, 125, 126, 512, 1024, 4096, 65535, 65536, limit} {
		ping, pong := pingOfLength(n)
		packed := compress(t, ping)
		exchange{bytes: frameOf(fin|squeezed|opText, packed), text: pong}.check(t, f, offer)
		exchange{bytes: framesOf(squeezed|opText, packed[:5], fin|opPing, "x", opContinuation, "",
			fin|opContinuation, packed[5:]), pings: []string{"x"}, text: pong}.
			check(t, f, offer)
	}
	ping, pong := pingOfLength(100)
	half := len(ping) / 2
	for name, c := range map[string]exchange{
		"a block that is stored": {
			bytes: frameOf(fin|squeezed|opText, stored(ping, 0)+"\x00"),
			text:  pong,
		},
		"two blocks": {bytes: frameOf(fin|squeezed|opText,
			stored(ping[:half], 0)+stored(ping[half:], 0)+"\x00"), text: pong},
		"a block that is the last": {
			bytes: frameOf(fin|squeezed|opText, stored(ping, 1)+"\x00"),
			text:  pong,
		},
		"at no compression": {bytes: frameOf(fin|squeezed|opText,
			deflated(t, ping, flate.NoCompression)), text: pong},
		"with Huffman codes alone": {bytes: frameOf(fin|squeezed|opText,
			deflated(t, ping, flate.HuffmanOnly)), text: pong},
		"not compressed, then compressed": {
			bytes: framesOf(fin|opPing, "1", fin|opText, strings.Replace(ping, "ping", "pong", 1),
				fin|squeezed|opText, compress(t, ping)), pings: []string{"1"}, text: pong,
		},
		"nothing": {
			bytes: frameOf(fin|squeezed|opText, "\x00"), code: 4400,
			says: "not valid JSON",
		},
		"nothing at all": {
			bytes: frameOf(fin|squeezed|opText, ""), code: 1007,
			says: "not compressed",
		},
		"not UTF-8": {
			bytes: frameOf(fin|squeezed|opText, compress(t, "\xff")),
			code:  1007, says: "UTF-8",
		},
		"cut": {bytes: frameOf(fin|squeezed|opText,
			compress(t, ping)[:20]), code: 1007, says: "not compressed"},
		"more than may be": {bytes: frameOf(fin|squeezed|opText,
			compress(t, strings.Repeat("x", limit+1))), code: 1009, says: "larger than"},
		"a continuation that says so": {bytes: framesOf(squeezed|opText, compress(t, ping)[:5],
			fin|squeezed|opContinuation, "x"), code: 1002, says: "Only the first"},
		"a ping that says so": {
			bytes: frameOf(fin|squeezed|opPing, "x"), code: 1002,
			says: "compressed",
		},
		"a close frame that says so": {
			bytes: frameOf(fin|squeezed|opClose, ""), code: 1002,
			says: "compressed",
		},
		"another bit as well": {bytes: frameOf(fin|squeezed|0x20|opText,
			compress(t, ping)), code: 1002, says: "reserved bit"},
		"text that only says it is not": {
			bytes: frameOf(fin|squeezed|opText, ping), code: 1007,
			says: "not compressed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.check(t, f, offer)
		})
	}
}

// stored returns an uncompressed block of deflate (RFC 1951, section 3.2.4).
func stored(text string, last byte) string {
	n := len(text)
	return string([]byte{last, byte(n), byte(n >> 8), ^byte(n), ^byte(n >> 8)}) + text
}

func deflated(t *testing.T, text string, level int) string {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(text))
	_ = w.Flush()
	return strings.TrimSuffix(b.String(), tail)
}

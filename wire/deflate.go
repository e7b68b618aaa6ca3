package wire

import (
	"bytes"
	"compress/flate"
	"io"
	"net/http"
	"strings"
	"sync"
)

// compressFrom is the length from which messages are compressed. Shorter ones would gain less than
// it costs.
const compressFrom = 512

const deflateAnswer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

// offersDeflate reports whether a client offers permessage-deflate with parameters that we support.
// We do not support smaller windows, because those of compress/flate have the largest size.
func offersDeflate(h http.Header) bool {
	for _, offer := range listed(h, "Sec-WebSocket-Extensions") {
		name, rest, _ := strings.Cut(offer, ";")
		if strings.TrimSpace(name) != "permessage-deflate" {
			continue
		}
		acceptable := true
		for parameter := range strings.SplitSeq(rest, ";") {
			key, _, _ := strings.Cut(strings.TrimSpace(parameter), "=")
			switch key {
			case "", "server_no_context_takeover", "client_no_context_takeover",
				"client_max_window_bits":
			default:
				acceptable = false
			}
		}
		if acceptable {
			return true
		}
	}
	return false
}

// tail ends the last block of a message. It is not sent (RFC 7692, section 7.2).
const tail = "\x00\x00\xff\xff"

//nolint:gochecknoglobals // memory that all sockets share
var (
	deflaters = sync.Pool{New: func() any {
		w, _ := flate.NewWriter(io.Discard, flate.BestSpeed) // fails only for unknown levels
		return w
	}}
	inflaters = sync.Pool{New: func() any { return flate.NewReader(strings.NewReader("")) }}
)

// appendCompressed is appendMessage for a compressed frame.
func (s *socket) appendCompressed(b []byte, begins, id, continues string, payload []byte) []byte {
	var out bytes.Buffer
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	w.Reset(&out)
	for _, part := range [...]string{begins, id, continues} {
		_, _ = io.WriteString(w, part) // a buffer never fails
	}
	_, _ = w.Write(payload)
	_, _ = w.Write([]byte{'}'})
	_ = w.Flush()
	data := bytes.TrimSuffix(out.Bytes(), []byte(tail))
	return append(appendHeader(b, opText, len(data), true), data...)
}

// inflate decompresses a message. It stops when the message becomes larger than limit.
func inflate(data []byte, limit int) ([]byte, error) {
	r := inflaters.Get().(io.ReadCloser)
	defer inflaters.Put(r)
	// The tail, and an empty block that is marked as the last one.
	in := io.MultiReader(bytes.NewReader(data), strings.NewReader(tail+"\x01\x00\x00\xff\xff"))
	if err := r.(flate.Resetter).Reset(in, nil); err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	switch {
	case err != nil:
		return nil, &violation{closeInvalidData, "The message is not compressed as it should be."}
	case len(out) > limit:
		return nil, tooLong(limit)
	}
	return out, nil
}

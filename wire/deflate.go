package wire

import (
	"bytes"
	"compress/flate"
	"io"
	"net/http"
	"strings"
	"sync"
)

// compressFrom is how long a message has to be for compression to make it shorter by more than it
// costs.
const compressFrom = 512

const deflateAnswer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

// offersDeflate reports whether a client offers what we can do: not a smaller window, because
// flate's is always the largest.
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
			case "", "server_no_context_takeover", "client_no_context_takeover", "client_max_window_bits":
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

// tail is what a message's last block ends with, and is not sent (RFC 7692, section 7.2).
const tail = "\x00\x00\xff\xff"

//nolint:gochecknoglobals // memory that all sockets share
var (
	deflaters = sync.Pool{New: func() any {
		w, _ := flate.NewWriter(io.Discard, flate.BestSpeed) // fails for no such level
		return w
	}}
	inflaters = sync.Pool{New: func() any { return flate.NewReader(strings.NewReader("")) }}
)

func (s *socket) appendCompressed(b []byte, begins, id, continues string, payload []byte) []byte {
	var out bytes.Buffer
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	w.Reset(&out)
	for _, part := range [...]string{begins, id, continues} {
		_, _ = io.WriteString(w, part) // a buffer takes everything
	}
	_, _ = w.Write(payload)
	_, _ = w.Write([]byte{'}'})
	_ = w.Flush()
	data := bytes.TrimSuffix(out.Bytes(), []byte(tail))
	return append(appendHeader(b, opText, len(data), true), data...)
}

// inflate is the reverse. What becomes larger than the limit is refused before it does.
func inflate(data []byte, limit int) ([]byte, error) {
	r := inflaters.Get().(io.ReadCloser)
	defer inflaters.Put(r)
	// A last, empty block says that it ends here.
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

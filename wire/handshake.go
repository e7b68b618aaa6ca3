package wire

import (
	"bufio"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455, section 1.3; nothing depends on its strength
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"parley/errs"
)

// isUpgrade reports whether a request asks for a WebSocket.
func isUpgrade(r *http.Request) bool { return hasToken(r.Header, "Upgrade", "websocket") }

// hasToken reports whether a header that is a list has a token (RFC 9110, section 5.6.1).
func hasToken(h http.Header, name, token string) bool {
	return slices.ContainsFunc(listed(h, name),
		func(t string) bool { return strings.EqualFold(t, token) })
}

// listed returns the elements of a header that is a list.
func listed(h http.Header, name string) (tokens []string) {
	for _, line := range h.Values(name) {
		for t := range strings.SplitSeq(line, ",") {
			tokens = append(tokens, strings.TrimSpace(t))
		}
	}
	return tokens
}

// checkHandshake returns a sentence about what is wrong with the request for a WebSocket (RFC 6455,
// section 4.2.1); "" if nothing is.
func checkHandshake(r *http.Request) string {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case r.Method != http.MethodGet:
		return "A WebSocket begins with a GET."
	case !r.ProtoAtLeast(1, 1):
		return "A WebSocket begins with HTTP/1.1."
	case !hasToken(r.Header, "Connection", "Upgrade"):
		return "A WebSocket begins with \"Connection: Upgrade\"."
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return "The Sec-WebSocket-Version has to be 13."
	case r.Header.Get("Sec-WebSocket-Key") == "":
		return "The Sec-WebSocket-Key is missing."
	case err != nil || len(key) != 16:
		return "The Sec-WebSocket-Key has to be 16 bytes in base64."
	case !slices.Contains(listed(r.Header, "Sec-WebSocket-Protocol"), Subprotocol):
		return "The WebSocket has to offer the subprotocol " + Subprotocol + "."
	}
	return ""
}

// accept returns the Sec-WebSocket-Accept for a key (RFC 6455, section 4.2.2).
func accept(key string) string {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	sum := sha1.Sum([]byte(key + guid)) //nolint:gosec // see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}

// upgrade makes a WebSocket of a request, and returns. The socket lives on, and net/http frees the
// memory of the request.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	if problem := checkHandshake(r); problem != "" {
		w.Header().Set("Sec-WebSocket-Version", "13")
		WriteError(w, r, http.StatusBadRequest, errs.New(errs.BadUserInput, "%s", problem))
		return
	}
	ctx, cancel := context.WithCancel(s.opts.Detach(r.Context()))
	c := &socket{server: s, cancel: cancel, ctx: ctx}
	c.bounds, c.transport = &s.bounds, c
	c.writing = true // no writer is woken before attach
	c.deflates = s.opts.Compression && offersDeflate(r.Header)
	if !s.connections.add(c) {
		cancel()
		WriteError(w, r, http.StatusServiceUnavailable, errDraining)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		c.discardUnopened()
		WriteError(w, r, http.StatusBadRequest,
			errs.New(errs.BadUserInput, "This connection cannot become a WebSocket."))
		return
	}
	if err := c.attach(conn, handshakeAnswer(r, c.deflates), s.opts.WriteTimeout); err != nil {
		c.discardUnopened()
		_ = conn.Close()
		return
	}
	c.serve(bufferedBytes(buffered.Reader))
}

var errDraining = errs.New(errs.Unavailable, "The server is stopping. Try again.")

// discardUnopened ends a socket whose handshake has failed.
func (s *socket) discardUnopened() {
	s.outbox.end(ending{discard: allItems})
	s.cancel()
	s.server.connections.remove(s)
}

// attach writes the answer to the handshake, and gives the socket its connection. Frames can be
// written from then on.
func (s *socket) attach(conn net.Conn, answer string, timeout time.Duration) error {
	_ = conn.SetDeadline(time.Now().Add(timeout)) // it replaces that of net/http
	if _, err := io.WriteString(conn, answer); err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Time{})
	if sc, ok := conn.(syscall.Conn); ok && hasRaw {
		s.raw, _ = sc.SyscallConn()
	}
	if s.raw != nil {
		if err := s.raw.Control(func(fd uintptr) { s.fd = fd }); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.net = conn
	s.writing = s.hasFirst // the socket was ended meanwhile
	ended := s.writing
	s.mu.Unlock()
	if ended {
		s.wakeWriter()
	}
	return nil
}

// handshakeAnswer returns the answer to a request for a WebSocket.
func handshakeAnswer(r *http.Request, deflate bool) string {
	var b strings.Builder
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n" +
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ")
	b.WriteString(accept(r.Header.Get("Sec-WebSocket-Key")))
	b.WriteString("\r\nSec-WebSocket-Protocol: " + Subprotocol + "\r\n")
	if deflate {
		b.WriteString("Sec-WebSocket-Extensions: " + deflateAnswer + "\r\n")
	}
	b.WriteString("\r\n")
	return b.String()
}

// bufferedBytes returns what a client has sent directly after its request.
func bufferedBytes(r *bufio.Reader) []byte {
	n := r.Buffered()
	if n == 0 {
		return nil
	}
	b, _ := r.Peek(n)
	return b
}

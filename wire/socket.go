package wire

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

// socket is a WebSocket. While it is idle, it has one goroutine, which waits in read, and no
// buffer.
type socket struct {
	outbox

	server *Server
	net    net.Conn
	// raw and fd are the connection of the operating system below net. Frames are written to fd
	// itself, because the bookkeeping of net would double the cost of a write. raw is nil if there
	// is no such connection; then net is used for everything.
	raw    syscall.RawConn
	fd     uintptr
	cancel context.CancelFunc
	// deflates says that permessage-deflate was negotiated (RFC 7692). Each message is compressed
	// by itself, because a window would take 32 KiB of each socket.
	deflates bool

	readState // used by the reading goroutine only

	// Guarded by outbox.mu.
	ctx           context.Context //nolint:containedctx // of the operations; the request has ended
	release       func()          // of OnConnect; nil before that, and once it is called
	state         socketState
	closeFrameOut bool // the close frame was written
	pinned        bool // a writer uses fd, and closes net if closed is set
	closed        bool // net is closed, or its writer will close it
}

type socketState byte

const (
	stateNew   socketState = iota // no connection_init has come
	stateInit                     // Options.Init is checking the connection_init
	stateReady                    // the connection_init was acknowledged
)

// readState is what the reading goroutine keeps between two messages.
type readState struct {
	buf             []byte // from the pool; nil when it is empty
	parsed          int    // bytes of buf that have been parsed
	fragments       []byte // the fragments of an unfinished message
	fragmented      bool   // a message is unfinished, even if its fragments are empty
	compressed      bool   // the message is compressed
	initDeadline    time.Time
	messageDeadline time.Time // for the rest of a message; zero when none has started
	unansweredPings int
	tryRead         func(fd uintptr) (done bool) // tryReadOnce, bound once
	tryReadErr      error                        // of the last tryRead
}

// serve starts the socket, and returns. early are bytes that have been read already.
func (s *socket) serve(early []byte) {
	s.initDeadline = time.Now().Add(s.server.opts.InitTimeout)
	s.tryRead = s.tryReadOnce
	if len(early) > 0 {
		s.buf = append(acquireBuffer(), early...)
	}
	go s.read()
}

// read handles messages until one needs work that takes long or needs a deep stack. It does that
// work itself, while a new goroutine goes on reading. The stack of the new goroutine is small, and
// stays small while the socket is idle.
func (s *socket) read() {
	work, err := s.nextWork()
	if err != nil {
		s.stopReading(err)
		return
	}
	go s.read()
	defer func() {
		if reason := recover(); reason != nil {
			v := s.panicked(reason)
			s.end(v.code, v.reason)
		}
	}()
	work()
}

// nextWork handles messages until one of them returns work.
func (s *socket) nextWork() (work func(), err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = s.panicked(reason)
		}
	}()
	for work == nil && err == nil {
		var message []byte
		if message, err = s.nextMessage(); err == nil {
			work, err = s.receive(message)
		}
	}
	return work, err
}

// panicked logs a panic, and returns the error with which the socket ends.
func (s *socket) panicked(reason any) *violation {
	_ = s.server.recovered(context.Background(), reason)
	return &violation{CloseTryAgain, "Something went wrong on our side."}
}

// nextMessage waits for a message. The message is valid until the next call.
func (s *socket) nextMessage() ([]byte, error) {
	limit := s.server.opts.MaxMessage
	for {
		unparsed := s.buf[s.parsed:]
		h, ok, problem := parseHeader(unparsed, limit-len(s.fragments), s.deflates)
		if problem != nil && problem.code == closeTooBig {
			problem = tooLong(limit) // the limit of the message, not that of this frame
		}
		if problem != nil {
			return nil, problem
		}
		if !ok || len(unparsed) < h.size+h.length {
			if err := s.readMore(h.size + h.length); err != nil {
				return nil, err
			}
			continue
		}
		payload := unparsed[h.size : h.size+h.length]
		s.parsed += h.size + h.length
		unmask(payload, h.mask)
		message, err := s.handleFrame(h, payload)
		if message != nil || err != nil {
			return message, err
		}
	}
}

// handleFrame handles a frame. It returns a message if the frame is the last one of it, and nil
// otherwise; an empty message is not nil.
func (s *socket) handleFrame(h frameHeader, payload []byte) (message []byte, err error) {
	if h.control() && !s.fragmented {
		s.messageDeadline = time.Time{} // the next frame has its own deadline
	}
	switch {
	case h.opcode == opPing:
		s.add(item{kind: kindPong, data: append([]byte(nil), payload...)})
		return nil, nil
	case h.opcode == opPong:
		return nil, nil
	case h.opcode == opClose:
		return nil, s.answerClose(payload)
	case h.opcode == opBinary:
		return nil, &violation{CloseBadRequest, "Messages are text, not binary."}
	case h.opcode == opText && s.fragmented:
		return nil, broken("A message begins in the middle of another.")
	case h.opcode == opContinuation && !s.fragmented:
		return nil, broken("A message is continued that has not begun.")
	case h.opcode == opText:
		s.compressed = h.compressed
	}
	if !h.final || s.fragmented {
		s.fragments = append(s.fragments, payload...)
		s.fragmented = !h.final
		if !h.final {
			return nil, nil
		}
		payload = s.fragments
		s.fragments = nil
	}
	s.messageDeadline = time.Time{}
	if s.compressed {
		if payload, err = inflate(payload, s.server.opts.MaxMessage); err != nil {
			return nil, err
		}
	}
	if !utf8.Valid(payload) {
		return nil, &violation{closeInvalidData, "The message is not UTF-8."}
	}
	if payload == nil {
		payload = []byte{}
	}
	return payload, nil
}

// answerClose answers a close frame of the client with the same code. It returns errEnded.
func (s *socket) answerClose(payload []byte) error {
	code, problem := parseClose(payload)
	if problem != nil {
		return problem
	}
	answer := []byte{}
	if code != closeNoStatus {
		answer = closeFrame(code, "")
	}
	s.endWithFrame(answer)
	return errEnded
}

// readMore waits until the client has sent more bytes. need is the length of the unfinished frame,
// or of as much of its header as is known.
func (s *socket) readMore(need int) error {
	s.makeSpace(need)
	for {
		started := len(s.buf) > 0 || s.fragmented
		if !started {
			s.messageDeadline = time.Time{}
		} else if s.messageDeadline.IsZero() {
			s.messageDeadline = time.Now().Add(s.server.opts.MessageTimeout)
		}
		s.setReadDeadline()
		err := s.readBytes()
		if s.hasEnded() {
			return errEnded
		}
		if err == nil {
			s.unansweredPings = 0
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err := s.readTimedOut(); err != nil {
			return err
		}
	}
}

// readTimedOut is called when the read deadline has passed. It pings an idle client, and returns an
// error if the socket has to end.
func (s *socket) readTimedOut() error {
	now := time.Now()
	switch {
	case s.stateIs(stateNew) && !now.Before(s.initDeadline):
		return &violation{CloseInitTimeout, "Connection initialisation timeout"}
	case !s.messageDeadline.IsZero() && !now.Before(s.messageDeadline):
		return &violation{CloseTryAgain, "The message did not arrive whole in time."}
	case !s.stateIs(stateNew) && s.messageDeadline.IsZero():
		if s.unansweredPings >= maxUnansweredPings {
			return errDead
		}
		s.unansweredPings++
		s.add(item{kind: kindPing})
	}
	return nil
}

const maxUnansweredPings = 2

// setReadDeadline sets the deadline of the next read. It changes nothing after the close frame,
// when closeFrameWritten has set the last deadline.
func (s *socket) setReadDeadline() {
	s.mu.Lock()
	defer s.mu.Unlock()
	deadline := time.Now().Add(s.server.opts.PingInterval)
	if s.state == stateNew {
		deadline = s.initDeadline
	}
	if !s.messageDeadline.IsZero() && (s.state != stateNew || s.messageDeadline.Before(deadline)) {
		deadline = s.messageDeadline
	}
	if !s.closeFrameOut {
		_ = s.net.SetReadDeadline(deadline)
	}
}

func (s *socket) stateIs(state socketState) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == state
}

// bufferSize is the size of a pooled read buffer.
const bufferSize = 4 << 10

//nolint:gochecknoglobals // memory that all sockets share
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// acquireBuffer returns an empty buffer from the pool.
func acquireBuffer() []byte { return buffers.Get().(*[bufferSize]byte)[:0] }

// releaseBuffer returns a buffer to the pool, unless it has grown.
func releaseBuffer(b []byte) {
	if cap(b) == bufferSize {
		buffers.Put((*[bufferSize]byte)(b[:bufferSize]))
	}
}

// makeSpace makes space in buf for an unfinished frame of length need. If buf has no unparsed
// bytes, it is released. A buffer grows with the bytes that have come, not with the length that the
// client announces.
func (s *socket) makeSpace(need int) {
	unparsed := s.buf[s.parsed:]
	if len(unparsed) == 0 {
		releaseBuffer(s.buf)
		s.buf, s.parsed = nil, 0
		return
	}
	if len(s.buf) < cap(s.buf) && cap(s.buf)-s.parsed >= need {
		return
	}
	to := s.buf[:0]
	if len(unparsed) > cap(s.buf)/2 {
		to = make([]byte, 0, 2*cap(s.buf))
	}
	to = append(to, unparsed...)
	if cap(to) != cap(s.buf) {
		releaseBuffer(s.buf)
	}
	s.buf, s.parsed = to, 0
}

// readBytes waits for bytes, and appends them to buf.
func (s *socket) readBytes() error {
	if s.raw != nil {
		s.tryReadErr = nil
		if err := s.raw.Read(s.tryRead); err != nil {
			return err
		}
		return s.tryReadErr
	}
	if s.buf == nil {
		s.buf = acquireBuffer()
	}
	n, err := s.net.Read(s.buf[len(s.buf):cap(s.buf)])
	s.buf = s.buf[:len(s.buf)+n]
	if n > 0 {
		return nil
	}
	return err
}

// tryReadOnce reads from fd without waiting, and sets tryReadErr. If there is nothing to read, it
// returns false and keeps no empty buffer: raw.Read waits, and calls it again.
func (s *socket) tryReadOnce(fd uintptr) (done bool) {
	idle := len(s.buf) == 0
	if idle {
		s.buf = acquireBuffer()
	}
	n, again, err := tryRead(fd, s.buf[len(s.buf):cap(s.buf)])
	s.buf, s.tryReadErr = s.buf[:len(s.buf)+n], err
	if idle && n == 0 {
		releaseBuffer(s.buf)
		s.buf = nil
	}
	return !again
}

// stopReading ends the socket after an error of reading. A violation is reported to the client with
// its close code. errEnded means that the socket has ended already. After any other error the
// connection is lost.
func (s *socket) stopReading(err error) {
	if v, ok := errors.AsType[*violation](err); ok {
		s.end(v.code, v.reason)
	} else if !errors.Is(err, errEnded) {
		s.abort()
	}
	releaseBuffer(s.buf)
	s.readState = readState{}
	s.linger()
	s.close()
}

// linger reads until the client has closed too, or until the deadline that closeFrameWritten sets.
// It discards the bytes: if they were left unread, the operating system would send a reset, which
// can overtake the close frame.
func (s *socket) linger() {
	s.mu.Lock()
	if !s.closeFrameOut {
		_ = s.net.SetReadDeadline(time.Time{})
	}
	s.mu.Unlock()
	b := acquireBuffer()
	defer releaseBuffer(b)
	for {
		if _, err := s.net.Read(b[:cap(b)]); err != nil {
			return
		}
	}
}

// closeFrameWritten is called by the writer after it has written the close frame.
func (s *socket) closeFrameWritten() {
	s.mu.Lock()
	s.closeFrameOut = true
	_ = s.net.SetReadDeadline(time.Now().Add(s.server.opts.Linger))
	s.mu.Unlock()
	if h, ok := s.net.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
	s.server.connections.remove(s)
}

// end ends the socket with a close frame. The reading goroutine closes the connection, after
// linger.
func (s *socket) end(code int, reason string) { s.endWithFrame(closeFrame(code, reason)) }

func (s *socket) endWithFrame(payload []byte) {
	last := []item{{kind: kindClose, data: payload}}
	if s.outbox.end(ending{discard: operationItems, last: last}) {
		s.stop()
	}
}

// endGracefully is end, once the queries and mutations that have started are answered.
func (s *socket) endGracefully(code int, reason string) {
	s.whenIdle(func() {
		last := []item{{kind: kindClose, data: closeFrame(code, reason)}}
		if s.outbox.end(ending{discard: openOperationItems, last: last}) {
			s.stop()
		}
	})
}

// abort ends the socket without a close frame, because nothing can be written to the client.
func (s *socket) abort() {
	if s.outbox.end(ending{discard: allItems}) {
		s.stop()
	}
	s.close()
	s.server.connections.remove(s)
}

// close closes net. If a writer has pinned the descriptor, the writer does.
func (s *socket) close() {
	s.mu.Lock()
	s.closed = true
	pinned := s.pinned
	s.mu.Unlock()
	if !pinned {
		_ = s.net.Close()
	}
}

// stop cancels the operations of a socket that has ended, and calls release.
func (s *socket) stop() {
	s.cancel()
	s.mu.Lock()
	release := s.release
	s.release = nil
	s.mu.Unlock()
	if release != nil {
		release()
	}
}

func (s *socket) wakeWriter() { s.server.flusher.add(s) }

func (s *socket) writeOrWake() {
	if s.raw == nil {
		s.wakeWriter()
		return
	}
	buf := writeBuffers.Get().(*writeBuffer)
	defer writeBuffers.Put(buf)
	if s.flush(buf) {
		s.wakeWriter()
	}
}

func (s *socket) overflow() { s.end(CloseTryAgain, overflowReason) }

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

// socket is one WebSocket. While it is idle it has one goroutine, which waits for something to
// read, and no buffer.
type socket struct {
	outbox

	// Guarded by outbox.mu. What is written goes past net, which would look after the descriptor
	// with each write as much as the rest of writing costs: it stays open while it is pinned, and net
	// is closed by whoever gives it back.
	pinned bool
	closed bool // net is, or will be by whoever holds fd

	fd     uintptr // where there is raw
	server *Server
	net    net.Conn
	raw    syscall.RawConn // nil where there is none
	cancel context.CancelFunc
	// deflates says that permessage-deflate was agreed on (RFC 7692). Each message stands for
	// itself: a window would be 32 KiB.
	deflates bool

	readState // of the goroutine that reads, and of no other

	// Guarded by outbox.mu.
	state          socketState
	ctx            context.Context //nolint:containedctx // what operations run in; it outlives the request that began the socket
	release        func()          // gives back what Hold took
	closeFrameSent bool            // the last frame is out
}

type socketState byte

const (
	stateNew     socketState = iota // nobody has said who is there
	stateInit                       // the initialisation is being looked at
	stateReady                      // and was acknowledged
	stateRefused                    // and was not
)

// readState is what has come and was not dealt with.
type readState struct {
	buf             []byte // borrowed while there is anything in it
	used            int    // of buf
	message         []byte // the fragments of a message that have come so far
	fragmented      bool
	compressed      bool // the message that comes in fragments
	initDeadline    time.Time
	messageDeadline time.Time // when the message that has begun has to be there
	unansweredPings int       // pings
	wait            func(fd uintptr) bool
	err             error // of wait
}

// serve has the socket live by itself, and returns.
func (s *socket) serve(early []byte) {
	s.initDeadline = time.Now().Add(s.server.opts.InitTimeout)
	s.wait = s.tryRead
	if len(early) > 0 {
		s.buf = append(acquireBuffer(), early...)
	}
	go s.read()
}

// read handles one message after the other. What takes long or calls deep goes on here, while a new
// goroutine reads on: its stack is small again, and stays so while the socket is idle.
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

// nextWork handles messages until one is more than a moment's work.
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

// panicked logs what would end the process, and ends one socket for it.
func (s *socket) panicked(reason any) *violation {
	_ = s.server.recovered(context.Background(), reason)
	return &violation{CloseTryAgain, "Something went wrong on our side."}
}

// nextMessage waits for a message. It is valid until the next call.
func (s *socket) nextMessage() ([]byte, error) {
	for {
		rest := s.buf[s.used:]
		h, ok, problem := parseHeader(rest, s.server.opts.MaxMessage-len(s.message), s.deflates)
		if problem != nil && problem.code == closeTooBig {
			// of which fragments may have used up a part
			problem = tooLong(s.server.opts.MaxMessage)
		}
		if problem != nil {
			return nil, problem
		}
		if !ok || len(rest) < h.size+h.length {
			if err := s.readMore(h.size + h.length); err != nil {
				return nil, err
			}
			continue
		}
		payload := rest[h.size : h.size+h.length]
		s.used += h.size + h.length
		unmask(payload, h.mask)
		message, err := s.frame(h, payload)
		if message != nil || err != nil {
			return message, err
		}
	}
}

// frame takes in a frame, and returns the message that it is the end of, if any.
func (s *socket) frame(h frameHeader, payload []byte) (message []byte, err error) {
	if h.control() && !s.fragmented {
		s.messageDeadline = time.Time{} // what comes behind it has a time of its own
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
		s.message = append(s.message, payload...)
		s.fragmented = !h.final
		if !h.final {
			return nil, nil
		}
		payload = s.message
		s.message = nil
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

// answerClose answers a client that closes, with its own code.
func (s *socket) answerClose(payload []byte) error {
	code, problem := parseClose(payload)
	if problem != nil {
		return problem
	}
	answer := []byte{}
	if code != closeNoStatus {
		answer = closeFrame(code, "")
	}
	s.finish([]item{{kind: kindClose, data: answer}})
	return errEnded
}

// more waits until more bytes have come; need is how many the frame has that has begun, as far as
// that is known.
func (s *socket) readMore(need int) error {
	s.prepareBuffer(need)
	for {
		begun := len(s.buf) > 0 || s.fragmented
		if begun && s.messageDeadline.IsZero() {
			s.messageDeadline = time.Now().Add(s.server.opts.MessageTimeout)
		} else if !begun {
			s.messageDeadline = time.Time{}
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
		if err := s.onReadTimeout(); err != nil {
			return err
		}
	}
}

// silent decides what to do with a client from which nothing has come in time.
func (s *socket) onReadTimeout() error {
	now := time.Now()
	switch {
	case s.stateIs(stateNew) && !now.Before(s.initDeadline):
		return &violation{CloseInitTimeout, "Connection initialisation timeout"}
	case !s.messageDeadline.IsZero() && !now.Before(s.messageDeadline):
		return &violation{CloseTryAgain, "The message did not arrive whole in time."}
	case !s.stateIs(stateNew) && s.messageDeadline.IsZero():
		if s.unansweredPings >= 2 {
			return errDead
		}
		s.unansweredPings++
		s.add(item{kind: kindPing})
	}
	return nil
}

// setReadDeadline says until when something has to come. The last one is set by afterCloseFrame.
func (s *socket) setReadDeadline() {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := time.Now().Add(s.server.opts.PingInterval)
	if s.state == stateNew {
		by = s.initDeadline
	}
	if !s.messageDeadline.IsZero() && (s.state != stateNew || s.messageDeadline.Before(by)) {
		by = s.messageDeadline
	}
	if !s.closeFrameSent {
		_ = s.net.SetReadDeadline(by)
	}
}

func (s *socket) stateIs(state socketState) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == state
}

// bufferSize is what is borrowed to read into.
const bufferSize = 4 << 10

//nolint:gochecknoglobals // memory that all sockets share
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

func acquireBuffer() []byte { return buffers.Get().(*[bufferSize]byte)[:0] }

// giveBack is for buffers that borrow has given, and lets others go.
func releaseBuffer(b []byte) {
	if cap(b) == bufferSize {
		buffers.Put((*[bufferSize]byte)(b[:bufferSize]))
	}
}

// prepareBuffer makes room for what comes, or gives the buffer back when it is empty. A buffer grows with
// what has come, and not with what the client says will come.
func (s *socket) prepareBuffer(need int) {
	rest := s.buf[s.used:]
	if len(rest) == 0 {
		releaseBuffer(s.buf)
		s.buf, s.used = nil, 0
		return
	}
	if len(s.buf) < cap(s.buf) && cap(s.buf)-s.used >= need {
		return
	}
	to := s.buf[:0]
	if len(rest) > cap(s.buf)/2 {
		to = make([]byte, 0, 2*cap(s.buf))
	}
	to = append(to, rest...)
	if cap(to) != cap(s.buf) {
		releaseBuffer(s.buf)
	}
	s.buf, s.used = to, 0
}

// readBytes waits for bytes, and appends them to buf.
func (s *socket) readBytes() error {
	if s.raw != nil {
		s.err = nil
		if err := s.raw.Read(s.wait); err != nil {
			return err
		}
		return s.err
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

// tryRead reads what is there, and reports false when nothing is; then no buffer is kept either.
func (s *socket) tryRead(fd uintptr) (done bool) {
	idle := len(s.buf) == 0
	if idle {
		s.buf = acquireBuffer()
	}
	n, again, err := tryRead(fd, s.buf[len(s.buf):cap(s.buf)])
	s.buf, s.err = s.buf[:len(s.buf)+n], err
	if idle && n == 0 {
		releaseBuffer(s.buf)
		s.buf = nil
	}
	return !again
}

// stopReading deals with the end of what can be read: the client's fault, or the end of the
// connection.
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

// linger reads what still comes, so that the operating system does not answer it with a reset,
// which could overtake the close frame. It ends when the client has closed too, or at the deadline
// that afterCloseFrame sets.
func (s *socket) linger() {
	s.mu.Lock()
	if !s.closeFrameSent {
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

// afterCloseFrame is called by the writer when the close frame is out.
func (s *socket) afterCloseFrame() {
	s.mu.Lock()
	s.closeFrameSent = true
	_ = s.net.SetReadDeadline(time.Now().Add(s.server.opts.Linger))
	s.mu.Unlock()
	if h, ok := s.net.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
	s.server.connections.remove(s)
}

// end stops all that runs on the socket, lets nothing more through, and tells the client why.
func (s *socket) end(code int, reason string) {
	s.finish([]item{{kind: kindClose, data: closeFrame(code, reason)}})
}

// leave ends the socket once what it has begun to answer is answered.
func (s *socket) endGracefully(code int, reason string) {
	s.outbox.whenIdle(func() {
		if s.endAnswered([]item{{kind: kindClose, data: closeFrame(code, reason)}}) {
			s.stop()
		}
	})
}

// gone ends a connection that nothing can be written to.
func (s *socket) abort() {
	s.finish(nil)
	s.close()
	s.server.connections.remove(s)
}

// close closes the connection, once nobody writes past net.
func (s *socket) close() {
	s.mu.Lock()
	s.closed = true
	pinned := s.pinned
	s.mu.Unlock()
	if !pinned {
		_ = s.net.Close()
	}
}

func (s *socket) finish(last []item) {
	if s.outbox.end(last, nil) {
		s.stop()
	}
}

// stop ends all that runs on a socket that has ended.
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

func (s *socket) wake(here bool) {
	if !here || s.raw == nil {
		s.server.flusher.add(s)
		return
	}
	p := writeBuffers.Get().(*writeBuffer)
	defer writeBuffers.Put(p)
	if s.flush(p) {
		s.server.flusher.add(s)
	}
}

func (s *socket) overflow() { s.end(CloseTryAgain, overflowReason) }

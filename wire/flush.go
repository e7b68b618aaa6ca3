package wire

import (
	"runtime"
	"sync"
	"time"
)

// flusher writes what waits on sockets, with a few goroutines that live only while there is
// something to write. They never wait for a client: one that takes nothing gets a goroutine of its
// own until it does, or is given up.
type flusher struct {
	mu      sync.Mutex // guards what follows
	ready   []*socket
	next    int // in ready
	running int
}

// writers is how many goroutines write: one processor is left to those who make what is written.
func writers() int { return max(1, runtime.GOMAXPROCS(0)-1) }

// add has somebody write what waits on a socket.
func (f *flusher) add(s *socket) {
	f.mu.Lock()
	f.ready = append(f.ready, s)
	start := f.running < writers()
	if start {
		f.running++
	}
	f.mu.Unlock()
	if start {
		go f.run()
	}
}

// pop takes those sockets that have waited longest, but leaves some for the other writers. Without
// any, whoever asked has to end.
func (f *flusher) pop(some []*socket) []*socket {
	f.mu.Lock()
	defer f.mu.Unlock()
	waiting := f.ready[f.next:]
	if len(waiting) == 0 {
		f.next = 0
		f.ready = f.ready[:0]
		if cap(f.ready) > 1<<10 {
			f.ready = nil
		}
		f.running--
		return nil
	}
	n := min(cap(some), (len(waiting)+f.running-1)/f.running)
	some = append(some, waiting[:n]...)
	clear(waiting[:n])
	f.next += n
	// or it would grow as long as it is never empty
	if f.next >= 1<<10 && f.next*2 >= len(f.ready) {
		n := copy(f.ready, f.ready[f.next:])
		clear(f.ready[n:])
		f.ready, f.next = f.ready[:n], 0
	}
	return some
}

func (f *flusher) run() {
	p := writeBuffers.Get().(*writeBuffer)
	defer writeBuffers.Put(p)
	var room [32]*socket
	for {
		some := f.pop(room[:0])
		if some == nil {
			return
		}
		for i, s := range some {
			if s.flush(p) {
				f.add(s) // behind the others
			}
			some[i] = nil
		}
	}
}

// page is what a writer needs: what it takes from an outbox, and the bytes that this becomes.
type writeBuffer struct {
	batch []item
	bytes []byte
}

//nolint:gochecknoglobals // memory that all writers share
var writeBuffers = sync.Pool{New: func() any { return &writeBuffer{batch: make([]item, 0, 64), bytes: make([]byte, 0, 4<<10)} }}

// print makes frames of what was taken. last reports that these are the last ones.
func (s *socket) encodeFrames(p *writeBuffer) (last bool) {
	p.bytes = p.bytes[:0]
	for i := range p.batch {
		p.bytes = s.appendFrame(p.bytes, p.batch[i])
		last = last || p.batch[i].kind == kindClose
	}
	clear(p.batch)
	if cap(p.batch) > 1<<10 {
		p.batch = nil
	}
	return last
}

// hold takes what waits, for whoever writes it past net and then lets go of the descriptor. It
// reports false when there is none any more.
func (s *socket) pin(p *writeBuffer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.batch = s.dequeueLocked(p.batch[:0])
	s.pinned = len(p.batch) > 0 && !s.closed
	return !s.closed
}

// unpin ends a hold. done says that the writer leaves if nothing more waits, and more that
// something does.
func (s *socket) unpin(done bool) (more bool) {
	s.mu.Lock()
	s.pinned = false
	if done {
		s.writing = s.waits
	}
	more, closed := s.waits, s.closed
	s.mu.Unlock()
	if closed {
		_ = s.net.Close()
	}
	return more
}

// flush writes what waits, once, and reports whether there is more.
func (s *socket) flush(p *writeBuffer) (more bool) {
	open := s.pin(p)
	if len(p.batch) == 0 {
		return false
	}
	last := s.encodeFrames(p)
	if !open { // what waited was the goodbye, for a client that has gone
		s.abort()
		return false
	}
	n, err := s.writeNow(p.bytes)
	done := err == nil && n == len(p.bytes) && !last
	more = s.unpin(done)
	switch {
	case err != nil:
		s.abort()
	case n < len(p.bytes): // the client takes no more at present
		rest := append([]byte(nil), p.bytes[n:]...)
		go s.flushSlowly(rest, last)
	case last:
		s.afterCloseFrame()
	}
	if cap(p.bytes) > 2*batchBytes {
		p.bytes = nil
	}
	return done && more
}

// slowWrite is how much a slow client has to take within the time for a write.
const slowWrite = 16 << 10

// flushSlowly writes what waits, on a goroutine of its own.
func (s *socket) flushSlowly(rest []byte, last bool) {
	p := writeBuffers.Get().(*writeBuffer)
	defer writeBuffers.Put(p)
	for {
		for len(rest) > 0 {
			part := rest[:min(len(rest), slowWrite)]
			_ = s.net.SetWriteDeadline(time.Now().Add(s.server.opts.WriteTimeout))
			if _, err := s.net.Write(part); err != nil {
				s.abort()
				return
			}
			rest = rest[len(part):]
		}
		_ = s.net.SetWriteDeadline(time.Time{})
		if last {
			s.afterCloseFrame()
			return
		}
		p.batch = s.dequeue(p.batch[:0])
		last = s.encodeFrames(p)
		if rest = p.bytes; len(rest) == 0 {
			return
		}
	}
}

// writeNow writes as much as the client takes without waiting for it.
func (s *socket) writeNow(b []byte) (int, error) {
	if s.raw == nil { // not a plain connection of the operating system
		return 0, nil
	}
	return tryWrite(s.fd, b)
}

package wire

import (
	"runtime"
	"sync"
	"time"
)

// flusher writes the outboxes of sockets. Its goroutines live only while there is something to
// write, and never wait for a client. A client that does not accept all of a write gets a goroutine
// of its own: see flushSlowly.
type flusher struct {
	mu      sync.Mutex // guards what follows
	ready   []*socket  // a queue, from next on
	next    int
	running int // goroutines
}

// maxIdleReady is the largest capacity of flusher.ready that is kept while the queue is empty.
const maxIdleReady = 1 << 10

// writers returns how many goroutines may write. One processor is left to the goroutines that make
// the results.
func writers() int { return max(1, runtime.GOMAXPROCS(0)-1) }

// add queues a socket to be written, and starts a goroutine if there is none for it.
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

// pop moves the sockets that have waited longest to batch, at most its capacity. It leaves a fair
// share to the other goroutines. If it returns nil, the caller has to return: it is no longer
// counted.
func (f *flusher) pop(batch []*socket) []*socket {
	f.mu.Lock()
	defer f.mu.Unlock()
	waiting := f.ready[f.next:]
	if len(waiting) == 0 {
		f.next = 0
		f.ready = f.ready[:0]
		if cap(f.ready) > maxIdleReady {
			f.ready = nil
		}
		f.running--
		return nil
	}
	n := min(cap(batch), (len(waiting)+f.running-1)/f.running)
	batch = append(batch, waiting[:n]...)
	clear(waiting[:n])
	f.next += n
	// A queue that is never empty would grow without a limit otherwise.
	if f.next >= maxIdleReady && f.next*2 >= len(f.ready) {
		n := copy(f.ready, f.ready[f.next:])
		clear(f.ready[n:])
		f.ready, f.next = f.ready[:n], 0
	}
	return batch
}

func (f *flusher) run() {
	buf := writeBuffers.Get().(*writeBuffer)
	defer writeBuffers.Put(buf)
	var space [32]*socket
	for {
		batch := f.pop(space[:0])
		if batch == nil {
			return
		}
		for i, s := range batch {
			if s.flush(buf) {
				f.add(s) // behind the others
			}
			batch[i] = nil
		}
	}
}

// writeBuffer is the memory that a writer needs: the items of one write, and their frames.
type writeBuffer struct {
	items  []item
	frames []byte
}

// The largest capacities of a writeBuffer that are kept after a write.
const (
	maxKeptItems  = 1 << 10
	maxKeptFrames = 2 * batchBytes
)

//nolint:gochecknoglobals // memory that all writers share
var writeBuffers = sync.Pool{New: func() any {
	return &writeBuffer{items: make([]item, 0, 64), frames: make([]byte, 0, 4<<10)}
}}

// encodeFrames encodes buf.items to buf.frames. last reports that the close frame is among them.
func (s *socket) encodeFrames(buf *writeBuffer) (last bool) {
	buf.frames = buf.frames[:0]
	for i := range buf.items {
		buf.frames = s.appendFrame(buf.frames, buf.items[i])
		last = last || buf.items[i].kind == kindClose
	}
	clear(buf.items)
	if cap(buf.items) > maxKeptItems {
		buf.items = nil
	}
	return last
}

// pin dequeues the items of the next write to buf. If there are any, and the socket is open, its
// descriptor is pinned: it stays open until unpin. pin reports whether the socket is open.
func (s *socket) pin(buf *writeBuffer) (open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	buf.items = s.dequeueLocked(buf.items[:0])
	s.pinned = len(buf.items) > 0 && !s.closed
	return !s.closed
}

// unpin lets the descriptor be closed, and closes it if close was called meanwhile. It reports
// whether more items are queued. If done is set and none are, the writer counts as asleep: the next
// item wakes one.
func (s *socket) unpin(done bool) (more bool) {
	s.mu.Lock()
	s.pinned = false
	if done {
		s.writing = s.hasFirst
	}
	more, closed := s.hasFirst, s.closed
	s.mu.Unlock()
	if closed {
		_ = s.net.Close()
	}
	return more
}

// flush writes the outbox once, as much as the client accepts without waiting. It reports whether
// the caller has to flush again, because more items are queued.
func (s *socket) flush(buf *writeBuffer) (more bool) {
	open := s.pin(buf)
	if len(buf.items) == 0 {
		return false
	}
	last := s.encodeFrames(buf)
	if !open { // nothing can be written any more; only a close frame can have been queued
		s.abort()
		return false
	}
	n, err := s.writeNow(buf.frames)
	done := err == nil && n == len(buf.frames) && !last
	more = s.unpin(done)
	switch {
	case err != nil:
		s.abort()
	case n < len(buf.frames):
		rest := append([]byte(nil), buf.frames[n:]...)
		go s.flushSlowly(rest, last)
	case last:
		s.closeFrameWritten()
	}
	if cap(buf.frames) > maxKeptFrames {
		buf.frames = nil
	}
	return done && more
}

// slowWrite is how many bytes a slow client has to accept within Options.WriteTimeout.
const slowWrite = 16 << 10

// flushSlowly writes rest, which ends with the close frame if last is set. Then it writes the
// outbox until that is empty. It runs on a goroutine of its own, and waits for the client.
func (s *socket) flushSlowly(rest []byte, last bool) {
	buf := writeBuffers.Get().(*writeBuffer)
	defer writeBuffers.Put(buf)
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
			s.closeFrameWritten()
			return
		}
		buf.items = s.dequeue(buf.items[:0])
		last = s.encodeFrames(buf)
		if rest = buf.frames; len(rest) == 0 {
			return
		}
	}
}

// writeNow writes as much as the client accepts without waiting. Without a descriptor that is
// nothing, and flushSlowly writes all.
func (s *socket) writeNow(b []byte) (int, error) {
	if s.raw == nil {
		return 0, nil
	}
	return tryWrite(s.fd, b)
}

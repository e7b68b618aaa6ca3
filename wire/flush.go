package wire

import (
	"runtime"
	"sync"
	"time"
)

// flusher writes what waits on sockets, with a few goroutines that live only while there is something to write. They never
// wait for a client: one that takes nothing gets a goroutine of its own until it does, or is given up.
type flusher struct {
	mu      sync.Mutex // guards what follows
	ready   []*socket
	next    int // in ready
	running int
}

// add has somebody write what waits on a socket.
func (f *flusher) add(s *socket) {
	f.mu.Lock()
	f.ready = append(f.ready, s)
	start := f.running < runtime.GOMAXPROCS(0)
	if start {
		f.running++
	}
	f.mu.Unlock()
	if start {
		go f.run()
	}
}

// pop takes the socket that has waited longest. Without one, whoever asked has to end.
func (f *flusher) pop() *socket {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == len(f.ready) {
		f.next = 0
		f.ready = f.ready[:0]
		if cap(f.ready) > 1<<10 {
			f.ready = nil
		}
		f.running--
		return nil
	}
	s := f.ready[f.next]
	f.ready[f.next] = nil
	f.next++
	if f.next >= 1<<10 && f.next*2 >= len(f.ready) { // or it would grow as long as it is never empty
		n := copy(f.ready, f.ready[f.next:])
		clear(f.ready[n:])
		f.ready, f.next = f.ready[:n], 0
	}
	return s
}

func (f *flusher) run() {
	p := pages.Get().(*page)
	defer pages.Put(p)
	for {
		s := f.pop()
		if s == nil {
			return
		}
		if s.flush(p) {
			f.add(s) // behind the others
		}
	}
}

// page is what a writer needs: what it takes from an outbox, and the bytes that this becomes.
type page struct {
	batch []item
	bytes []byte
	write func(fd uintptr) bool // writes bytes, and says in what follows how that went
	n     int
	err   error
}

//nolint:gochecknoglobals // memory that all writers share
var pages = sync.Pool{New: func() any {
	p := &page{batch: make([]item, 0, 64), bytes: make([]byte, 0, 4<<10)}
	p.write = func(fd uintptr) bool {
		p.n, p.err = tryWrite(fd, p.bytes)
		return true
	}
	return p
}}

// print takes what waits, and makes frames of it. last reports that these are the last ones.
func (s *socket) print(p *page) (last bool) {
	p.batch = s.take(p.batch[:0])
	p.bytes = p.bytes[:0]
	for _, it := range p.batch {
		p.bytes = s.appendFrame(p.bytes, it)
		last = last || it.kind == kindGoodbye
	}
	clear(p.batch)
	if cap(p.batch) > 1<<10 {
		p.batch = nil
	}
	return last
}

// flush writes what waits, once, and reports whether there may be more.
func (s *socket) flush(p *page) (more bool) {
	last := s.print(p)
	if len(p.bytes) == 0 {
		return false
	}
	n, err := s.writeNow(p)
	if err != nil {
		s.gone()
		return false
	}
	if n < len(p.bytes) { // the client takes no more at present
		rest := append([]byte(nil), p.bytes[n:]...)
		go s.flushSlowly(rest, last)
		return false
	}
	if cap(p.bytes) > 2*batchBytes {
		p.bytes = nil
	}
	if last {
		s.saidGoodbye()
		return false
	}
	return true
}

// slowWrite is how much a slow client has to take within the time for a write.
const slowWrite = 16 << 10

// flushSlowly writes what waits, on a goroutine of its own.
func (s *socket) flushSlowly(rest []byte, last bool) {
	p := pages.Get().(*page)
	defer pages.Put(p)
	for {
		for len(rest) > 0 {
			part := rest[:min(len(rest), slowWrite)]
			_ = s.net.SetWriteDeadline(time.Now().Add(s.server.opts.WriteTimeout))
			if _, err := s.net.Write(part); err != nil {
				s.gone()
				return
			}
			rest = rest[len(part):]
		}
		_ = s.net.SetWriteDeadline(time.Time{})
		if last {
			s.saidGoodbye()
			return
		}
		last = s.print(p)
		if rest = p.bytes; len(rest) == 0 {
			return
		}
	}
}

// writeNow writes as much as the client takes without waiting for it.
func (s *socket) writeNow(p *page) (int, error) {
	if s.raw == nil { // not a plain connection of the operating system
		return 0, nil
	}
	if err := s.raw.Write(p.write); err != nil {
		return 0, err
	}
	return p.n, p.err
}

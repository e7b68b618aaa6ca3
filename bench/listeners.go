package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// listeners are followers of one server. One goroutine reads all of them, and counts and times what
// they receive.
type listeners struct {
	poll     int // of epoll(7)
	arrivals *arrivals
	sample   chan []byte // the first message
	running  sync.WaitGroup

	followers int // of a topic

	mu        sync.Mutex // guards the fields below
	conns     []*conn
	histories []*history
	delays    []int32                 // µs from sending to receiving, in this round
	behind    []int32                 // µs after the first follower received the same message
	firsts    map[place]time.Duration // when the first follower received a message
	failed    error                   // of the first connection that ended
	stop      bool
}

// place identifies a message.
type place struct {
	topic int
	seq   int64
}

// listen starts to read connections of followers. after returns the seq that a follower has
// already. The connections of a topic's followers are next to each other.
func listen(conns []*conn, followers int, after func(i int) int64) (*listeners, error) {
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	l := &listeners{poll: poll, arrivals: newArrivals(), sample: make(chan []byte, 1), conns: conns}
	l.followers, l.firsts = followers, map[place]time.Duration{}
	for i, c := range conns {
		l.histories = append(l.histories, newHistory(after(i)))
		event := syscall.EpollEvent{
			Events: syscall.EPOLLIN,
			Fd:     int32(i),
		} //nolint:gosec // at most some thousands
		err = errors.Join(err, syscall.SetNonblock(c.fd, true),
			os.NewSyscallError("epoll_ctl",
				syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, c.fd, &event)))
	}
	l.running.Go(l.receive)
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// receive reads until close.
func (l *listeners) receive() {
	runtime.LockOSThread()
	events := make([]syscall.EpollEvent, 256)
	buf := make([]byte, 256<<10)
	for {
		const ms = 50 // after which it checks whether to stop
		n, err := syscall.EpollWait(l.poll, events, ms)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			n = 0
		}
		l.mu.Lock()
		if l.stop {
			l.mu.Unlock()
			return
		}
		for i := range max(n, 0) {
			l.read(int(events[i].Fd), buf)
		}
		l.mu.Unlock()
	}
}

// read reads one connection. Must be called with l.mu held.
func (l *listeners) read(i int, buf []byte) {
	c := l.conns[i]
	had := copy(buf, c.rest)
	n, err := syscall.Read(c.fd, buf[had:])
	switch {
	case errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR):
		return
	case err == nil && n == 0:
		err = errors.New("the server closed a connection")
	}
	now := sinceStart()
	rest := buf[:had+max(n, 0)]
	for err == nil {
		opcode, payload, after, ok := nextFrame(rest)
		if !ok {
			break
		}
		rest = after
		switch opcode {
		case opText:
			err = l.record(i, payload, now)
		case opPing:
			err = c.write(opPong, payload)
		default:
			err = fmt.Errorf("the server sent a frame %d: %q", opcode, payload)
		}
	}
	if err != nil { // the missing messages count as lost
		if l.failed == nil {
			l.failed = err
		}
		_ = syscall.EpollCtl(l.poll, syscall.EPOLL_CTL_DEL, c.fd, &syscall.EpollEvent{})
		return
	}
	c.rest = append(c.rest[:0], rest...)
}

// record counts and times a message. Must be called with l.mu held.
func (l *listeners) record(i int, message []byte, now time.Duration) error {
	seq, ok := numberAfter(message, seqField)
	if !ok {
		return fmt.Errorf("the server sent %s", message)
	}
	l.histories[i].add(seq)
	at := place{i / l.followers, seq}
	first, known := l.firsts[at]
	if !known {
		first = now
		l.firsts[at] = now
	}
	l.behind = append(l.behind, int32((now - first).
		Microseconds())) //nolint:gosec // far from the largest
	if sent, ok := numberAfter(message, contentField); ok {
		l.delays = append(l.delays, int32(
			now.Microseconds()-sent)) //nolint:gosec // far from the largest
	}
	if len(l.sample) == 0 {
		l.sample <- bytes.Clone(message)
	}
	l.arrivals.arrived()
	return nil
}

// await waits for the expected deliveries. It returns an error if a connection has ended.
func (l *listeners) await(ctx context.Context) error {
	err := l.arrivals.wait(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(err, l.failed)
}

// takeDelays returns the delays since its last call.
func (l *listeners) takeDelays() (sinceSent, sinceFirst []int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sinceSent, sinceFirst = l.delays, l.behind
	l.delays, l.behind = nil, nil
	clear(l.firsts)
	return sinceSent, sinceFirst
}

// close closes the connections without close frames. It may be called more than once.
func (l *listeners) close() {
	l.mu.Lock()
	closed := l.stop
	l.stop = true
	l.mu.Unlock()
	if closed {
		return
	}
	l.running.Wait()
	for _, c := range l.conns {
		c.close()
	}
	_ = syscall.Close(l.poll)
}

const (
	seqField     = `"seq":`
	contentField = `"content":"`
)

// numberAfter finds a number in a message. It is cheaper than decoding JSON.
func numberAfter(message []byte, field string) (n int64, ok bool) {
	_, rest, ok := bytes.Cut(message, []byte(field))
	if !ok {
		return 0, false
	}
	for _, digit := range rest {
		if digit < '0' || digit > '9' {
			break
		}
		n = n*10 + int64(digit-'0')
	}
	return n, true
}

//nolint:gochecknoglobals // a constant
var programStart = time.Now()

func sinceStart() time.Duration { return time.Since(programStart) }

// stamped returns content that begins with the time of sending.
func stamped() string { return fmt.Sprintf("%016d %s", sinceStart().Microseconds(), content[17:]) }

// withStamp returns a message with newly stamped content.
func withStamp(message []byte) []byte {
	message = bytes.Clone(message)
	if i := bytes.Index(message, []byte(contentField)); i >= 0 {
		copy(message[i+len(contentField):], stamped())
	}
	return message
}

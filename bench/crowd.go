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

// listeners are clients of one server, which are read by one goroutine, and count and time what
// they receive.
type listeners struct {
	poll     int // of epoll(7)
	arrivals *arrivals
	sample   chan []byte // the first message that came
	running  sync.WaitGroup

	followers int // of a topic

	mu      sync.Mutex // guards what follows
	conns   []*conn
	ledgers []*ledger
	delays  []int32 // µs from sending to receiving, since the last round began
	behind  []int32 // µs from the first follower's receiving of the same message
	firsts  map[place]time.Duration
	failed  error // how the first of the connections ended that did
	stop    bool
}

// place is where a message stands.
type place struct {
	topic int
	seq   int64
}

// listen makes each connection one of a follower who has everything up to a seq, which after says.
// The followers of a topic, so many, stand together.
func listen(conns []*conn, followers int, after func(i int) int64) (*listeners, error) {
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	l := &listeners{poll: poll, arrivals: newArrivals(), sample: make(chan []byte, 1), conns: conns}
	l.followers, l.firsts = followers, map[place]time.Duration{}
	for i, c := range conns {
		l.ledgers = append(l.ledgers, newLedger(after(i)))
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)} //nolint:gosec // at most some thousands
		err = errors.Join(err, syscall.SetNonblock(c.fd, true),
			os.NewSyscallError("epoll_ctl", syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, c.fd, &event)))
	}
	l.running.Go(l.receive)
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// receive reads what comes until close.
func (l *listeners) receive() {
	runtime.LockOSThread()
	events := make([]syscall.EpollEvent, 256)
	buf := make([]byte, 256<<10)
	for {
		const ms = 50 // after which it sees that it has to stop
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

// read takes what one connection has. It needs the lock.
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
	now := sinceBegin()
	rest := buf[:had+max(n, 0)]
	for err == nil {
		opcode, payload, after, ok := nextFrame(rest)
		if !ok {
			break
		}
		rest = after
		switch opcode {
		case opText:
			err = l.take(i, payload, now)
		case opPing:
			err = c.write(opPong, payload)
		default:
			err = fmt.Errorf("the server sent a frame %d: %q", opcode, payload)
		}
	}
	if err != nil { // what is missing then shows in the ledger
		if l.failed == nil {
			l.failed = err
		}
		_ = syscall.EpollCtl(l.poll, syscall.EPOLL_CTL_DEL, c.fd, &syscall.EpollEvent{})
		return
	}
	c.rest = append(c.rest[:0], rest...)
}

// take counts a message. It needs the lock.
func (l *listeners) take(i int, message []byte, now time.Duration) error {
	seq, ok := numberAfter(message, seqField)
	if !ok {
		return fmt.Errorf("the server sent %s", message)
	}
	l.ledgers[i].add(seq)
	at := place{i / l.followers, seq}
	first, known := l.firsts[at]
	if !known {
		first = now
		l.firsts[at] = now
	}
	l.behind = append(l.behind, int32((now - first).Microseconds())) //nolint:gosec // far from the largest
	if sent, ok := numberAfter(message, contentField); ok {
		l.delays = append(l.delays, int32(now.Microseconds()-sent)) //nolint:gosec // far from the largest
	}
	if len(l.sample) == 0 {
		l.sample <- bytes.Clone(message)
	}
	l.arrivals.arrived()
	return nil
}

// await waits for what arrivals expects, or says how a connection ended before it came.
func (l *listeners) await(ctx context.Context) error {
	err := l.arrivals.wait(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(err, l.failed)
}

// takeDelays returns what was measured since it was called last.
func (l *listeners) takeDelays() (sinceSent, sinceFirst []int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sinceSent, sinceFirst = l.delays, l.behind
	l.delays, l.behind = nil, nil
	clear(l.firsts)
	return sinceSent, sinceFirst
}

// close ends the connections, without the goodbyes that nobody waits for. It may be called more
// than once.
func (l *listeners) close() {
	l.mu.Lock()
	again := l.stop
	l.stop = true
	l.mu.Unlock()
	if again {
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

// numberAfter finds a number in a message without the price of reading it whole.
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
var began = time.Now()

func sinceBegin() time.Duration { return time.Since(began) }

// stamped is content that says when it was sent.
func stamped() string { return fmt.Sprintf("%016d %s", sinceBegin().Microseconds(), content[17:]) }

// withStamp is a message with the content of another moment.
func withStamp(message []byte) []byte {
	message = bytes.Clone(message)
	if i := bytes.Index(message, []byte(contentField)); i >= 0 {
		copy(message[i+len(contentField):], stamped())
	}
	return message
}

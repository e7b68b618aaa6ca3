package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
)

const subprotocol = "graphql-transport-ws"

// conn is a WebSocket of a client, and no more of one than measuring needs: it waits for the
// answers that the handshake of each server has, and later many of them are read by one goroutine,
// past the runtime's poller. So a client costs little beside the server that it shares the
// processors with, and the same beside each.
type conn struct {
	fd   int
	rest []byte // of a frame that has not come whole
}

// dial does the handshake. receive bounds what the operating system keeps of what comes, where it
// is not 0.
func dial(target string, receive int) (c *conn, err error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	c = &conn{fd: fd}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if receive > 0 {
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, receive); err != nil {
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	limit := syscall.NsecToTimeval(patience.Nanoseconds())
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	path := u.RequestURI()
	request := "GET " + path + " HTTP/1.1\r\nHost: " + u.Host + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" +
		"Sec-WebSocket-Protocol: " + subprotocol + "\r\n\r\n"
	if _, err := syscall.Write(fd, []byte(request)); err != nil {
		return nil, os.NewSyscallError("write", err)
	}
	return c, c.readAnswer()
}

func (c *conn) readAnswer() error {
	const end = "\r\n\r\n"
	for {
		if head, rest, ok := bytes.Cut(c.rest, []byte(end)); ok {
			c.rest = rest
			if !strings.HasPrefix(string(head), "HTTP/1.1 101 ") {
				return fmt.Errorf("the handshake was answered with %s", head)
			}
			return nil
		}
		if err := c.wait(); err != nil {
			return err
		}
	}
}

// wait waits for more bytes.
func (c *conn) wait() error {
	var b [4 << 10]byte
	n, err := syscall.Read(c.fd, b[:])
	for errors.Is(err, syscall.EINTR) {
		n, err = syscall.Read(c.fd, b[:])
	}
	if err != nil {
		return os.NewSyscallError("read", err)
	}
	if n == 0 {
		return errors.New("the server closed the connection")
	}
	c.rest = append(c.rest, b[:n]...)
	return nil
}

// message waits for one message.
func (c *conn) message() ([]byte, error) {
	for {
		_, payload, rest, ok := nextFrame(c.rest)
		if ok {
			c.rest = rest
			return payload, nil
		}
		if err := c.wait(); err != nil {
			return nil, err
		}
	}
}

// Opcodes of frames (RFC 6455, section 5.2).
const (
	opText = 1
	opPing = 9
	opPong = 10
)

// write sends a frame, masked with nothing.
func (c *conn) write(opcode byte, payload []byte) error {
	head := []byte{0x80 | opcode}
	switch n := len(payload); {
	case n < 126:
		head = append(head, 0x80|byte(n))
	case n <= 0xFFFF:
		head = append(head, 0x80|126, byte(n>>8), byte(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|127), uint64(n)) //nolint:gosec // a length
	}
	head = append(head, 0, 0, 0, 0)
	for rest := append(head, payload...); len(rest) > 0; {
		n, err := syscall.Write(c.fd, rest)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("write", err)
		}
		rest = rest[max(n, 0):]
	}
	return nil
}

func (c *conn) close() {
	if c.fd >= 0 {
		_ = syscall.Close(c.fd)
		c.fd = -1
	}
}

// nextFrame takes a server's frame off b, when it is there whole.
func nextFrame(b []byte) (opcode byte, payload, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, b, false
	}
	size, length := 2, int(b[1])
	switch length {
	case 126:
		if len(b) < 4 {
			return 0, nil, b, false
		}
		size, length = 4, int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if len(b) < 10 {
			return 0, nil, b, false
		}
		size, length = 10, int(binary.BigEndian.Uint64(b[2:])) //nolint:gosec // of our own servers
	}
	if len(b) < size+length {
		return 0, nil, b, false
	}
	return b[0] & 0x0F, b[size : size+length], b[size+length:], true
}

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"

	"parley/internal/client"
)

// conn is the client's side of a WebSocket, reduced to what measuring needs. It blocks during the
// handshake. Later one goroutine reads many of them, past the runtime's poller. So the clients need
// little CPU time, and the same with each server, which shares the processors with them.
type conn struct {
	fd   int
	rest []byte // the received part of an incomplete frame
}

// dial connects and does the handshake. receiveBuffer is the size of the operating system's receive
// buffer in bytes, or 0 for its default.
func dial(target string, receiveBuffer int) (c *conn, err error) {
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
	if receiveBuffer > 0 {
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF,
			receiveBuffer); err != nil {
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	limit := syscall.NsecToTimeval(timeout.Nanoseconds())
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO,
		&limit); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{
		Port: port,
		Addr: [4]byte{127, 0, 0, 1},
	}); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	path := u.RequestURI()
	request := "GET " + path + " HTTP/1.1\r\nHost: " + u.Host +
		"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" +
		"Sec-WebSocket-Protocol: " + client.Subprotocol + "\r\n\r\n"
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

// wait waits for more bytes, and adds them to c.rest.
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

// send sends a message of the protocol.
func (c *conn) send(m client.Message, err error) error {
	if err != nil {
		return err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return c.write(opText, text)
}

// write sends a frame, with a mask of zeros.
func (c *conn) write(opcode byte, payload []byte) error {
	head := []byte{0x80 | opcode}
	switch n := len(payload); {
	case n < 126:
		head = append(head, 0x80|byte(n))
	case n <= 0xFFFF:
		head = append(head, 0x80|126, byte(n>>8), byte(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|127),
			uint64(n)) //nolint:gosec // a length
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

// nextFrame splits the first frame of a server off b. ok is false if b has no complete frame.
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

package verify

import "syscall"

// shrinkBuffers makes the buffers of a connection small on both sides. The server's buffer grows
// with the size of a segment.
func shrinkBuffers(_, _ string, c syscall.RawConn) (err error) {
	controlled := c.Control(func(fd uintptr) {
		const smallSegment = 536 // bytes, which every host accepts (RFC 9293, section 3.7.1)
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, smallSegment)
		if err != nil {
			return
		}
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
	})
	if controlled != nil {
		return controlled
	}
	return err
}

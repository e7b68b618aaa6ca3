package verify

import "syscall"

// smallBuffers has a connection hold little, also on the server's side, where the buffer grows with
// the size of a segment: so it shows soon when nobody reads.
func smallBuffers(_, _ string, c syscall.RawConn) (err error) {
	controlled := c.Control(func(fd uintptr) {
		const smallSegment = 536 // bytes, which every host accepts (RFC 9293, section 3.7.1)
		if err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, smallSegment); err != nil {
			return
		}
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
	})
	if controlled != nil {
		return controlled
	}
	return err
}

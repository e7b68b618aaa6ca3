package wire

import (
	"encoding/binary"
	"unicode/utf8"
)

// Opcodes of frames (RFC 6455, section 5.2).
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

const (
	finBit        = 0x80
	compressedBit = 0x40 // RSV1, as permessage-deflate uses it (RFC 7692)
	reservedBits  = 0x30
	maskBit       = 0x80

	length16 = 126 // the length follows in 16 bits
	length64 = 127 // the length follows in 64 bits

	maxControl = 125 // bytes in the payload of a control frame
	maxHeader  = 14  // bytes
)

// frameHeader is the header of a frame of the client.
type frameHeader struct {
	final, compressed bool
	opcode            byte
	mask              [4]byte
	size              int // of the header
	length            int // of the payload
}

func (h frameHeader) control() bool { return h.opcode >= opClose }

// parseHeader parses the header at the beginning of b. If ok is false, it needs more bytes: h.size
// is how many are needed, as far as is known. limit is the largest payload. compressed allows
// compressed frames.
func parseHeader(
	b []byte, limit int, compressed bool,
) (h frameHeader, ok bool, problem *violation) {
	if len(b) < 2 {
		return h, false, nil
	}
	h = frameHeader{
		final: b[0]&finBit != 0, compressed: b[0]&compressedBit != 0, opcode: b[0] & 0x0F, size: 2,
	}
	switch {
	case b[0]&reservedBits != 0 || h.compressed && !compressed:
		return h, false, broken("A reserved bit is set, and no extension uses it.")
	case h.opcode > opBinary && h.opcode < opClose || h.opcode > opPong:
		return h, false, broken("The opcode is reserved.")
	case b[1]&maskBit == 0:
		return h, false, broken("A client has to mask its frames.")
	case h.control() && (!h.final || h.compressed):
		return h, false, broken("A control frame may be neither fragmented nor compressed.")
	case h.compressed && h.opcode == opContinuation:
		return h, false, broken("Only the first frame of a message says that it is compressed.")
	}
	length := uint64(b[1] &^ maskBit)
	if h.control() && length > maxControl {
		return h, false, broken("A control frame carries at most 125 bytes.")
	}
	switch length {
	case length16:
		h.size = 4
		if len(b) < h.size {
			return h, false, nil
		}
		if length = uint64(binary.BigEndian.Uint16(b[2:])); length < length16 {
			return h, false, broken("The length is not written in the shortest form.")
		}
	case length64:
		h.size = 10
		if len(b) < h.size {
			return h, false, nil
		}
		if length = binary.BigEndian.Uint64(b[2:]); length <= 0xFFFF || length>>63 != 0 {
			return h, false, broken("The length is not written in the shortest form.")
		}
	}
	if length > uint64(limit) && !h.control() {
		return h, false, tooLong(limit)
	}
	h.size += len(h.mask)
	if len(b) < h.size {
		return h, false, nil
	}
	copy(h.mask[:], b[h.size-len(h.mask):])
	h.length = int(length) //nolint:gosec // at most limit
	return h, true, nil
}

// unmask removes the mask of a payload, in place (RFC 6455, section 5.3).
func unmask(b []byte, mask [4]byte) {
	word := uint64(binary.LittleEndian.Uint32(mask[:]))
	word |= word << 32
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^word)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= mask[i&3]
	}
}

// appendHeader appends the header of a frame of the server. Such a frame is neither fragmented nor
// masked.
func appendHeader(b []byte, opcode byte, length int, compressed bool) []byte {
	first := finBit | opcode
	if compressed {
		first |= compressedBit
	}
	switch {
	case length < length16:
		return append(b, first, byte(length))
	case length <= 0xFFFF:
		return append(b, first, length16, byte(length>>8), byte(length))
	}
	return binary.BigEndian.AppendUint64(append(b, first, length64), uint64(length))
}

// closeFrame returns the payload of a close frame. A long reason is cut to fit.
func closeFrame(code int, reason string) []byte {
	for len(reason) > maxControl-2 {
		_, last := utf8.DecodeLastRuneInString(reason)
		reason = reason[:len(reason)-last]
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...)
}

// parseClose parses the payload of a close frame of the client. Without a code it returns
// closeNoStatus (RFC 6455, section 7.4.1).
func parseClose(payload []byte) (code int, problem *violation) {
	if len(payload) == 0 {
		return closeNoStatus, nil
	}
	if len(payload) == 1 {
		return 0, broken("A close frame is empty, or begins with a code of two bytes.")
	}
	code = int(binary.BigEndian.Uint16(payload))
	switch {
	case code < 1000, code > 4999, code >= 1004 && code <= 1006, code > 1014 && code < 3000:
		return 0, broken("The close frame has a code that may not be sent.")
	case !utf8.Valid(payload[2:]):
		return 0, &violation{closeInvalidData, "The reason of the close frame is not UTF-8."}
	}
	return code, nil
}

package model

import (
	"crypto/sha256"
	"strings"
)

// DirectKey returns Conversation.DirectKey of the direct conversation of two users.
func DirectKey(a, b UserID) string {
	first, second := a.String(), b.String()
	if strings.Compare(first, second) > 0 {
		first, second = second, first
	}
	return first + " " + second
}

// HashRequest returns Message.RequestHash of a new message: the hash of its content and of the
// message that it replies to.
func (m *Message) HashRequest() []byte {
	request := m.Content
	if m.ReplyToID != nil {
		request += "\x00" + m.ReplyToID.String() // content has no NUL
	}
	sum := sha256.Sum256([]byte(request))
	return sum[:]
}

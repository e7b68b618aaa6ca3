package verify

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"time"
)

// senders is how many send at the same time, each one message after the other.
const senders = 8

// sender sends until the load is over, and then finishes what it has begun.
type sender struct {
	*world
	number int
	sent   int
	rand   *rand.Rand
}

// run begins no new message once load has ended; ctx is for finishing.
func (s *sender) run(ctx, load context.Context) {
	interval := time.Second * senders / time.Duration(s.plan.rate)
	due := time.Now().Add(time.Duration(s.rand.Int64N(int64(interval))))
	for wait(load, time.Until(due)) {
		c := s.pick()
		if s.rand.IntN(changesIn) == 0 && s.change(ctx, c, s.rand.IntN(30)) {
			due = s.next(due, interval)
			continue
		}
		author := s.plan.conversations[c].members[s.rand.IntN(authors)]
		s.send(ctx, c, author, s.rand.IntN(30))
		due = s.next(due, interval)
	}
}

// next is when something is due again. What an outage has held up is not made good for: that would
// be a storm.
func (s *sender) next(due time.Time, interval time.Duration) time.Time {
	due = due.Add(interval/2 + time.Duration(s.rand.Int64N(int64(interval))))
	if late := time.Now().Add(-interval); due.Before(late) {
		return late
	}
	return due
}

// pick is a conversation; a busy one more often.
func (s *sender) pick() int {
	total := 0
	for _, c := range s.plan.conversations {
		total += c.weight
	}
	n := s.rand.IntN(total)
	for i, c := range s.plan.conversations {
		if n -= c.weight; n < 0 {
			return i
		}
	}
	return 0
}

const sendQuery = `mutation ($in: SendMessageInput!) { sendMessage(input: $in) { message { id seq content } userErrors { code message } } }`

// send sends one message until it is known to be stored. A few are sent again although that is
// known, and of a few the first try is cut before its answer.
func (s *sender) send(ctx context.Context, conversation, author, fate int) {
	s.sent++
	key := fmt.Sprintf("m%d-%d", s.number, s.sent)
	content := key + " " + strings.Repeat("x", 1+s.plan.conversations[conversation].padding)
	id, short := s.conversations[conversation], brief(content)
	p := s.people[author]
	in := map[string]any{"conversationId": id, "content": content, "idempotencyKey": key}
	node := s.rand.IntN(s.nodes.count())

	s.ledger.sending(id, short, time.Now())
	if fate == 0 {
		s.cutShort(ctx, node, p, sendQuery, in)
	}
	tries := 1
	if fate == 1 {
		tries = 2
	}
	var sent message
	for range tries {
		var answer struct{ Message *message }
		err := p.do(ctx, node, sendQuery, in, &answer, func(error) { s.ledger.retried() })
		if err == nil && answer.Message == nil {
			err = errors.New("neither a message nor userErrors")
		}
		if err != nil {
			s.ledger.gaveUp(id, short, err)
			return
		}
		answer.Message.Content = brief(answer.Message.Content)
		sent = *answer.Message
		s.ledger.acknowledged(id, sent, short, time.Now())
		node++
	}
	s.posted.add(conversation, &post{id: sent.ID, key: key, author: author, reacted: map[deed]bool{}})
}

// brief stands for a content: its key, its length and its checksum, so that a long run needs little
// memory.
func brief(content string) string {
	if content == "" { // it is deleted
		return ""
	}
	key, _, _ := strings.Cut(content, " ")
	return fmt.Sprintf("%.40s %d %08x", key, len(content), crc32.ChecksumIEEE([]byte(content)))
}

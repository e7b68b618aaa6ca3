package verify

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"time"

	"parley/verify/judge"
)

const (
	// senders is how many send at the same time, each one message after another.
	senders = 8

	// changeRatio is the number of a sender's operations for each one that changes a message
	// instead of sending one.
	changeRatio = 5

	// pageRatio is the number of a sender's operations for each one that reads a page too.
	pageRatio = 8
)

// sender sends until the load ends, and then finishes what it has begun.
type sender struct {
	*verification
	number int
	sent   int
	rand   *rand.Rand
}

// fate is what the client does to a request.
type fate int

const (
	sendOnce  fate = iota
	cutFirst       // do not wait for the answer of the first attempt
	sendTwice      // repeat the request although it was acknowledged
)

// fateRatio is the number of requests for each one with a fate.
const fateRatio = 30

func (s *sender) drawFate() fate {
	switch s.rand.IntN(fateRatio) {
	case 0:
		return cutFirst
	case 1:
		return sendTwice
	}
	return sendOnce
}

// run begins no new message after load has ended; ctx is for finishing.
func (s *sender) run(ctx, load context.Context) {
	interval := time.Second * senders / time.Duration(s.plan.rate)
	due := time.Now().Add(time.Duration(s.rand.Int64N(int64(interval))))
	for wait(load, time.Until(due)) {
		c := s.drawConversation()
		if s.rand.IntN(pageRatio) == 0 {
			s.readNewest(ctx, c, s.plan.conversations[c].members[s.rand.IntN(authors)])
		}
		if s.rand.IntN(changeRatio) > 0 || !s.change(ctx, c, s.drawFate()) {
			author := s.plan.conversations[c].members[s.rand.IntN(authors)]
			s.send(ctx, c, author, s.drawFate())
		}
		due = s.next(due, interval)
	}
}

// next returns when the next operation is due. After an outage it skips what was due meanwhile: to
// catch up would be a storm of requests.
func (s *sender) next(due time.Time, interval time.Duration) time.Time {
	due = due.Add(interval/2 + time.Duration(s.rand.Int64N(int64(interval))))
	if late := time.Now().Add(-interval); due.Before(late) {
		return late
	}
	return due
}

// drawConversation draws a conversation by weight.
func (s *sender) drawConversation() int {
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

const sendQuery = `mutation ($in: SendMessageInput!) { sendMessage(input: $in) { message { id seq content createdAt }
	userErrors { code message } } }`

var errNoMessage = errors.New("neither a message nor userErrors")

// send sends one message until it is known to be stored.
func (s *sender) send(ctx context.Context, conversation, author int, f fate) {
	s.sent++
	key := fmt.Sprintf("m%d-%d", s.number, s.sent)
	content := key + " " + strings.Repeat("x", 1+s.plan.conversations[conversation].padding)
	id, short := s.conversations[conversation], brief(content)
	p := s.people[author]
	in := map[string]any{"conversationId": id, "content": content, "idempotencyKey": key}
	node := s.rand.IntN(s.nodes.count())

	restores := s.history.restoresSoFar()
	s.history.sending(id, short, time.Now())
	sending := judge.Record{
		Process: s.process(), Function: judge.Send, Conversation: id, Key: key, Value: short,
		User: p.id,
	}
	op := s.invoke(sending)
	times := 1
	switch f {
	case cutFirst:
		s.cutShort(ctx, node, p, sendQuery, in, op)
	case sendTwice:
		times = 2
	default:
	}
	var sent message
	for i := range times {
		if i > 0 {
			op = s.invoke(sending)
		}
		var answer struct{ Message *message }
		err := p.do(ctx, node, sendQuery, in, &answer, s.retried(op))
		if err == nil && answer.Message == nil {
			err = errNoMessage
		}
		if err != nil {
			op.fail(err)
			s.history.failed(id, short, err)
			return
		}
		answer.Message.Content = brief(answer.Message.Content)
		sent = *answer.Message
		op.OK(judge.Record{Seq: sent.Seq, ID: sent.ID})
		s.history.acknowledged(id, sent, short, time.Now())
		node++
	}
	s.pool.put(conversation, &pooledMessage{
		restores: restores,
		id:       sent.ID, key: key, author: author, reactions: map[action]bool{},
	})
}

// cutShort begins a request and does not wait for its answer. The caller repeats it.
func (s *sender) cutShort(
	ctx context.Context, node int, p *person, query string, in any, op *operation,
) {
	timeout := time.Duration(s.rand.Int64N(int64(20 * time.Millisecond)))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var answer struct{ Message *message }
	if _, token, err := p.main.signIn(ctx, node); err == nil {
		_ = s.client.execute(ctx, node, token, query, map[string]any{"in": in}, &answer)
		s.retried(op)(errNotAwaited)
	}
}

var errNotAwaited = errors.New("the client did not wait for the answer")

// process names the sender in the history file.
func (s *sender) process() string { return fmt.Sprint("sender ", s.number+1) }

// retried returns what to call before an attempt of an operation is repeated.
func (s *sender) retried(op *operation) func(why error) {
	return func(why error) {
		op.unknown(why)
		s.history.retried()
	}
}

// brief abbreviates a content to its key, length and checksum, so that a long run needs little
// memory.
func brief(content string) string {
	if content == "" { // of a deleted message
		return ""
	}
	key, _, _ := strings.Cut(content, " ")
	return fmt.Sprintf("%.40s %d %08x", key, len(content), crc32.ChecksumIEEE([]byte(content)))
}

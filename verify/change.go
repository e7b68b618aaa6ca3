package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// changesIn is in how many operations of the senders one changes a message instead of sending one.
const changesIn = 5

// posted are the newest messages of each conversation, for being changed, each by one sender at a
// time: so it is known what comes of two changes.
type posted struct {
	mu   sync.Mutex // guards what follows
	free [][]*post  // by conversation, the oldest first
}

// post is a message that may be changed.
type post struct {
	id       string
	key      string
	author   int
	version  int
	editedAt *time.Time
	reacted  map[deed]bool // who has put what to it; true while it may be taken back
}

// keptPosts of a conversation can be changed.
const keptPosts = 20

func newPosted(conversations int) *posted { return &posted{free: make([][]*post, conversations)} }

func (p *posted) add(conversation int, m *post) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := append(p.free[conversation], m)
	p.free[conversation] = list[max(0, len(list)-keptPosts):]
}

// take has nobody else change a message, until it is added again; nil where there is none.
func (p *posted) take(conversation int, r *rand.Rand) *post {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.free[conversation]
	if len(list) == 0 {
		return nil
	}
	i := r.IntN(len(list))
	m := list[i]
	p.free[conversation] = slices.Delete(list, i, i+1)
	return m
}

const (
	changedFields = `message { id seq content editedAt deletedAt } userErrors { code message } } }`

	editQuery    = `mutation ($in: EditMessageInput!) { editMessage(input: $in) { ` + changedFields
	deleteQuery  = `mutation ($in: DeleteMessageInput!) { deleteMessage(input: $in) { ` + changedFields
	reactQuery   = `mutation ($in: AddReactionInput!) { addReaction(input: $in) { ` + changedFields
	unreactQuery = `mutation ($in: RemoveReactionInput!) { removeReaction(input: $in) { ` + changedFields
)

func emojis() []string { return []string{"👍", "🎉", "😀"} }

// change changes a message until it is known to be changed. It reports false where there is none to
// change.
func (s *sender) change(ctx context.Context, conversation, fate int) bool {
	p := s.posted.take(conversation, s.rand)
	if p == nil {
		return false
	}
	switch n := s.rand.IntN(10); {
	case n < 4:
		s.react(ctx, conversation, p, fate)
	case n < 6:
		s.takeBack(ctx, conversation, p, fate)
	case n < 9:
		s.edit(ctx, conversation, p, fate)
	default:
		s.delete(ctx, conversation, p, fate)
		return true // nothing can be done to it any more
	}
	s.posted.add(conversation, p)
	return true
}

// react puts an emoji to a message, one that was not there before.
func (s *sender) react(ctx context.Context, conversation int, p *post, fate int) {
	members := s.plan.conversations[conversation].members
	by := members[s.rand.IntN(authors)]
	d := deed{reactionAdded, p.id, s.people[by].id, emojis()[s.rand.IntN(len(emojis()))]}
	if _, there := p.reacted[d]; there {
		return
	}
	in := map[string]any{"messageId": p.id, "emoji": d.emoji}
	_, sure := s.perform(ctx, conversation, by, d, reactQuery, in, "", fate)
	// Where a try may still be under way, it must not find that the reaction is gone, and put it
	// there again.
	p.reacted[d] = sure
}

// takeBack takes a reaction back.
func (s *sender) takeBack(ctx context.Context, conversation int, p *post, fate int) {
	for _, by := range s.plan.conversations[conversation].members[:authors] {
		for _, emoji := range emojis() {
			d := deed{reactionAdded, p.id, s.people[by].id, emoji}
			if !p.reacted[d] {
				continue
			}
			p.reacted[d] = false
			d.kind = reactionRemoved
			s.perform(ctx, conversation, by, d, unreactQuery, map[string]any{"messageId": p.id, "emoji": emoji}, "", fate)
			return
		}
	}
}

// edit gives a message another content. A try that is late finds that the message is edited since,
// and does nothing.
func (s *sender) edit(ctx context.Context, conversation int, p *post, fate int) {
	p.version++
	content := fmt.Sprintf("%s/%d %s", p.key, p.version, strings.Repeat("y", 1+s.plan.conversations[conversation].padding))
	in := map[string]any{"messageId": p.id, "content": content, "expectedEditedAt": p.editedAt}
	d := deed{kind: messageEdited, message: p.id}
	m, _ := s.perform(ctx, conversation, p.author, d, editQuery, in, brief(content), fate)
	if m != nil {
		p.editedAt = m.EditedAt
	}
}

// delete has the author or the owner delete a message.
func (s *sender) delete(ctx context.Context, conversation int, p *post, fate int) {
	by := []int{p.author, s.plan.conversations[conversation].members[0]}[s.rand.IntN(2)]
	d := deed{kind: messageDeleted, message: p.id}
	s.perform(ctx, conversation, by, d, deleteQuery, map[string]any{"messageId": p.id}, "", fate)
}

// perform tries until it is known that a deed is done, and reports whether no try was left without
// an answer. Of a few the first try is cut.
func (s *sender) perform(
	ctx context.Context, conversation, by int, d deed, query string, in any, content string, fate int,
) (m *message, sure bool) {
	id, p := s.conversations[conversation], s.people[by]
	node := s.rand.IntN(s.nodes.count())
	sure = true
	s.ledger.changing(id, d, content, time.Now())
	if fate == 0 {
		sure = false
		s.cutShort(ctx, node, p, query, in)
	}
	var answer struct{ Message *message }
	err := p.do(ctx, node, query, in, &answer, func(error) {
		sure = false
		s.ledger.retried()
	})
	if err == nil && answer.Message == nil {
		err = errors.New("neither a message nor userErrors")
	}
	if err != nil {
		s.ledger.gaveUp(id, fmt.Sprint(d), err)
		return nil, false
	}
	answer.Message.Content = brief(answer.Message.Content)
	s.ledger.changed(id, d, *answer.Message, content)
	return answer.Message, sure
}

// cutShort begins a request and does not wait for its answer. Whatever comes of it: it is made
// again.
func (s *sender) cutShort(ctx context.Context, node int, p *person, query string, in any) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.rand.Int64N(int64(20*time.Millisecond))))
	defer cancel()
	var answer struct{ Message *message }
	if _, token, err := p.main.signIn(ctx, node); err == nil {
		_ = s.client.ask(ctx, node, token, query, map[string]any{"in": in}, &answer)
		s.ledger.retried()
	}
}

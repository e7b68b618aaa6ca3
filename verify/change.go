package verify

import (
	"context"
	"fmt"
	"strings"
	"time"

	"parley/verify/judge"
)

const (
	changedFields = `message { id seq content createdAt editedAt deletedAt } userErrors { code message } } }`

	editQuery   = `mutation ($in: EditMessageInput!) { editMessage(input: $in) { ` + changedFields
	deleteQuery = `mutation ($in: DeleteMessageInput!) { deleteMessage(input: $in) { ` +
		changedFields
	reactQuery   = `mutation ($in: AddReactionInput!) { addReaction(input: $in) { ` + changedFields
	unreactQuery = `mutation ($in: RemoveReactionInput!) { removeReaction(input: $in) { ` +
		changedFields
)

func emojis() []string { return []string{"👍", "🎉", "😀"} }

// change changes a message until it is known to be changed. It reports false if there is none to
// change.
func (s *sender) change(ctx context.Context, conversation int, f fate) bool {
	m := s.pool.get(conversation, s.rand, s.history.restoresSoFar())
	if m == nil {
		return false
	}
	switch n := s.rand.IntN(10); {
	case n < 4:
		s.addReaction(ctx, conversation, m, f)
	case n < 6:
		s.removeReaction(ctx, conversation, m, f)
	case n < 9:
		s.edit(ctx, conversation, m, f)
	default:
		s.delete(ctx, conversation, m, f)
		return true // a deleted message cannot be changed again
	}
	s.pool.put(conversation, m)
	return true
}

// addReaction adds a reaction that was not tried before.
func (s *sender) addReaction(ctx context.Context, conversation int, m *pooledMessage, f fate) {
	members := s.plan.conversations[conversation].members
	by := members[s.rand.IntN(authors)]
	a := action{reactionAdded, m.id, s.people[by].id, emojis()[s.rand.IntN(len(emojis()))]}
	if _, tried := m.reactions[a]; tried {
		return
	}
	in := map[string]any{"messageId": m.id, "emoji": a.emoji}
	_, sure := s.perform(ctx, conversation, m, by, a, reactQuery, in, "", f)
	// An attempt without an answer may still be executed later. It would add the reaction again if
	// it was removed by then.
	m.reactions[a] = sure
}

// removeReaction removes the first reaction that may be removed.
func (s *sender) removeReaction(ctx context.Context, conversation int, m *pooledMessage, f fate) {
	for _, by := range s.plan.conversations[conversation].members[:authors] {
		for _, emoji := range emojis() {
			a := action{reactionAdded, m.id, s.people[by].id, emoji}
			if !m.reactions[a] {
				continue
			}
			m.reactions[a] = false
			a.kind = reactionRemoved
			in := map[string]any{"messageId": m.id, "emoji": emoji}
			s.perform(ctx, conversation, m, by, a, unreactQuery, in, "", f)
			return
		}
	}
}

// edit gives a message a new content. expectedEditedAt makes a late attempt fail if the message was
// edited since.
func (s *sender) edit(ctx context.Context, conversation int, m *pooledMessage, f fate) {
	m.edits++
	padding := strings.Repeat("y", 1+s.plan.conversations[conversation].padding)
	content := fmt.Sprintf("%s/%d %s", m.key, m.edits, padding)
	in := map[string]any{"messageId": m.id, "content": content, "expectedEditedAt": m.editedAt}
	a := action{kind: messageEdited, message: m.id}
	if changed, _ := s.perform(ctx, conversation, m, m.author, a, editQuery, in, brief(content),
		f); changed != nil {
		m.editedAt = changed.EditedAt
	}
}

// delete deletes a message as its author or as the owner.
func (s *sender) delete(ctx context.Context, conversation int, m *pooledMessage, f fate) {
	by := []int{m.author, s.plan.conversations[conversation].members[0]}[s.rand.IntN(2)]
	a := action{kind: messageDeleted, message: m.id}
	in := map[string]any{"messageId": m.id}
	s.perform(ctx, conversation, m, by, a, deleteQuery, in, "", f)
}

// perform repeats an action until it is known to be done. It returns the message, or nil if that
// failed, and whether every attempt was answered.
func (s *sender) perform(
	ctx context.Context, conversation int, of *pooledMessage, by int, a action, query string,
	in any, content string, f fate,
) (m *message, sure bool) {
	id, p := s.conversations[conversation], s.people[by]
	node := s.rand.IntN(s.nodes.count())
	sure = true
	s.history.changing(id, a, content, time.Now())
	op := s.invoke(judge.Record{
		Process: s.process(), Function: functions()[a.kind], Conversation: id, ID: a.message,
		Value: content, User: p.id,
	})
	if f == cutFirst {
		sure = false
		s.cutShort(ctx, node, p, query, in, op)
	}
	var answer struct{ Message *message }
	err := p.do(ctx, node, query, in, &answer, func(why error) {
		sure = false
		s.retried(op)(why)
	})
	if err == nil && answer.Message == nil {
		err = errNoMessage
	}
	if err != nil {
		op.fail(err)
		if of.restores == s.history.restoresSoFar() { // else the message may be undone
			s.history.failed(id, fmt.Sprint(a), err)
		}
		return nil, false
	}
	op.OK(judge.Record{})
	answer.Message.Content = brief(answer.Message.Content)
	s.history.changed(id, a, *answer.Message, content, time.Now())
	return answer.Message, sure
}

// functions are the names of changes in the history file, by the kind of the event.
func functions() map[string]judge.Function {
	return map[string]judge.Function{
		messageEdited: judge.Edit, messageDeleted: judge.Delete, reactionAdded: judge.React,
		reactionRemoved: judge.Unreact, memberAdded: judge.Add, memberRemoved: judge.Remove,
	}
}

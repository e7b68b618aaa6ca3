package verify

import (
	"context"
	"errors"
	"fmt"

	api "parley/internal/client"
	"parley/verify/judge"
)

const createQuery = `mutation ($in: CreateConversationInput!) { createConversation(input: $in) {
	conversation { id } userErrors { code message } } }`

// createConversation creates a conversation of the plan.
func (v *verification) createConversation(ctx context.Context, i int) error {
	c := v.plan.conversations[i]
	owner := v.people[c.members[0]]
	var ids []string
	var members []any
	for _, m := range c.members[1:] {
		ids = append(ids, v.people[m].id)
		members = append(members, map[string]any{"userId": v.people[m].id})
	}
	visibility := "FROM_START"
	if c.fromJoining {
		visibility = "FROM_JOINING"
	}
	in := map[string]any{
		"title": title(i), "members": members, "historyVisibility": visibility,
	}
	var answer struct{ Conversation *struct{ ID string } }
	err := owner.do(ctx, i, createQuery, in, &answer, nil)
	switch {
	case codeOf(err) == api.Forbidden:
		return fmt.Errorf("createConversation: %w: %w", errClosed, err)
	case err != nil:
		return fmt.Errorf("createConversation: %w", err)
	case answer.Conversation == nil:
		return errors.New("createConversation: the answer has no conversation")
	}
	v.conversations[i] = answer.Conversation.ID
	v.history.created(v.conversations[i], c.fromJoining, append(ids, owner.id)...)
	v.records.Write(judge.Record{
		Type: judge.Conversation, Conversation: v.conversations[i], FromJoining: c.fromJoining,
		Members: append(ids, owner.id),
	})
	return nil
}

// listEvents follows the events of a conversation as its owner, from the first to the end of
// replay.
func (v *verification) listEvents(ctx context.Context, i int) (all []event, err error) {
	owner := v.people[v.plan.conversations[i].members[0]]
	err = v.client.retry(ctx, i, func(node int) error {
		all, err = v.replay(ctx, owner, v.conversations[i], node)
		return err
	}, nil)
	return all, err
}

func (v *verification) replay(
	ctx context.Context, p *person, id string, node int,
) (all []event, err error) {
	_, token, err := p.main.signIn(ctx, node)
	if err != nil {
		return nil, err
	}
	l, err := dial(ctx, v.nodes.url(node), overWebSocket, false, unlimited)
	if err != nil {
		return nil, unknown("%v", err)
	}
	defer l.close()
	if err := l.open(ctx, token); err != nil {
		p.main.invalidate(token)
		return nil, unknown("%v", err)
	}
	follow := api.Operation{Query: conversationQuery, Variables: map[string]any{"c": id, "s": 0}}
	stream := "log of " + id
	v.follow(stream, ofConversation, id, p.id, 0, true)
	if err := l.subscribe(ctx, onlyID, follow); err != nil {
		return nil, unknown("%v", err)
	}
	for {
		m, err := l.next(ctx, answerTimeout)
		if err != nil {
			return nil, unknown("%v", err)
		}
		if m.ID != onlyID {
			continue
		}
		it, list, err := readItem(m)
		switch {
		case m.Type != api.TypeNext || err != nil || it == nil:
			return nil, unknown("%s %s %v %v", m.Type, quoted(string(m.Payload)), list, err)
		case it.Kind == caughtUp:
			return all, nil
		}
		it.conversation = id
		v.deliver(stream, *it)
		all = append(all, it.event)
	}
}

// onlyID is the id of the operation on a connection that carries no other.
const onlyID = "1"

// title names a conversation in the database.
func title(i int) string { return fmt.Sprintf("Verify %d", i+1) }

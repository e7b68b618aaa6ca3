package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// rights changes who may see what, and tries what is not allowed.
type rights struct{ *world }

const (
	removeQuery = `mutation ($in: RemoveMemberInput!) { removeMember(input: $in) { conversation { lastSeq } userErrors { code message } } }`
	addQuery    = `mutation ($in: AddMembersInput!) { addMembers(input: $in) { conversation { lastSeq } userErrors { code message } } }`
	revokeQuery = `mutation ($in: RevokeSessionInput!) { revokeSession(input: $in) { userErrors { code message } } }`
	peekQuery   = `query ($in: ID!) { conversation(id: $in) { lastSeq } }`
)

// churnAll removes members of one conversation and adds them again, one after the other.
func (r rights) churnAll(ctx, load context.Context, list []churn) {
	for _, c := range list {
		if !wait(load, time.Until(r.began.Add(c.at))) {
			return
		}
		if err := r.churn(ctx, c); err != nil {
			r.ledger.gaveUp(r.conversations[c.conversation], "the change of members", err)
			return
		}
	}
}

func (r rights) churn(ctx context.Context, c churn) error {
	id, p := r.conversations[c.conversation], r.people[c.person]
	owner := r.people[r.plan.conversations[c.conversation].members[0]]

	r.ledger.removing(id, p.id)
	in := map[string]any{"conversationId": id, "userId": p.id}
	removed, err := r.change(ctx, owner, id, removeQuery, in, "NOT_FOUND")
	if err != nil {
		return fmt.Errorf("remove a member: %w", err)
	}
	r.ledger.removed(id, p.id, removed)

	r.tryAsRemoved(ctx, c)
	if !wait(ctx, c.away) {
		return errOver
	}
	r.ledger.adding(id, p.id)
	in = map[string]any{"conversationId": id, "members": []any{map[string]any{"userId": p.id}}}
	added, err := r.change(ctx, owner, id, addQuery, in, "ALREADY_MEMBER")
	if err != nil {
		return fmt.Errorf("add a member: %w", err)
	}
	r.ledger.added(id, p.id, added)
	return nil
}

// change makes one change of the members, and finds out at which seq. done is the code that says
// that a try whose answer was lost has made it; then the seq lies between two.
func (r rights) change(ctx context.Context, owner *person, id, query string, in any, done string) (at span, err error) {
	floor := r.ledger.floorOf(id)
	unsure := false
	var answer struct{ Conversation *struct{ LastSeq int64 } }
	err = owner.do(ctx, 0, query, in, &answer, func(error) { unsure = true })
	if err == nil && answer.Conversation != nil {
		return span{answer.Conversation.LastSeq, answer.Conversation.LastSeq}, nil
	}
	if err != nil && (!unsure || codeOf(err) != done) {
		return span{}, err
	}
	var now struct{ LastSeq int64 }
	err = owner.do(ctx, 0, peekQuery, id, &now, nil)
	return span{floor + 1, now.LastSeq}, err
}

// tryAsRemoved does what only members may. It runs while nobody changes the membership.
func (r rights) tryAsRemoved(ctx context.Context, c churn) {
	id, p := r.conversations[c.conversation], r.people[c.person]
	var answer struct{ Message *message }
	in := map[string]any{"conversationId": id, "content": "from outside"}
	err := p.do(ctx, c.conversation, sendQuery, in, &answer, nil)
	if err == nil {
		r.ledger.admitted(p.name, id, "NOT_FOUND for a message of somebody who was removed", fmt.Sprint("it was stored: ", answer.Message))
	}
	r.peek(ctx, p, id, "somebody who was removed")
}

// peek asks for a conversation that is not to be seen.
func (r rights) peek(ctx context.Context, p *person, id, who string) {
	var seen *struct{ LastSeq int64 }
	if err := p.do(ctx, len(id), peekQuery, id, &seen, nil); err == nil && seen != nil {
		r.ledger.admitted(p.name, id, "null for "+who, fmt.Sprintf("the conversation, at seq %d", seen.LastSeq))
	}
}

// stranger tries to follow one conversation after the other that it is not in.
func (r rights) stranger(ctx context.Context, p *person) {
	name := p.name + ", a stranger"
	everything := r.ledger.everything(name, p.id)
	for i := 0; wait(ctx, 500*time.Millisecond); i++ {
		id := r.conversations[i%len(r.conversations)]
		r.peek(ctx, p, id, "a stranger")
		how := []transport{overWebSocket, overSSE}[i%2]
		switch i % 3 {
		case 0:
			r.listenAt(ctx, p, r.ledger.stream(name, id, p.id, false), how, i)
		case 1:
			r.listenAt(ctx, p, r.ledger.stream(name, id, p.id, true), how, i)
		default:
			r.listenAt(ctx, p, everything, how, i)
		}
	}
}

// listenAt follows for a moment, from outside.
func (r rights) listenAt(ctx context.Context, p *person, outside track, how transport, node int) {
	session, token, err := p.main.signIn(ctx, node)
	if err != nil {
		return
	}
	s, err := dial(ctx, r.nodes.url(node), how, false, uncut)
	if err != nil {
		return
	}
	defer s.close()
	query, variables, _ := outside.ask()
	sub := outside.subscribing(session)
	if s.open(ctx, token) != nil || s.operate(ctx, "1", query, variables) != nil {
		return
	}
	for {
		f, err := s.next(ctx, time.Second)
		if err != nil || f.ID == "1" && f.Type != "next" {
			return
		}
		if f.ID != "1" {
			continue
		}
		if it, _, err := f.delivered(); err == nil && it != nil {
			sub.receive(*it, time.Now())
		}
	}
}

// revokeAll ends sessions of followers.
func (r rights) revokeAll(ctx, load context.Context) {
	for _, v := range r.plan.revocations {
		if !wait(load, time.Until(r.began.Add(v.at))) {
			return
		}
		f := r.followers[v.follower]
		id, token, err := f.device.signIn(ctx, v.follower)
		if err != nil {
			continue
		}
		err = f.device.person.do(ctx, v.follower, revokeQuery, map[string]any{"sessionId": id}, nil, nil)
		// which a try whose answer was lost has left behind
		if err != nil && codeOf(err) != "NOT_FOUND" {
			r.ledger.gaveUp(f.conversation, "the end of a session", err)
			continue
		}
		ended := time.Now()
		r.ledger.ended(id, ended)
		f.stream.note(ended, "its session %s is ended, by another of the person's", id)
		r.background.Go(func() { r.tryEnded(ctx, f, token) })
	}
}

// tryEnded uses the access token of a session that has ended, on every node, after the time that a
// node has to notice.
func (r rights) tryEnded(ctx context.Context, f *follower, token string) {
	if !wait(ctx, r.ledger.grace) {
		return
	}
	for node := range r.nodes.count() {
		var seen *struct{ User struct{ ID string } }
		err := r.client.ask(ctx, node, token, `{ viewer { user { id } } }`, nil, &seen)
		if err == nil && seen != nil {
			r.ledger.admitted(f.name, f.conversation, "UNAUTHENTICATED for a session that has ended", "an answer over HTTP")
		}
		s, err := dial(ctx, r.nodes.url(node), overWebSocket, false, uncut)
		if err != nil {
			continue
		}
		if err := s.open(ctx, token); err == nil {
			r.ledger.admitted(f.name, f.conversation, "4403 for a session that has ended", "connection_ack")
		}
		s.close()
	}
}

var errNoConversation = errors.New("the server has made no conversation")

// converse makes a conversation of the plan.
func (w *world) converse(ctx context.Context, i int) error {
	c := w.plan.conversations[i]
	owner := w.people[c.members[0]]
	var ids []string
	var members []any
	for _, m := range c.members[1:] {
		ids = append(ids, w.people[m].id)
		members = append(members, map[string]any{"userId": w.people[m].id})
	}
	history := "FROM_START"
	if c.fromJoining {
		history = "FROM_JOINING"
	}
	var answer struct{ Conversation *struct{ ID string } }
	err := owner.do(ctx, i, `mutation ($in: CreateConversationInput!) { createConversation(input: $in) {
		conversation { id } userErrors { code message } } }`,
		map[string]any{"title": fmt.Sprintf("Verify %d", i+1), "members": members, "historyVisibility": history}, &answer, nil)
	if codeOf(err) == "FORBIDDEN" {
		return fmt.Errorf("createConversation: %w: %w", errClosed, err)
	}
	if err != nil {
		return fmt.Errorf("createConversation: %w", err)
	}
	if answer.Conversation == nil {
		return errNoConversation
	}
	w.conversations[i] = answer.Conversation.ID
	w.ledger.opened(w.conversations[i], c.fromJoining, append(ids, owner.id)...)
	return nil
}

// list reads a conversation as its owner sees it, page by page.
func (w *world) list(ctx context.Context, i int) (all []message, err error) {
	owner := w.people[w.plan.conversations[i].members[0]]
	const query = `query ($in: ID!) { conversation(id: $in) { messages(first: 100, after: "AFTER") {
		nodes { id seq content } pageInfo { hasNextPage endCursor } } } }`
	page := strings.ReplaceAll(query, `, after: "AFTER"`, "")
	for {
		var answer *struct {
			Messages struct {
				Nodes    []message
				PageInfo struct {
					HasNextPage bool
					EndCursor   string
				}
			}
		}
		if err := owner.do(ctx, i, page, w.conversations[i], &answer, nil); err != nil {
			return nil, err
		}
		if answer == nil {
			return nil, errors.New("its owner is told that there is no such conversation")
		}
		for _, m := range answer.Messages.Nodes {
			m.Content = brief(m.Content)
			all = append(all, m)
		}
		if !answer.Messages.PageInfo.HasNextPage {
			return all, nil
		}
		page = strings.ReplaceAll(query, "AFTER", answer.Messages.PageInfo.EndCursor)
	}
}

// log follows the events of a conversation as its owner, from the first to the end of replay.
func (w *world) log(ctx context.Context, i int) (all []event, err error) {
	owner := w.people[w.plan.conversations[i].members[0]]
	err = w.client.insist(ctx, i, func(node int) error {
		all, err = w.replay(ctx, owner, w.conversations[i], node)
		return err
	}, nil)
	return all, err
}

func (w *world) replay(ctx context.Context, p *person, id string, node int) (all []event, err error) {
	_, token, err := p.main.signIn(ctx, node)
	if err != nil {
		return nil, err
	}
	s, err := dial(ctx, w.nodes.url(node), overWebSocket, false, uncut)
	if err != nil {
		return nil, unknown("%v", err)
	}
	defer s.close()
	if err := s.open(ctx, token); err != nil {
		p.main.doubt(token)
		return nil, unknown("%v", err)
	}
	if err := s.operate(ctx, "1", conversationQuery, map[string]any{"c": id, "a": 0}); err != nil {
		return nil, unknown("%v", err)
	}
	for {
		f, err := s.next(ctx, answerTimeout)
		if err != nil {
			return nil, unknown("%v", err)
		}
		if f.ID != "1" {
			continue
		}
		it, list, err := f.delivered()
		switch {
		case f.Type != "next" || err != nil || it == nil:
			return nil, unknown("%s %s %v %v", f.Type, quoted(string(f.Payload)), list, err)
		case it.Kind == caughtUp:
			return all, nil
		}
		all = append(all, it.event)
	}
}

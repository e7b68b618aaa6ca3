package verify

import (
	"context"
	"fmt"
	"time"

	api "parley/internal/client"
	"parley/verify/judge"
)

// rights changes what users may see, and tries what they may not do.
type rights struct{ *verification }

const (
	removeQuery = `mutation ($in: RemoveMemberInput!) { removeMember(input: $in) { conversation { lastSeq }
	userErrors { code message } } }`
	addQuery = `mutation ($in: AddMembersInput!) { addMembers(input: $in) { conversation { lastSeq }
	userErrors { code message } } }`
	revokeQuery  = `mutation ($in: RevokeSessionInput!) { revokeSession(input: $in) { userErrors { code message } } }`
	lastSeqQuery = `query ($in: ID!) { conversation(id: $in) { lastSeq } }`

	codeAlreadyMember = "ALREADY_MEMBER"
)

// churnAll removes members of one conversation and adds them again, one after another.
func (r rights) churnAll(ctx, load context.Context, list []churn) {
	for _, c := range list {
		if !wait(load, time.Until(r.began.Add(c.at))) {
			return
		}
		r.steady.RLock()
		err := r.churn(ctx, c)
		r.steady.RUnlock()
		if err != nil {
			r.history.failed(r.conversations[c.conversation], "the change of members", err)
			return
		}
	}
}

func (r rights) churn(ctx context.Context, c churn) error {
	id, p := r.conversations[c.conversation], r.people[c.person]
	owner := r.people[r.plan.conversations[c.conversation].members[0]]

	r.history.removing(id, p.id)
	in := map[string]any{"conversationId": id, "userId": p.id}
	op := r.invokeChange(c, judge.Remove)
	removedAt, err := r.changeMembers(ctx, owner, id, removeQuery, in, api.NotFound, op)
	if err != nil {
		return fmt.Errorf("remove a member: %w", err)
	}
	r.history.removed(id, p.id, removedAt, time.Now())

	r.tryAsRemoved(ctx, c)
	if !wait(ctx, c.away) {
		return errOver
	}
	r.history.adding(id, p.id)
	in = map[string]any{"conversationId": id, "members": []any{map[string]any{"userId": p.id}}}
	op = r.invokeChange(c, judge.Add)
	addedAt, err := r.changeMembers(ctx, owner, id, addQuery, in, codeAlreadyMember, op)
	if err != nil {
		return fmt.Errorf("add a member: %w", err)
	}
	r.history.added(id, p.id, addedAt, time.Now())
	return nil
}

// process names who changes the members of a conversation in the history file.
func (c churn) process() string { return fmt.Sprint("members ", c.conversation+1) }

func (r rights) invokeChange(c churn, f judge.Function) *operation {
	return r.invoke(judge.Record{
		Process: c.process(), Function: f, Conversation: r.conversations[c.conversation],
		User: r.people[c.person].id,
	})
}

// changeMembers makes one change of the members, and returns its seq, or two seqs that it is
// between. The error code done means that an attempt whose answer was lost has made the change.
func (r rights) changeMembers(
	ctx context.Context, owner *person, id, query string, in any, done string, op *operation,
) (at span, err error) {
	before := r.history.confirmedSeq(id)
	var answer struct{ Conversation *struct{ LastSeq int64 } }
	err = owner.do(ctx, 0, query, in, &answer, op.unknown)
	if err == nil && answer.Conversation != nil {
		op.OK(judge.Record{Seq: answer.Conversation.LastSeq})
		return span{answer.Conversation.LastSeq, answer.Conversation.LastSeq}, nil
	}
	if err != nil && (!op.unsure || codeOf(err) != done) {
		op.fail(err)
		return span{}, err
	}
	op.OK(judge.Record{})
	var now struct{ LastSeq int64 }
	err = owner.do(ctx, 0, lastSeqQuery, id, &now, nil)
	return span{before + 1, now.LastSeq}, err
}

// tryAsRemoved tries what only members may do. Nothing changes the membership meanwhile.
func (r rights) tryAsRemoved(ctx context.Context, c churn) {
	id, p := r.conversations[c.conversation], r.people[c.person]
	var answer struct{ Message *message }
	in := map[string]any{"conversationId": id, "content": "from outside"}
	op := r.invoke(judge.Record{
		Process: c.process(), Function: judge.Send, Conversation: id, Value: brief("from outside"),
		User: p.id,
	})
	err := p.do(ctx, c.conversation, sendQuery, in, &answer, op.unknown)
	if err != nil {
		op.fail(err)
	} else {
		op.OK(judge.Record{})
		r.history.leakedTo(p.name, id, "NOT_FOUND for a message of a removed member",
			fmt.Sprint("it was stored: ", answer.Message))
	}
	r.tryToRead(ctx, p, id, "a removed member")
}

// tryToRead queries a conversation that the person may not see.
func (r rights) tryToRead(ctx context.Context, p *person, id, as string) {
	var seen *struct{ LastSeq int64 }
	err := p.do(ctx, len(id), lastSeqQuery, id, &seen, nil)
	if err == nil && seen != nil {
		r.history.leakedTo(p.name, id, "null for "+as,
			fmt.Sprintf("the conversation, at seq %d", seen.LastSeq))
	}
}

// tryAsNonMember tries to follow one conversation after another.
func (r rights) tryAsNonMember(ctx context.Context, p *person) {
	name := p.name + ", a non-member"
	everything := r.history.everything(name, p.id)
	for i := 0; wait(ctx, 500*time.Millisecond); i++ {
		id := r.conversations[i%len(r.conversations)]
		r.tryToRead(ctx, p, id, "a non-member")
		over := []transport{overWebSocket, overSSE}[i%2]
		switch i % 3 {
		case 0:
			r.tryToFollow(ctx, p, r.history.stream(name, id, p.id, false), ofMessages, id, over, i)
		case 1:
			r.tryToFollow(ctx, p, r.history.stream(name, id, p.id, true), ofConversation, id, over,
				i)
		default:
			r.tryToFollow(ctx, p, everything, ofEverything, "", over, i)
		}
	}
}

// tryToFollow follows for a moment, and records what is delivered.
func (r rights) tryToFollow(
	ctx context.Context, p *person, rec recorder, of source, conversation string,
	over transport, node int,
) {
	session, token, err := p.main.signIn(ctx, node)
	if err != nil {
		return
	}
	l, err := dial(ctx, r.nodes.url(node), over, false, unlimited)
	if err != nil {
		return
	}
	defer l.close()
	query, variables, _ := rec.resumption()
	observation := rec.subscribing(session)
	stream := fmt.Sprintf("non-member %s %d", p.id, node)
	r.follow(stream, of, conversation, p.id, 0, false)
	operation := api.Operation{Query: query, Variables: variables}
	if l.open(ctx, token) != nil || l.subscribe(ctx, onlyID, operation) != nil {
		return
	}
	for {
		m, err := l.next(ctx, time.Second)
		if err != nil || m.ID == onlyID && m.Type != api.TypeNext {
			return
		}
		if m.ID != onlyID {
			continue
		}
		if it, _, err := readItem(m); err == nil && it != nil {
			if of != ofEverything {
				it.conversation = conversation
			}
			r.deliver(stream, *it)
			observation.receive(*it, time.Now())
		}
	}
}

// revokeAll ends the sessions of followers.
func (r rights) revokeAll(ctx, load context.Context) {
	for _, v := range r.plan.revocations {
		if !wait(load, time.Until(r.began.Add(v.at))) {
			return
		}
		r.steady.RLock()
		r.revoke(ctx, v)
		r.steady.RUnlock()
	}
}

func (r rights) revoke(ctx context.Context, v revocation) {
	f := r.followers[v.follower]
	id, token, err := f.device.signIn(ctx, v.follower)
	if err != nil {
		return
	}
	in := map[string]any{"sessionId": id}
	err = f.device.person.do(ctx, v.follower, revokeQuery, in, nil, nil)
	// An attempt whose answer was lost may have ended the session: then it is not found.
	if err != nil && codeOf(err) != api.NotFound {
		r.history.failed(f.conversation, "the end of a session", err)
		return
	}
	ended := time.Now()
	r.history.ended(id, ended)
	f.recorder.note(ended, "its session %s is ended by another session", id)
	r.background.Go(func() { r.tryEnded(ctx, f, id, token) })
}

// tryEnded uses the access token of an ended session on every node, after the time that a node has
// to notice the end.
func (r rights) tryEnded(ctx context.Context, f *follower, session, token string) {
	if !wait(ctx, r.history.grace) {
		return
	}
	for node := range r.nodes.count() {
		r.steady.RLock()
		r.tryEndedOn(ctx, node, f, session, token)
		r.steady.RUnlock()
	}
}

func (r rights) tryEndedOn(
	ctx context.Context, node int, f *follower, session, token string,
) {
	if !r.history.hasEnded(session) { // a restore has undone that
		return
	}
	var seen *struct{ User user }
	err := r.client.execute(ctx, node, token, `{ viewer { user { id } } }`, nil, &seen)
	if err == nil && seen != nil {
		r.history.leakedTo(f.name, f.conversation, "UNAUTHENTICATED for an ended session",
			"an answer over HTTP")
	}
	l, err := dial(ctx, r.nodes.url(node), overWebSocket, false, unlimited)
	if err != nil {
		return
	}
	if err := l.open(ctx, token); err == nil {
		r.history.leakedTo(f.name, f.conversation, "4403 for an ended session", api.TypeAck)
	}
	l.close()
}

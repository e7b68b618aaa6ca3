package graph_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/uptrace/bun"

	"parley/store"
	"parley/store/storetest"
)

// afterMembership does something once, after the n-th statement that reads what is hidden from a member.
type afterMembership struct {
	left atomic.Int64
	then func()
}

func (*afterMembership) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context {
	return ctx
}

func (f *afterMembership) AfterQuery(_ context.Context, e *bun.QueryEvent) {
	if strings.HasPrefix(strings.TrimSpace(e.Query), "SELECT") && strings.Contains(e.Query, "hidden_seq") && f.left.Add(-1) == 0 {
		f.then()
	}
}

// repliesIn shows what has to be looked up: who may not see the message that another replies to must not be shown it.
const repliesIn = `subscription($c: ID!, $after: Int) { conversationEvents(conversationId: $c, afterSeq: $after) {
	__typename ... on MessageAdded { message { content replyTo { content } } } } }`

// mustFollowReplies waits until the subscription is live.
func (s *api) mustFollowReplies(who person, id string) operation {
	s.t.Helper()
	o := s.mustDial(who.token, nil).subscribe(repliesIn, obj{"c": id})
	if got := o.next(s.t, "conversationEvents"); got["__typename"] != "CaughtUp" {
		s.t.Fatalf("got %v", got)
	}
	return o
}

// untilReply reads a subscription up to the message "reply", or to its end, and returns all of it.
func (o operation) untilReply() (all string) {
	for {
		f := o.frame()
		all += string(f.Payload)
		if f.Type != "next" || strings.Contains(string(f.Payload), `"reply"`) {
			return all
		}
	}
}

const createFromJoining = `mutation($in: CreateConversationInput!) { createConversation(input: $in) { conversation { id } } }`

func (s *api) mustFromJoining(owner person, others ...person) string {
	s.t.Helper()
	members := list{}
	for _, o := range others {
		members = append(members, obj{"userId": o.id})
	}
	return s.must(owner, createFromJoining, obj{"in": obj{"historyVisibility": "FROM_JOINING", "members": members}}).
		str(s.t, "createConversation.conversation.id")
}

// TestHistoryThatBecomesHiddenIsNotShown removes a member who sees everything, and adds them again without the history, after each
// of the statements with which their subscription begins, and while it is live.
func TestHistoryThatBecomesHiddenIsNotShown(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		hook := new(afterMembership)
		db.Watch(hook)
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		for n := range int64(5) {
			id := s.mustFromJoining(ann, bob)
			secret := s.mustSay(ann, id, "secret")
			anns := s.mustFollowReplies(ann, id)
			again := sync.OnceFunc(func() {
				hook.left.Store(0) // no more of it: what follows reads memberships, too
				s.must(ann, removeMember, obj{"c": id, "u": bob.id})
				s.must(ann, `mutation($c: ID!, $u: ID!) { addMembers(input: {conversationId: $c, members: [{userId: $u}]}) { userErrors { code } } }`,
					obj{"c": id, "u": bob.id})
			})
			hook.then = again
			hook.left.Store(n + 1)
			bobs := s.mustDial(bob.token, nil).subscribe(repliesIn, obj{"c": id})
			first := bobs.frame()
			again()
			s.mustSay(ann, id, "reply", secret)
			if got := string(first.Payload) + bobs.untilReply(); strings.Contains(got, "secret") {
				t.Errorf("after statement %d, bob is shown %s", n+1, got)
			}
			if got := anns.untilReply(); !strings.Contains(got, "secret") {
				t.Errorf("after statement %d, ann is shown %s", n+1, got)
			}
		}
	})
}

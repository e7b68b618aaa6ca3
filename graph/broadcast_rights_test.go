package graph_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/uptrace/bun"

	"parley/store"
	"parley/store/storetest"
)

// afterMembership does something once, after the n-th statement that reads what is hidden from a
// member.
type afterMembership struct {
	left atomic.Int64
	then func()
}

func (*afterMembership) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context {
	return ctx
}

func (f *afterMembership) AfterQuery(_ context.Context, e *bun.QueryEvent) {
	if strings.HasPrefix(strings.TrimSpace(e.Query), "SELECT") &&
		strings.Contains(e.Query, "hidden_seq") && f.left.Add(-1) == 0 {
		f.then()
	}
}

// repliesIn selects the message that another one replies to. It is looked up, and must not be shown
// to a member from whom it is hidden.
const repliesIn = `subscription($c: ID!, $after: Int) {
	conversationEvents(conversationId: $c, afterSeq: $after) {
	__typename ... on MessageAdded { message { content replyTo { content } } } } }`

// mustFollowReplies waits until the subscription is live.
func (s *api) mustFollowReplies(caller person, id string) operation {
	s.t.Helper()
	o := s.mustDial(caller.token, nil).subscribe(repliesIn, obj{"c": id})
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

const createFromJoining = `mutation($in: CreateConversationInput!) {
	createConversation(input: $in) { conversation { id } } }`

func (s *api) mustFromJoining(owner person, others ...person) string {
	s.t.Helper()
	members := list{}
	for _, o := range others {
		members = append(members, obj{"userId": o.id})
	}
	return s.must(owner, createFromJoining, obj{"in": obj{
		"historyVisibility": "FROM_JOINING",
		"members":           members,
	}}).
		str(s.t, "createConversation.conversation.id")
}

// TestHistoryThatBecomesHiddenIsNotShown removes a member who sees everything, and adds them again
// without the history: after each of the statements that start the subscription, and while it is
// live.
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
				hook.left.Store(0) // only once: the steps below read memberships, too
				s.must(ann, removeMember, obj{"c": id, "u": bob.id})
				s.must(ann, addMember, obj{"c": id, "u": bob.id})
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

const addMember = `mutation($c: ID!, $u: ID!) { addMembers(input: {conversationId: $c,
	members: [{userId: $u}]}) { userErrors { code } } }`

// TestEachFollowerIsShownTheirOwn: two followers with the same document may have different answers
// to an event. Each gets their own.
func TestEachFollowerIsShownTheirOwn(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, registered := mustServe(t, db), 0
		for name, test := range map[string]struct {
			variables, selected string
			ann, bob            obj    // the variables
			anns, bobs          string // the answers
			hidden              bool   // the history from before bob joined
		}{
			"a draft": {
				selected: `conversation { draft }`,
				anns:     `{"conversation":{"draft":"ann's"}}`,
				bobs:     `{"conversation":{"draft":"bob's"}}`,
			},
			"a draft, in a fragment": {
				selected: `... on Message { conversation { ... { draft } } }`,
				anns:     `{"conversation":{"draft":"ann's"}}`,
				bobs:     `{"conversation":{"draft":"bob's"}}`,
			},
			"a membership": {
				selected: `conversation { viewerMember { role } }`,
				anns:     `{"conversation":{"viewerMember":{"role":"OWNER"}}}`,
				bobs:     `{"conversation":{"viewerMember":{"role":"MEMBER"}}}`,
			},
			"a condition": {
				variables: `, $if: Boolean!`, selected: `seq content
					@include(if: $if)`, ann: obj{"if": true}, bob: obj{"if": false},
				anns: `"content":"reply"`, bobs: `"seq":`,
			},
			"an argument": {
				variables: `, $n: Int`,
				selected:  `conversation { members(first: $n) { nodes { role } } }`,
				ann:       obj{"n": 1}, bob: obj{"n": 2},
				anns: `{"nodes":[{"role":"OWNER"}]}`,
				bobs: `{"nodes":[{"role":"OWNER"},{"role":"MEMBER"}]}`,
			},
			"hidden history": {
				selected: `replyTo { content }`,
				anns:     `{"replyTo":{"content":"hidden from bob"}}`, bobs: `{"replyTo":null}`,
				hidden: true,
			},
		} {
			var people []person
			for range 3 {
				people = append(people, s.mustRegister(fmt.Sprint("p", registered)))
				registered++
			}
			ann, bob, cat := people[0], people[1], people[2]
			// Both followers get broadcast answers, unless something is hidden from bob.
			id := s.mustConversation(ann, cat)
			if test.hidden {
				id = s.mustFromJoining(ann, cat)
			}
			hidden := s.mustSay(ann, id, "hidden from bob")
			s.must(ann, addMember, obj{"c": id, "u": bob.id})
			s.must(ann, saveDraft+` { userErrors { code } } }`,
				obj{"in": obj{"conversationId": id, "content": "ann's"}})
			s.must(bob, saveDraft+` { userErrors { code } } }`,
				obj{"in": obj{"conversationId": id, "content": "bob's"}})
			query := `subscription($c: ID!` + test.variables +
				`) { conversationEvents(conversationId: $c) {
				__typename ... on MessageAdded { message { ` + test.selected + ` } } } }`
			follow := func(caller person, variables obj) operation {
				in := obj{"c": id}
				maps.Copy(in, variables)
				o := s.mustDial(caller.token, nil).subscribe(query, in)
				o.next(t, "conversationEvents") // CaughtUp
				return o
			}
			anns, bobs := follow(ann, test.ann), follow(bob, test.bob)
			for range 4 { // the first may be answered individually
				s.mustSay(ann, id, "reply", hidden)
				if got := string(anns.frame().Payload); !strings.Contains(got, test.anns) {
					t.Errorf("%s: ann is shown %s", name, got)
				}
				got := string(bobs.frame().Payload)
				if !strings.Contains(got, test.bobs) || test.ann != nil &&
					strings.Contains(got, test.anns) {
					t.Errorf("%s: bob is shown %s", name, got)
				}
			}
		}
	})
}

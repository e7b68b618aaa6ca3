package graph_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/auth"
	"parley/graph"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// TestBetweenADeletionAndItsEnd queries everything that shows users while an account is marked as
// removed, and its data is not cleaned up yet. The user is shown nowhere, and nothing is an error.
// The clean-up then changes events only.
func TestBetweenADeletionAndItsEnd(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var goOn atomic.Bool
		s := mustServe(t, db, func(_ *graph.Options, o *auth.Options) {
			cleanUp := o.CleanUp
			o.CleanUp = func(ctx context.Context, tx *store.Tx, id model.UserID) (bool, error) {
				if !goOn.Load() {
					return false, errors.New("later")
				}
				return cleanUp(ctx, tx, id)
			}
		})
		ann, bob, cat, waker := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("cat"),
			s.mustRegister("waker")
		group := s.mustConversation(bob, ann, cat)
		direct := s.mustDirect(ann, bob)
		s.mustSay(bob, group, "of bob")
		anns := s.mustSay(ann, group, "@bob and @cat")
		s.mustReact(bob, anns, "👍")
		s.mustReact(cat, anns, "👍")
		s.mustRead(bob, group, 3)
		s.mustSay(bob, direct, "secret of bob")
		const look = `query($g: ID!, $d: ID!, $bob: ID!) {
			group: conversation(id: $g) { memberCount owner { nickname }
			members { nodes { user { nickname } } }
				messages { nodes { author { nickname } content mentions { nickname }
					reactions { users { nodes { nickname } } } seenBy { nodes { nickname } } } } }
			direct: conversation(id: $d) { title memberCount members { nodes { user { nickname } } }
			lastMessage { author { nickname } } }
			byID: user(id: $bob) { id } byNickname: user(nickname: "bob") { id }
			node(id: $bob) { id }
			users(search: "bob") { nodes { id } } all: users { nodes { nickname } }
			search: searchMessages(query: "bob", authorId: $bob) { nodes { id } } }`
		variables := obj{"g": group, "d": direct, "bob": bob.id}
		if before := s.must(ann, look, variables); before.str(t, "direct.title") != "bob" ||
			before.str(t, "group.owner.nickname") != "bob" {
			t.Fatalf("before: %+v", before)
		}
		live := s.mustDial(ann.token, nil).subscribe(
			`subscription($g: ID!) { conversationEvents(conversationId: $g, afterSeq: 3) {
				__typename } }`, obj{"g": group})
		next := func(kind string) {
			t.Helper()
			e := live.next(t, "conversationEvents")
			for e["__typename"] == "CaughtUp" {
				e = live.next(t, "conversationEvents")
			}
			if e["__typename"] != kind {
				t.Errorf("got %v, want %s", e, kind)
			}
		}
		next("ReactionAdded")
		next("ReactionAdded")
		s.must(bob, deleteAccount, obj{"in": obj{"password": "a password of bob"}})

		nick := func(names ...any) obj {
			nodes := list{}
			for _, name := range names {
				nodes = append(nodes, obj{"nickname": name})
			}
			return obj{"nodes": nodes}
		}
		members := func(names ...any) obj {
			nodes := list{}
			for _, name := range names {
				nodes = append(nodes, obj{"user": obj{"nickname": name}})
			}
			return obj{"nodes": nodes}
		}
		want := obj{
			"group": obj{
				"memberCount": 2.0, "owner": nil, "members": members("ann", "cat"),
				"messages": obj{"nodes": list{
					obj{
						"author": nil, "content": "of bob", "mentions": list{}, "reactions": list{},
						"seenBy": nick(),
					},
					obj{
						"author": obj{"nickname": "ann"}, "content": "@bob and @cat",
						"mentions":  list{obj{"nickname": "cat"}},
						"reactions": list{obj{"users": nick("cat")}}, "seenBy": nick(),
					},
				}},
			},
			"direct": obj{
				"title": "Deleted account", "memberCount": 1.0, "members": members("ann"),
				"lastMessage": obj{"author": nil},
			},
			"byID": nil, "byNickname": nil, "node": nil, "users": obj{"nodes": list{}},
			"all":    nick("ann", "cat", "waker"),
			"search": obj{"nodes": list{}},
		}
		wantLook := func(what string) {
			t.Helper()
			a := s.must(ann, look, variables)
			if diff := cmp.Diff(map[string]any(want), a.Data); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		wantLook("marked")
		wantCodes := func(what string, a answer, codes ...string) {
			t.Helper()
			if diff := cmp.Diff(codes, a.codes()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		again := obj{"in": obj{"password": "a password of bob"}}
		wantCodes("deleting again", s.do(bob.token, deleteAccount, again), "UNAUTHENTICATED")
		wantCodes("signing in", s.do("",
			`mutation { login(input: {email: "bob@example.org", password: "a password of bob"}) {
			userErrors { code path } } }`, nil), "INVALID_CREDENTIALS input.password")
		wantCodes("refreshing", s.do("",
			`mutation($t: String!) { refreshSession(input: {refreshToken: $t}) {
				userErrors { code path } } }`,
			obj{"t": bob.refresh}), "TOKEN_EXPIRED input.refreshToken")
		wantCodes("writing to them", s.do(ann.token,
			`mutation($id: ID!) { openDirectConversation(input: {userId: $id}) {
			userErrors { code path } } }`, obj{"id": bob.id}), "NOT_FOUND input.userId")
		if other := s.mustRegister("bob"); other.id == bob.id { // with the same address
			t.Errorf("another person has the id %s", other.id)
		}
		s.mustSay(ann, group, "going on")
		next("MessageAdded")

		goOn.Store(true)
		s.must(waker, deleteAccount, obj{"in": obj{"password": "a password of waker"}})
		for _, kind := range []string{
			"ReactionRemoved", "MemberRemoved", "ConversationRenamed",
			"MemberRoleChanged",
		} {
			next(kind)
		}
	})
}

// TestASendDoesNotWaitForARemoval sends a message during the first transaction of a removal, and
// lets the removal go on until the message is stored. In one single transaction it never would be.
func TestASendDoesNotWaitForARemoval(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var send func()
		var once sync.Once
		stored := make(chan bool, 1)
		deadline := time.After(30 * time.Second) // ends a test that would wait forever
		s := mustServe(t, db, func(_ *graph.Options, o *auth.Options) {
			cleanUp := o.CleanUp
			o.CleanUp = func(
				ctx context.Context, tx *store.Tx, id model.UserID,
			) (more bool, err error) {
				once.Do(func() { go send() })
				n, err := tx.NewSelect().Model((*model.Message)(nil)).
					Where("m.content = 'in between'").Count(ctx)
				if err != nil {
					return false, err
				}
				select {
				case <-deadline:
				default:
					if n == 0 {
						return true, nil
					}
				}
				if more, err = cleanUp(ctx, tx, id); err == nil && !more {
					stored <- n == 1
				}
				return more, err
			}
		})
		ann, bob, gone := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("gone")
		id := s.mustConversation(ann, bob)
		s.mustConversation(gone, ann)
		sent := make(chan answer, 1)
		send = func() {
			sent <- s.do(ann.token, sendMessage,
				obj{"in": obj{"conversationId": id, "content": "in between"}})
		}
		s.must(gone, deleteAccount, obj{"in": obj{"password": "a password of gone"}})
		if !<-stored {
			t.Error("the removal has ended, and the message is not stored")
		}
		if a := <-sent; a.codes() != nil {
			t.Errorf("sending: %+v", a)
		}
	})
}

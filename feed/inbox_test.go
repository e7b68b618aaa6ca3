package feed_test

import (
	"context"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"parley/chat"
	"parley/chat/chattest"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// listening takes what a sequence yields on a goroutine, one item at a time: so the sequence starts
// before the test takes an item, and the goroutine holds one item while the test takes none.
type listening[T comparable] struct {
	t     *testing.T
	items chan T
	ended chan error
}

func listen[T comparable](
	t *testing.T, seq func(context.Context) iter.Seq2[T, error],
) *listening[T] {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), chattest.Patience)
	l := &listening[T]{t: t, items: make(chan T), ended: make(chan error, 1)}
	var running sync.WaitGroup
	running.Go(func() {
		for item, err := range seq(ctx) {
			if err != nil {
				l.ended <- err
				return
			}
			select {
			case l.items <- item:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return l
}

func (l *listening[T]) next() T {
	l.t.Helper()
	select {
	case item := <-l.items:
		return item
	case err := <-l.ended:
		l.t.Fatalf("got the end: %v", err)
		panic("unreachable")
	}
}

func (l *listening[T]) want(items ...T) {
	l.t.Helper()
	for _, want := range items {
		if got := l.next(); got != want {
			l.t.Fatalf("got %+v, want %+v", got, want)
		}
	}
}

// listenToInbox listens to an inbox, once it follows these conversations.
func (w *fixture) listenToInbox(
	t *testing.T, nickname string, has ...*model.Conversation,
) *listening[feed.InboxChange] {
	t.Helper()
	l := listen(t, func(ctx context.Context) iter.Seq2[feed.InboxChange,
		error] {
		return w.Inbox(ctx, w.Actors[nickname])
	})
	for _, c := range has {
		chattest.WaitUntil(t, "it listens", func() bool {
			f := w.FeedOf(c.ID)
			return f != nil && slices.ContainsFunc(f.Followers(), func(fo feed.FollowerState) bool {
				return fo.Actor == w.Actors[nickname]
			})
		})
	}
	return l
}

func TestAnInboxYieldsEachChangedEntryOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		a, b, last := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ann", "ben")
		l := w.listenToInbox(t, "ben", a, b, last)
		for _, c := range []*model.Conversation{a, b} {
			w.SendMany("ann", c.ID, feed.FollowQueue+20)
			if _, err := w.MarkRead(t.Context(), w.Actor("ben"), c.ID, 10); err != nil {
				t.Fatal(err)
			}
			if _, err := w.SaveDraft(t.Context(), w.Actor("ben"), c.ID, "a draft"); err != nil {
				t.Fatal(err)
			}
			f := w.FeedOf(c.ID)
			chattest.WaitUntil(t, "all is handed on",
				func() bool { return f.Edge() == 1+feed.FollowQueue+20 })
		}
		w.Send("ann", last.ID, "the last")
		yielded := map[model.ConversationID]int{}
		for yielded[last.ID] == 0 || yielded[b.ID] == 0 {
			yielded[l.next().ConversationID]++
		}
		// One that the listener holds, one for the messages, and one for ben's own changes.
		if yielded[a.ID] < 1 || yielded[a.ID] > 3 || yielded[b.ID] < 1 || yielded[b.ID] > 2 {
			t.Errorf("yielded a %d times, and b %d times", yielded[a.ID], yielded[b.ID])
		}
	})
}

func TestAnInboxYieldsTheActorsOwnChanges(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, nodes *twoNodes) {
		here, there := nodes.Nodes[0], nodes.Nodes[1]
		ctx, ben := t.Context(), here.Actor("ben")
		c, other := chattest.MustConversation(t, here.Fixture, "ann", "ben"),
			chattest.MustConversation(t, here.Fixture, "ann", "ben")
		here.SendMany("ann", c.ID, 3)
		l := here.listenToInbox(t, "ben", c, other)
		until := time.Now().Add(time.Hour)
		for i, do := range []func() error{
			func() error { _, err := there.MarkRead(ctx, ben, c.ID, 2); return err },
			func() error { _, err := there.MarkRead(ctx, ben, c.ID, 3); return err },
			func() error {
				_, err := there.UpdateMembership(ctx, ben,
					chat.UpdateMembership{ConversationID: c.ID, MutedUntil: &until})
				return err
			},
			func() error {
				_, err := there.UpdateMembership(ctx, ben,
					chat.UpdateMembership{ConversationID: c.ID, Archived: new(true)})
				return err
			},
			func() error {
				_, err := there.UpdateMembership(ctx, ben,
					chat.UpdateMembership{ConversationID: c.ID, Pinned: new(true)})
				return err
			},
			func() error { _, err := there.SaveDraft(ctx, ben, c.ID, "a draft"); return err },
		} {
			if err := do(); err != nil {
				t.Fatalf("%d: %v", i, err)
			}
			l.want(feed.InboxChange{c.ID, false})
		}
		there.Send("ann", other.ID, "nothing was yielded twice")
		l.want(feed.InboxChange{other.ID, false})
	})
}

// isFollowed reports whether a conversation has a follower whose membership is the current one.
func (w *fixture) isFollowed(id model.ConversationID) bool {
	f := w.FeedOf(id)
	return f != nil && slices.ContainsFunc(f.Followers(), func(fo feed.FollowerState) bool {
		return !fo.Removed && fo.Checked == w.LastSeq(id)
	})
}

func TestAnInboxYieldsJoinsAndRemovals(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, nodes *twoNodes) {
		here, there := nodes.Nodes[0], nodes.Nodes[1]
		c := chattest.MustConversation(t, here.Fixture, "ann", "ben")
		l := here.listenToInbox(t, "ben", c)
		for range 3 {
			there.RemoveBen(c)
			// the change may be yielded once more
			for l.next() != (feed.InboxChange{c.ID, true}) {
			}
			there.AddBen(c)
			l.want(feed.InboxChange{c.ID, false})
			// The inbox may have yielded it before it saw the addition. It does not yield an
			// addition that ends before it sees it.
			here.Eventually(func() bool { return here.isFollowed(c.ID) })
		}
		// Both at once: it yields both, or only the addition.
		there.RemoveBen(c)
		there.AddBen(c)
		for l.next() != (feed.InboxChange{c.ID, false}) {
		}
		created := chattest.MustConversation(t, there.Fixture, "ann", "ben")
		for l.next().ConversationID != created.ID { // the feed of the other may be behind the entry
		}
		ended := chattest.MustConversation(t, there.Fixture, "ben", "cleo")
		for l.next().ConversationID != ended.ID {
		}
		for _, name := range []string{"cleo", "ben"} {
			if err := there.Leave(t.Context(), there.Actor(name), ended.ID); err != nil {
				t.Fatal(err)
			}
		}
		for l.next() != (feed.InboxChange{ended.ID, true}) {
		}
		there.Send("ann", created.ID, "still there")
		for {
			got := l.next()
			if got == (feed.InboxChange{created.ID, false}) {
				break
			}
			if got.ConversationID == ended.ID {
				t.Fatalf("after its end: %+v", got)
			}
		}
	})
}

func TestJoinedIsYieldedOnce(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, nodes *twoNodes) {
		here := nodes.Nodes[0]
		ctx := t.Context()
		ann, ben := here.Actor("ann"), here.Actor("ben")
		before := chattest.MustConversation(t, here.Fixture, "ann", "ben")
		l := listen(t, func(ctx context.Context) iter.Seq2[model.ConversationID,
			error] {
			return here.Joined(ctx, ben)
		})
		chattest.WaitUntil(t, "it listens",
			func() bool {
				return slices.Contains(here.MembershipHints().Topics(),
					feed.UserTopic(ben.UserID))
			})
		// A conversation that is joined between the subscription and the first read may be yielded
		// or not.
		first := map[model.ConversationID]bool{}
		for yielded := false; !yielded; {
			first[chattest.MustConversation(t, here.Fixture, "ann", "ben").ID] = true
			select {
			case id := <-l.items:
				yielded = first[id]
				delete(first, id)
			case <-time.After(chattest.ReconcileSoon):
			}
		}
		want := func(want model.ConversationID) {
			t.Helper()
			got := l.next()
			for ; first[got]; got = l.next() {
				delete(first, got)
			}
			chattest.WantEqual(t, "joined", want, got)
		}
		for _, w := range nodes.Nodes {
			group := chattest.MustConversation(t, w.Fixture, "ann", "cleo")
			for what, join := range map[string]func() (*model.Conversation, error){
				"created by another": func() (*model.Conversation,
					error,
				) {
					return chattest.MustConversation(t, w.Fixture, "ann", "ben"), nil
				},
				"created by oneself": func() (*model.Conversation,
					error,
				) {
					return chattest.MustConversation(t, w.Fixture, "ben", "ann"), nil
				},
				"added": func() (*model.Conversation, error) {
					_, err := w.AddMembers(ctx, ann, group.ID, w.NewMembers("ben"))
					return group, err
				},
				"back": func() (*model.Conversation, error) {
					w.RemoveBen(before)
					w.AddBen(before)
					return before, nil
				},
			} {
				c, err := join()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				w.Send("ann", c.ID, "which is no joining")
				want(c.ID)
			}
		}
		direct, err := nodes.Nodes[1].OpenDirect(ctx, here.Actor("cleo"), ben.UserID)
		if err != nil {
			t.Fatal(err)
		}
		want(direct.ID)
		if _, err := here.OpenDirect(ctx, ben, here.Actor("cleo").UserID); err != nil {
			t.Fatal(err)
		}
		last := chattest.MustConversation(t, here.Fixture, "ann", "ben")
		want(last.ID)
	})
}

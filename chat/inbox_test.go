package chat

import (
	"context"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// listening takes what a sequence yields one at a time, beside the test: so it has begun before the
// first is asked for, and holds one item in its hand while nobody asks.
type listening[T comparable] struct {
	t     *testing.T
	items chan T
	ended chan error
}

func listen[T comparable](t *testing.T, seq func(context.Context) iter.Seq2[T, error]) *listening[T] {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
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

// listenToInbox begins to listen to an inbox that has these conversations.
func (w *world) listenToInbox(t *testing.T, nickname string, has ...*model.Conversation) *listening[InboxChange] {
	t.Helper()
	l := listen(t, func(ctx context.Context) iter.Seq2[InboxChange, error] { return w.Inbox(ctx, w.actors[nickname]) })
	for _, c := range has {
		waitUntil(t, "it listens", func() bool {
			f := w.feed(c.ID)
			if f == nil {
				return false
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			for fo := range f.followers {
				if *fo.actor == w.actors[nickname] {
					return true
				}
			}
			return false
		})
	}
	return l
}

func TestAnInboxSaysOnlyTheNewest(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		a, b, last := MustConversation(t, w, "ann", "ben"), MustConversation(t, w, "ann", "ben"), MustConversation(t, w, "ann", "ben")
		l := w.listenToInbox(t, "ben", a, b, last)
		for _, c := range []*model.Conversation{a, b} {
			w.sendMany("ann", c.ID, followQueue+20)
			if _, err := w.MarkRead(t.Context(), w.actor("ben"), c.ID, 10); err != nil {
				t.Fatal(err)
			}
			if _, err := w.SaveDraft(t.Context(), w.actor("ben"), c.ID, "a draft"); err != nil {
				t.Fatal(err)
			}
			f := w.feed(c.ID)
			waitUntil(t, "all is handed on", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.edge == 1+followQueue+20 })
		}
		w.send("ann", last.ID, "the last")
		told := map[model.ConversationID]int{}
		for told[last.ID] == 0 || told[b.ID] == 0 {
			told[l.next().ConversationID]++
		}
		// One in the hand of the listener, one for the messages, and one for what ben did.
		if told[a.ID] < 1 || told[a.ID] > 3 || told[b.ID] < 1 || told[b.ID] > 2 {
			t.Errorf("told %d times of a, and %d of b", told[a.ID], told[b.ID])
		}
	})
}

// ways are how one node learns of another: by hints, or by comparing.
func ways(t *testing.T, test func(t *testing.T, nodes *twoNodes)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		t.Run("by hints", func(t *testing.T) {
			nodes := MustTwoNodes(t, db, Options{CompareEvery: never})
			nodes.weather.Store(&weather{fates: []fate{{kind: "arrives"}}, crosses: true})
			nodes.worlds[0].invite("ann", "ben", "cleo")
			test(t, nodes)
		})
		t.Run("by comparing", func(t *testing.T) {
			nodes := MustTwoNodes(t, db, Options{CompareEvery: compareSoon})
			nodes.weather.Store(&weather{fates: []fate{{kind: "lost"}}})
			nodes.worlds[0].invite("ann2", "ben2", "cleo2")
			for _, name := range []string{"ann", "ben", "cleo"} {
				nodes.worlds[0].actors[name] = nodes.worlds[0].actor(name + "2")
			}
			test(t, nodes)
		})
	})
}

func TestAnInboxSaysWhatOneDoesElsewhere(t *testing.T) {
	t.Parallel()
	ways(t, func(t *testing.T, nodes *twoNodes) {
		here, there := nodes.worlds[0], nodes.worlds[1]
		ctx, ben := t.Context(), here.actor("ben")
		c, other := MustConversation(t, here, "ann", "ben"), MustConversation(t, here, "ann", "ben")
		here.sendMany("ann", c.ID, 3)
		l := here.listenToInbox(t, "ben", c, other)
		until := time.Now().Add(time.Hour)
		for i, do := range []func() error{
			func() error { _, err := there.MarkRead(ctx, ben, c.ID, 2); return err },
			func() error { _, err := there.MarkRead(ctx, ben, c.ID, 3); return err },
			func() error {
				_, err := there.UpdateMembership(ctx, ben, UpdateMembership{ConversationID: c.ID, MutedUntil: &until})
				return err
			},
			func() error {
				_, err := there.UpdateMembership(ctx, ben, UpdateMembership{ConversationID: c.ID, Archived: new(true)})
				return err
			},
			func() error {
				_, err := there.UpdateMembership(ctx, ben, UpdateMembership{ConversationID: c.ID, Pinned: new(true)})
				return err
			},
			func() error { _, err := there.SaveDraft(ctx, ben, c.ID, "a draft"); return err },
		} {
			if err := do(); err != nil {
				t.Fatalf("%d: %v", i, err)
			}
			l.want(InboxChange{c.ID, false})
		}
		there.send("ann", other.ID, "nothing was told twice")
		l.want(InboxChange{other.ID, false})
	})
}

// isFollowed reports whether somebody follows the conversation who is a member as it stands.
func (w *world) isFollowed(id model.ConversationID) bool {
	f := w.feed(id)
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for fo := range f.followers {
		if !fo.isRemoved() && fo.checked == w.lastSeq(id) {
			return true
		}
	}
	return false
}

func (w *world) lastSeq(id model.ConversationID) (seq int64) {
	w.t.Helper()
	err := w.db.NewSelect().Model((*model.Conversation)(nil)).Column("last_seq").Where("c.id = ?", id).Scan(w.t.Context(), &seq)
	if err != nil {
		w.t.Fatal(err)
	}
	return seq
}

func TestAnInboxSaysWhatComesAndGoes(t *testing.T) {
	t.Parallel()
	ways(t, func(t *testing.T, nodes *twoNodes) {
		here, there := nodes.worlds[0], nodes.worlds[1]
		c := MustConversation(t, here, "ann", "ben")
		l := here.listenToInbox(t, "ben", c)
		for range 3 {
			there.removeBen(c)
			// that it has changed may be said once too often
			for l.next() != (InboxChange{c.ID, true}) {
			}
			there.addBen(c)
			l.want(InboxChange{c.ID, false})
			// That may have been said before the addition was seen; one that is removed again
			// unseen is not told.
			here.eventually(func() bool { return here.isFollowed(c.ID) })
		}
		// At once: either both are told, or that they are back.
		there.removeBen(c)
		there.addBen(c)
		for l.next() != (InboxChange{c.ID, false}) {
		}
		created := MustConversation(t, there, "ann", "ben")
		for l.next().ConversationID != created.ID { // the feed of the other may be behind the entry
		}
		ended := MustConversation(t, there, "ben", "cleo")
		for l.next().ConversationID != ended.ID {
		}
		for _, name := range []string{"cleo", "ben"} {
			if err := there.Leave(t.Context(), there.actor(name), ended.ID); err != nil {
				t.Fatal(err)
			}
		}
		for l.next() != (InboxChange{ended.ID, true}) {
		}
		there.send("ann", created.ID, "still there")
		for {
			got := l.next()
			if got == (InboxChange{created.ID, false}) {
				break
			}
			if got.ConversationID == ended.ID {
				t.Fatalf("after its end: %+v", got)
			}
		}
	})
}

func TestJoinedIsSaidOnce(t *testing.T) {
	t.Parallel()
	ways(t, func(t *testing.T, nodes *twoNodes) {
		here := nodes.worlds[0]
		ctx := t.Context()
		ann, ben := here.actor("ann"), here.actor("ben")
		before := MustConversation(t, here, "ann", "ben")
		l := listen(t, func(ctx context.Context) iter.Seq2[model.ConversationID, error] { return here.Joined(ctx, ben) })
		waitUntil(t, "it listens", func() bool { return slices.Contains(here.people.Topics(), personTopic(ben.UserID)) })
		// What is joined between listening and the first reading may be told or not.
		first := map[model.ConversationID]bool{}
		for told := false; !told; {
			first[MustConversation(t, here, "ann", "ben").ID] = true
			select {
			case id := <-l.items:
				told = first[id]
				delete(first, id)
			case <-time.After(compareSoon):
			}
		}
		want := func(want model.ConversationID) {
			t.Helper()
			got := l.next()
			for ; first[got]; got = l.next() {
				delete(first, got)
			}
			wantEqual(t, "joined", want, got)
		}
		for _, w := range nodes.worlds {
			group := MustConversation(t, w, "ann", "cleo")
			for what, join := range map[string]func() (*model.Conversation, error){
				"created by another": func() (*model.Conversation, error) { return MustConversation(t, w, "ann", "ben"), nil },
				"created by oneself": func() (*model.Conversation, error) { return MustConversation(t, w, "ben", "ann"), nil },
				"added": func() (*model.Conversation, error) {
					_, err := w.AddMembers(ctx, ann, group.ID, w.members("ben"))
					return group, err
				},
				"back": func() (*model.Conversation, error) {
					w.removeBen(before)
					w.addBen(before)
					return before, nil
				},
			} {
				c, err := join()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				w.send("ann", c.ID, "which is no joining")
				want(c.ID)
			}
		}
		direct, err := nodes.worlds[1].OpenDirect(ctx, here.actor("cleo"), ben.UserID)
		if err != nil {
			t.Fatal(err)
		}
		want(direct.ID)
		if _, err := here.OpenDirect(ctx, ben, here.actor("cleo").UserID); err != nil {
			t.Fatal(err)
		}
		last := MustConversation(t, here, "ann", "ben")
		want(last.ID)
	})
}

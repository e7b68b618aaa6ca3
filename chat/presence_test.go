package chat

import (
	"context"
	"iter"
	"sync"
	"testing"
	"time"

	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

const (
	// aMoment is a timeout that a test waits for.
	aMoment = 20 * time.Millisecond
	// forGood is one that no test sees.
	forGood = time.Hour
)

// pulledPresence takes what PresenceChanges yields one at a time.
type pulledPresence struct {
	t    *testing.T
	w    *world
	next func() (Presence, error, bool)
}

func (w *world) pullPresence(t *testing.T, nickname string) *pulledPresence {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	next, stop := iter.Pull2(w.PresenceChanges(ctx, w.actor(nickname)))
	t.Cleanup(stop)
	return &pulledPresence{t: t, w: w, next: next}
}

func (p *pulledPresence) want(nickname string, online bool) Presence {
	p.t.Helper()
	got, err, ok := p.next()
	if err != nil || !ok {
		p.t.Fatalf("got the end (%v) instead of %s being online: %v", err, nickname, online)
	}
	if got.UserID != p.w.id(nickname) || got.Online != online {
		p.t.Fatalf("got %+v instead of %s (%s) being online: %v", got, nickname, p.w.id(nickname), online)
	}
	if online && got.LastSeenAt != nil {
		p.t.Errorf("%s is online, and was last seen at %v", nickname, got.LastSeenAt)
	}
	return got
}

func (w *world) setShown(nickname string, shown bool) {
	w.t.Helper()
	_, err := w.db.NewUpdate().Model((*model.User)(nil)).Set("show_presence = ?", shown).Where("id = ?", w.id(nickname)).
		Exec(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
}

// presenceOf is what somebody may know of another; nil is nothing.
func (w *world) presenceOf(viewer, nickname string) *Presence {
	w.t.Helper()
	found, err := w.Presences(w.t.Context(), w.actor(viewer), []model.UserID{w.id(nickname)})
	if err != nil {
		w.t.Fatal(err)
	}
	if p, ok := found[w.id(nickname)]; ok {
		return &p
	}
	return nil
}

func (w *world) untilOnline(viewer, nickname string, want bool) {
	w.t.Helper()
	waitUntil(w.t, nickname+" comes or goes", func() bool {
		p := w.presenceOf(viewer, nickname)
		return p != nil && p.Online == want
	})
}

func TestWhoMayKnowAPresence(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, Options{CompareEvery: never, PresenceTimeout: forGood, NodeTimeout: forGood}, "ann", "ben", "eve", "hid", "off")
		c := MustConversation(t, w, "ann", "ben", "hid", "off")
		w.setShown("hid", false)
		for _, name := range []string{"ann", "ben", "eve", "hid"} {
			defer w.Connected(w.id(name))()
		}
		w.untilOnline("ann", "ann", true)
		w.untilOnline("ann", "ben", true)
		online, offline := &Presence{Online: true}, &Presence{}
		for _, test := range []struct {
			viewer, of string
			want       *Presence
		}{
			{"ann", "ann", online},
			{"ann", "ben", online},
			{"ben", "ann", online},
			{"ann", "off", offline},
			{"off", "ann", online},
			{"ann", "eve", nil},
			{"eve", "ann", nil},
			{"eve", "eve", online},
			{"ann", "hid", nil},
			{"hid", "hid", nil},
			{"hid", "ann", online}, // who hides theirs may know that of others
		} {
			if test.want != nil {
				test.want = &Presence{UserID: w.id(test.of), Online: test.want.Online}
			}
			wantEqual(t, test.viewer+" of "+test.of, test.want, w.presenceOf(test.viewer, test.of))
		}
		w.remove("ben", c.ID)
		wantEqual(t, "of who was removed", (*Presence)(nil), w.presenceOf("ann", "ben"))
		wantEqual(t, "for who was removed", (*Presence)(nil), w.presenceOf("ben", "ann"))
	})
}

func TestPresenceComesAndGoes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, Options{CompareEvery: never, PresenceTimeout: aMoment, NodeTimeout: forGood}, "ann", "ben", "eve")
		MustConversation(t, w, "ann", "ben")
		p := w.pullPresence(t, "ann")
		if first := p.want("ben", false); first.LastSeenAt != nil {
			t.Errorf("ben was never there, and was seen at %v", first.LastSeenAt)
		}
		_ = w.Connected(w.id("eve")) // of whom ann hears nothing
		before := db.Now()
		one, two := w.Connected(w.id("ben")), w.Connected(w.id("ben"))
		p.want("ben", true)
		one()
		one() // counts once
		between := db.Now()
		two()
		after := db.Now()
		seen := p.want("ben", false).LastSeenAt
		if seen == nil || seen.Before(between) || seen.After(after) || before.After(*seen) {
			t.Errorf("last seen at %v, and not between %v and %v", seen, between, after)
		}
		wantEqual(t, "what is read", seen, w.presenceOf("ann", "ben").LastSeenAt)
		defer w.Connected(w.id("ben"))()
		p.want("ben", true)
	})
}

// TestAReconnectTellsNothing has somebody come back within the timeout, again and again. What is told next is the next to come.
func TestAReconnectTellsNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, Options{CompareEvery: compareSoon, PresenceTimeout: forGood, NodeTimeout: forGood}, "ann", "ben", "eve")
		MustConversation(t, w, "ann", "ben", "eve")
		release := w.Connected(w.id("ben"))
		w.untilOnline("ann", "ben", true)
		p := w.pullPresence(t, "ann")
		p.want("ben", true)
		p.want("eve", false)
		var wg sync.WaitGroup
		for range 20 {
			release()
			for range 10 {
				wg.Go(func() { w.Connected(w.id("ben"))() })
			}
			release = w.Connected(w.id("ben"))
			wg.Wait()
		}
		release()
		defer w.Connected(w.id("eve"))()
		p.want("eve", true)
	})
}

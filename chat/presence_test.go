package chat

import (
	"context"
	"iter"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/pubsub/natsbus/natstest"
	"parley/store"
	"parley/store/storetest"
)

const (
	// aMoment is a timeout that a test waits for.
	aMoment = 20 * time.Millisecond
	// forGood is one that no test sees.
	forGood = time.Hour
)

var (
	quietly     = Options{CompareEvery: never, PresenceTimeout: forGood, NodeTimeout: forGood}
	impatiently = Options{CompareEvery: never, PresenceTimeout: aMoment, NodeTimeout: forGood}
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

// wantAll takes the next ones in any order: of whom there is news already, it is told later.
func (p *pulledPresence) wantAll(online map[string]bool) {
	p.t.Helper()
	got := map[string]bool{}
	for range online {
		told, err, ok := p.next()
		if err != nil || !ok {
			p.t.Fatalf("got the end (%v) after %v, instead of %v", err, got, online)
		}
		for name := range online {
			if told.UserID == p.w.id(name) {
				got[name] = told.Online
			}
		}
	}
	wantEqual(p.t, "who is online", online, got)
}

func (w *world) setShown(nickname string, shown bool) {
	w.t.Helper()
	_, err := w.db.NewUpdate().Model((*model.User)(nil)).Set("show_presence = ?", shown).Where("id = ?", w.id(nickname)).
		Exec(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
}

// changeSettings does what auth does: it is told once the change is in.
func (w *world) changeSettings(nickname, set string, to bool) {
	w.t.Helper()
	err := w.db.InTx(w.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		w.SettingsChanged(tx, w.id(nickname))
		_, err := tx.NewUpdate().Model((*model.User)(nil)).Set("? = ?", bun.Ident(set), to).Where("id = ?", w.id(nickname)).Exec(ctx)
		return err
	})
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
		w := MustWorldWith(t, db, quietly, "ann", "ben", "eve", "hid", "off")
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
		w := MustWorldWith(t, db, impatiently, "ann", "ben", "eve")
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

// TestAReconnectTellsNothing has somebody come back within the timeout, again and again. What is
// told next is the next to come.
func TestAReconnectTellsNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		opts := Options{CompareEvery: compareSoon, PresenceTimeout: forGood, NodeTimeout: forGood}
		w := MustWorldWith(t, db, opts, "ann", "ben", "eve")
		MustConversation(t, w, "ann", "ben", "eve")
		release := w.Connected(w.id("ben"))
		w.untilOnline("ann", "ben", true)
		p := w.pullPresence(t, "ann")
		p.wantAll(map[string]bool{"ben": true, "eve": false})
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

func TestWhoIsToldOfPresence(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		opts := Options{CompareEvery: compareSoon, PresenceTimeout: forGood, NodeTimeout: forGood}
		w := MustWorldWith(t, db, opts, "ann", "ben", "eve", "cas")
		first := MustConversation(t, w, "ann", "ben")
		for _, name := range []string{"ben", "eve", "cas"} {
			defer w.Connected(w.id(name))()
			w.untilOnline(name, name, true)
		}
		p := w.pullPresence(t, "ann")
		p.want("ben", true)
		wantGone := func(nickname string) {
			t.Helper()
			if got := p.want(nickname, false); got.LastSeenAt != nil {
				t.Errorf("it says when %s was seen: %v", nickname, got.LastSeenAt)
			}
		}
		w.setShown("ben", false)
		wantGone("ben")
		w.setShown("ben", true)
		p.want("ben", true)
		second := MustConversation(t, w, "eve", "ann") // whom ann has not known
		p.want("eve", true)
		if _, err := w.AddMembers(t.Context(), w.actor("eve"), second.ID, w.members("cas")); err != nil {
			t.Fatal(err)
		}
		p.want("cas", true)
		if _, err := w.RemoveMember(t.Context(), w.actor("eve"), second.ID, w.id("cas")); err != nil {
			t.Fatal(err)
		}
		wantGone("cas")
		if err := w.Leave(t.Context(), w.actor("ann"), second.ID); err != nil {
			t.Fatal(err)
		}
		wantGone("eve")
		if _, err := w.RemoveMember(t.Context(), w.actor("ann"), first.ID, w.id("ben")); err != nil {
			t.Fatal(err)
		}
		wantGone("ben")
	})
}

// TestWhoHidesTheirPresence has no comparison: what is hidden, or shown again, is told by its sign.
func TestWhoHidesTheirPresence(t *testing.T) {
	t.Parallel()
	hide := func(t *testing.T, changing, watching *world) {
		p := watching.pullPresence(t, "ann")
		p.want("ben", true)
		for range 3 {
			changing.changeSettings("ben", "show_presence", false)
			if got := p.want("ben", false); got.LastSeenAt != nil {
				t.Errorf("it says when they were seen: %v", got.LastSeenAt)
			}
			changing.changeSettings("ben", "show_presence", true)
			p.want("ben", true)
		}
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, quietly, "ann", "ben")
		MustConversation(t, w, "ann", "ben")
		defer w.Connected(w.id("ben"))()
		w.untilOnline("ann", "ben", true)
		hide(t, w, w)
	})
	t.Run("on another node", func(t *testing.T) {
		t.Parallel()
		s := natstest.MustStart(t)
		nodes := MustNodes(t, storetest.MustPostgres(t), 2, s, never, nil, "ann", "ben")
		MustConversation(t, nodes[0], "ann", "ben")
		defer nodes[0].Connected(nodes[0].id("ben"))()
		nodes[0].untilOnline("ann", "ben", true)
		waitUntil(t, "both listen", func() bool { return len(s.Subscriptions("parley.signs.topic.settings")) == 2 })
		hide(t, nodes[0], nodes[1])
	})
}

// TestPresenceOfARemovedAccount has nothing but the sign of the removal, and leaves nothing of the
// person.
func TestPresenceOfARemovedAccount(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, quietly, "ann", "ben", "eve")
		MustConversation(t, w, "ann", "ben", "eve")
		release := w.Connected(w.id("ben"))
		w.untilOnline("ann", "ben", true)
		p := w.pullPresence(t, "ann")
		p.wantAll(map[string]bool{"ben": true, "eve": false})
		w.mustLeave("ben")
		if got := p.want("ben", false); got.LastSeenAt != nil {
			t.Errorf("it says when they were seen: %v", got.LastSeenAt)
		}
		release()
		defer w.Connected(w.id("ben"))() // whose socket may live for a moment longer
		defer w.Connected(w.id("eve"))()
		p.want("eve", true)
		for _, table := range []string{"presences", "sightings"} {
			n, err := db.NewSelect().Table(table).Where("user_id = ?", w.id("ben")).Count(t.Context())
			if err != nil || n != 0 {
				t.Errorf("%d rows of %s (%v)", n, table, err)
			}
		}
	})
}

// TestASlowConsumerOfPresence takes nothing while everybody comes. It is told once how it is in the
// end.
func TestASlowConsumerOfPresence(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, impatiently, "ann", "ben", "eve")
		MustConversation(t, w, "ann", "ben", "eve")
		p := w.pullPresence(t, "ann")
		p.want("ben", false)
		// eve is yet to be told, and what was read of her is old by the time.
		for range 5 {
			release := w.Connected(w.id("eve"))
			w.untilOnline("ann", "eve", true)
			release()
			w.untilOnline("ann", "eve", false)
		}
		defer w.Connected(w.id("eve"))()
		w.untilOnline("ann", "eve", true)
		waitUntil(t, "ann's stream is told", func() bool { return w.watches.quiet() })
		p.want("eve", true)
		defer w.Connected(w.id("ben"))()
		p.want("ben", true)
	})
}

// quiet reports whether all that was heard has been passed on.
func (ws *presenceWatches) quiet() bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return len(ws.heard) == 0
}

func TestPresenceWithoutSignsOfOtherNodes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		opts := Options{CompareEvery: compareSoon, PresenceTimeout: aMoment, NodeTimeout: forGood}
		here, there := MustWorldWith(t, db, opts, "ann", "ben"), MustWorldWith(t, db, opts)
		there.actors = here.actors
		MustConversation(t, here, "ann", "ben")
		p := here.pullPresence(t, "ann")
		p.want("ben", false)
		release := there.Connected(here.id("ben"))
		p.want("ben", true)
		also := here.Connected(here.id("ben")) // on both
		waitUntil(t, "both know", func() bool { return here.countPresences() == 2 })
		release()
		waitUntil(t, "one knows", func() bool { return here.countPresences() == 1 })
		wantEqual(t, "presence", &Presence{UserID: here.id("ben"), Online: true}, there.presenceOf("ann", "ben"))
		also()
		p.want("ben", false)
	})
}

func (w *world) countPresences() int64 {
	w.t.Helper()
	n, err := w.db.NewSelect().Model((*model.Presence)(nil)).Count(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestPresenceOverNATS(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := MustNodes(t, db, 2, s, never, nil, "ann", "ben")
	MustConversation(t, nodes[0], "ann", "ben")
	p := nodes[1].pullPresence(t, "ann")
	p.want("ben", false)
	waitUntil(t, "both listen", func() bool { return len(s.Subscriptions("parley.signs.topic.presence")) == 2 })
	defer nodes[0].Connected(nodes[0].id("ben"))()
	p.want("ben", true)
}

// TestADeadNodesPeopleGoOffline ends a node without a word. Its people are offline when its time is
// over, but who has come to another node meanwhile has never been away.
func TestADeadNodesPeopleGoOffline(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		opts := Options{CompareEvery: compareSoon, PresenceTimeout: forGood, NodeTimeout: forGood}
		w := MustWorldWith(t, db, opts, "ann", "ben", "eve")
		MustConversation(t, w, "ann", "ben", "eve")
		start := db.Now()
		dying := New(db, Options{CompareEvery: never, PresenceTimeout: forGood, NodeTimeout: 2 * time.Second})
		_, _ = dying.Connected(w.id("ben")), dying.Connected(w.id("eve"))
		ctx, kill := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { dying.Run(ctx) })
		waitUntil(t, "both are there", func() bool { return w.countPresences() == 2 })
		defer w.Connected(w.id("eve"))()
		waitUntil(t, "one is here too", func() bool { return w.countPresences() == 3 })
		kill()
		running.Wait()
		killed := db.Now()
		waitUntil(t, "the node is given up", func() bool { return w.countPresences() == 1 })
		wantEqual(t, "of who is elsewhere", &Presence{UserID: w.id("eve"), Online: true}, w.presenceOf("ann", "eve"))
		ben := w.presenceOf("ann", "ben")
		if ben.Online || ben.LastSeenAt == nil || ben.LastSeenAt.Before(start) || ben.LastSeenAt.After(killed) {
			t.Errorf("got %+v, from a node that lived from %v to %v", ben, start, killed)
		}
	})
}

// TestANodeThatWasGivenUpComesBack has the others take a node for dead that was only slow.
func TestANodeThatWasGivenUpComesBack(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, quietly, "ann", "ben", "eve")
		MustConversation(t, w, "ann", "ben", "eve")
		defer w.Connected(w.id("ben"))()
		w.untilOnline("ann", "ben", true)
		p := w.pullPresence(t, "ann")
		p.wantAll(map[string]bool{"ben": true, "eve": false})
		seen := db.Now().Add(-time.Hour)
		_, err := db.NewUpdate().Model((*model.Node)(nil)).Set("seen_at = ?", seen).Set("alive_until = ?", seen.Add(time.Minute)).
			Where("TRUE").Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "before it is given up", &Presence{UserID: w.id("ben"), LastSeenAt: &seen}, w.presenceOf("ann", "ben"))
		if err := New(db, Options{}).comparePresences(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "presences", int64(0), w.countPresences())
		wantEqual(t, "after it was", &Presence{UserID: w.id("ben"), LastSeenAt: &seen}, w.presenceOf("ann", "ben"))
		w.watches.hear(sign{Users: []model.UserID{w.id("ben")}})
		p.want("ben", false)
		defer w.Connected(w.id("eve"))() // with which it notices
		w.untilOnline("ann", "ben", true)
		w.untilOnline("ann", "eve", true)
	})
}

// TestACrowdComesAndGoes has no goroutine for each, and is written in few transactions.
func TestACrowdComesAndGoes(t *testing.T) {
	t.Parallel()
	const people, each = 300, 10
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, Options{CompareEvery: never, PresenceTimeout: 10 * aMoment, NodeTimeout: forGood}, "ann")
		crowd := w.crowd(people)
		before := runtime.NumGoroutine()
		var wg sync.WaitGroup
		releases := make([][]func(), people)
		for i, name := range crowd {
			user := w.id(name)
			for range each {
				releases[i] = append(releases[i], w.Connected(user))
			}
		}
		if now := runtime.NumGoroutine(); now > before+people*each/2 { // other tests have some
			t.Errorf("%d goroutines, and %d before", now, before)
		}
		waitUntil(t, "all are online", func() bool { return w.countPresences() == people })
		for _, some := range releases {
			wg.Go(func() {
				for _, release := range some {
					release()
				}
			})
		}
		wg.Wait()
		waitUntil(t, "all are offline", func() bool { return w.countPresences() == 0 })
		seen, err := db.NewSelect().Model((*model.Sighting)(nil)).Where("sg.last_seen_at IS NOT NULL").Count(t.Context())
		if err != nil || seen != people {
			t.Errorf("%d have a time (%v)", seen, err)
		}
		a := w.attendance
		a.mu.Lock()
		defer a.mu.Unlock()
		if n := len(a.here) + len(a.arrived) + len(a.leaving) + len(a.gone); n != 0 {
			t.Errorf("%d are remembered", n)
		}
	})
}

package live_test

import (
	"context"
	"iter"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"parley/chat/chattest"
	"parley/live"
	"parley/model"
	"parley/pubsub/natsbus/natstest"
	"parley/store"
	"parley/store/storetest"
)

const (
	// aMoment is a timeout that a test waits for.
	aMoment = 20 * time.Millisecond
	// forGood is a timeout that never ends during a test.
	forGood = time.Hour
)

var (
	quietly = chattest.Options{
		ReconcileEvery: chattest.Never, PresenceTimeout: forGood,
		NodeTimeout: forGood,
	}
	impatiently = chattest.Options{
		ReconcileEvery: chattest.Never, PresenceTimeout: aMoment,
		NodeTimeout: forGood,
	}
)

// pulledPresence takes what PresenceChanges yields one at a time.
type pulledPresence struct {
	t    *testing.T
	w    *fixture
	next func() (live.Presence, error, bool)
}

func (w *fixture) pullPresence(t *testing.T, nickname string) *pulledPresence {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), chattest.Patience)
	t.Cleanup(cancel)
	next, stop := iter.Pull2(w.PresenceChanges(ctx, w.Actor(nickname)))
	t.Cleanup(stop)
	return &pulledPresence{t: t, w: w, next: next}
}

func (p *pulledPresence) want(nickname string, online bool) live.Presence {
	p.t.Helper()
	got, err, ok := p.next()
	if err != nil || !ok {
		p.t.Fatalf("got the end (%v) instead of %s being online: %v", err, nickname, online)
	}
	if got.UserID != p.w.UserID(nickname) || got.Online != online {
		p.t.Fatalf("got %+v instead of %s (%s) being online: %v", got, nickname,
			p.w.UserID(nickname), online)
	}
	if online && got.LastSeenAt != nil {
		p.t.Errorf("%s is online, and was last seen at %v", nickname, got.LastSeenAt)
	}
	return got
}

// wantAll takes the next ones, in any order. A user who has changed again by then comes later.
func (p *pulledPresence) wantAll(online map[string]bool) {
	p.t.Helper()
	got := map[string]bool{}
	for range online {
		presence, err, ok := p.next()
		if err != nil || !ok {
			p.t.Fatalf("got the end (%v) after %v, instead of %v", err, got, online)
		}
		for name := range online {
			if presence.UserID == p.w.UserID(name) {
				got[name] = presence.Online
			}
		}
	}
	chattest.WantEqual(p.t, "who is online", online, got)
}

func (w *fixture) setShown(nickname string, shown bool) {
	w.T.Helper()
	_, err := w.DB.NewUpdate().Model((*model.User)(nil)).Set("show_presence = ?", shown).
		Where("id = ?", w.UserID(nickname)).
		Exec(w.T.Context())
	if err != nil {
		w.T.Fatal(err)
	}
}

// changeSettings changes a setting as package auth does, and publishes it after the commit.
func (w *fixture) changeSettings(nickname, set string, to bool) {
	w.T.Helper()
	err := w.DB.InTx(w.T.Context(), func(ctx context.Context, tx *store.Tx) error {
		w.SettingsChanged(tx, w.UserID(nickname))
		_, err := tx.NewUpdate().Model((*model.User)(nil)).Set("? = ?", bun.Ident(set), to).
			Where("id = ?", w.UserID(nickname)).Exec(ctx)
		return err
	})
	if err != nil {
		w.T.Fatal(err)
	}
}

// presenceOf returns what a viewer may know of a user's presence; nil if nothing.
func (w *fixture) presenceOf(viewer, nickname string) *live.Presence {
	w.T.Helper()
	found, err := w.Presences(w.T.Context(), w.Actor(viewer), []model.UserID{w.UserID(nickname)})
	if err != nil {
		w.T.Fatal(err)
	}
	if p, ok := found[w.UserID(nickname)]; ok {
		return &p
	}
	return nil
}

func (w *fixture) untilOnline(viewer, nickname string, want bool) {
	w.T.Helper()
	chattest.WaitUntil(w.T, nickname+" comes or goes", func() bool {
		p := w.presenceOf(viewer, nickname)
		return p != nil && p.Online == want
	})
}

func TestPresencesThatAnActorMayKnow(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, quietly, "ann", "ben", "eve", "hid", "off")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben", "hid", "off")
		w.setShown("hid", false)
		for _, name := range []string{"ann", "ben", "eve", "hid"} {
			defer w.Connected(w.UserID(name))()
		}
		w.untilOnline("ann", "ann", true)
		w.untilOnline("ann", "ben", true)
		online, offline := &live.Presence{Online: true}, &live.Presence{}
		for _, test := range []struct {
			viewer, of string
			want       *live.Presence
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
				test.want = &live.Presence{UserID: w.UserID(test.of), Online: test.want.Online}
			}
			chattest.WantEqual(t, test.viewer+" of "+test.of, test.want,
				w.presenceOf(test.viewer, test.of))
		}
		w.EndMembership("ben", c.ID)
		chattest.WantEqual(t, "presence of a removed user", (*live.Presence)(nil),
			w.presenceOf("ann", "ben"))
		chattest.WantEqual(t, "presence for a removed user", (*live.Presence)(nil),
			w.presenceOf("ben", "ann"))
	})
}

func TestPresenceComesAndGoes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, impatiently, "ann", "ben", "eve")
		chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.pullPresence(t, "ann")
		if first := p.want("ben", false); first.LastSeenAt != nil {
			t.Errorf("ben was never there, and was seen at %v", first.LastSeenAt)
		}
		_ = w.Connected(w.UserID("eve")) // who shares no conversation with ann
		before := db.Now()
		one, two := w.Connected(w.UserID("ben")), w.Connected(w.UserID("ben"))
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
		chattest.WantEqual(t, "what is read", seen, w.presenceOf("ann", "ben").LastSeenAt)
		defer w.Connected(w.UserID("ben"))()
		p.want("ben", true)
	})
}

// A user reconnects within the timeout, again and again. The next item is about another user.
func TestAReconnectYieldsNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		opts := chattest.Options{
			ReconcileEvery: chattest.ReconcileSoon, PresenceTimeout: forGood,
			NodeTimeout: forGood,
		}
		w := mustFixtureWith(t, db, opts, "ann", "ben", "eve")
		chattest.MustConversation(t, w.Fixture, "ann", "ben", "eve")
		release := w.Connected(w.UserID("ben"))
		w.untilOnline("ann", "ben", true)
		p := w.pullPresence(t, "ann")
		p.wantAll(map[string]bool{"ben": true, "eve": false})
		var wg sync.WaitGroup
		for range 20 {
			release()
			for range 10 {
				wg.Go(func() { w.Connected(w.UserID("ben"))() })
			}
			release = w.Connected(w.UserID("ben"))
			wg.Wait()
		}
		release()
		defer w.Connected(w.UserID("eve"))()
		p.want("eve", true)
	})
}

func TestPresenceFollowsMemberships(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		opts := chattest.Options{
			ReconcileEvery: chattest.ReconcileSoon, PresenceTimeout: forGood,
			NodeTimeout: forGood,
		}
		w := mustFixtureWith(t, db, opts, "ann", "ben", "eve", "cas")
		first := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for _, name := range []string{"ben", "eve", "cas"} {
			defer w.Connected(w.UserID(name))()
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
		second := chattest.MustConversation(t, w.Fixture, "eve", "ann") // whom ann has not known
		p.want("eve", true)
		if _, err := w.AddMembers(t.Context(), w.Actor("eve"), second.ID,
			w.NewMembers("cas")); err != nil {
			t.Fatal(err)
		}
		p.want("cas", true)
		if _, err := w.RemoveMember(t.Context(), w.Actor("eve"), second.ID,
			w.UserID("cas")); err != nil {
			t.Fatal(err)
		}
		wantGone("cas")
		if err := w.Leave(t.Context(), w.Actor("ann"), second.ID); err != nil {
			t.Fatal(err)
		}
		wantGone("eve")
		if _, err := w.RemoveMember(t.Context(), w.Actor("ann"), first.ID,
			w.UserID("ben")); err != nil {
			t.Fatal(err)
		}
		wantGone("ben")
	})
}

// Nothing is reconciled: signals report who hides their presence, and who shows it again.
func TestUsersWhoHideTheirPresence(t *testing.T) {
	t.Parallel()
	hide := func(t *testing.T, changing, watching *fixture) {
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
		w := mustFixtureWith(t, db, quietly, "ann", "ben")
		chattest.MustConversation(t, w.Fixture, "ann", "ben")
		defer w.Connected(w.UserID("ben"))()
		w.untilOnline("ann", "ben", true)
		hide(t, w, w)
	})
	t.Run("on another node", func(t *testing.T) {
		t.Parallel()
		s := natstest.MustStart(t)
		nodes := mustNodes(t, storetest.MustPostgres(t), 2, s, chattest.Never, nil, "ann", "ben")
		chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben")
		defer nodes[0].Connected(nodes[0].UserID("ben"))()
		nodes[0].untilOnline("ann", "ben", true)
		chattest.WaitUntil(t, "both listen",
			func() bool { return len(s.Subscriptions("parley.signals.topic.settings")) == 2 })
		hide(t, nodes[0], nodes[1])
	})
}

// There is only the signal of the removal, after which nothing is stored of the user.
func TestPresenceOfARemovedAccount(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, quietly, "ann", "ben", "eve")
		chattest.MustConversation(t, w.Fixture, "ann", "ben", "eve")
		release := w.Connected(w.UserID("ben"))
		w.untilOnline("ann", "ben", true)
		p := w.pullPresence(t, "ann")
		p.wantAll(map[string]bool{"ben": true, "eve": false})
		w.MustRemoveAccount("ben")
		if got := p.want("ben", false); got.LastSeenAt != nil {
			t.Errorf("it says when they were seen: %v", got.LastSeenAt)
		}
		release()
		defer w.Connected(w.UserID("ben"))() // whose socket may live for a moment longer
		defer w.Connected(w.UserID("eve"))()
		p.want("eve", true)
		for _, table := range []string{"presences", "sightings"} {
			n, err := db.NewSelect().Table(table).Where("user_id = ?", w.UserID("ben")).
				Count(t.Context())
			if err != nil || n != 0 {
				t.Errorf("%d rows of %s (%v)", n, table, err)
			}
		}
	})
}

// The consumer takes nothing while users come and go. It gets each user's last state once.
func TestASlowConsumerOfPresence(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, impatiently, "ann", "ben", "eve")
		chattest.MustConversation(t, w.Fixture, "ann", "ben", "eve")
		p := w.pullPresence(t, "ann")
		p.want("ben", false)
		// eve is yet to be delivered, and what was read of her is out of date by then.
		for range 5 {
			release := w.Connected(w.UserID("eve"))
			w.untilOnline("ann", "eve", true)
			release()
			w.untilOnline("ann", "eve", false)
		}
		defer w.Connected(w.UserID("eve"))()
		w.untilOnline("ann", "eve", true)
		chattest.WaitUntil(t, "ann's watch has the signals",
			func() bool { return w.SignalsAreDelivered() })
		p.want("eve", true)
		defer w.Connected(w.UserID("ben"))()
		p.want("ben", true)
	})
}

func TestPresenceWithoutSignalsOfOtherNodes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		opts := chattest.Options{
			ReconcileEvery: chattest.ReconcileSoon, PresenceTimeout: aMoment,
			NodeTimeout: forGood,
		}
		here, there := mustFixtureWith(t, db, opts, "ann", "ben"), mustFixtureWith(t, db, opts)
		there.Actors = here.Actors
		chattest.MustConversation(t, here.Fixture, "ann", "ben")
		p := here.pullPresence(t, "ann")
		p.want("ben", false)
		release := there.Connected(here.UserID("ben"))
		p.want("ben", true)
		also := here.Connected(here.UserID("ben")) // on both
		chattest.WaitUntil(t, "both know", func() bool { return here.countPresences() == 2 })
		release()
		chattest.WaitUntil(t, "one knows", func() bool { return here.countPresences() == 1 })
		chattest.WantEqual(t, "presence", &live.Presence{UserID: here.UserID("ben"), Online: true},
			there.presenceOf("ann", "ben"))
		also()
		p.want("ben", false)
	})
}

func (w *fixture) countPresences() int64 {
	w.T.Helper()
	n, err := w.DB.NewSelect().Model((*model.Presence)(nil)).Count(w.T.Context())
	if err != nil {
		w.T.Fatal(err)
	}
	return n
}

func TestPresenceOverNATS(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := mustNodes(t, db, 2, s, chattest.Never, nil, "ann", "ben")
	chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben")
	p := nodes[1].pullPresence(t, "ann")
	p.want("ben", false)
	chattest.WaitUntil(t, "both listen",
		func() bool { return len(s.Subscriptions("parley.signals.topic.presence")) == 2 })
	defer nodes[0].Connected(nodes[0].UserID("ben"))()
	p.want("ben", true)
}

// A node dies. Its users are offline after its timeout, except those who have connected to another
// node by then: they were never offline.
func TestUsersOfADeadNodeGoOffline(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		opts := chattest.Options{
			ReconcileEvery: chattest.ReconcileSoon, PresenceTimeout: forGood,
			NodeTimeout: forGood,
		}
		w := mustFixtureWith(t, db, opts, "ann", "ben", "eve")
		chattest.MustConversation(t, w.Fixture, "ann", "ben", "eve")
		start := db.Now()
		dying := chattest.NewServices(db,
			chattest.Options{
				ReconcileEvery: chattest.Never, PresenceTimeout: forGood,
				NodeTimeout: 2 * time.Second,
			})
		_, _ = dying.Connected(w.UserID("ben")), dying.Connected(w.UserID("eve"))
		ctx, kill := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { dying.Run(ctx) })
		chattest.WaitUntil(t, "both are there", func() bool { return w.countPresences() == 2 })
		defer w.Connected(w.UserID("eve"))()
		chattest.WaitUntil(t, "one is here too", func() bool { return w.countPresences() == 3 })
		kill()
		running.Wait()
		killed := db.Now()
		chattest.WaitUntil(t, "the node is given up",
			func() bool { return w.countPresences() == 1 })
		chattest.WantEqual(t, "of who is elsewhere",
			&live.Presence{UserID: w.UserID("eve"), Online: true}, w.presenceOf("ann", "eve"))
		ben := w.presenceOf("ann", "ben")
		if ben.Online || ben.LastSeenAt == nil || ben.LastSeenAt.Before(start) ||
			ben.LastSeenAt.After(killed) {
			t.Errorf("got %+v, from a node that lived from %v to %v", ben, start, killed)
		}
	})
}

// Another node reaps a node that was only slow.
func TestAReapedNodeComesBack(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, quietly, "ann", "ben", "eve")
		chattest.MustConversation(t, w.Fixture, "ann", "ben", "eve")
		defer w.Connected(w.UserID("ben"))()
		w.untilOnline("ann", "ben", true)
		p := w.pullPresence(t, "ann")
		p.wantAll(map[string]bool{"ben": true, "eve": false})
		seen := db.Now().Add(-time.Hour)
		_, err := db.NewUpdate().Model((*model.Node)(nil)).Set("seen_at = ?", seen).
			Set("alive_until = ?", seen.Add(time.Minute)).
			Where("TRUE").Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		chattest.WantEqual(t, "before it is given up",
			&live.Presence{UserID: w.UserID("ben"), LastSeenAt: &seen}, w.presenceOf("ann", "ben"))
		if err := chattest.NewServices(db, chattest.Options{}).
			ReconcilePresence(t.Context()); err != nil {
			t.Fatal(err)
		}
		chattest.WantEqual(t, "presences", int64(0), w.countPresences())
		chattest.WantEqual(t, "after it was",
			&live.Presence{UserID: w.UserID("ben"), LastSeenAt: &seen}, w.presenceOf("ann", "ben"))
		w.HandlePresence(live.Signal{Users: []model.UserID{w.UserID("ben")}})
		p.want("ben", false)
		defer w.Connected(w.UserID("eve"))() // with which it notices
		w.untilOnline("ann", "ben", true)
		w.untilOnline("ann", "eve", true)
	})
}

// They need no goroutine each, and are written in few transactions.
func TestManyUsersComeAndGo(t *testing.T) {
	t.Parallel()
	const users, each = 300, 10
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, chattest.Options{
			ReconcileEvery:  chattest.Never,
			PresenceTimeout: 10 * aMoment, NodeTimeout: forGood,
		}, "ann")
		crowd := w.Crowd(users)
		before := runtime.NumGoroutine()
		var wg sync.WaitGroup
		releases := make([][]func(), users)
		for i, name := range crowd {
			user := w.UserID(name)
			for range each {
				releases[i] = append(releases[i], w.Connected(user))
			}
		}
		if now := runtime.NumGoroutine(); now > before+users*each/2 { // other tests have some
			t.Errorf("%d goroutines, and %d before", now, before)
		}
		chattest.WaitUntil(t, "all are online", func() bool { return w.countPresences() == users })
		for _, some := range releases {
			wg.Go(func() {
				for _, release := range some {
					release()
				}
			})
		}
		wg.Wait()
		chattest.WaitUntil(t, "all are offline", func() bool { return w.countPresences() == 0 })
		seen, err := db.NewSelect().Model((*model.Sighting)(nil)).
			Where("sg.last_seen_at IS NOT NULL").Count(t.Context())
		if err != nil || seen != users {
			t.Errorf("%d have a time (%v)", seen, err)
		}
		if n := w.UnrecordedConnections(); n != 0 {
			t.Errorf("%d are remembered", n)
		}
	})
}

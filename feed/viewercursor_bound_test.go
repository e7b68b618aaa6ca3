package feed_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/uptrace/bun"

	"parley/chat/chattest"
	"parley/feed"
	"parley/internal/race"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// manyConversations inserts conversations of ann and ben, a thousand in a transaction, and
// publishes no hint.
func (w *fixture) manyConversations(n int) (ids []model.ConversationID) {
	w.T.Helper()
	for len(ids) < n {
		some := min(n-len(ids), 1000)
		err := w.DB.InTx(w.T.Context(), func(ctx context.Context, tx *store.Tx) error {
			conversations := make([]*model.Conversation, some)
			members := make([]*model.ConversationMember, 0, 2*some)
			events := make([]*model.Event, some)
			for i := range some {
				id := model.NewConversationID()
				ids = append(ids, id)
				conversations[i] = &model.Conversation{
					ID: id, LastSeq: 1, CreatedAt: tx.Now, LastActivityAt: tx.Now,
					History: model.FromStart,
					Kind:    model.Group,
				}
				for _, name := range []string{"ann", "ben"} {
					role := model.Member
					if name == "ann" {
						role = model.Owner
					}
					members = append(members, &model.ConversationMember{
						ConversationID: id, UserID: w.UserID(name), Role: role, JoinedAt: tx.Now,
						JoinedSeq: 1,
					})
				}
				events[i] = &model.Event{
					ConversationID: id, Seq: 1, At: tx.Now, Kind: model.ConversationCreated,
					Data: json.RawMessage("{}"),
				}
			}
			if _, err := tx.NewInsert().Model(&conversations).Exec(ctx); err != nil {
				return err
			}
			if err := feed.InsertMembers(ctx, tx, members); err != nil {
				return err
			}
			return w.insertEvents(ctx, tx, events)
		})
		if err != nil {
			w.T.Fatal(err)
		}
	}
	return ids
}

func (w *fixture) insertEvents(ctx context.Context, tx *store.Tx, events []*model.Event) error {
	position, err := feed.NextPosition(ctx, tx)
	if err != nil {
		return err
	}
	return tx.NewInsert().Model(&events).Value("position", "?", position).Returning("position").
		Scan(ctx)
}

// renameAll appends an event to each conversation, together of them in a transaction, and publishes
// it.
func (w *fixture) renameAll(ids []model.ConversationID, seq int64, together int) {
	w.T.Helper()
	for some := range slices.Chunk(ids, together) {
		events := make([]*model.Event, len(some))
		err := w.DB.InTx(w.T.Context(), func(ctx context.Context, tx *store.Tx) error {
			for i, id := range some {
				events[i] = &model.Event{
					ConversationID: id, Seq: seq, At: tx.Now, Kind: model.ConversationRenamed,
					Data: json.RawMessage("{}"),
				}
			}
			_, err := tx.NewUpdate().Model((*model.Conversation)(nil)).Set("last_seq = ?", seq).
				Where("id IN (?)", bun.List(some)).Exec(ctx)
			if err != nil {
				return err
			}
			return w.insertEvents(ctx, tx, events)
		})
		if err != nil {
			w.T.Fatal(err)
		}
		for _, e := range events {
			w.Publish([]*model.Event{e})
		}
	}
}

// forgetBen ends ben's memberships, together of them in a transaction, as the removal of an account
// does.
func (w *fixture) forgetBen(ids []model.ConversationID, seq int64, together int) {
	w.T.Helper()
	for some := range slices.Chunk(ids, together) {
		err := w.DB.InTx(w.T.Context(), func(ctx context.Context, tx *store.Tx) error {
			position, err := feed.NextPosition(ctx, tx)
			if err != nil {
				return err
			}
			departures := make([]*model.Departure, len(some))
			for i, id := range some {
				departures[i] = &model.Departure{
					UserID: w.UserID("ben"), ConversationID: id,
					Seq: seq,
				}
			}
			if _, err = tx.NewInsert().Model(&departures).Value("position", "?", position).
				Exec(ctx); err != nil {
				return err
			}
			_, err = tx.NewDelete().Model((*model.ConversationMember)(nil)).
				Where("user_id = ?", w.UserID("ben")).
				Where("conversation_id IN (?)", bun.List(some)).Exec(ctx)
			return err
		})
		if err != nil {
			w.T.Fatal(err)
		}
	}
}

// boundedEvents takes items, and checks the size of their cursors.
type boundedEvents struct {
	*chattest.PulledEvents
	items   []string
	cursors []string
	bytes   int
}

func (b *boundedEvents) take(n int) {
	b.T.Helper()
	for range n {
		item, err, ok := b.Next()
		if err != nil || !ok {
			b.T.Fatalf("got the end (%v) after %d items", err, len(b.items))
		}
		if len(item.Cursor) > store.MaxCursor {
			b.T.Fatalf("the cursor of item %d has %d characters", len(b.items), len(item.Cursor))
		}
		b.bytes += len(item.Cursor)
		b.items = append(b.items, chattest.ItemText(item))
		b.cursors = append(b.cursors, item.Cursor)
	}
}

// wantAll checks that there is an item of this format for each conversation, and no other.
func wantAll(t *testing.T, what string, items []string, ids []model.ConversationID, format string) {
	t.Helper()
	want := make([]string, len(ids))
	for i, id := range ids {
		want[i] = fmt.Sprintf(format, id)
	}
	got := slices.Clone(items)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("%s: %d items are not the %d that there should be", what, len(got), len(want))
	}
}

// There are events in thousands of conversations, while no stream is connected and while one is
// live. A client that resumes in the middle of them gets the rest.
func TestACursorIsBoundedWhateverHappens(t *testing.T) {
	t.Parallel()
	// More than a cursor can name, even with the race detector.
	const many = 2000 / min(race.Slowness, 4)
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for name, together := range map[string]int{
			"in one transaction": many,
			"in many":            many / 100,
		} {
			t.Run(name, func(t *testing.T) {
				w := mustFixtureWith(t, db, chattest.Options{ReconcileEvery: chattest.Never})
				w.Invite("ann", "ben")
				defer w.uninvite()
				start, err := w.ViewerEventsCursor(t.Context(), w.Actor("ben"))
				if err != nil {
					t.Fatal(err)
				}
				// rest resumes with some of the cursors.
				rest := func(b *boundedEvents, among []model.ConversationID, format string) {
					t.Helper()
					wantAll(t, format, b.items, among, format)
					for _, at := range []int{1, many / 2} {
						resumed := w.PullEvents(t, "ben", &b.cursors[at])
						again := &boundedEvents{PulledEvents: resumed}
						again.take(many - 1 - at)
						again.CaughtUp()
						again.Stop()
						all := append(slices.Clone(b.items[:at+1]), again.items...)
						wantAll(t, fmt.Sprintf("%s, after item %d", format, at), all, among, format)
					}
					t.Logf("%s: %d bytes of cursors for %d items", format, b.bytes, len(b.items))
				}
				away := func(after string, ids []model.ConversationID, format string) string {
					t.Helper()
					b := &boundedEvents{PulledEvents: w.PullEvents(t, "ben", &after)}
					b.take(many)
					b.CaughtUp()
					b.Stop()
					rest(b, ids, format)
					return b.Cursor
				}

				ids := w.manyConversations(many)
				cursor := away(start, ids, "%v: joined")
				w.renameAll(ids, 2, together)
				cursor = away(cursor, ids, "%v: 2 conversation_renamed")

				live := &boundedEvents{PulledEvents: w.PullEvents(t, "ben", &cursor)}
				live.CaughtUp()
				w.renameAll(ids, 3, together)
				live.take(many)
				live.Stop()
				rest(live, ids, "%v: 3 conversation_renamed")

				w.forgetBen(ids, 4, together)
				away(live.cursors[many-1], ids, "%v: left")
			})
		}
	})
}

// uninvite deletes everything, so that the same nicknames can be invited again.
func (w *fixture) uninvite() {
	if _, err := w.DB.NewDelete().Table("conversations").Where("true").
		Exec(context.WithoutCancel(w.T.Context())); err != nil {
		w.T.Error(err)
	}
	if _, err := w.DB.NewDelete().Table("users").Where("true").
		Exec(context.WithoutCancel(w.T.Context())); err != nil {
		w.T.Error(err)
	}
}

// TestJoinsAndDeparturesCountAsMissed has no more of them than may be missed, and then one more.
func TestJoinsAndDeparturesCountAsMissed(t *testing.T) {
	t.Parallel()
	const limit = 10
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, chattest.Options{
			ReconcileEvery: chattest.Never,
			MaxReplayed:    limit,
		}, "ann", "ben")
		p := w.PullEvents(t, "ben", nil)
		p.CaughtUp()
		var ids []model.ConversationID
		for n, what := range []string{"caught up", "reset"} {
			ids = w.manyConversations(limit + n)
			p = p.Again(w.Fixture, "ben")
			for range (1 - n) * limit {
				if item, err, _ := p.Next(); item.Joined == nil {
					t.Fatalf("got %s (%v)", chattest.ItemText(item), err)
				}
			}
			p.Item(what)
			if n == 1 {
				p.CaughtUp()
			}
			w.forgetBen(ids, 2, limit+n)
			p = p.Again(w.Fixture, "ben")
			for range (1 - n) * limit {
				if item, err, _ := p.Next(); item.Left == nil {
					t.Fatalf("got %s (%v)", chattest.ItemText(item), err)
				}
			}
			p.Item(what)
			if n == 1 {
				p.CaughtUp()
			}
		}
	})
}

// TestACursorIsBoundedWhileTheWatermarkIsHeldBack has a transaction run on that has nothing to do
// with it, and more happen meanwhile than a cursor can say: the stream is reset, and goes on.
func TestACursorIsBoundedWhileTheWatermarkIsHeldBack(t *testing.T) {
	t.Parallel()
	const named, many = 4, 12
	db := storetest.MustPostgres(t)
	w := mustFixtureWith(t, db, chattest.Options{
		ReconcileEvery: chattest.Never, Log: slog.New(slog.DiscardHandler),
		Feed: feed.WithBounds(named, 1),
	}, "ann", "ben", "cleo")
	ids := w.manyConversations(many)
	w.settle()
	p := w.PullEvents(t, "ben", nil)
	p.CaughtUp()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "UPDATE users SET about = 'long' WHERE id = ?",
		w.UserID("cleo")); err != nil {
		t.Fatal(err)
	}
	resets := 0
	for _, id := range ids {
		w.renameAll([]model.ConversationID{id}, 2, 1)
		for done := false; !done; {
			item, err, ok := p.Next()
			if err != nil || !ok {
				t.Fatal(err)
			}
			if names := len(w.mustReadCursor("ben", item.Cursor).
				Seqs()); names > named+feed.SweepNamed {
				t.Errorf("%s: the cursor names %d conversations", chattest.ItemText(item), names)
			}
			p.Cursor = item.Cursor
			switch {
			case item.Reset:
				resets++
				p.CaughtUp()
				done = true // what was stored before the reset, the client has read
			case item.Event != nil && item.Event.ConversationID == id:
				done = true
			default:
				t.Fatalf("got %s", chattest.ItemText(item))
			}
		}
	}
	if resets == 0 {
		t.Error("it was not reset")
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	p.Stop()
	// A node that waits for the watermark, because other databases of the server may hold it back
	// for a moment.
	next := mustFixtureWith(t, db,
		chattest.Options{ReconcileEvery: chattest.Never, Feed: feed.WithBounds(named, 0)})
	next.Actors = w.Actors
	p = next.PullEvents(t, "ben", &p.Cursor)
	for {
		item, err, ok := p.Next()
		if err != nil || !ok || item.Reset {
			t.Fatalf("got %s (%v)", chattest.ItemText(item), err)
		}
		if item.CaughtUp { // before it may come again what the last reset has not named
			break
		}
	}
	live := &boundedEvents{PulledEvents: p}
	next.renameAll(ids, 3, 1)
	live.take(many)
	wantAll(t, "live", live.items, ids, "%v: 3 conversation_renamed")
}

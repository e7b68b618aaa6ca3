package chat

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/uptrace/bun"

	"parley/internal/race"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// manyConversations makes conversations of ann and ben, a thousand in a transaction, past the rules
// and without telling anybody.
func (w *world) manyConversations(n int) (ids []model.ConversationID) {
	w.t.Helper()
	for len(ids) < n {
		some := min(n-len(ids), 1000)
		err := w.db.InTx(w.t.Context(), func(ctx context.Context, tx *store.Tx) error {
			conversations := make([]*model.Conversation, some)
			members := make([]*model.ConversationMember, 0, 2*some)
			events := make([]*model.Event, some)
			for i := range some {
				id := model.NewConversationID()
				ids = append(ids, id)
				conversations[i] = &model.Conversation{
					ID: id, LastSeq: 1, CreatedAt: tx.Now, LastActivityAt: tx.Now, History: model.FromStart,
					Kind: model.Group,
				}
				for _, name := range []string{"ann", "ben"} {
					role := model.Member
					if name == "ann" {
						role = model.Owner
					}
					members = append(members, &model.ConversationMember{
						ConversationID: id, UserID: w.id(name), Role: role, JoinedAt: tx.Now, JoinedSeq: 1,
					})
				}
				events[i] = &model.Event{
					ConversationID: id, Seq: 1, At: tx.Now, Kind: model.ConversationCreated, Data: json.RawMessage("{}"),
				}
			}
			if _, err := tx.NewInsert().Model(&conversations).Exec(ctx); err != nil {
				return err
			}
			if err := insertMembers(ctx, tx, members); err != nil {
				return err
			}
			return w.insertEvents(ctx, tx, events)
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return ids
}

func (w *world) insertEvents(ctx context.Context, tx *store.Tx, events []*model.Event) error {
	position, err := nextPosition(ctx, tx)
	if err != nil {
		return err
	}
	return tx.NewInsert().Model(&events).Value("position", "?", position).Returning("position").Scan(ctx)
}

// renameAll writes an event to each conversation, each time so many in a transaction, and announces
// them.
func (w *world) renameAll(ids []model.ConversationID, seq int64, together int) {
	w.t.Helper()
	for some := range slices.Chunk(ids, together) {
		events := make([]*model.Event, len(some))
		err := w.db.InTx(w.t.Context(), func(ctx context.Context, tx *store.Tx) error {
			for i, id := range some {
				events[i] = &model.Event{
					ConversationID: id, Seq: seq, At: tx.Now, Kind: model.ConversationRenamed, Data: json.RawMessage("{}"),
				}
			}
			_, err := tx.NewUpdate().Model((*model.Conversation)(nil)).Set("last_seq = ?", seq).Where("id IN (?)", bun.List(some)).Exec(ctx)
			if err != nil {
				return err
			}
			return w.insertEvents(ctx, tx, events)
		})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range events {
			w.announce([]*model.Event{e})
		}
	}
}

// forgetBen ends ben's memberships, so many in a transaction, as the end of an account ends
// others'.
func (w *world) forgetBen(ids []model.ConversationID, seq int64, together int) {
	w.t.Helper()
	for some := range slices.Chunk(ids, together) {
		err := w.db.InTx(w.t.Context(), func(ctx context.Context, tx *store.Tx) error {
			position, err := nextPosition(ctx, tx)
			if err != nil {
				return err
			}
			departures := make([]*model.Departure, len(some))
			for i, id := range some {
				departures[i] = &model.Departure{UserID: w.id("ben"), ConversationID: id, Seq: seq}
			}
			if _, err = tx.NewInsert().Model(&departures).Value("position", "?", position).Exec(ctx); err != nil {
				return err
			}
			_, err = tx.NewDelete().Model((*model.ConversationMember)(nil)).Where("user_id = ?", w.id("ben")).
				Where("conversation_id IN (?)", bun.List(some)).Exec(ctx)
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// boundedMine takes items, and makes sure of the bound of each one's cursor.
type boundedMine struct {
	*pulledMine
	told    []string
	cursors []string
	bytes   int
}

func (b *boundedMine) take(n int) {
	b.t.Helper()
	for range n {
		item, err, ok := b.next()
		if err != nil || !ok {
			b.t.Fatalf("got the end (%v) after %d items", err, len(b.told))
		}
		if len(item.Cursor) > store.MaxCursor {
			b.t.Fatalf("the cursor of item %d has %d characters", len(b.told), len(item.Cursor))
		}
		b.bytes += len(item.Cursor)
		b.told, b.cursors = append(b.told, tellItem(item)), append(b.cursors, item.Cursor)
	}
}

// wantAll makes sure that all this was told, each once.
func wantAll(t *testing.T, what string, told []string, ids []model.ConversationID, format string) {
	t.Helper()
	want := make([]string, len(ids))
	for i, id := range ids {
		want[i] = fmt.Sprintf(format, id)
	}
	got := slices.Clone(told)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("%s: %d items are not the %d that there should be", what, len(got), len(want))
	}
}

// TestACursorIsBoundedWhateverHappens has something happen in thousands of conversations: while
// nobody is there, and while a stream is live. Whoever comes back in the midst of it gets the rest.
func TestACursorIsBoundedWhateverHappens(t *testing.T) {
	t.Parallel()
	// Five times what a cursor names, and more than fits into one, also with the race detector.
	const many = 2000 / min(race.Slowness, 4)
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for name, together := range map[string]int{"in one transaction": many, "in many": many / 100} {
			t.Run(name, func(t *testing.T) {
				w := MustWorldWith(t, db, Options{CompareEvery: never})
				w.invite("ann", "ben")
				defer w.uninvite()
				start, err := w.MyEventsCursor(t.Context(), w.actor("ben"))
				if err != nil {
					t.Fatal(err)
				}
				// rest comes back with some of the cursors.
				rest := func(b *boundedMine, among []model.ConversationID, format string) {
					t.Helper()
					wantAll(t, format, b.told, among, format)
					for _, at := range []int{1, many / 2} {
						again := &boundedMine{pulledMine: w.pullMine(t, "ben", &b.cursors[at])}
						again.take(many - 1 - at)
						again.caughtUp()
						again.stop()
						all := append(slices.Clone(b.told[:at+1]), again.told...)
						wantAll(t, fmt.Sprintf("%s, after item %d", format, at), all, among, format)
					}
					t.Logf("%s: %d bytes of cursors for %d items", format, b.bytes, len(b.told))
				}
				away := func(after string, ids []model.ConversationID, format string) string {
					t.Helper()
					b := &boundedMine{pulledMine: w.pullMine(t, "ben", &after)}
					b.take(many)
					b.caughtUp()
					b.stop()
					rest(b, ids, format)
					return b.cursor
				}

				ids := w.manyConversations(many)
				cursor := away(start, ids, "%v: joined")
				w.renameAll(ids, 2, together)
				cursor = away(cursor, ids, "%v: 2 conversation_renamed")

				live := &boundedMine{pulledMine: w.pullMine(t, "ben", &cursor)}
				live.caughtUp()
				w.renameAll(ids, 3, together)
				live.take(many)
				live.stop()
				rest(live, ids, "%v: 3 conversation_renamed")

				w.forgetBen(ids, 4, together)
				away(live.cursors[many-1], ids, "%v: left")
			})
		}
	})
}

// uninvite lets people of the same names be invited once more.
func (w *world) uninvite() {
	if _, err := w.db.NewDelete().Table("conversations").Where("true").Exec(context.WithoutCancel(w.t.Context())); err != nil {
		w.t.Error(err)
	}
	if _, err := w.db.NewDelete().Table("users").Where("true").Exec(context.WithoutCancel(w.t.Context())); err != nil {
		w.t.Error(err)
	}
}

// TestJoinsAndLeavingsCountAsMissed has no more of them than may be missed, and then one more.
func TestJoinsAndLeavingsCountAsMissed(t *testing.T) {
	t.Parallel()
	const limit = 10
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorldWith(t, db, Options{CompareEvery: never, MaxReplayed: limit}, "ann", "ben")
		p := w.pullMine(t, "ben", nil)
		p.caughtUp()
		var ids []model.ConversationID
		for n, what := range []string{"caught up", "reset"} {
			ids = w.manyConversations(limit + n)
			p = p.again(w, "ben")
			for range (1 - n) * limit {
				if item, err, _ := p.next(); item.Joined == nil {
					t.Fatalf("got %s (%v)", tellItem(item), err)
				}
			}
			p.item(what)
			if n == 1 {
				p.caughtUp()
			}
			w.forgetBen(ids, 2, limit+n)
			p = p.again(w, "ben")
			for range (1 - n) * limit {
				if item, err, _ := p.next(); item.Left == nil {
					t.Fatalf("got %s (%v)", tellItem(item), err)
				}
			}
			p.item(what)
			if n == 1 {
				p.caughtUp()
			}
		}
	})
}

// TestACursorIsBoundedWhileTheWatermarkIsHeldBack has a transaction run on that has nothing to do
// with it, and more happen meanwhile than a cursor can say: the stream begins anew, and goes on.
func TestACursorIsBoundedWhileTheWatermarkIsHeldBack(t *testing.T) {
	t.Parallel()
	const named, many = 4, 12
	db := storetest.MustPostgres(t)
	w := MustWorldWith(t, db, Options{
		CompareEvery: never, maxNamed: named, roomPatience: 1, Log: slog.New(slog.DiscardHandler),
	}, "ann", "ben", "cleo")
	ids := w.manyConversations(many)
	w.settle()
	p := w.pullMine(t, "ben", nil)
	p.caughtUp()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "UPDATE users SET about = 'long' WHERE id = ?", w.id("cleo")); err != nil {
		t.Fatal(err)
	}
	resets := 0
	for _, id := range ids {
		w.renameAll([]model.ConversationID{id}, 2, 1)
		for done := false; !done; {
			item, err, ok := p.next()
			if err != nil || !ok {
				t.Fatal(err)
			}
			if names := len(w.mustReadCursor("ben", item.Cursor).told); names > named+sweepNamed {
				t.Errorf("%s: the cursor names %d conversations", tellItem(item), names)
			}
			p.cursor = item.Cursor
			switch {
			case item.Reset:
				resets++
				p.caughtUp()
				done = true // what was stored before the reset, the client has read
			case item.Event != nil && item.Event.ConversationID == id:
				done = true
			default:
				t.Fatalf("got %s", tellItem(item))
			}
		}
	}
	if resets == 0 {
		t.Error("it did not begin anew")
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	p.stop()
	// A node that waits for the watermark, because other databases of the server may hold it back
	// for a moment.
	next := MustWorldWith(t, db, Options{CompareEvery: never, maxNamed: named})
	next.actors = w.actors
	p = next.pullMine(t, "ben", &p.cursor)
	for {
		item, err, ok := p.next()
		if err != nil || !ok || item.Reset {
			t.Fatalf("got %s (%v)", tellItem(item), err)
		}
		if item.CaughtUp { // before it may come again what the last reset has not named
			break
		}
	}
	live := &boundedMine{pulledMine: p}
	next.renameAll(ids, 3, 1)
	live.take(many)
	wantAll(t, "live", live.told, ids, "%v: 3 conversation_renamed")
}

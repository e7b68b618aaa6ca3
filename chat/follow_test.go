package chat

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// fill writes n messages at once, which nobody is told of; for tests that need more than they have
// time to send.
func (w *world) fill(author string, c *model.Conversation, n int) {
	w.t.Helper()
	err := w.db.InTx(w.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		var messages []*model.Message
		var events []*model.Event
		for i := range n {
			m := &model.Message{
				ID: model.NewMessageID(), ConversationID: c.ID, Seq: c.LastSeq + int64(i) + 1,
				AuthorID: new(w.id(author)), Content: fmt.Sprint(i), CreatedAt: tx.Now,
			}
			messages = append(messages, m)
			events = append(events, &model.Event{
				ConversationID: c.ID, Seq: m.Seq, Kind: model.MessageAdded, ActorID: m.AuthorID, MessageID: &m.ID,
				Data: []byte("{}"), At: tx.Now, Position: m.Seq,
			})
		}
		if _, err := tx.NewInsert().Model(&messages).Exec(ctx); err != nil {
			return err
		}
		if _, err := tx.NewInsert().Model(&events).Exec(ctx); err != nil {
			return err
		}
		_, err := tx.NewUpdate().Model((*model.Conversation)(nil)).Set("last_seq = last_seq + ?", n).Where("id = ?", c.ID).Exec(ctx)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	c.LastSeq += int64(n)
}

func TestFollowReplaysAndGoesLive(t *testing.T) {
	t.Parallel()
	const stored = 6 // its beginning and 5 messages
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		for name, after := range map[string]*int64{
			"from now on": nil, "from the beginning": new(int64(0)), "from the middle": new(int64(3)), "from the end": new(int64(stored)),
		} {
			t.Run(name, func(t *testing.T) {
				c := MustConversation(t, w, "ann", "ben")
				w.sendMany("ben", c.ID, stored-1)
				seen := int64(stored)
				if after != nil {
					seen = *after
				}
				p := w.pull(t, "ann", c.ID, after)
				got := p.events(seen+1, stored)
				w.send("ben", c.ID, "between") // either replayed or live
				got = append(got, p.event(stored+1))
				w.sendMany("ann", c.ID, 5)
				w.remove("ben", c.ID)
				w.send("ann", c.ID, "alone")
				got = append(got, p.events(stored+2, stored+8)...)
				wantEqual(t, "events", w.stored(c.ID)[seen:], got, sameData())
			})
		}
	})
}

func TestFollowIsLive(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		told := map[int64]*model.Event{}
		w.publish = func(topic string, h hint) {
			for _, e := range h.events {
				told[e.Seq] = e
			}
			w.hints.Publish(topic, h)
		}
		c := MustConversation(t, w, "ann", "ben")
		p := w.pull(t, "ben", c.ID, new(int64(0)))
		p.event(1) // it listens from here on
		w.sendMany("ann", c.ID, followQueue)
		for _, e := range p.events(2, followQueue+1) {
			if e != told[e.Seq] {
				t.Errorf("seq %d was read from the database, though the hint brought it", e.Seq)
			}
		}
	})
}

func TestFollowReplaysPagesWhole(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		for _, n := range []int{feedPage - 1, feedPage, feedPage + 1, 2 * feedPage} {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				c := MustConversation(t, w, "ann", "ben")
				w.fill("ann", c, n)
				p := w.pull(t, "ben", c.ID, new(int64(1)))
				got := p.events(2, c.LastSeq)
				w.send("ann", c.ID, "live")
				for _, e := range append(got, p.event(c.LastSeq+1)) {
					if e.Message == nil || e.Message.Seq != e.Seq {
						t.Errorf("seq %d came with message %+v", e.Seq, e.Message)
					}
				}
			})
		}
	})
}

func TestFollowIsRefused(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben", "zoe")
		c := MustConversation(t, w, "ann", "ben")
		w.send("ann", c.ID, "hello")
		w.remove("ben", c.ID)
		unknown := model.NewConversationID()
		tests := map[string]struct {
			nickname string
			id       model.ConversationID
			after    *int64
			want     errs.Code
		}{
			"negative":               {"ann", c.ID, new(int64(-1)), errs.BadUserInput},
			"beyond":                 {"ann", c.ID, new(int64(4)), errs.BadUserInput},
			"far beyond":             {"ann", c.ID, new(int64(1<<63 - 1)), errs.BadUserInput},
			"stranger":               {"zoe", c.ID, nil, errs.NotFound},
			"stranger from 0":        {"zoe", c.ID, new(int64(0)), errs.NotFound},
			"stranger beyond":        {"zoe", c.ID, new(int64(4)), errs.NotFound},
			"removed":                {"ben", c.ID, nil, errs.NotFound},
			"removed, from before":   {"ben", c.ID, new(int64(1)), errs.NotFound},
			"unknown":                {"ann", unknown, nil, errs.NotFound},
			"unknown, from negative": {"ann", unknown, new(int64(-1)), errs.NotFound},
		}
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				events, err := w.Follow(t.Context(), w.actor(test.nickname), test.id, test.after)
				wantCode(t, err, test.want)
				if events != nil {
					t.Error("there is a sequence all the same")
				}
			})
		}
	})
}

func TestFollowEndsWithItsContext(t *testing.T) {
	t.Parallel()
	errSignedOut := errors.New("signed out")
	tests := map[string]func(p *pulled, cancel func()){
		"before it begins": func(_ *pulled, cancel func()) { cancel() },
		"between two pages": func(p *pulled, cancel func()) {
			p.events(1, feedPage)
			cancel()
		},
		"while live": func(p *pulled, cancel func()) {
			p.events(1, feedPage+1)
			cancel()
		},
		"while it waits": func(p *pulled, cancel func()) {
			p.events(1, feedPage+1)
			go cancel()
		},
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		w.fill("ann", c, feedPage)
		for name, until := range tests {
			t.Run(name, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				p := w.pullIn(ctx, t, "ben", c.ID, new(int64(0)))
				until(p, func() { cancel(errSignedOut) })
				if err := p.end(); !errors.Is(err, errSignedOut) {
					t.Errorf("it ended with %v, want the context's cause", err)
				}
				wantEqual(t, "topics that are left", []string{}, w.hints.Topics())
			})
		}
	})
}

func TestAConsumerMayStopAtAnyTime(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		w.sendMany("ann", c.ID, 3)
		for stopAt := range int64(6) { // four are stored, two come live
			p := w.pull(t, "ben", c.ID, new(int64(0)))
			p.events(1, min(stopAt, 4))
			for seq := int64(5); seq <= stopAt; seq++ {
				w.send("ann", c.ID, "live")
				p.event(seq)
			}
			p.stop()
			if topics := w.hints.Topics(); len(topics) != 0 {
				t.Errorf("stopped at %d: %v are left", stopAt, topics)
			}
		}
	})
}

func TestAConsumerThatPanicsLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		events, err := w.Follow(t.Context(), w.actor("ben"), c.ID, new(int64(0)))
		if err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() {
				if reason := recover(); reason == nil {
					t.Error("the panic did not come through")
				}
			}()
			for _, err := range events {
				if err != nil {
					t.Error(err)
				}
				panic("as a resolver may, and its server goes on")
			}
		}()
		if topics := w.hints.Topics(); len(topics) != 0 {
			t.Errorf("%v are left", topics)
		}
	})
}

func TestFollowersAreTheirOwn(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		a, b := MustConversation(t, w, "ann", "ben"), MustConversation(t, w, "ann", "ben")
		ann, ben, other := w.pull(t, "ann", a.ID, nil), w.pull(t, "ben", a.ID, new(int64(0))), w.pull(t, "ben", b.ID, nil)
		ben.event(1) // and then it rests, while the others go on
		const n = 2 * followQueue
		for seq := int64(2); seq <= n; seq++ {
			w.send("ben", a.ID, "to a")
			ann.event(seq)
			if seq%followQueue == 0 {
				w.send("ann", b.ID, "to b")
				if e := other.event(1 + seq/followQueue); e.ConversationID != b.ID {
					t.Fatalf("an event of another conversation came: %+v", e)
				}
			}
		}
		if diff := cmp.Diff(w.stored(a.ID)[1:], ben.events(2, n), sameData()); diff != "" {
			t.Error(diff)
		}
	})
}

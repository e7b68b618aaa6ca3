package feed_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// fill stores n messages in one transaction, and publishes no hint.
func (w *fixture) fill(author string, c *model.Conversation, n int) {
	w.T.Helper()
	err := w.DB.InTx(w.T.Context(), func(ctx context.Context, tx *store.Tx) error {
		var messages []*model.Message
		var events []*model.Event
		for i := range n {
			m := &model.Message{
				ID: model.NewMessageID(), ConversationID: c.ID, Seq: c.LastSeq + int64(i) + 1,
				AuthorID: new(w.UserID(author)), Content: fmt.Sprint(i), CreatedAt: tx.Now,
			}
			messages = append(messages, m)
			events = append(events, &model.Event{
				ConversationID: c.ID, Seq: m.Seq, Kind: model.MessageAdded, ActorID: m.AuthorID,
				MessageID: &m.ID,
				Data:      []byte("{}"), At: tx.Now, Position: m.Seq,
			})
		}
		if _, err := tx.NewInsert().Model(&messages).Exec(ctx); err != nil {
			return err
		}
		if _, err := tx.NewInsert().Model(&events).Exec(ctx); err != nil {
			return err
		}
		_, err := tx.NewUpdate().Model((*model.Conversation)(nil)).
			Set("last_seq = last_seq + ?", n).Where("id = ?", c.ID).Exec(ctx)
		return err
	})
	if err != nil {
		w.T.Fatal(err)
	}
	c.LastSeq += int64(n)
}

func TestFollowReplaysAndGoesLive(t *testing.T) {
	t.Parallel()
	const stored = 6 // its beginning and 5 messages
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		for name, after := range map[string]*int64{
			"from now on": nil, "from the beginning": new(int64(0)),
			"from the middle": new(int64(3)), "from the end": new(int64(stored)),
		} {
			t.Run(name, func(t *testing.T) {
				c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
				w.SendMany("ben", c.ID, stored-1)
				seen := int64(stored)
				if after != nil {
					seen = *after
				}
				p := w.Pull(t, "ann", c.ID, after)
				got := p.Events(seen+1, stored)
				w.Send("ben", c.ID, "between") // either replayed or live
				got = append(got, p.Event(stored+1))
				w.SendMany("ann", c.ID, 5)
				w.EndMembership("ben", c.ID)
				w.Send("ann", c.ID, "alone")
				got = append(got, p.Events(stored+2, stored+8)...)
				chattest.WantEqual(t, "events", w.Stored(c.ID)[seen:], got, sameData())
			})
		}
	})
}

func TestFollowIsLive(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		hinted := map[int64]*model.Event{}
		w.Hints().Intercept(func(topic string, h feed.Hint) {
			for _, e := range h.Events {
				hinted[e.Seq] = e
			}
			w.Hints().PublishLocal(topic, h)
		})
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		p.Event(1) // it follows from here on
		w.SendMany("ann", c.ID, feed.FollowQueue)
		for _, e := range p.Events(2, feed.FollowQueue+1) {
			if e != hinted[e.Seq] {
				t.Errorf("seq %d was read from the database, though the hint brought it", e.Seq)
			}
		}
	})
}

func TestFollowReplaysPagesWhole(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		for _, n := range []int{
			feed.ReadPage - 1, feed.ReadPage, feed.ReadPage + 1,
			2 * feed.ReadPage,
		} {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
				w.fill("ann", c, n)
				p := w.Pull(t, "ben", c.ID, new(int64(1)))
				got := p.Events(2, c.LastSeq)
				w.Send("ann", c.ID, "live")
				for _, e := range append(got, p.Event(c.LastSeq+1)) {
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
		w := mustFixture(t, db, "ann", "ben", "zoe")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.Send("ann", c.ID, "hello")
		w.EndMembership("ben", c.ID)
		unknown := model.NewConversationID()
		tests := map[string]struct {
			nickname string
			id       model.ConversationID
			after    *int64
			want     errs.Code
		}{
			"negative":               {"ann", c.ID, new(int64(-1)), errs.BadUserInput},
			"beyond":                 {"ann", c.ID, new(int64(4)), errs.HistoryChanged},
			"far beyond":             {"ann", c.ID, new(int64(1<<63 - 1)), errs.HistoryChanged},
			"a non-member":           {"zoe", c.ID, nil, errs.NotFound},
			"a non-member, from 0":   {"zoe", c.ID, new(int64(0)), errs.NotFound},
			"a non-member, too high": {"zoe", c.ID, new(int64(4)), errs.NotFound},
			"removed":                {"ben", c.ID, nil, errs.NotFound},
			"removed, from before":   {"ben", c.ID, new(int64(1)), errs.NotFound},
			"unknown":                {"ann", unknown, nil, errs.NotFound},
			"unknown, from negative": {"ann", unknown, new(int64(-1)), errs.NotFound},
		}
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				events, err := w.Follow(t.Context(), w.Actor(test.nickname), test.id,
					feed.AfterSeq(test.after))
				chattest.WantCode(t, err, test.want)
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
	tests := map[string]func(p *chattest.Pulled, cancel func()){
		"before it begins": func(_ *chattest.Pulled, cancel func()) { cancel() },
		"between two pages": func(p *chattest.Pulled, cancel func()) {
			p.Events(1, feed.ReadPage)
			cancel()
		},
		"while live": func(p *chattest.Pulled, cancel func()) {
			p.Events(1, feed.ReadPage+1)
			cancel()
		},
		"while it waits": func(p *chattest.Pulled, cancel func()) {
			p.Events(1, feed.ReadPage+1)
			go cancel()
		},
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.fill("ann", c, feed.ReadPage)
		for name, until := range tests {
			t.Run(name, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				p := w.PullIn(ctx, t, "ben", c.ID, new(int64(0)))
				until(p, func() { cancel(errSignedOut) })
				if err := p.End(); !errors.Is(err, errSignedOut) {
					t.Errorf("it ended with %v, want the context's cause", err)
				}
				chattest.WantEqual(t, "topics that are left", []string{}, w.Hints().Topics())
			})
		}
	})
}

func TestAConsumerMayStopAtAnyTime(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.SendMany("ann", c.ID, 3)
		for stopAt := range int64(6) { // four are stored, two come live
			p := w.Pull(t, "ben", c.ID, new(int64(0)))
			p.Events(1, min(stopAt, 4))
			for seq := int64(5); seq <= stopAt; seq++ {
				w.Send("ann", c.ID, "live")
				p.Event(seq)
			}
			p.Stop()
			if topics := w.Hints().Topics(); len(topics) != 0 {
				t.Errorf("stopped at %d: %v are left", stopAt, topics)
			}
		}
	})
}

func TestAConsumerThatPanicsLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		events, err := w.Follow(t.Context(), w.Actor("ben"), c.ID, &feed.Place{})
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
		if topics := w.Hints().Topics(); len(topics) != 0 {
			t.Errorf("%v are left", topics)
		}
	})
}

func TestFollowersDoNotAffectEachOther(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		a, b := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ann", "ben")
		ann, ben, other := w.Pull(t, "ann", a.ID, nil), w.Pull(t, "ben", a.ID, new(int64(0))),
			w.Pull(t, "ben", b.ID, nil)
		ben.Event(1) // and takes nothing until the end
		const n = 2 * feed.FollowQueue
		for seq := int64(2); seq <= n; seq++ {
			w.Send("ben", a.ID, "to a")
			ann.Event(seq)
			if seq%feed.FollowQueue == 0 {
				w.Send("ann", b.ID, "to b")
				if e := other.Event(1 + seq/feed.FollowQueue); e.ConversationID != b.ID {
					t.Fatalf("an event of another conversation came: %+v", e)
				}
			}
		}
		diff := cmp.Diff(w.Stored(a.ID)[1:], ben.Events(2, n), sameData(), chattest.AsStored)
		if diff != "" {
			t.Error(diff)
		}
	})
}

package feed_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"parley/chat"
	"parley/chat/chattest"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// sameData ignores how JSON values are spelled: jsonb does not keep it.
func sameData() cmp.Option {
	ofData := func(p cmp.Path) bool {
		field, ok := p.Last().(cmp.StructField)
		return ok && field.Name() == "Data" // by name, because any other bytes are assignable, too
	}
	return cmp.FilterPath(ofData, cmp.Comparer(func(a, b json.RawMessage) bool {
		var x, y any
		return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && cmp.Equal(x, y)
	}))
}

func TestTheFirstEventHasTheInitialState(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann", "ben")
		for name, title := range map[string]*string{
			"titled": new(" The <title>\u2028 & Cafe\u0301 "), "untitled": nil,
		} {
			t.Run(name, func(t *testing.T) {
				in := chat.CreateConversation{
					Title:   title,
					Members: w.NewMembers("ann", "olga", "ben"),
				}
				in.Members[0].Role = model.Admin
				c, err := w.CreateConversation(t.Context(), w.Actor("olga"), in)
				if err != nil {
					t.Fatal(err)
				}
				events := w.Stored(c.ID)
				if len(events) != 1 {
					t.Fatalf("%d events", len(events))
				}
				want := &model.Event{
					ConversationID: c.ID, Seq: 1, Kind: model.ConversationCreated,
					ActorID: new(w.UserID("olga")), At: c.CreatedAt,
				}
				chattest.WantEqual(t, "the event", want, events[0],
					cmpopts.IgnoreFields(model.Event{}, "Data", "Position", "StoredMark"))

				var data model.ConversationCreatedData
				if err := json.Unmarshal(events[0].Data, &data); err != nil {
					t.Fatal(err)
				}
				stored, err := w.Conversation(t.Context(), w.Actor("ben"), c.ID)
				if err != nil {
					t.Fatal(err)
				}
				chattest.WantEqual(t, "the data", model.ConversationCreatedData{
					Kind: stored.Kind, Title: stored.Title, History: model.FromStart,
					Members: []model.MemberData{
						{UserID: w.UserID("olga"), Role: model.Owner},
						{UserID: w.UserID("ann"), Role: model.Admin},
						{UserID: w.UserID("ben"), Role: model.Member},
					},
				}, data)
				roles := map[string]model.Role{
					"olga": model.Owner, "ann": model.Admin,
					"ben": model.Member,
				}
				chattest.WantEqual(t, "members, as stored", roles, w.Roles(c.ID))
			})
		}
	})
}

func TestHintsCarryTheEventAsStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		var published []*model.Event
		w.Hints().Intercept(func(_ string, h feed.Hint) {
			published = append(published, h.Events...)
		})
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.Send("ann", c.ID, "Cafe\u0301 \r\n 👍")
		in := chat.SendMessage{ConversationID: c.ID, Content: "again", IdempotencyKey: new("key")}
		if _, err := w.SendMessage(t.Context(), w.Actor("ben"), in); err != nil {
			t.Fatal(err)
		}
		w.EndMembership("ben", c.ID)
		stored := w.Stored(c.ID)
		chattest.WantEqual(t, "events", stored, published, sameData())
		for i, e := range stored[1:] {
			if before := stored[i].Position; before <= 0 || e.Position <= before {
				t.Errorf("position %d comes after %d", e.Position, before)
			}
		}
	})
}

func TestHintsArePublishedAfterTheCommit(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		var published []int64
		w.Hints().Intercept(func(topic string, h feed.Hint) {
			published = append(published, h.Seq)
			// Another connection sees only committed rows.
			n, err := db.NewSelect().Model((*model.Event)(nil)).
				Where("e.conversation_id = ?", h.Events[0].ConversationID).
				Where("e.seq = ?", h.Seq).Count(t.Context())
			if err != nil || n != 1 {
				t.Errorf("seq %d was published while %d of it were stored (%v)", h.Seq, n, err)
			}
			if topic != feed.Topic(h.Events[0].ConversationID) || h.Events[0].Seq != h.Seq {
				t.Errorf("event %+v was published as seq %d of %s", h.Events[0], h.Seq, topic)
			}
		})
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.SendMany("ben", c.ID, 2)
		w.EndMembership("ben", c.ID)
		errLater := errors.New("something later in the transaction fails")
		err := db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			e := &model.Event{ConversationID: c.ID, Seq: 5, Kind: "nothing"}
			if err := w.AppendFirst(ctx, tx, e, struct{}{}); err != nil {
				return err
			}
			return errLater
		})
		if !errors.Is(err, errLater) {
			t.Fatal(err)
		}
		chattest.WantEqual(t, "published seqs", []int64{1, 2, 3, 4}, published)
	})
}

func TestSeqHasNoGapsWithManySenders(t *testing.T) {
	t.Parallel()
	const senders, each = 64, 3
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for name, conversations := range map[string]int{
			"to one conversation": 1,
			"to 20 conversations": 20,
		} {
			t.Run(name, func(t *testing.T) {
				authors := []string{name + " ann", name + " ben", name + " cleo", name + " dan"}
				w := mustFixture(t, db, authors...)
				ids := make([]model.ConversationID, conversations)
				for i := range ids {
					ids[i] = chattest.MustConversation(t, w.Fixture, authors[0], authors[1:]...).ID
				}
				var all sync.WaitGroup
				failed := make([]error, senders)
				for i := range senders {
					all.Go(func() {
						for n := range each {
							in := chat.SendMessage{
								ConversationID: ids[(i+n*7)%conversations],
								Content:        fmt.Sprint(i, n),
							}
							if _, err := w.SendMessage(t.Context(),
								w.Actors[authors[i%len(authors)]], in); err != nil {
								failed[i] = err
							}
						}
					})
				}
				all.Wait()
				for i, err := range failed {
					if err != nil {
						t.Errorf("sender %d: %v", i, err)
					}
				}
				sent := 0
				for _, id := range ids {
					sent += checkLog(t, w, id)
				}
				if sent != senders*each {
					t.Errorf("%d messages are stored of %d", sent, senders*each)
				}
			})
		}
	})
}

// checkLog checks the log of a conversation: events are numbered from 1 without gaps or doubles,
// each message has the seq of its event, and last_seq is the newest. It returns the number of
// messages.
func checkLog(t *testing.T, w *fixture, id model.ConversationID) int {
	t.Helper()
	events := w.Stored(id)
	var messages []*model.Message
	if err := w.DB.NewSelect().Model(&messages).Where("m.conversation_id = ?", id).
		OrderExpr("m.seq").Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	var ofEvents []*model.Message
	for i, e := range events {
		if e.Seq != int64(i)+1 {
			t.Fatalf("seq %d stands at place %d", e.Seq, i+1)
		}
		if e.Kind != model.MessageAdded {
			continue
		}
		m := e.Message
		if m == nil || m.Seq != e.Seq || *m.AuthorID != *e.ActorID || !m.CreatedAt.Equal(e.At) {
			t.Fatalf("event %+v does not agree with its message %+v", e, m)
		}
		ofEvents = append(ofEvents, m)
	}
	chattest.WantEqual(t, "messages, by their events", messages, ofEvents)
	var c model.Conversation
	if err := w.DB.NewSelect().Model(&c).Where("c.id = ?", id).Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.LastSeq != int64(len(events)) {
		t.Errorf("last_seq is %d after %d events", c.LastSeq, len(events))
	}
	if newest := events[len(events)-1].At; !c.LastActivityAt.Equal(newest) {
		t.Errorf("the newest event is of %v, the last activity of %v", newest, c.LastActivityAt)
	}
	return len(messages)
}

func TestARolledBackSendLeavesNoGap(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "zoe")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		var all sync.WaitGroup
		for i := range 30 {
			all.Go(func() {
				// zoe is not a member, which is found out after the seq is assigned
				author := []string{"ann", "zoe", "ben"}[i%3]
				in := chat.SendMessage{
					ConversationID: c.ID, Content: "x",
					IdempotencyKey: new(fmt.Sprint(i / 6)),
				}
				_, _ = w.SendMessage(t.Context(), w.Actors[author], in)
			})
		}
		all.Wait()
		if sent := checkLog(t, w, c.ID); sent != 10 {
			t.Errorf("%d messages are stored, want 10", sent)
		}
		keys := map[string]int{}
		for _, e := range w.Stored(c.ID)[1:] {
			keys[*e.Message.IdempotencyKey]++
		}
		if !cmp.Equal(keys, map[string]int{"0": 2, "1": 2, "2": 2, "3": 2, "4": 2}) {
			t.Errorf("messages by key: %v", keys)
		}
	})
}

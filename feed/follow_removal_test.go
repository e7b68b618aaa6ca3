package feed_test

import (
	"sync/atomic"
	"testing"

	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// removal is that of ben from a conversation with two messages. It is seq 4; seq 5 is not for him.
type removal struct {
	*fixture
	conversation *model.Conversation
	lose         atomic.Bool // hints
}

func (r *removal) happens() {
	r.T.Helper()
	r.EndMembership("ben", r.conversation.ID)
	r.Send("ann", r.conversation.ID, "not for ben")
}

func TestARemovedMemberGetsTheRemovalAndNoMore(t *testing.T) {
	t.Parallel()
	tests := map[string]func(r *removal, p *chattest.Pulled){
		"live": func(r *removal, p *chattest.Pulled) {
			p.Events(1, 3)
			r.happens()
			p.Event(4)
		},
		"live, with messages queued before": func(r *removal, p *chattest.Pulled) {
			p.Events(1, 2)
			r.happens()
			p.Until(4) // 3 may come, as long as the removal is not known
		},
		"its hint was lost": func(r *removal, p *chattest.Pulled) {
			p.Events(1, 3)
			r.lose.Store(true)
			r.happens()
			p.Event(4)
		},
		"its hint was lost, the next one not": func(r *removal, p *chattest.Pulled) {
			p.Events(1, 3)
			r.lose.Store(true)
			r.EndMembership("ben", r.conversation.ID)
			r.lose.Store(false)
			r.Send("ann", r.conversation.ID, "not for ben")
			p.Event(4)
		},
		"before the replay": func(r *removal, p *chattest.Pulled) {
			r.happens()
			p.Event(4)
		},
		"behind an overflow": func(r *removal, p *chattest.Pulled) {
			p.Events(1, 3)
			r.SendMany("ann", r.conversation.ID, feed.FollowQueue+1)
			r.happens()
			p.Until(4 + feed.FollowQueue + 1)
		},
		"behind a page": func(r *removal, p *chattest.Pulled) {
			p.Event(1)
			r.conversation.LastSeq = 3
			r.fill("ann", r.conversation, 2*feed.ReadPage)
			r.happens()
			p.Until(4 + 2*feed.ReadPage)
		},
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				r := &removal{fixture: mustFixtureWith(t, db,
					chattest.Options{ReconcileEvery: chattest.ReconcileSoon})}
				r.Invite(name+" ann", name+" ben")
				r.Actors["ann"], r.Actors["ben"] = r.Actor(name+" ann"), r.Actor(name+" ben")
				r.Hints().Intercept(func(topic string, h feed.Hint) {
					if !r.lose.Load() {
						r.Hints().PublishLocal(topic, h)
					}
				})
				r.conversation = chattest.MustConversation(t, r.Fixture, "ann", "ben")
				r.SendMany("ann", r.conversation.ID, 2)
				p := r.Pull(t, "ben", r.conversation.ID, new(int64(0)))
				test(r, p)
				chattest.WantCode(t, p.End(), errs.Forbidden)
				chattest.WantEqual(t, "topics that are left", []string{}, r.Hints().Topics())
			})
		}
	})
}

func TestOtherMembersGoOnAfterARemoval(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "cleo")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cleo")
		live, replayed := w.Pull(t, "ann", c.ID, new(int64(0))),
			w.Pull(t, "cleo", c.ID, new(int64(0)))
		live.Event(1)
		w.EndMembership("ben", c.ID)
		w.Send("cleo", c.ID, "without him")
		live.Events(2, 3)
		replayed.Events(1, 3)
	})
}

func TestAMemberAddedAgainMayReplayTheirRemoval(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.EndMembership("ben", c.ID)
		w.SkipSeq(t, c.ID) // stands for the event of being added
		again := &model.ConversationMember{
			ConversationID: c.ID, UserID: w.UserID("ben"), Role: model.Member, JoinedAt: db.Now(),
			JoinedSeq: 3, LastReadSeq: 3,
		}
		if _, err := db.NewInsert().Model(again).Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		p := w.Pull(t, "ben", c.ID, new(int64(0)))
		p.Events(1, 3)
		w.Send("ann", c.ID, "welcome back")
		p.Event(4)
	})
}

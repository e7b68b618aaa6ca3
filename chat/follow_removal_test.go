package chat

import (
	"sync/atomic"
	"testing"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// removal is ben's from a conversation with two messages: seq 4, and seq 5 is not for him.
type removal struct {
	*world
	conversation *model.Conversation
	lose         atomic.Bool // hints
}

func (r *removal) happens() {
	r.t.Helper()
	r.remove("ben", r.conversation.ID)
	r.send("ann", r.conversation.ID, "not for ben")
}

func TestARemovedMemberIsToldSoAndNoMore(t *testing.T) {
	t.Parallel()
	tests := map[string]func(r *removal, p *pulled){
		"live": func(r *removal, p *pulled) {
			p.events(1, 3)
			r.happens()
			p.event(4)
		},
		"live, with messages queued before": func(r *removal, p *pulled) {
			p.events(1, 2)
			r.happens()
			p.until(4) // 3 may come, as long as the removal is not known
		},
		"its hint was lost": func(r *removal, p *pulled) {
			p.events(1, 3)
			r.lose.Store(true)
			r.happens()
			p.event(4)
		},
		"its hint was lost, the next one not": func(r *removal, p *pulled) {
			p.events(1, 3)
			r.lose.Store(true)
			r.remove("ben", r.conversation.ID)
			r.lose.Store(false)
			r.send("ann", r.conversation.ID, "not for ben")
			p.event(4)
		},
		"before the replay": func(r *removal, p *pulled) {
			r.happens()
			p.event(4)
		},
		"behind an overflow": func(r *removal, p *pulled) {
			p.events(1, 3)
			r.sendMany("ann", r.conversation.ID, followQueue+1)
			r.happens()
			p.until(4 + followQueue + 1)
		},
		"behind a page": func(r *removal, p *pulled) {
			p.event(1)
			r.conversation.LastSeq = 3
			r.fill("ann", r.conversation, 2*feedPage)
			r.happens()
			p.until(4 + 2*feedPage)
		},
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				r := &removal{world: MustWorldWith(t, db, Options{CompareEvery: compareSoon})}
				r.invite(name+" ann", name+" ben")
				r.actors["ann"], r.actors["ben"] = r.actor(name+" ann"), r.actor(name+" ben")
				r.publish = func(topic string, h hint) {
					if !r.lose.Load() {
						r.hints.Publish(topic, h)
					}
				}
				r.conversation = MustConversation(t, r.world, "ann", "ben")
				r.sendMany("ann", r.conversation.ID, 2)
				p := r.pull(t, "ben", r.conversation.ID, new(int64(0)))
				test(r, p)
				wantCode(t, p.end(), errs.Forbidden)
				wantEqual(t, "topics that are left", []string{}, r.hints.Topics())
			})
		}
	})
}

func TestTheOthersGoOnWithoutTheRemoved(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben", "cleo")
		c := MustConversation(t, w, "ann", "ben", "cleo")
		live, replayed := w.pull(t, "ann", c.ID, new(int64(0))), w.pull(t, "cleo", c.ID, new(int64(0)))
		live.event(1)
		w.remove("ben", c.ID)
		w.send("cleo", c.ID, "without him")
		live.events(2, 3)
		replayed.events(1, 3)
	})
}

func TestAMemberWhoCameBackMayReplayTheirRemoval(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben")
		c := MustConversation(t, w, "ann", "ben")
		w.remove("ben", c.ID)
		w.skipSeq(t, c.ID) // stands for the event of being added
		again := &model.ConversationMember{
			ConversationID: c.ID, UserID: w.id("ben"), Role: model.Member, JoinedAt: db.Now(), JoinedSeq: 3, LastReadSeq: 3,
		}
		if _, err := db.NewInsert().Model(again).Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		p := w.pull(t, "ben", c.ID, new(int64(0)))
		p.events(1, 3)
		w.send("ann", c.ID, "welcome back")
		p.event(4)
	})
}

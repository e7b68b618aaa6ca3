package chat

import (
	"context"
	"fmt"
	"iter"
	"testing"

	"go.uber.org/goleak"

	"parley/errs"
	"parley/model"
	"parley/pubsub/natsbus/natstest"
	"parley/store"
	"parley/store/storetest"
)

// pulledReceipts takes what ReadReceipts yields one at a time. From the first call on it listens.
type pulledReceipts struct {
	t    *testing.T
	w    *world
	next func() (ReadReceipt, error, bool)
	stop func()
	told map[model.UserID]int64
}

func (w *world) pullReceipts(t *testing.T, nickname string, id model.ConversationID) *pulledReceipts {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	receipts, err := w.ReadReceipts(ctx, w.actor(nickname), id)
	if err != nil {
		t.Fatal(err)
	}
	next, stop := iter.Pull2(receipts)
	t.Cleanup(stop)
	return &pulledReceipts{t: t, w: w, next: next, stop: stop, told: map[model.UserID]int64{}}
}

// untold is what is told of who may not be known of any more.
const untold = -1

func (p *pulledReceipts) take() (ReadReceipt, error) {
	r, err, ok := p.next()
	if err != nil || !ok {
		return r, fmt.Errorf("got the end: %w", err)
	}
	if p.told[r.UserID] = untold; r.LastReadSeq != nil {
		p.told[r.UserID] = *r.LastReadSeq
	}
	return r, nil
}

// want takes as many as there are people here, in any order.
func (p *pulledReceipts) want(seqs map[string]int64) {
	p.t.Helper()
	want := map[model.UserID]int64{}
	got := map[model.UserID]int64{}
	for name, seq := range seqs {
		want[p.w.id(name)] = seq
		r, err := p.take()
		if err != nil {
			p.t.Fatalf("after %v, instead of %v: %v", got, seqs, err)
		}
		got[r.UserID] = p.told[r.UserID]
	}
	wantEqual(p.t, "receipts", want, got)
}

// until takes what comes until this is what was told of these people last.
func (p *pulledReceipts) until(seqs map[string]int64) {
	p.t.Helper()
	for name, seq := range seqs {
		for p.told[p.w.id(name)] != seq {
			if _, err := p.take(); err != nil {
				p.t.Fatalf("with %v, instead of %v: %v", p.told, seqs, err)
			}
		}
	}
}

func (p *pulledReceipts) wantEnd(code errs.Code) {
	p.t.Helper()
	r, err, _ := p.next()
	wantCode(p.t, err, code)
	if again, _, more := p.next(); more {
		p.t.Errorf("after %v came %v", r, again)
	}
}

func (w *world) read(nickname string, id model.ConversationID, seq int64) {
	w.t.Helper()
	if _, err := w.MarkRead(w.t.Context(), w.actor(nickname), id, seq); err != nil {
		w.t.Fatal(err)
	}
}

func TestReadReceipts(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben", "cas", "hid", "eve")
		w.changeSettings("hid", "send_read_receipts", false)
		c, other := MustConversation(t, w, "ann", "ben", "cas", "hid"), MustConversation(t, w, "ann", "ben", "cas")
		w.sendMany("ann", c.ID, 4)
		w.sendMany("ann", other.ID, 4)
		w.read("ben", c.ID, 2)
		p := w.pullReceipts(t, "ann", c.ID)
		p.want(map[string]int64{"ben": 2, "cas": 1})
		w.read("ben", c.ID, 3)
		p.want(map[string]int64{"ben": 3})
		w.read("ben", c.ID, 2)     // is no news
		w.read("ann", c.ID, 5)     // is their own
		w.read("hid", c.ID, 5)     // is hidden
		w.read("cas", other.ID, 5) // is elsewhere
		w.read("cas", c.ID, 1000)
		p.want(map[string]int64{"cas": 5})
		w.add("ann", c.ID, "eve")
		p.want(map[string]int64{"eve": 6})
		w.remove("cas", c.ID)
		p.want(map[string]int64{"cas": untold})
		w.add("ann", c.ID, "cas")
		p.want(map[string]int64{"cas": 8})
		w.mustLeave("cas")
		p.want(map[string]int64{"cas": untold})
		// Who begins now is told how it is now, and whoever hides theirs is told nothing.
		w.pullReceipts(t, "ben", c.ID).want(map[string]int64{"ann": 5, "eve": 6})
		hiding := w.pullReceipts(t, "hid", c.ID)
		w.remove("hid", c.ID)
		hiding.wantEnd(errs.Forbidden)
		w.remove("ann", c.ID)
		p.wantEnd(errs.Forbidden)
		for _, name := range []string{"ann", "hid"} {
			_, err := w.ReadReceipts(t.Context(), w.actor(name), c.ID)
			wantCode(t, err, errs.NotFound)
		}
	})
}

// TestReadReceiptsOfWhoHidesThem changes settings and reads on another node than that of the
// stream.
func TestReadReceiptsOfWhoHidesThem(t *testing.T) {
	t.Parallel()
	ways(t, func(t *testing.T, nodes *twoNodes) {
		here, there := nodes.worlds[0], nodes.worlds[1]
		c := MustConversation(t, here, "ann", "ben", "cleo")
		p := here.pullReceipts(t, "ann", c.ID)
		p.until(map[string]int64{"ben": 1, "cleo": 1})
		for range 3 {
			here.sendMany("ann", c.ID, 3)
			seq := here.lastSeq(c.ID) - 2
			there.read("ben", c.ID, seq)
			p.until(map[string]int64{"ben": seq})
			there.changeSettings("ben", "send_read_receipts", false)
			p.until(map[string]int64{"ben": untold})
			there.read("ben", c.ID, seq+1)
			there.read("cleo", c.ID, seq+1)
			p.until(map[string]int64{"cleo": seq + 1})
			there.changeSettings("ben", "send_read_receipts", true)
			p.until(map[string]int64{"ben": seq + 1})
			there.changeSettings("ann", "send_read_receipts", false)
			p.until(map[string]int64{"ben": untold, "cleo": untold})
			there.read("ben", c.ID, seq+2)
			there.changeSettings("ann", "send_read_receipts", true)
			p.until(map[string]int64{"ben": seq + 2, "cleo": seq + 1})
			there.removeBen(c)
			p.until(map[string]int64{"ben": untold})
			there.addBen(c)
			p.until(map[string]int64{"ben": here.lastSeq(c.ID)})
		}
	})
}

// TestASlowConsumerOfReadReceipts takes nothing while everybody reads, comes and goes: of each the
// newest is kept, and no more.
func TestASlowConsumerOfReadReceipts(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "ben", "cas", "eve")
		c := MustConversation(t, w, "ann", "ben", "cas")
		w.sendMany("ann", c.ID, followQueue+6)
		p := w.pullReceipts(t, "ann", c.ID)
		p.want(map[string]int64{"ben": 1, "cas": 1})
		for seq := int64(2); seq < 40; seq++ {
			w.read("ben", c.ID, seq)
			w.read("cas", c.ID, seq)
		}
		w.changeSettings("cas", "send_read_receipts", false)
		for range followQueue { // which is more than the stream keeps of the conversation
			w.add("ann", c.ID, "eve")
			w.remove("eve", c.ID)
		}
		w.eventually(func() bool { return w.behind(c.ID) })
		p.want(map[string]int64{"ben": 39, "cas": untold})
		w.add("ann", c.ID, "eve")
		p.want(map[string]int64{"eve": w.lastSeq(c.ID)})
		for watch := range w.readers[c.ID].watches {
			if n := len(watch.news); n != 0 {
				t.Errorf("%d are still to be told", n)
			}
		}
	})
}

// TestReadReceiptsOverNATS has NATS go away meanwhile. Nobody compares by itself here.
func TestReadReceiptsOverNATS(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := MustNodes(t, db, 2, s, never, nil, "ann", "ben", "cas")
	c := MustConversation(t, nodes[0], "ann", "ben", "cas")
	nodes[0].sendMany("ann", c.ID, 9)
	p := nodes[1].pullReceipts(t, "ann", c.ID)
	p.want(map[string]int64{"ben": 1, "cas": 1})
	nodes[0].read("ben", c.ID, 2) // also before NATS knows of the stream
	p.want(map[string]int64{"ben": 2})
	nodes[0].wantConnected(true)
	s.Stop()
	nodes[0].wantConnected(false)
	nodes[1].wantConnected(false)
	nodes[0].read("ben", c.ID, 3)
	nodes[0].changeSettings("cas", "send_read_receipts", false)
	s.Start()
	p.want(map[string]int64{"ben": 3, "cas": untold})
	waitUntil(t, "it listens", func() bool { return len(s.Subscriptions("parley.signs.topic."+readTopic(c.ID))) == 1 })
	nodes[0].read("ben", c.ID, 4)
	p.want(map[string]int64{"ben": 4})
}

// TestASignBringsTheReceipt tells of what is not stored, which nobody can have read.
func TestASignBringsTheReceipt(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := MustNodes(t, db, 2, s, never, nil, "ann", "ben")
	c := MustConversation(t, nodes[0], "ann", "ben")
	p := nodes[1].pullReceipts(t, "ann", c.ID)
	p.want(map[string]int64{"ben": 1})
	waitUntil(t, "it listens", func() bool { return len(s.Subscriptions("parley.signs.topic."+readTopic(c.ID))) == 1 })
	nodes[0].publishSign(readTopic(c.ID), sign{Users: []model.UserID{nodes[0].id("ben")}, Seq: 7})
	p.want(map[string]int64{"ben": 7})
}

func TestReadReceiptsLeaveNothingBehind(t *testing.T) {
	db := storetest.MustSQLite(t)
	w := &world{Service: New(db, Options{}), t: t, actors: map[string]model.Actor{}}
	w.invite("ann", "ben")
	c := MustConversation(t, w, "ann", "ben")
	before := len(w.signs.Topics())
	ignore := goleak.IgnoreCurrent()
	for range 20 {
		one, two := w.pullReceipts(t, "ann", c.ID), w.pullReceipts(t, "ben", c.ID)
		one.want(map[string]int64{"ben": 1})
		two.want(map[string]int64{"ann": 1})
		one.stop()
		two.stop()
	}
	goleak.VerifyNone(t, ignore)
	if topics := w.signs.Topics(); len(topics) != before || len(w.readers)+len(w.feeds) != 0 {
		t.Errorf("%v, %d readers and %d feeds are left", topics, len(w.readers), len(w.feeds))
	}
}

package live_test

import (
	"context"
	"fmt"
	"iter"
	"testing"

	"go.uber.org/goleak"

	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/live"
	"parley/model"
	"parley/pubsub/natsbus/natstest"
	"parley/store"
	"parley/store/storetest"
)

// pulledReceipts takes what ReadReceipts yields one at a time. It subscribes with the first call.
type pulledReceipts struct {
	t        *testing.T
	w        *fixture
	next     func() (live.ReadReceipt, error, bool)
	stop     func()
	receipts map[model.UserID]int64
}

func (w *fixture) pullReceipts(
	t *testing.T, nickname string, id model.ConversationID,
) *pulledReceipts {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), chattest.Patience)
	t.Cleanup(cancel)
	receipts, err := w.ReadReceipts(ctx, w.Actor(nickname), id)
	if err != nil {
		t.Fatal(err)
	}
	next, stop := iter.Pull2(receipts)
	t.Cleanup(stop)
	return &pulledReceipts{t: t, w: w, next: next, stop: stop, receipts: map[model.UserID]int64{}}
}

// withdrawn is a receipt that the viewer may no longer know.
const withdrawn = -1

func (p *pulledReceipts) take() (live.ReadReceipt, error) {
	r, err, ok := p.next()
	if err != nil || !ok {
		return r, fmt.Errorf("got the end: %w", err)
	}
	if p.receipts[r.UserID] = withdrawn; r.LastReadSeq != nil {
		p.receipts[r.UserID] = *r.LastReadSeq
	}
	return r, nil
}

// want takes as many receipts as seqs has, in any order.
func (p *pulledReceipts) want(seqs map[string]int64) {
	p.t.Helper()
	want := map[model.UserID]int64{}
	got := map[model.UserID]int64{}
	for name, seq := range seqs {
		want[p.w.UserID(name)] = seq
		r, err := p.take()
		if err != nil {
			p.t.Fatalf("after %v, instead of %v: %v", got, seqs, err)
		}
		got[r.UserID] = p.receipts[r.UserID]
	}
	chattest.WantEqual(p.t, "receipts", want, got)
}

// until takes receipts until the last ones are these.
func (p *pulledReceipts) until(seqs map[string]int64) {
	p.t.Helper()
	for name, seq := range seqs {
		for p.receipts[p.w.UserID(name)] != seq {
			if _, err := p.take(); err != nil {
				p.t.Fatalf("with %v, instead of %v: %v", p.receipts, seqs, err)
			}
		}
	}
}

func (p *pulledReceipts) wantEnd(code errs.Code) {
	p.t.Helper()
	r, err, _ := p.next()
	chattest.WantCode(p.t, err, code)
	if again, _, more := p.next(); more {
		p.t.Errorf("after %v came %v", r, again)
	}
}

func TestReadReceipts(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "cas", "hid", "eve")
		w.changeSettings("hid", "send_read_receipts", false)
		c, other := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cas", "hid"),
			chattest.MustConversation(t, w.Fixture, "ann", "ben", "cas")
		w.SendMany("ann", c.ID, 4)
		w.SendMany("ann", other.ID, 4)
		w.Read("ben", c.ID, 2)
		p := w.pullReceipts(t, "ann", c.ID)
		p.want(map[string]int64{"ben": 2, "cas": 1})
		w.Read("ben", c.ID, 3)
		p.want(map[string]int64{"ben": 3})
		w.Read("ben", c.ID, 2)     // changes nothing
		w.Read("ann", c.ID, 5)     // is their own
		w.Read("hid", c.ID, 5)     // is hidden
		w.Read("cas", other.ID, 5) // is elsewhere
		w.Read("cas", c.ID, 1000)
		p.want(map[string]int64{"cas": 5})
		w.Add("ann", c.ID, "eve")
		p.want(map[string]int64{"eve": 6})
		w.EndMembership("cas", c.ID)
		p.want(map[string]int64{"cas": withdrawn})
		w.Add("ann", c.ID, "cas")
		p.want(map[string]int64{"cas": 8})
		w.MustRemoveAccount("cas")
		p.want(map[string]int64{"cas": withdrawn})
		// A stream that starts now gets the current state; one of a member who sends no receipts
		// gets none.
		w.pullReceipts(t, "ben", c.ID).want(map[string]int64{"ann": 5, "eve": 6})
		hiding := w.pullReceipts(t, "hid", c.ID)
		w.EndMembership("hid", c.ID)
		hiding.wantEnd(errs.Forbidden)
		w.EndMembership("ann", c.ID)
		p.wantEnd(errs.Forbidden)
		for _, name := range []string{"ann", "hid"} {
			_, err := w.ReadReceipts(t.Context(), w.Actor(name), c.ID)
			chattest.WantCode(t, err, errs.NotFound)
		}
	})
}

// Settings and reads change on another node than the stream's.
func TestMembersWhoTurnReadReceiptsOff(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, nodes *twoNodes) {
		here, there := nodes.Nodes[0], nodes.Nodes[1]
		c := chattest.MustConversation(t, here.Fixture, "ann", "ben", "cleo")
		p := here.pullReceipts(t, "ann", c.ID)
		p.until(map[string]int64{"ben": 1, "cleo": 1})
		for range 3 {
			here.SendMany("ann", c.ID, 3)
			seq := here.LastSeq(c.ID) - 2
			there.Read("ben", c.ID, seq)
			p.until(map[string]int64{"ben": seq})
			there.changeSettings("ben", "send_read_receipts", false)
			p.until(map[string]int64{"ben": withdrawn})
			there.Read("ben", c.ID, seq+1)
			there.Read("cleo", c.ID, seq+1)
			p.until(map[string]int64{"cleo": seq + 1})
			there.changeSettings("ben", "send_read_receipts", true)
			p.until(map[string]int64{"ben": seq + 1})
			there.changeSettings("ann", "send_read_receipts", false)
			p.until(map[string]int64{"ben": withdrawn, "cleo": withdrawn})
			there.Read("ben", c.ID, seq+2)
			there.changeSettings("ann", "send_read_receipts", true)
			p.until(map[string]int64{"ben": seq + 2, "cleo": seq + 1})
			there.RemoveBen(c)
			p.until(map[string]int64{"ben": withdrawn})
			there.AddBen(c)
			p.until(map[string]int64{"ben": here.LastSeq(c.ID)})
		}
	})
}

// The consumer takes nothing while members read, come and go: only the newest receipt of each is
// kept.
func TestASlowConsumerOfReadReceipts(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "cas", "eve")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben", "cas")
		w.SendMany("ann", c.ID, feed.FollowQueue+6)
		p := w.pullReceipts(t, "ann", c.ID)
		p.want(map[string]int64{"ben": 1, "cas": 1})
		for seq := int64(2); seq < 40; seq++ {
			w.Read("ben", c.ID, seq)
			w.Read("cas", c.ID, seq)
		}
		w.changeSettings("cas", "send_read_receipts", false)
		for range feed.FollowQueue { // which is more than the stream keeps of the conversation
			w.Add("ann", c.ID, "eve")
			w.EndMembership("eve", c.ID)
		}
		w.Eventually(func() bool { return w.Stats().Behind > 0 })
		p.want(map[string]int64{"ben": 39, "cas": withdrawn})
		w.Add("ann", c.ID, "eve")
		p.want(map[string]int64{"eve": w.LastSeq(c.ID)})
		if n := w.ChangedReceipts(c.ID); n != 0 {
			t.Errorf("%d are still to be delivered", n)
		}
	})
}

// NATS ends and starts again meanwhile. Nothing is reconciled by time.
func TestReadReceiptsOverNATS(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := mustNodes(t, db, 2, s, chattest.Never, nil, "ann", "ben", "cas")
	c := chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben", "cas")
	nodes[0].SendMany("ann", c.ID, 9)
	p := nodes[1].pullReceipts(t, "ann", c.ID)
	p.want(map[string]int64{"ben": 1, "cas": 1})
	nodes[0].Read("ben", c.ID, 2) // also before NATS knows of the stream
	p.want(map[string]int64{"ben": 2})
	nodes[0].WantConnected(true)
	s.Stop()
	nodes[0].WantConnected(false)
	nodes[1].WantConnected(false)
	nodes[0].Read("ben", c.ID, 3)
	nodes[0].changeSettings("cas", "send_read_receipts", false)
	s.Start()
	p.want(map[string]int64{"ben": 3, "cas": withdrawn})
	chattest.WaitUntil(t, "it listens",
		func() bool {
			return len(s.Subscriptions("parley.signals.topic."+
				live.ReadTopic(c.ID))) == 1
		})
	nodes[0].Read("ben", c.ID, 4)
	p.want(map[string]int64{"ben": 4})
}

// The signal's receipt is not stored, so it cannot have been read.
func TestASignalCarriesTheReceipt(t *testing.T) {
	t.Parallel()
	db, s := storetest.MustPostgres(t), natstest.MustStart(t)
	nodes := mustNodes(t, db, 2, s, chattest.Never, nil, "ann", "ben")
	c := chattest.MustConversation(t, nodes[0].Fixture, "ann", "ben")
	p := nodes[1].pullReceipts(t, "ann", c.ID)
	p.want(map[string]int64{"ben": 1})
	chattest.WaitUntil(t, "it listens",
		func() bool {
			return len(s.Subscriptions("parley.signals.topic."+
				live.ReadTopic(c.ID))) == 1
		})
	nodes[0].Signals().Publish(live.ReadTopic(c.ID),
		live.Signal{Users: []model.UserID{nodes[0].UserID("ben")}, Seq: 7})
	p.want(map[string]int64{"ben": 7})
}

func TestReadReceiptsLeaveNothingBehind(t *testing.T) {
	db := storetest.MustSQLite(t)
	w := &fixture{chattest.NewIdle(t, db, chattest.Options{}, nil)}
	w.Invite("ann", "ben")
	c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
	before := len(w.Signals().Topics())
	ignore := goleak.IgnoreCurrent()
	for range 20 {
		one, two := w.pullReceipts(t, "ann", c.ID), w.pullReceipts(t, "ben", c.ID)
		one.want(map[string]int64{"ben": 1})
		two.want(map[string]int64{"ann": 1})
		one.stop()
		two.stop()
	}
	goleak.VerifyNone(t, ignore)
	topics, readers, feeds := w.Signals().Topics(), w.WatchedReaders(), w.Stats().Feeds
	if len(topics) != before || readers+feeds != 0 {
		t.Errorf("%v, %d readers and %d feeds are left", topics, readers, feeds)
	}
}

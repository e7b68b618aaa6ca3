package live_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/live"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// The invariant of ReadReceipts: whatever happens to hints and signals, and however slow a consumer
// is, in the end it has the stored receipt of each member who sends them, and no other. On the way
// no receipt goes back, and none is yielded twice.
func TestReadReceiptsAreWhatIsStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		nodes := mustTwoNodes(t, db, chattest.Options{ReconcileEvery: chattest.ReconcileSoon})
		var checks atomic.Int64
		rapid.Check(t, func(rt *rapid.T) {
			plan := drawReceiptPlan(rt)
			nodes.Network.Store(nil)
			k := newReceiptCheck(t, nodes, int(checks.Add(1)))
			nodes.Network.Store(
				&chattest.Network{Deliveries: plan.deliveries, Crosses: plan.crosses})
			if err := k.run(plan); err != nil {
				rt.Fatalf("%v\nthe plan: %+v", err, plan)
			}
		})
	})
}

// receiptPlan is drawn before anything starts, because rapid serves one goroutine.
type receiptPlan struct {
	deliveries []chattest.Delivery
	crosses    bool
	workers    [][]receiptAction
	paces      []int // for each watcher: how many actions it waits for per receipt
}

type receiptAction struct {
	kind string
	who  string
	node int
}

func drawReceiptPlan(rt *rapid.T) receiptPlan {
	action := rapid.Custom(func(rt *rapid.T) receiptAction {
		return receiptAction{
			kind: rapid.SampledFrom([]string{
				"read", "read", "read", "say", "hide", "show", "show",
				"go", "come",
			}).Draw(rt, "kind"),
			who:  rapid.SampledFrom([]string{"ann", "ben", "cas", "eve"}).Draw(rt, "who"),
			node: rapid.IntRange(0, 1).Draw(rt, "node"),
		}
	})
	return receiptPlan{
		deliveries: chattest.DrawDeliveries(rt, 30),
		crosses:    rapid.Bool().Draw(rt, "crosses"),
		workers:    rapid.SliceOfN(rapid.SliceOfN(action, 5, 30), 1, 3).Draw(rt, "workers"),
		paces:      rapid.SliceOfN(rapid.SampledFrom([]int{0, 0, 1, 3}), 4, 4).Draw(rt, "paces"),
	}
}

// receiptCheck is one check. ann owns the conversation; she and ben stay. cas and eve join and
// leave. dan reads the last message.
type receiptCheck struct {
	t     *testing.T
	nodes *twoNodes
	names map[string]string // the accounts' nicknames, by the names in the plan
	id    model.ConversationID
}

func newReceiptCheck(t *testing.T, nodes *twoNodes, check int) *receiptCheck {
	t.Helper()
	k := &receiptCheck{t: t, nodes: nodes, names: map[string]string{}}
	w := nodes.Nodes[0]
	for _, name := range []string{"ann", "ben", "cas", "eve", "dan"} {
		k.names[name] = fmt.Sprint(name, check)
		w.Invite(k.names[name])
	}
	k.id = chattest.MustConversation(t, w.Fixture, k.names["ann"], k.names["ben"], k.names["cas"],
		k.names["dan"]).ID
	return k
}

func (k *receiptCheck) do(d receiptAction) error {
	w := k.nodes.Nodes[d.node]
	ctx, ann, who := k.t.Context(), w.Actor(k.names["ann"]), w.Actor(k.names[d.who])
	comesAndGoes := d.who == "cas" || d.who == "eve"
	var err error
	switch {
	case d.kind == "read":
		_, err = w.MarkRead(ctx, who, k.id, 1000)
	case d.kind == "hide" || d.kind == "show":
		w.changeSettings(k.names[d.who], "send_read_receipts", d.kind == "show")
	case d.kind == "come" && comesAndGoes:
		_, err = w.AddMembers(ctx, ann, k.id, w.NewMembers(k.names[d.who]))
	case d.kind == "go" && comesAndGoes:
		_, err = w.RemoveMember(ctx, ann, k.id, who.UserID)
	default:
		_, err = w.SendMessage(ctx, ann,
			chat.SendMessage{ConversationID: k.id, Content: "to be read"})
	}
	if errs.Is(err, errs.NotFound) || len(errs.Correctable(err)) > 0 {
		return nil
	}
	return err
}

func (k *receiptCheck) run(plan receiptPlan) error {
	ctx, cancel := context.WithTimeout(k.t.Context(), chattest.Patience)
	actions := 0
	for _, worker := range plan.workers {
		actions += len(worker)
	}
	done := chattest.NewProgress(actions)
	var watching, working sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	var watchers []*receiptWatcher
	for i, pace := range plan.paces {
		viewer := []string{"ann", "ben"}[i/2]
		watcher := &receiptWatcher{
			check: k, viewer: viewer, knows: map[string]int64{},
			most: map[string]int64{},
		}
		watchers = append(watchers, watcher)
		watching.Go(func() { watcher.watch(ctx, k.nodes.Nodes[i%2], done, pace) })
	}
	failed := make([]error, len(plan.workers))
	for i, worker := range plan.workers {
		working.Go(func() {
			for _, d := range worker {
				if err := k.do(d); err != nil {
					failed[i] = errors.Join(failed[i], fmt.Errorf("%+v: %w", d, err))
				}
				done.Step()
			}
		})
	}
	working.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if err := k.settle(watchers); err != nil {
		return err
	}
	// One more receipt comes, to those who may know it.
	before := make([]int, len(watchers))
	for i, watcher := range watchers {
		before[i] = watcher.count()
	}
	w := k.nodes.Nodes[0]
	w.Send(k.names["ann"], k.id, "the last")
	w.Read(k.names["dan"], k.id, 1000)
	if err := k.settle(watchers); err != nil {
		return err
	}
	for i, watcher := range watchers {
		if n := watcher.count() - before[i]; n > 1 {
			return fmt.Errorf("%s got dan's receipt %d times", watcher.viewer, n)
		}
	}
	return nil
}

// settle waits until all watchers have what is stored.
func (k *receiptCheck) settle(watchers []*receiptWatcher) (err error) {
	for _, watcher := range watchers {
		want := k.want(watcher.viewer)
		chattest.WaitUntil(k.t, fmt.Sprintf("%s knows %v", watcher.viewer, want), func() bool {
			watcher.mu.Lock()
			defer watcher.mu.Unlock()
			err = errors.Join(err, watcher.violation)
			return err != nil || maps.Equal(want, watcher.knows)
		})
	}
	return err
}

// want returns the stored receipts that a viewer may know.
func (k *receiptCheck) want(viewer string) map[string]int64 {
	w := k.nodes.Nodes[0]
	rows, err := w.Readers(k.t.Context(), k.id)
	if err != nil {
		k.t.Fatal(err)
	}
	want := map[string]int64{}
	for _, row := range rows {
		if row.UserID == w.UserID(k.names[viewer]) && !row.ReceiptsEnabled {
			return map[string]int64{}
		}
		if row.UserID != w.UserID(k.names[viewer]) && row.ReceiptsEnabled {
			want[row.UserID.String()] = row.Seq
		}
	}
	return want
}

// receiptWatcher is one consumer, which checks what it gets.
type receiptWatcher struct {
	check  *receiptCheck
	viewer string

	mu        sync.Mutex // guards what follows
	knows     map[string]int64
	most      map[string]int64 // the highest seq of each member so far
	taken     int              // how many receipts it has got
	violation error
}

func (w *receiptWatcher) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.taken
}

func (w *receiptWatcher) watch(
	ctx context.Context, on *fixture, done *chattest.Progress, pace int,
) {
	receipts, err := on.ReadReceipts(ctx, on.Actor(w.check.names[w.viewer]), w.check.id)
	if err != nil {
		w.take(live.ReadReceipt{}, err)
		return
	}
	taken := 0
	for r, err := range receipts {
		if ctx.Err() != nil {
			return
		}
		w.take(r, err)
		taken++
		done.Wait(taken * pace)
	}
}

func (w *receiptWatcher) take(r live.ReadReceipt, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taken++
	who := r.UserID.String()
	seq, known := w.knows[who]
	switch {
	case err != nil:
	case r.LastReadSeq == nil && !known:
		err = fmt.Errorf("%s got the end of a receipt of %s that it did not have", w.viewer,
			who)
	case r.LastReadSeq == nil:
		delete(w.knows, who)
	case known && seq == *r.LastReadSeq:
		err = fmt.Errorf("%s got twice that %s has read %d", w.viewer, who, seq)
	case *r.LastReadSeq < w.most[who]:
		err = fmt.Errorf("%s got that %s has read %d, after %d", w.viewer, who, *r.LastReadSeq,
			w.most[who])
	default:
		w.knows[who], w.most[who] = *r.LastReadSeq, *r.LastReadSeq
	}
	w.violation = errors.Join(w.violation, err)
}

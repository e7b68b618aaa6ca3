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

// The law of ReadReceipts: whatever becomes of hints and signs, and however slow one is, in the end
// one knows of each member what is stored of those who let others know, and nothing of the others.
// On the way nobody is said to have read less than before, and nothing is told twice.
func TestReadReceiptsTellWhatIsStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		nodes := mustTwoNodes(t, db, chattest.Options{ReconcileEvery: chattest.ReconcileSoon})
		var checks atomic.Int64
		rapid.Check(t, func(rt *rapid.T) {
			plan := drawReceiptPlan(rt)
			nodes.Weather.Store(nil)
			l := newReceiptLaw(t, nodes, int(checks.Add(1)))
			nodes.Weather.Store(&chattest.Weather{Fates: plan.fates, Crosses: plan.crosses})
			if err := l.run(plan); err != nil {
				rt.Fatalf("%v\nthe plan: %+v", err, plan)
			}
		})
	})
}

// receiptPlan is drawn before anything starts, because rapid serves one goroutine.
type receiptPlan struct {
	fates   []chattest.Fate
	crosses bool
	workers [][]receiptDeed
	paces   []int // of each watcher: how many deeds have to be done for each receipt that it takes
}

type receiptDeed struct {
	kind string
	who  string
	node int
}

func drawReceiptPlan(rt *rapid.T) receiptPlan {
	deed := rapid.Custom(func(rt *rapid.T) receiptDeed {
		return receiptDeed{
			kind: rapid.SampledFrom([]string{
				"read", "read", "read", "say", "hide", "show", "show",
				"go", "come",
			}).Draw(rt, "kind"),
			who:  rapid.SampledFrom([]string{"ann", "ben", "cas", "eve"}).Draw(rt, "who"),
			node: rapid.IntRange(0, 1).Draw(rt, "node"),
		}
	})
	return receiptPlan{
		fates:   rapid.SliceOfN(rapid.Custom(chattest.DrawFate), 1, 30).Draw(rt, "fates"),
		crosses: rapid.Bool().Draw(rt, "crosses"),
		workers: rapid.SliceOfN(rapid.SliceOfN(deed, 5, 30), 1, 3).Draw(rt, "workers"),
		paces:   rapid.SliceOfN(rapid.SampledFrom([]int{0, 0, 1, 3}), 4, 4).Draw(rt, "paces"),
	}
}

// receiptLaw is one check. ann owns the conversation, and she and ben stay; cas and eve come and
// go; dan has the last word.
type receiptLaw struct {
	t     *testing.T
	nodes *twoNodes
	names map[string]string // in the world, by those in the plan
	id    model.ConversationID
}

func newReceiptLaw(t *testing.T, nodes *twoNodes, check int) *receiptLaw {
	t.Helper()
	l := &receiptLaw{t: t, nodes: nodes, names: map[string]string{}}
	w := nodes.Nodes[0]
	for _, name := range []string{"ann", "ben", "cas", "eve", "dan"} {
		l.names[name] = fmt.Sprint(name, check)
		w.Invite(l.names[name])
	}
	l.id = chattest.MustConversation(t, w.Fixture, l.names["ann"], l.names["ben"], l.names["cas"],
		l.names["dan"]).ID
	return l
}

func (l *receiptLaw) do(d receiptDeed) error {
	w := l.nodes.Nodes[d.node]
	ctx, ann, who := l.t.Context(), w.Actor(l.names["ann"]), w.Actor(l.names[d.who])
	comesAndGoes := d.who == "cas" || d.who == "eve"
	var err error
	switch {
	case d.kind == "read":
		_, err = w.MarkRead(ctx, who, l.id, 1000)
	case d.kind == "hide" || d.kind == "show":
		w.changeSettings(l.names[d.who], "send_read_receipts", d.kind == "show")
	case d.kind == "come" && comesAndGoes:
		_, err = w.AddMembers(ctx, ann, l.id, w.NewMembers(l.names[d.who]))
	case d.kind == "go" && comesAndGoes:
		_, err = w.RemoveMember(ctx, ann, l.id, who.UserID)
	default:
		_, err = w.SendMessage(ctx, ann,
			chat.SendMessage{ConversationID: l.id, Content: "to be read"})
	}
	if errs.Is(err, errs.NotFound) || len(errs.Correctable(err)) > 0 {
		return nil
	}
	return err
}

func (l *receiptLaw) run(plan receiptPlan) error {
	ctx, cancel := context.WithTimeout(l.t.Context(), chattest.Patience)
	deeds := 0
	for _, worker := range plan.workers {
		deeds += len(worker)
	}
	done := chattest.NewProgress(deeds)
	var watching, working sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	var watchers []*receiptWatcher
	for i, pace := range plan.paces {
		viewer := []string{"ann", "ben"}[i/2]
		watcher := &receiptWatcher{
			law: l, viewer: viewer, knows: map[string]int64{},
			most: map[string]int64{},
		}
		watchers = append(watchers, watcher)
		watching.Go(func() { watcher.watch(ctx, l.nodes.Nodes[i%2], done, pace) })
	}
	failed := make([]error, len(plan.workers))
	for i, worker := range plan.workers {
		working.Go(func() {
			for _, d := range worker {
				if err := l.do(d); err != nil {
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
	if err := l.settle(watchers); err != nil {
		return err
	}
	// What comes next is news, for those who may know it.
	before := make([]int, len(watchers))
	for i, watcher := range watchers {
		before[i] = watcher.count()
	}
	w := l.nodes.Nodes[0]
	w.Send(l.names["ann"], l.id, "the last")
	w.Read(l.names["dan"], l.id, 1000)
	if err := l.settle(watchers); err != nil {
		return err
	}
	for i, watcher := range watchers {
		if n := watcher.count() - before[i]; n > 1 {
			return fmt.Errorf("%s was told %d times that dan has read", watcher.viewer, n)
		}
	}
	return nil
}

// settle waits until all watchers know what is so.
func (l *receiptLaw) settle(watchers []*receiptWatcher) (err error) {
	for _, watcher := range watchers {
		truth := l.truth(watcher.viewer)
		chattest.WaitUntil(l.t, fmt.Sprintf("%s knows %v", watcher.viewer, truth), func() bool {
			watcher.mu.Lock()
			defer watcher.mu.Unlock()
			err = errors.Join(err, watcher.violation)
			return err != nil || maps.Equal(truth, watcher.knows)
		})
	}
	return err
}

// truth is what somebody may know by what is stored.
func (l *receiptLaw) truth(viewer string) map[string]int64 {
	w := l.nodes.Nodes[0]
	rows, err := w.Readers(l.t.Context(), l.id)
	if err != nil {
		l.t.Fatal(err)
	}
	truth := map[string]int64{}
	for _, row := range rows {
		if row.UserID == w.UserID(l.names[viewer]) && !row.ReceiptsEnabled {
			return map[string]int64{}
		}
		if row.UserID != w.UserID(l.names[viewer]) && row.ReceiptsEnabled {
			truth[row.UserID.String()] = row.Seq
		}
	}
	return truth
}

// receiptWatcher is one consumer, who knows the law.
type receiptWatcher struct {
	law    *receiptLaw
	viewer string

	mu        sync.Mutex // guards what follows
	knows     map[string]int64
	most      map[string]int64 // that each was ever said to have read
	told      int
	violation error
}

func (w *receiptWatcher) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told
}

func (w *receiptWatcher) watch(
	ctx context.Context, on *fixture, done *chattest.Progress, pace int,
) {
	receipts, err := on.ReadReceipts(ctx, on.Actor(w.law.names[w.viewer]), w.law.id)
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
	w.told++
	who := r.UserID.String()
	seq, known := w.knows[who]
	switch {
	case err != nil:
	case r.LastReadSeq == nil && !known:
		err = fmt.Errorf("%s is told that nothing is known of %s, of whom nothing was", w.viewer,
			who)
	case r.LastReadSeq == nil:
		delete(w.knows, who)
	case known && seq == *r.LastReadSeq:
		err = fmt.Errorf("%s is told twice that %s has read %d", w.viewer, who, seq)
	case *r.LastReadSeq < w.most[who]:
		err = fmt.Errorf("%s is told that %s has read %d, after %d", w.viewer, who, *r.LastReadSeq,
			w.most[who])
	default:
		w.knows[who], w.most[who] = *r.LastReadSeq, *r.LastReadSeq
	}
	w.violation = errors.Join(w.violation, err)
}

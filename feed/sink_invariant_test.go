package feed_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// The invariant of FollowInto, which serves subscriptions: whatever happens in conversations and to
// hints, and however slow a sink is, it gets exactly what its member may see of the events after
// its start, each once, in order of seq, and nothing after the end of the membership.
func TestSinksGetWhatTheirMembersMaySee(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixtureWith(t, db, chattest.Options{ReconcileEvery: chattest.ReconcileSoon})
		var network atomic.Pointer[chattest.Network]
		w.Hints().Intercept(func(topic string, h feed.Hint) {
			network.Load().Deliver(func(bare bool) {
				h := h
				if bare {
					h.Events = nil
				}
				w.Hints().PublishLocal(topic, h)
			})
		})
		checks := 0
		rapid.Check(t, func(rt *rapid.T) {
			checks++
			k := &sinkCheck{fixture: w}
			k.plan = chattest.DrawHistory(rt, fmt.Sprintf("s%dx", checks),
				"follow", "follow", "follow", "follow", "follow", "follow", "stop", "add", "add",
				"remove", "again", "again", "send", "send", "edit")
			network.Store(&chattest.Network{Deliveries: chattest.DrawDeliveries(rt, 40)})
			k.check(t, rt)
			w.Exec("DELETE FROM conversations")
			clear(w.Actors)
		})
	})
}

// sinkCheck is one check.
type sinkCheck struct {
	*fixture
	plan chattest.History
	done *chattest.Progress // steps

	mu   sync.Mutex // guards runs
	runs []*sinkRun
}

// sinkRun is one sink and its result.
type sinkRun struct {
	check *sinkCheck
	who   string
	user  model.UserID
	id    model.ConversationID
	after *int64
	// slow is how many more steps have to be done before it takes an event that it had no room for.
	slow             int
	earliest, latest int64 // the newest event before it began, and after
	refused          error
	cancel           context.CancelFunc

	mu       sync.Mutex // guards what follows
	inside   bool
	got      []*model.Event
	caughtUp []int64
	ended    error
	stopped  bool
	wrong    []string
}

func (k *sinkCheck) check(t *testing.T, rt *rapid.T) {
	t.Helper()
	k.Invite(k.plan.People...)
	k.done = chattest.NewProgress(len(k.plan.Steps))
	wrong := k.plan.RunOn(k.Fixture,
		&chattest.Stage{Follow: k.follow, Stop: k.stop, Done: k.done.Step})
	if err := errors.Join(wrong...); err != nil {
		rt.Fatal(err)
	}
	logs := map[model.ConversationID]*sinkLog{}
	for _, r := range k.runs {
		if logs[r.id] == nil {
			logs[r.id] = k.readLog(r.id)
		}
	}
	for _, r := range k.runs {
		if r.refused == nil {
			chattest.WaitUntil(t, "the end of "+r.String(),
				func() bool { return r.isDone(logs[r.id]) })
		}
	}
	for _, r := range k.runs {
		r.cancel()
		if err := r.checkLog(logs[r.id]); err != nil {
			rt.Errorf("%s: %v", r, err)
		}
	}
}

func (r *sinkRun) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	after := "now"
	if r.after != nil {
		after = fmt.Sprint(*r.after)
	}
	var got []int64
	for _, e := range r.got {
		got = append(got, e.Seq)
	}
	return fmt.Sprintf(
		"%s after %s, begun between %d and %d, got %d, caught up at %d, ended with %v, "+
			"stopped %t",
		r.who, after, r.earliest, r.latest, got, r.caughtUp, r.ended, r.stopped)
}

func (k *sinkCheck) newest(id model.ConversationID) (seq int64, err error) {
	var seqs []int64
	err = k.DB.NewSelect().Table("conversations").Column("last_seq").Where("id = ?", id).
		Scan(k.T.Context(), &seqs)
	if err == nil && len(seqs) == 1 {
		seq = seqs[0]
	}
	return seq, err
}

func (k *sinkCheck) follow(who string, c *model.Conversation, st chattest.Step) (err error) {
	r := &sinkRun{
		check: k, who: who, user: k.UserID(who), id: c.ID,
		slow: []int{0, 0, 0, 1, 5, 1000}[st.Whom%6],
	}
	if r.earliest, err = k.newest(c.ID); err != nil {
		return err
	}
	switch st.About % 4 {
	case 0: // from now on
	case 1:
		r.after = new(int64(0))
	case 2:
		r.after = new(int64(st.Whom) % (r.earliest + 1))
	case 3:
		r.after = new(r.earliest)
	}
	ctx, cancel := context.WithCancel(k.T.Context())
	r.cancel = cancel
	r.refused = k.FollowInto(ctx, k.Actor(who), c.ID, feed.AfterSeq(r.after),
		feed.Sink{Live: r.live, Replay: r.replay, CaughtUp: r.catchUp, End: r.end})
	if r.latest, err = k.newest(c.ID); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.runs = append(k.runs, r)
	if r.refused != nil && !errs.Is(r.refused, errs.NotFound) {
		return r.refused
	}
	return nil
}

// stop ends a sink's context.
func (k *sinkCheck) stop(st chattest.Step) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.runs) == 0 {
		return
	}
	r := k.runs[st.About%len(k.runs)]
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	r.cancel()
}

// enter checks that calls of a sink do not overlap, and that none comes after End.
func (r *sinkRun) enter() (leave func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inside || r.ended != nil {
		r.wrong = append(r.wrong, "called during another call, or after End")
	}
	r.inside = true
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.inside = false
	}
}

func (r *sinkRun) take(e *model.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, e)
}

func (r *sinkRun) live(e *model.Event) bool {
	defer r.enter()()
	if r.slow > 0 && e.Seq%3 == 0 {
		return false
	}
	r.take(e)
	return true
}

func (r *sinkRun) replay(ctx context.Context, e *model.Event) error {
	defer r.enter()()
	if r.slow > 0 {
		done := r.check.done
		select {
		case <-done.Reached[min(int(done.Sent.Load())+r.slow, len(done.Reached)-1)]:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	r.take(e)
	return nil
}

func (r *sinkRun) catchUp(_ context.Context, place feed.Place) error {
	defer r.enter()()
	seq := place.Seq
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.got); n > 0 && r.got[n-1].Seq != seq {
		r.wrong = append(r.wrong, fmt.Sprintf("caught up at %d after %d", seq, r.got[n-1].Seq))
	}
	r.caughtUp = append(r.caughtUp, seq)
	return nil
}

func (r *sinkRun) end(err error) {
	defer r.enter()()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = err
}

// sinkLog is the log of a conversation, with the memberships that it records.
type sinkLog struct {
	events  []*model.Event
	periods map[model.UserID][]sinkPeriod
	message map[model.MessageID]int64 // its seq
}

// sinkPeriod is one membership.
type sinkPeriod struct {
	joined, removed int64 // seqs; removed is 0 for a current member
	hidden          int64
}

func (k *sinkCheck) readLog(id model.ConversationID) *sinkLog {
	k.T.Helper()
	log := &sinkLog{
		events: k.Stored(id), periods: map[model.UserID][]sinkPeriod{},
		message: map[model.MessageID]int64{},
	}
	var created model.ConversationCreatedData
	read := func(e *model.Event, data any) {
		if err := json.Unmarshal(e.Data, data); err != nil {
			k.T.Fatal(err)
		}
	}
	for _, e := range log.events {
		switch e.Kind {
		case model.ConversationCreated:
			read(e, &created)
			for _, m := range created.Members {
				log.periods[m.UserID] = []sinkPeriod{{joined: e.Seq}}
			}
		case model.MemberAdded:
			var added model.MemberAddedData
			read(e, &added)
			p := sinkPeriod{joined: e.Seq}
			if created.History == model.FromJoining {
				p.hidden = e.Seq - 1
			}
			log.periods[added.UserID] = append(log.periods[added.UserID], p)
		case model.MemberRemoved:
			var removed model.MemberRemovedData
			read(e, &removed)
			all := log.periods[removed.UserID]
			all[len(all)-1].removed = e.Seq
		case model.MessageAdded:
			log.message[*e.MessageID] = e.Seq
		default:
		}
	}
	return log
}

func (log *sinkLog) last() int64 { return int64(len(log.events)) }

// gone reports whether the conversation has been deleted, with its log.
func (log *sinkLog) gone() bool { return len(log.events) == 0 }

// isDone reports whether the sink has got everything.
func (r *sinkRun) isDone(log *sinkLog) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || r.ended != nil || len(r.wrong) > 0 {
		return true
	}
	if log.gone() {
		return false // End is yet to come
	}
	all := log.periods[r.user]
	if len(all) == 0 || all[len(all)-1].removed != 0 || all[len(all)-1].joined > r.latest {
		return false // End is yet to come
	}
	seen := slices.Concat(r.caughtUp, []int64{0})[0]
	if n := len(r.got); n > 0 {
		seen = r.got[n-1].Seq
	}
	return seen >= log.last()
}

// checkLog compares what a sink got with the log.
func (r *sinkRun) checkLog(log *sinkLog) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) > 0 || len(r.caughtUp) > 1 {
		return fmt.Errorf("%q", r.wrong)
	}
	if log.gone() {
		for i, e := range r.got[min(1, len(r.got)):] {
			if e.Seq <= r.got[i].Seq {
				return errors.New("out of order")
			}
		}
		return nil
	}
	violation := errors.New("not a member")
	for _, p := range log.periods[r.user] {
		removed := cmp.Or(p.removed, log.last()+1)
		if r.refused != nil {
			if p.joined <= r.earliest && removed > r.latest {
				return fmt.Errorf("refused: %w", r.refused)
			}
			continue
		}
		if p.joined > r.latest || removed <= r.earliest {
			continue
		}
		if violation = r.checkIn(log, p); violation == nil {
			return nil
		}
	}
	if r.refused != nil {
		return nil
	}
	return violation
}

// checkIn is checkLog for the membership that the sink may have followed.
func (r *sinkRun) checkIn(log *sinkLog, p sinkPeriod) error {
	var start int64
	switch {
	case r.after != nil:
		start = max(*r.after, p.hidden)
	case len(r.caughtUp) > 0 && (len(r.got) == 0 || r.caughtUp[0] < r.got[0].Seq):
		start = r.caughtUp[0]
	case len(r.got) > 0 && r.got[0].Seq != p.removed:
		start = r.got[0].Seq - 1
	default:
		start = max(r.earliest, p.joined)
	}
	if r.after == nil && (start < r.earliest || start > r.latest) {
		return fmt.Errorf("begun after %d", start)
	}
	seen := start
	for i, e := range r.got {
		last := e.Seq == p.removed && i == len(r.got)-1
		if e.Seq != seen+1 && !last || p.removed != 0 && e.Seq > p.removed {
			return fmt.Errorf("%d after %d in %+v", e.Seq, seen, p)
		}
		if err := log.shows(e, p); err != nil {
			return err
		}
		seen = e.Seq
	}
	switch {
	case r.stopped:
	case p.removed == 0 && (r.ended != nil || seen != log.last()):
		return fmt.Errorf("got %d of %d in %+v, ended with %w", seen, log.last(), p,
			cmp.Or(r.ended, feed.ErrStopped))
	case p.removed != 0 && (seen != p.removed || !errs.Is(r.ended, errs.Forbidden)):
		return fmt.Errorf("got %d in %+v, ended with %w", seen, p,
			cmp.Or(r.ended, feed.ErrStopped))
	}
	return nil
}

// shows checks that an event is the one of the log, with its message if the member may see it, and
// that the message is not from after the removal.
func (log *sinkLog) shows(e *model.Event, p sinkPeriod) error {
	stored := log.events[e.Seq-1]
	if e.Kind != stored.Kind || (e.MessageID == nil) != (stored.MessageID == nil) ||
		e.MessageID != nil && *e.MessageID != *stored.MessageID {
		return fmt.Errorf("event %d is %+v, not %+v", e.Seq, e, stored)
	}
	if e.MessageID == nil {
		return nil
	}
	hidden := log.message[*e.MessageID] <= p.hidden
	if hidden != (e.Message == nil) {
		return fmt.Errorf("event %d is about message %d, hidden %t, and has %+v", e.Seq,
			log.message[*e.MessageID], hidden, e.Message)
	}
	if hidden || p.removed == 0 {
		return nil
	}
	for _, change := range log.events[p.removed:] {
		if change.MessageID == nil || *change.MessageID != *e.MessageID {
			continue
		}
		edited := change.Kind == model.MessageEdited && e.Message.EditedAt != nil &&
			e.Message.EditedAt.Equal(change.At) &&
			// An edit before the removal may have the same time.
			!change.At.Equal(log.events[p.removed-1].At)
		deleted := change.Kind == model.MessageDeleted && e.Message.DeletedAt != nil
		if edited || deleted {
			return fmt.Errorf("event %d shows what event %d changed after the removal at %d", e.Seq,
				change.Seq, p.removed)
		}
	}
	return nil
}

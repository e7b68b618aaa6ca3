package feed_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// The invariant of ViewerEvents, for every membership of the viewer: after Joined comes each event
// once, in order of seq, until the removal, and then Left. It holds whatever happens to hints, and
// on whichever node and however often the client resumes with the cursor of its last item.
func TestViewerEventsAreWhatIsStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		nodes := map[int]*twoNodes{}
		for _, named := range boundsInPlans {
			// A stream waits for room in its cursor for as long as the test runs, so that none is
			// reset.
			nodes[named] = mustTwoNodes(t, db,
				chattest.Options{
					ReconcileEvery: chattest.ReconcileSoon,
					Feed:           feed.WithBounds(named, chattest.Never),
				})
		}
		var checks atomic.Int64
		rapid.Check(t, func(rt *rapid.T) {
			plan := drawViewerPlan(rt)
			check := newViewerCheck(t, nodes[plan.named], plan, int(checks.Add(1)))
			check.run(rt)
		})
	})
}

// viewerPlan is drawn before anything starts, because rapid serves one goroutine.
type viewerPlan struct {
	deliveries []chattest.Delivery
	crosses    bool
	workers    [][]viewerAction
	sessions   []viewerSession
	from       string // "now", "cursor"
	named      int    // how many conversations a cursor names at most
}

var boundsInPlans = []int{1, 2, feed.MaxNamed}

// viewerAction is one change in one of the groups.
type viewerAction struct {
	kind string
	in   int
	node int
}

// viewerSession is one time that the client is connected.
type viewerSession struct {
	node  int
	items int // how many it takes before it disconnects
	// how many actions ahead of the taken items the changes are before it takes the next item
	behind int
}

const viewerGroups = 3

func drawViewerPlan(rt *rapid.T) viewerPlan {
	action := rapid.Custom(func(rt *rapid.T) viewerAction {
		return viewerAction{
			kind: rapid.SampledFrom([]string{
				"send", "send", "send", "send", "answer", "edit", "remove", "add", "add", "again",
				"leave", "new", "direct", "ended", "read",
			}).Draw(rt, "kind"),
			in:   rapid.IntRange(0, viewerGroups-1).Draw(rt, "in"),
			node: rapid.IntRange(0, 1).Draw(rt, "node"),
		}
	})
	session := rapid.Custom(func(rt *rapid.T) viewerSession {
		return viewerSession{
			node:   rapid.IntRange(0, 1).Draw(rt, "node"),
			items:  rapid.SampledFrom([]int{1, 1, 2, 3, 5, 10}).Draw(rt, "items"),
			behind: rapid.SampledFrom([]int{0, 0, 0, 3, 10}).Draw(rt, "behind"),
		}
	})
	return viewerPlan{
		deliveries: chattest.DrawDeliveries(rt, 30),
		crosses:    rapid.Bool().Draw(rt, "crosses"),
		workers:    rapid.SliceOfN(rapid.SliceOfN(action, 5, 30), 1, 4).Draw(rt, "workers"),
		sessions:   rapid.SliceOfN(session, 1, 30).Draw(rt, "sessions"),
		from:       rapid.SampledFrom([]string{"now", "cursor"}).Draw(rt, "from"),
		named:      rapid.SampledFrom(boundsInPlans).Draw(rt, "named"),
	}
}

// viewerCheck is one check. ann owns the groups and makes most of the changes. ben follows. cleo is
// the member who stays in a group without ben.
type viewerCheck struct {
	t              *testing.T
	nodes          *twoNodes
	plan           viewerPlan
	ann, ben, cleo model.Actor
	key            feed.CursorKey
	groups         []model.ConversationID
	first          map[model.ConversationID]model.MessageID // ann's first message, to be edited
	// home is a conversation of ben and cleo, which changes only at the end.
	home *model.Conversation
	done *chattest.Progress
}

func newViewerCheck(t *testing.T, nodes *twoNodes, plan viewerPlan, check int) *viewerCheck {
	t.Helper()
	nodes.Network.Store(nil)
	w := nodes.Nodes[0]
	names := []string{fmt.Sprint("ann", check), fmt.Sprint("ben", check), fmt.Sprint("cleo", check)}
	w.Invite(names...)
	k := &viewerCheck{
		t: t, nodes: nodes, plan: plan, first: map[model.ConversationID]model.MessageID{},
		ann: w.Actor(names[0]), ben: w.Actor(names[1]), cleo: w.Actor(names[2]),
		key: w.mustCursorKey(),
	}
	for i := range viewerGroups {
		in := chat.CreateConversation{Members: w.NewMembers(names[2])}
		if i != 0 {
			in.Members = w.NewMembers(names[1:]...)
		}
		if i == 2 {
			in.HistoryVisibility = model.FromJoining
		}
		c, err := w.CreateConversation(t.Context(), k.ann, in)
		if err != nil {
			t.Fatal(err)
		}
		m, err := w.SendMessage(t.Context(), k.ann,
			chat.SendMessage{ConversationID: c.ID, Content: "the first"})
		if err != nil {
			t.Fatal(err)
		}
		k.groups = append(k.groups, c.ID)
		k.first[c.ID] = m.ID
	}
	var err error
	if k.home, err = w.OpenDirect(t.Context(), k.cleo, k.ben.UserID); err != nil {
		t.Fatal(err)
	}
	actions := 0
	for _, worker := range plan.workers {
		actions += len(worker)
	}
	w.settle() // so that no cursor has to name what happened before
	k.done = chattest.NewProgress(actions)
	nodes.Network.Store(&chattest.Network{Deliveries: plan.deliveries, Crosses: plan.crosses})
	return k
}

// do does one action. It ignores that ben is a member already, or no longer.
func (k *viewerCheck) do(ctx context.Context, d viewerAction, n int) error {
	w, id := k.nodes.Nodes[d.node], k.groups[d.in]
	ben := []*chat.NewMember{{UserID: k.ben.UserID, Role: model.Member}}
	var err error
	switch d.kind {
	case "send":
		_, err = w.SendMessage(ctx, k.ann,
			chat.SendMessage{ConversationID: id, Content: fmt.Sprint("sent ", n)})
	case "answer":
		_, err = w.SendMessage(ctx, k.ben,
			chat.SendMessage{ConversationID: id, Content: fmt.Sprint("answer ", n)})
	case "edit":
		_, err = w.EditMessage(ctx, k.ann,
			chat.EditMessage{MessageID: k.first[id], Content: fmt.Sprint("edit ", n)})
	case "remove":
		_, err = w.RemoveMember(ctx, k.ann, id, k.ben.UserID)
	case "add":
		_, err = w.AddMembers(ctx, k.ann, id, ben)
	case "again":
		if _, err = w.RemoveMember(ctx, k.ann, id, k.ben.UserID); err == nil {
			_, err = w.AddMembers(ctx, k.ann, id, ben)
		}
	case "leave":
		err = w.Leave(ctx, k.ben, id)
	case "read":
		_, err = w.MarkRead(ctx, k.ben, id, 1000)
	case "direct":
		var c *model.Conversation
		if c, err = w.OpenDirect(ctx, k.ann, k.ben.UserID); err == nil {
			_, err = w.SendMessage(ctx, k.ann,
				chat.SendMessage{ConversationID: c.ID, Content: "to ben alone"})
		}
	case "new":
		var c *model.Conversation
		if c, err = w.CreateConversation(ctx, k.cleo,
			chat.CreateConversation{Members: ben}); err == nil {
			_, err = w.SendMessage(ctx, k.cleo,
				chat.SendMessage{ConversationID: c.ID, Content: "in a new one"})
		}
	case "ended":
		var c *model.Conversation
		others := []*chat.NewMember{{UserID: k.cleo.UserID, Role: model.Member}}
		if c, err = w.CreateConversation(ctx, k.ben,
			chat.CreateConversation{Members: others}); err == nil {
			err = errors.Join(w.Leave(ctx, k.cleo, c.ID), w.Leave(ctx, k.ben, c.ID))
		}
	}
	if errs.Is(err, errs.NotFound) || len(errs.Correctable(err)) > 0 {
		return nil
	}
	return err
}

func (k *viewerCheck) run(rt *rapid.T) {
	ctx, cancel := context.WithTimeout(k.t.Context(), chattest.Patience)
	defer cancel()
	client := &viewerClient{
		check: k, in: map[model.ConversationID]*viewerPeriod{},
		joins: map[model.ConversationID]int{}, ends: map[model.ConversationID]int{},
	}
	if err := client.begin(ctx); err != nil {
		rt.Fatal(err)
	}
	var working, following sync.WaitGroup
	failed := make([]error, len(k.plan.workers))
	finished := make(chan struct{})
	var violation error
	following.Go(func() { violation = client.follow(ctx, finished) })
	for i, actions := range k.plan.workers {
		working.Go(func() {
			for n, d := range actions {
				if err := k.do(ctx, d, n); err != nil {
					failed[i] = errors.Join(failed[i], fmt.Errorf("%+v: %w", d, err))
				}
				k.done.Step()
			}
		})
	}
	working.Wait()
	close(finished)
	following.Wait()
	if err := errors.Join(append(failed, violation)...); err != nil {
		rt.Fatalf("%v\nthe plan: %+v\nthe items:\n%s", err, k.plan, client.history())
	}
}

// viewerClient is ben's client, which checks what it gets.
type viewerClient struct {
	check  *viewerCheck
	cursor *string
	live   bool // CaughtUp has come in this session
	in     map[model.ConversationID]*viewerPeriod
	items  []string
	stored map[model.ConversationID]storedMembership // nil until all actions are done

	joins, ends map[model.ConversationID]int // how often Joined and Left have come
}

// viewerPeriod is one membership of ben's.
type viewerPeriod struct {
	joined  bool  // Joined has come
	seq     int64 // of the last event; 0 for none since Joined
	removed bool  // the last event is the removal
	over    bool  // Left has come
}

// storedMembership is what is stored at the end of one of ben's memberships.
type storedMembership struct{ joined, last int64 }

// begin gets the cursor that the client starts from, before any action.
func (c *viewerClient) begin(ctx context.Context) error {
	w := c.check.nodes.Nodes[0]
	cursor, err := w.ViewerEventsCursor(ctx, c.check.ben)
	if err != nil {
		return err
	}
	if c.check.plan.from == "now" {
		items, err := w.ViewerEvents(ctx, c.check.ben, nil)
		if err != nil {
			return err
		}
		for item, err := range items {
			if err != nil {
				return err
			}
			if !item.CaughtUp {
				return fmt.Errorf("got %s before CaughtUp", chattest.ItemText(item))
			}
			cursor = item.Cursor
			break
		}
	}
	c.cursor = &cursor
	own, err := feed.ReadMemberships(ctx, w.Feed, c.check.ben)
	for _, m := range own {
		c.in[m.ConversationID] = &viewerPeriod{seq: m.LastSeq}
	}
	return err
}

func (c *viewerClient) follow(ctx context.Context, finished <-chan struct{}) error {
	for i := 0; ; i++ {
		select {
		case <-finished:
			if c.stored == nil {
				if err := c.readStored(ctx); err != nil {
					return err
				}
			}
			if c.missing() == "" {
				return c.finish(ctx)
			}
		default:
		}
		s := c.check.plan.sessions[i%len(c.check.plan.sessions)]
		if err := c.session(ctx, s, finished); err != nil {
			return err
		}
	}
}

// session is connected for a while.
func (c *viewerClient) session(
	ctx context.Context, s viewerSession, finished <-chan struct{},
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.stored == nil { // when all actions are done, a session that waits ends
		watching := make(chan struct{})
		defer func() { cancel(); <-watching }()
		go func() {
			defer close(watching)
			select {
			case <-finished:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	items, err := c.check.nodes.Nodes[s.node].ViewerEvents(ctx, c.check.ben, c.cursor)
	if err != nil {
		return err
	}
	c.live = false
	c.items = append(c.items, fmt.Sprintf("— resumes on node %d", s.node))
	taken, base := 0, int(c.check.done.Sent.Load())
	for item, err := range items {
		if err != nil {
			if c.stored == nil && errors.Is(err, context.Canceled) {
				return nil
			}
			return fmt.Errorf("%w; missing: %s", err, c.missing())
		}
		if err := c.take(item); err != nil {
			return err
		}
		if taken++; taken >= s.items || c.stored != nil && c.missing() == "" {
			return nil
		}
		if s.behind > 0 {
			c.check.done.Wait(base + taken + s.behind)
		}
	}
	return nil
}

func (c *viewerClient) history() (history string) {
	for _, line := range c.items {
		history += line + "\n"
	}
	return history
}

// take checks an item.
func (c *viewerClient) take(item feed.ViewerEvent) error {
	c.items = append(c.items, chattest.ItemText(item))
	c.cursor = &item.Cursor
	cursor, err := feed.ReadViewerCursor(c.check.key, c.check.ben.UserID, item.Cursor)
	if err != nil {
		return err
	}
	if most := c.check.plan.named + feed.SweepNamed; len(cursor.Seqs()) > most {
		return fmt.Errorf("the cursor of %s names %d conversations, more than %d",
			chattest.ItemText(item), len(cursor.Seqs()), most)
	}
	switch {
	case item.Event != nil:
		return c.takeEvent(item.Event)
	case item.Joined != nil:
		// A client that missed both the end and the next beginning gets Joined alone.
		if p := c.in[*item.Joined]; p != nil && !p.over && c.live {
			return fmt.Errorf("%v: joined while a member", *item.Joined)
		}
		c.joins[*item.Joined]++
		c.in[*item.Joined] = &viewerPeriod{joined: true}
	case item.Left != nil:
		// A membership that began and ended before the stream saw it is only Left; checkCounts
		// counts those.
		c.ends[*item.Left]++
		c.in[*item.Left] = &viewerPeriod{over: true}
	case item.CaughtUp:
		if c.live {
			return errors.New("caught up twice")
		}
		c.live = true
	default:
		return fmt.Errorf("%s is unexpected", chattest.ItemText(item))
	}
	return nil
}

func (c *viewerClient) takeEvent(e *model.Event) error {
	p := c.in[e.ConversationID]
	switch {
	case p == nil || p.over || p.removed:
		return fmt.Errorf("%s: not a member", chattest.ItemText(feed.ViewerEvent{Event: e}))
	case p.seq == 0: // isBeginning checks it
	case e.Seq <= p.seq:
		return fmt.Errorf("%s: again, or out of order, after %d",
			chattest.ItemText(feed.ViewerEvent{Event: e}), p.seq)
	}
	var removed model.MemberRemovedData
	if e.Kind == model.MemberRemoved {
		if err := json.Unmarshal(e.Data, &removed); err != nil {
			return err
		}
	}
	p.removed = removed.UserID == c.check.ben.UserID
	// Events before a removal may be dropped.
	if p.seq != 0 && e.Seq != p.seq+1 && !p.removed {
		return fmt.Errorf("%s: events after %d are missing",
			chattest.ItemText(feed.ViewerEvent{Event: e}), p.seq)
	}
	if p.seq == 0 && !p.removed {
		if err := c.isBeginning(e); err != nil {
			return err
		}
	}
	p.seq = e.Seq
	return c.checkHidden(e)
}

// isBeginning checks that the first event of a period follows the one that made ben a member.
func (c *viewerClient) isBeginning(e *model.Event) error {
	events, err := feed.EventsAfter(context.WithoutCancel(c.check.t.Context()),
		c.check.nodes.Nodes[0].DB, e.ConversationID, e.Seq-2, 1)
	if err != nil || len(events) == 0 { // it has ended
		return err
	}
	if before := events[0]; before.Seq != e.Seq-1 || !c.makesMember(before) {
		return fmt.Errorf("%s: it is the first one after Joined, but %s is before it",
			chattest.ItemText(feed.ViewerEvent{Event: e}), before.Kind)
	}
	return nil
}

func (c *viewerClient) makesMember(e *model.Event) bool {
	var added model.MemberAddedData
	return e.Kind == model.ConversationCreated ||
		e.Kind == model.MemberAdded && json.Unmarshal(e.Data, &added) == nil &&
			added.UserID == c.check.ben.UserID
}

// checkHidden checks whether an event comes with its message. The first message of the third group
// is hidden from members who joined later.
func (c *viewerClient) checkHidden(e *model.Event) error {
	if e.MessageID == nil {
		return nil
	}
	hidden := e.ConversationID == c.check.groups[2] &&
		*e.MessageID == c.check.first[e.ConversationID] && c.in[e.ConversationID].joined
	if hidden != (e.Message == nil) {
		return fmt.Errorf("%s: with message %+v, though hidden is %v",
			chattest.ItemText(feed.ViewerEvent{Event: e}), e.Message, hidden)
	}
	return nil
}

func (c *viewerClient) readStored(ctx context.Context) error {
	c.stored = map[model.ConversationID]storedMembership{}
	w := c.check.nodes.Nodes[0]
	own, err := feed.ReadMemberships(ctx, w.Feed, c.check.ben)
	for _, m := range own {
		c.stored[m.ConversationID] = storedMembership{m.JoinedSeq, m.LastSeq}
	}
	return err
}

// mayBeAgain allows a second Joined, if no event has come since the first one: the two memberships
// cannot be distinguished then. It also allows Left without Joined, for a membership whose hints
// were lost.
func (c *viewerClient) mayBeAgain(item feed.ViewerEvent) bool {
	if item.Left != nil {
		p := c.in[*item.Left]
		return p == nil || p.over
	}
	if item.Joined == nil || c.joins[*item.Joined] == 0 {
		return false
	}
	stored := c.stored[*item.Joined]
	return c.in[*item.Joined].seq == 0 && stored.joined == stored.last && stored.joined > 1
}

// checkCounts checks that no Joined and no Left came more often than it happened.
func (c *viewerClient) checkCounts() error {
	for _, id := range append(c.check.groups, c.check.home.ID) {
		joins, ends := 0, 0
		for _, e := range c.check.nodes.Nodes[0].Stored(id) {
			var removed model.MemberRemovedData
			if e.Kind == model.MemberRemoved && json.Unmarshal(e.Data, &removed) == nil &&
				removed.UserID == c.check.ben.UserID {
				ends++
			}
			if c.makesMember(e) {
				joins++
			}
		}
		if c.joins[id] > joins || c.ends[id] > ends {
			return fmt.Errorf(
				"%v: Joined came %d times, and Left %d; they happened %d and %d times", id,
				c.joins[id], c.ends[id], joins, ends)
		}
	}
	return nil
}

// missing describes what has yet to come.
func (c *viewerClient) missing() (missing string) {
	for id, stored := range c.stored {
		p := c.in[id]
		switch {
		case p == nil || p.over:
			missing += fmt.Sprintf("%v: joined at %d; ", id, stored.joined)
		case p.seq != stored.last && (p.seq != 0 || stored.joined != stored.last):
			missing += fmt.Sprintf("%v: from %d to %d; ", id, p.seq, stored.last)
		}
	}
	for id, p := range c.in {
		if _, there := c.stored[id]; !there && !p.over {
			missing += fmt.Sprintf("%v: left; ", id)
		}
	}
	return missing
}

// finish checks, on both nodes, that no other item comes before the next message.
func (c *viewerClient) finish(ctx context.Context) error {
	c.check.nodes.Network.Store(nil)
	m, err := c.check.nodes.Nodes[0].SendMessage(ctx, c.check.cleo,
		chat.SendMessage{ConversationID: c.check.home.ID, Content: "the last"})
	if err != nil {
		return err
	}
	for i, w := range c.check.nodes.Nodes {
		items, err := w.ViewerEvents(ctx, c.check.ben, c.cursor)
		if err != nil {
			return err
		}
		for item, err := range items {
			if err != nil {
				return fmt.Errorf("waiting for the last message on node %d: %w", i, err)
			}
			if item.Event != nil && item.Event.MessageID != nil && *item.Event.MessageID == m.ID {
				break
			}
			if !item.CaughtUp && !c.mayBeAgain(item) {
				return fmt.Errorf("node %d yields %s after everything", i, chattest.ItemText(item))
			}
		}
	}
	return c.checkCounts()
}

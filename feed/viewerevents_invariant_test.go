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

// The law of MyEvents, for every conversation and every time that somebody is in it: after Joined,
// each event once, in order of seq, none missing, until the removal, and then Left; whatever
// becomes of hints and news, and wherever and however often they come back with the cursor of their
// last item.
func TestMyEventsTellsWhatIsStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		nodes := map[int]*twoNodes{}
		for _, named := range namedInMyLaw {
			// Whoever waits for room in a cursor waits as long as the test does: no stream of the
			// law begins anew.
			nodes[named] = mustTwoNodes(t, db,
				chattest.Options{
					ReconcileEvery: chattest.ReconcileSoon,
					Feed:           feed.WithBounds(named, chattest.Never),
				})
		}
		var checks atomic.Int64
		rapid.Check(t, func(rt *rapid.T) {
			plan := drawMyLaw(rt)
			law := newMyLaw(t, nodes[plan.named], plan, int(checks.Add(1)))
			law.run(rt)
		})
	})
}

// myLawPlan is drawn before anything starts, because rapid serves one goroutine.
type myLawPlan struct {
	fates    []chattest.Fate
	crosses  bool
	workers  [][]myDeed
	sessions []mySession
	from     string // "now", "cursor"
	named    int    // conversations that a cursor names at most, of namedInMyLaw
}

var namedInMyLaw = []int{1, 2, feed.MaxNamed}

// myDeed is what somebody does to one of the conversations.
type myDeed struct {
	kind string
	in   int
	node int
}

// mySession is one time that the client is there.
type mySession struct {
	node  int
	items int // that it takes before it goes
	// deeds that have to be done before it takes the next item, beside one for each item before
	behind int
}

const myGroups = 3

func drawMyLaw(rt *rapid.T) myLawPlan {
	deed := rapid.Custom(func(rt *rapid.T) myDeed {
		return myDeed{
			kind: rapid.SampledFrom([]string{
				"send", "send", "send", "send", "answer", "edit", "remove", "add", "add", "again",
				"leave", "new", "direct", "ended", "read",
			}).Draw(rt, "kind"),
			in:   rapid.IntRange(0, myGroups-1).Draw(rt, "in"),
			node: rapid.IntRange(0, 1).Draw(rt, "node"),
		}
	})
	session := rapid.Custom(func(rt *rapid.T) mySession {
		return mySession{
			node:   rapid.IntRange(0, 1).Draw(rt, "node"),
			items:  rapid.SampledFrom([]int{1, 1, 2, 3, 5, 10}).Draw(rt, "items"),
			behind: rapid.SampledFrom([]int{0, 0, 0, 3, 10}).Draw(rt, "behind"),
		}
	})
	return myLawPlan{
		fates:    rapid.SliceOfN(rapid.Custom(chattest.DrawFate), 1, 30).Draw(rt, "fates"),
		crosses:  rapid.Bool().Draw(rt, "crosses"),
		workers:  rapid.SliceOfN(rapid.SliceOfN(deed, 5, 30), 1, 4).Draw(rt, "workers"),
		sessions: rapid.SliceOfN(session, 1, 30).Draw(rt, "sessions"),
		from:     rapid.SampledFrom([]string{"now", "cursor"}).Draw(rt, "from"),
		named:    rapid.SampledFrom(namedInMyLaw).Draw(rt, "named"),
	}
}

// myLaw is one check. ann owns the groups and does most; ben is the one who follows, and cleo is
// there to be left with.
type myLaw struct {
	t              *testing.T
	nodes          *twoNodes
	plan           myLawPlan
	ann, ben, cleo model.Actor
	key            feed.CursorKey
	groups         []model.ConversationID
	first          map[model.ConversationID]model.MessageID // ann's, to be edited
	// of ann and ben; nothing happens there before the end
	home *model.Conversation
	done *chattest.Progress
}

func newMyLaw(t *testing.T, nodes *twoNodes, plan myLawPlan, check int) *myLaw {
	t.Helper()
	nodes.Weather.Store(nil)
	w := nodes.Nodes[0]
	names := []string{fmt.Sprint("ann", check), fmt.Sprint("ben", check), fmt.Sprint("cleo", check)}
	w.Invite(names...)
	l := &myLaw{
		t: t, nodes: nodes, plan: plan, first: map[model.ConversationID]model.MessageID{},
		ann: w.Actor(names[0]), ben: w.Actor(names[1]), cleo: w.Actor(names[2]),
		key: w.mustCursorKey(),
	}
	for i := range myGroups {
		in := chat.CreateConversation{Members: w.NewMembers(names[2])}
		if i != 0 {
			in.Members = w.NewMembers(names[1:]...)
		}
		if i == 2 {
			in.HistoryVisibility = model.FromJoining
		}
		c, err := w.CreateConversation(t.Context(), l.ann, in)
		if err != nil {
			t.Fatal(err)
		}
		m, err := w.SendMessage(t.Context(), l.ann,
			chat.SendMessage{ConversationID: c.ID, Content: "the first"})
		if err != nil {
			t.Fatal(err)
		}
		l.groups = append(l.groups, c.ID)
		l.first[c.ID] = m.ID
	}
	var err error
	if l.home, err = w.OpenDirect(t.Context(), l.cleo, l.ben.UserID); err != nil {
		t.Fatal(err)
	}
	deeds := 0
	for _, worker := range plan.workers {
		deeds += len(worker)
	}
	w.settle() // what happened before is not told, whatever a cursor can name
	l.done = chattest.NewProgress(deeds)
	nodes.Weather.Store(&chattest.Weather{Fates: plan.fates, Crosses: plan.crosses})
	return l
}

// do does one of the deeds. That somebody is in already, or no longer, is nobody's fault.
func (l *myLaw) do(ctx context.Context, d myDeed, n int) error {
	w, id := l.nodes.Nodes[d.node], l.groups[d.in]
	ben := []*chat.NewMember{{UserID: l.ben.UserID, Role: model.Member}}
	var err error
	switch d.kind {
	case "send":
		_, err = w.SendMessage(ctx, l.ann,
			chat.SendMessage{ConversationID: id, Content: fmt.Sprint("sent ", n)})
	case "answer":
		_, err = w.SendMessage(ctx, l.ben,
			chat.SendMessage{ConversationID: id, Content: fmt.Sprint("answer ", n)})
	case "edit":
		_, err = w.EditMessage(ctx, l.ann,
			chat.EditMessage{MessageID: l.first[id], Content: fmt.Sprint("edit ", n)})
	case "remove":
		_, err = w.RemoveMember(ctx, l.ann, id, l.ben.UserID)
	case "add":
		_, err = w.AddMembers(ctx, l.ann, id, ben)
	case "again":
		if _, err = w.RemoveMember(ctx, l.ann, id, l.ben.UserID); err == nil {
			_, err = w.AddMembers(ctx, l.ann, id, ben)
		}
	case "leave":
		err = w.Leave(ctx, l.ben, id)
	case "read":
		_, err = w.MarkRead(ctx, l.ben, id, 1000)
	case "direct":
		var c *model.Conversation
		if c, err = w.OpenDirect(ctx, l.ann, l.ben.UserID); err == nil {
			_, err = w.SendMessage(ctx, l.ann,
				chat.SendMessage{ConversationID: c.ID, Content: "to ben alone"})
		}
	case "new":
		var c *model.Conversation
		if c, err = w.CreateConversation(ctx, l.cleo,
			chat.CreateConversation{Members: ben}); err == nil {
			_, err = w.SendMessage(ctx, l.cleo,
				chat.SendMessage{ConversationID: c.ID, Content: "in a new one"})
		}
	case "ended":
		var c *model.Conversation
		others := []*chat.NewMember{{UserID: l.cleo.UserID, Role: model.Member}}
		if c, err = w.CreateConversation(ctx, l.ben,
			chat.CreateConversation{Members: others}); err == nil {
			err = errors.Join(w.Leave(ctx, l.cleo, c.ID), w.Leave(ctx, l.ben, c.ID))
		}
	}
	if errs.Is(err, errs.NotFound) || len(errs.Correctable(err)) > 0 {
		return nil
	}
	return err
}

func (l *myLaw) run(rt *rapid.T) {
	ctx, cancel := context.WithTimeout(l.t.Context(), chattest.Patience)
	defer cancel()
	client := &myClient{
		law: l, in: map[model.ConversationID]*myPeriod{}, joins: map[model.ConversationID]int{},
		ends: map[model.ConversationID]int{},
	}
	if err := client.begin(ctx); err != nil {
		rt.Fatal(err)
	}
	var working, following sync.WaitGroup
	failed := make([]error, len(l.plan.workers))
	finished := make(chan struct{})
	var violation error
	following.Go(func() { violation = client.follow(ctx, finished) })
	for i, deeds := range l.plan.workers {
		working.Go(func() {
			for n, d := range deeds {
				if err := l.do(ctx, d, n); err != nil {
					failed[i] = errors.Join(failed[i], fmt.Errorf("%+v: %w", d, err))
				}
				l.done.Step()
			}
		})
	}
	working.Wait()
	close(finished)
	following.Wait()
	if err := errors.Join(append(failed, violation)...); err != nil {
		rt.Fatalf("%v\nthe plan: %+v\nwhat ben was told:\n%s", err, l.plan, client.story())
	}
}

// myClient is ben's, and knows the law.
type myClient struct {
	law    *myLaw
	cursor *string
	live   bool // CaughtUp has come, since it came back
	in     map[model.ConversationID]*myPeriod
	told   []string
	truth  map[model.ConversationID]myTruth // once all is done

	joins, ends map[model.ConversationID]int // how often they were told
}

// myPeriod is one time that ben is in a conversation.
type myPeriod struct {
	joined  bool  // Joined has come
	seq     int64 // of the event that came last; 0 for none since Joined
	removed bool  // and that is the removal
	over    bool  // Left has come
}

// myTruth is what is stored in the end of a conversation that ben is in.
type myTruth struct{ joined, last int64 }

// begin starts the client where nothing has happened yet.
func (c *myClient) begin(ctx context.Context) error {
	w := c.law.nodes.Nodes[0]
	cursor, err := w.ViewerEventsCursor(ctx, c.law.ben)
	if err != nil {
		return err
	}
	if c.law.plan.from == "now" {
		items, err := w.ViewerEvents(ctx, c.law.ben, nil)
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
	own, err := feed.ReadMemberships(ctx, w.Services.Feed, c.law.ben)
	for _, m := range own {
		c.in[m.ConversationID] = &myPeriod{seq: m.LastSeq}
	}
	return err
}

func (c *myClient) follow(ctx context.Context, finished <-chan struct{}) error {
	for i := 0; ; i++ {
		select {
		case <-finished:
			if c.truth == nil {
				if err := c.learnTruth(ctx); err != nil {
					return err
				}
			}
			if c.missing() == "" {
				return c.finish(ctx)
			}
		default:
		}
		s := c.law.plan.sessions[i%len(c.law.plan.sessions)]
		if err := c.session(ctx, s, finished); err != nil {
			return err
		}
	}
}

// session follows for a while.
func (c *myClient) session(ctx context.Context, s mySession, finished <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.truth == nil { // whoever waits when nothing happens any more begins anew
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
	items, err := c.law.nodes.Nodes[s.node].ViewerEvents(ctx, c.law.ben, c.cursor)
	if err != nil {
		return err
	}
	c.live = false
	c.told = append(c.told, fmt.Sprintf("— comes back to node %d", s.node))
	taken, base := 0, int(c.law.done.Sent.Load())
	for item, err := range items {
		if err != nil {
			if c.truth == nil && errors.Is(err, context.Canceled) {
				return nil
			}
			return fmt.Errorf("%w; missing is %s", err, c.missing())
		}
		if err := c.take(item); err != nil {
			return err
		}
		if taken++; taken >= s.items || c.truth != nil && c.missing() == "" {
			return nil
		}
		if s.behind > 0 {
			c.law.done.Wait(base + taken + s.behind)
		}
	}
	return nil
}

func (c *myClient) story() (story string) {
	for _, line := range c.told {
		story += line + "\n"
	}
	return story
}

// take holds an item against the law.
func (c *myClient) take(item feed.ViewerEvent) error {
	c.told = append(c.told, chattest.ItemText(item))
	c.cursor = &item.Cursor
	cursor, err := feed.ReadViewerCursor(c.law.key, c.law.ben.UserID, item.Cursor)
	if err != nil {
		return err
	}
	if most := c.law.plan.named + feed.SweepNamed; len(cursor.Seqs()) > most {
		return fmt.Errorf("the cursor of %s names %d conversations; %d are as many as may be",
			chattest.ItemText(item), len(cursor.Seqs()), most)
	}
	switch {
	case item.Event != nil:
		return c.takeEvent(item.Event)
	case item.Joined != nil:
		// Whoever was away for both the end and the next beginning is told of the beginning alone.
		if p := c.in[*item.Joined]; p != nil && !p.over && c.live {
			return fmt.Errorf("%v: joined while in", *item.Joined)
		}
		c.joins[*item.Joined]++
		c.in[*item.Joined] = &myPeriod{joined: true}
	case item.Left != nil:
		// A membership that began and ended before it could be told of is told by its end alone;
		// checkCounts counts those.
		c.ends[*item.Left]++
		c.in[*item.Left] = &myPeriod{over: true}
	case item.CaughtUp:
		if c.live {
			return errors.New("caught up twice")
		}
		c.live = true
	default:
		return fmt.Errorf("%s is no item that there should be", chattest.ItemText(item))
	}
	return nil
}

func (c *myClient) takeEvent(e *model.Event) error {
	p := c.in[e.ConversationID]
	switch {
	case p == nil || p.over || p.removed:
		return fmt.Errorf("%s: told while not in", chattest.ItemText(feed.ViewerEvent{Event: e}))
	case p.seq == 0: // the end of the check knows whether that is the right one
	case e.Seq <= p.seq:
		return fmt.Errorf("%s: told again, or late, after %d",
			chattest.ItemText(feed.ViewerEvent{Event: e}), p.seq)
	}
	var removed model.MemberRemovedData
	if e.Kind == model.MemberRemoved {
		if err := json.Unmarshal(e.Data, &removed); err != nil {
			return err
		}
	}
	p.removed = removed.UserID == c.law.ben.UserID
	// of what goes before a removal, nothing more need be told
	if p.seq != 0 && e.Seq != p.seq+1 && !p.removed {
		return fmt.Errorf("%s: missing is what comes after %d",
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

// isBeginning makes sure that the first event of a period follows the one that made ben a member.
func (c *myClient) isBeginning(e *model.Event) error {
	events, err := feed.EventsAfter(context.WithoutCancel(c.law.t.Context()),
		c.law.nodes.Nodes[0].DB, e.ConversationID, e.Seq-2, 1)
	if err != nil || len(events) == 0 { // it has ended
		return err
	}
	if before := events[0]; before.Seq != e.Seq-1 || !c.makesMember(before) {
		return fmt.Errorf("%s: the first one after joining, but before it came %s",
			chattest.ItemText(feed.ViewerEvent{Event: e}), before.Kind)
	}
	return nil
}

func (c *myClient) makesMember(e *model.Event) bool {
	var added model.MemberAddedData
	return e.Kind == model.ConversationCreated ||
		e.Kind == model.MemberAdded && json.Unmarshal(e.Data, &added) == nil &&
			added.UserID == c.law.ben.UserID
}

// checkHidden looks for the first message, which is hidden from who joined the third group later.
func (c *myClient) checkHidden(e *model.Event) error {
	if e.MessageID == nil {
		return nil
	}
	hidden := e.ConversationID == c.law.groups[2] &&
		*e.MessageID == c.law.first[e.ConversationID] && c.in[e.ConversationID].joined
	if hidden != (e.Message == nil) {
		return fmt.Errorf("%s: with message %+v, though hidden is %v",
			chattest.ItemText(feed.ViewerEvent{Event: e}), e.Message, hidden)
	}
	return nil
}

func (c *myClient) learnTruth(ctx context.Context) error {
	c.truth = map[model.ConversationID]myTruth{}
	w := c.law.nodes.Nodes[0]
	own, err := feed.ReadMemberships(ctx, w.Services.Feed, c.law.ben)
	for _, m := range own {
		c.truth[m.ConversationID] = myTruth{m.JoinedSeq, m.LastSeq}
	}
	return err
}

// mayBeAgain allows Joined where it was told last, of a time before: nothing happened in either
// that could tell them apart. And it allows the end alone of a membership of which nothing was
// told, whose news were lost.
func (c *myClient) mayBeAgain(item feed.ViewerEvent) bool {
	if item.Left != nil {
		p := c.in[*item.Left]
		return p == nil || p.over
	}
	if item.Joined == nil || c.joins[*item.Joined] == 0 {
		return false
	}
	truth := c.truth[*item.Joined]
	return c.in[*item.Joined].seq == 0 && truth.joined == truth.last && truth.joined > 1
}

// checkCounts makes sure that no beginning and no end was told twice.
func (c *myClient) checkCounts() error {
	for _, id := range append(c.law.groups, c.law.home.ID) {
		joins, ends := 0, 0
		for _, e := range c.law.nodes.Nodes[0].Stored(id) {
			var removed model.MemberRemovedData
			if e.Kind == model.MemberRemoved && json.Unmarshal(e.Data, &removed) == nil &&
				removed.UserID == c.law.ben.UserID {
				ends++
			}
			if c.makesMember(e) {
				joins++
			}
		}
		if c.joins[id] > joins || c.ends[id] > ends {
			return fmt.Errorf(
				"%v: joined was told %d times, and left %d; they happened %d and %d times", id,
				c.joins[id], c.ends[id], joins, ends)
		}
	}
	return nil
}

// missing says what has yet to be told.
func (c *myClient) missing() (missing string) {
	for id, truth := range c.truth {
		p := c.in[id]
		switch {
		case p == nil || p.over:
			missing += fmt.Sprintf("%v: joined at %d; ", id, truth.joined)
		case p.seq != truth.last && (p.seq != 0 || truth.joined != truth.last):
			missing += fmt.Sprintf("%v: from %d to %d; ", id, p.seq, truth.last)
		}
	}
	for id, p := range c.in {
		if _, there := c.truth[id]; !there && !p.over {
			missing += fmt.Sprintf("%v: left; ", id)
		}
	}
	return missing
}

// finish makes sure that nothing comes any more, on either node, before what happens now.
func (c *myClient) finish(ctx context.Context) error {
	c.law.nodes.Weather.Store(nil)
	m, err := c.law.nodes.Nodes[0].SendMessage(ctx, c.law.cleo,
		chat.SendMessage{ConversationID: c.law.home.ID, Content: "the last"})
	if err != nil {
		return err
	}
	for i, w := range c.law.nodes.Nodes {
		items, err := w.ViewerEvents(ctx, c.law.ben, c.cursor)
		if err != nil {
			return err
		}
		for item, err := range items {
			if err != nil {
				return fmt.Errorf("waiting for the last on node %d: %w", i, err)
			}
			if item.Event != nil && item.Event.MessageID != nil && *item.Event.MessageID == m.ID {
				break
			}
			if !item.CaughtUp && !c.mayBeAgain(item) {
				return fmt.Errorf("after all was told, node %d says %s", i, chattest.ItemText(item))
			}
		}
	}
	return c.checkCounts()
}

package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"parley/verify/judge"
)

// follower follows one stream through all its breaks. It never forgets the seq or the cursor to
// resume after.
type follower struct {
	*verification
	plan         followerPlan
	name         string
	stream       string // its name in the history file
	conversation string // of the plan
	device       *device
	recorder     recorder
	everything   *everything // the recorder, if it follows everything; else nil

	node    int
	breaks  []plannedBreak // still to come
	nextCut plannedBreak   // how the next connection is cut; its kind is empty if it is not
	repair  *repair        // nil if nothing is broken
	fetched bool           // everything: the follower has read how far the conversations are
	away    bool           // by its own doing, or because the user is not a member
	// presentSince is when the follower last came back by itself. Breaks that the servers cause do
	// not change it.
	presentSince time.Time
}

// repair is a break until the stream has received everything that was confirmed when the follower
// came back.
type repair struct {
	kind   kind
	from   time.Time
	target target
}

// Why a connection ended.
var (
	errRemoved = errors.New("not a member")
	errRefused = errors.New("refused for now")
	errPlanned = errors.New("a planned break")
	errDone    = errors.New("everything was received")
)

// newFollower makes the follower of a plan. If the plan says so, it signs in with a session of its
// own.
func (v *verification) newFollower(ctx context.Context, i int) error {
	p := v.plan.followers[i]
	person, id := v.people[p.person], v.conversations[p.conversation]
	f := &follower{
		verification: v, plan: p, conversation: id, device: person.main, node: p.node,
		breaks: slices.Clone(p.breaks),
		name:   fmt.Sprintf("follower %d, %s, %s over %s", i+1, person.name, p.source, p.transport),
		stream: fmt.Sprint("follower ", i+1),
	}
	label := fmt.Sprintf("%s over %s", p.source, p.transport)
	if p.source == ofEverything {
		f.everything = v.history.everything(f.name, person.id)
		f.everything.label, f.recorder = label, f.everything
	} else {
		s := v.history.stream(f.name, id, person.id, p.source == ofConversation)
		s.label, f.recorder = label, s
	}
	v.followers[i] = f
	if !p.ownSession {
		return nil
	}
	f.device = &device{person: person}
	_, _, err := f.device.signIn(ctx, i)
	return err
}

// run makes one connection after another until everything was received, or ctx ends.
func (f *follower) run(ctx context.Context) {
	if !wait(ctx, f.plan.start) {
		return
	}
	f.presentSince = time.Now()
	if f.everything != nil && !f.plan.fromNow {
		if err := f.fetch(ctx, true); err != nil {
			return // the missing items are reported as lost
		}
	}
	for backoff := minBackoff; ctx.Err() == nil; {
		before := f.recorder.progress()
		err := f.connect(ctx)
		f.note("%s: %v", f.nodeName(), err)
		switch {
		case errors.Is(err, errDone):
			return
		case errors.Is(err, errPlanned):
			backoff = minBackoff
			continue
		case f.recorder.progress() > before:
			backoff = minBackoff
		}
		if !errors.Is(err, errRemoved) {
			f.startRepair(kindOf(err), err)
			f.node++ // this one may be down
		}
		if !wait(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (f *follower) nodeName() string { return "node " + strconv.Itoa(f.node%f.nodes.count()+1) }

// note adds a step to the trace of the stream.
func (f *follower) note(format string, args ...any) { f.recorder.note(time.Now(), format, args...) }

// startRepair starts to measure a repair, unless one is being measured.
func (f *follower) startRepair(k kind, err error) {
	if errors.Is(err, errRefused) {
		k = wasRefused
	}
	if f.repair == nil {
		f.repair = &repair{kind: k, from: time.Now(), target: f.recorder.target()}
	}
}

// endRepair reports the repair if the stream has reached its target.
func (f *follower) endRepair() {
	if f.repair == nil || !f.recorder.reached(f.repair.target) {
		return
	}
	f.report.repaired(f.repair.kind, time.Since(f.repair.from))
	f.repair = nil
	if f.away {
		f.away, f.presentSince = false, time.Now()
	}
}

// leave marks the follower as away. It measures no repair until the follower comes back.
func (f *follower) leave() { f.away, f.repair = true, nil }

// upgradeBytes bounds the planned cuts of a handshake: the answer to the upgrade, and a part of
// connection_ack.
const upgradeBytes = 180

// connect makes one connection, and returns why it ended.
func (f *follower) connect(ctx context.Context) error {
	cut := f.nextCut
	f.nextCut = plannedBreak{}
	session, token, err := f.device.signIn(ctx, f.node)
	if err != nil {
		return err
	}
	budget := unlimited
	if cut.kind == cutHandshake {
		budget = 1 + int64(cut.depth%upgradeBytes)
	}
	l, err := dial(ctx, f.nodes.url(f.node), f.plan.transport, f.plan.smallBuffers, budget)
	if err != nil {
		return plannedOr(err, cut)
	}
	defer l.close()
	if err := l.open(ctx, token); err != nil {
		if isForbidden(err) {
			f.device.invalidate(token)
		}
		return plannedOr(err, cut)
	}
	if cut.kind == cutAck && cut.depth%2 == 0 {
		return errPlanned
	}
	if cut.kind == cutReplay {
		l.cutAfter(100 + 7*int64(cut.depth)) // within the first messages, or between them
	}
	c := &connection{follower: f, link: l, session: session, token: token}
	if err := c.subscribe(ctx); err != nil {
		return plannedOr(l.cause(err), cut)
	}
	if cut.kind == cutAck {
		return errPlanned
	}
	return plannedOr(c.listen(ctx), cut)
}

// plannedOr returns errPlanned if a planned cut explains err, and err otherwise.
func plannedOr(err error, cut plannedBreak) error {
	if errors.Is(err, errCut) || cut.kind == cutHandshake && !hasCloseCode(err) {
		return errPlanned
	}
	return err
}

// fetch reads how far each conversation of the user is, as a client does before it follows
// everything, or when the stream has started over. If begin is true, it reads the cursor to begin
// after too.
func (f *follower) fetch(ctx context.Context, begin bool) error {
	var answer *struct {
		EventsCursor  string
		Conversations struct {
			Nodes []struct {
				ID      string
				LastSeq int64
			}
		}
	}
	const query = `{ viewer { eventsCursor conversations(first: 100) { nodes { id lastSeq } } } }`
	err := f.device.person.do(ctx, f.node, query, nil, &answer, nil)
	if err == nil && (answer == nil || answer.EventsCursor == "") {
		err = errors.New("neither a viewer nor an error")
	}
	if err != nil {
		f.history.failed(f.conversation, "the cursor of "+f.name, err)
		return err
	}
	lastSeqs := map[string]int64{}
	for _, c := range answer.Conversations.Nodes {
		lastSeqs[c.ID] = c.LastSeq
	}
	cursor := ""
	if begin {
		cursor = answer.EventsCursor
	}
	f.fetched = true
	f.everything.starting(cursor, lastSeqs)
	for id, seq := range lastSeqs {
		f.records.Write(judge.Record{
			Type: judge.Seek, Stream: f.stream, Conversation: id, Seq: seq,
		})
	}
	f.note("has read its %d conversations", len(lastSeqs))
	return nil
}

// complete reports whether everything was sent and received.
func (f *follower) complete() bool {
	select {
	case <-f.closing:
		return f.recorder.complete(f.finished)
	default:
		return false
	}
}

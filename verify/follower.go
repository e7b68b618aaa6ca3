package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// follower follows through one break after the other, as a client would that never forgets the seq,
// or the cursor, that it has.
type follower struct {
	*world
	plan         followerPlan
	name         string
	conversation string // the only one, or the one that the plan has it follow everything for
	device       *device
	stream       track
	everything   *everything // the same stream, where it is of everything

	node      int
	breaks    []planned // those that are still to come
	cutNext   planned   // how the connection that is made next is cut; the zero value: not
	repair    *repair   // what is broken
	fetched   bool      // everything: it has read how far its conversations had come
	attentive time.Time // since when it has been there, but for breaks that are the servers' doing
	away      bool      // by its own doing, or because it is no member
}

// repair is a break that is being repaired: until the stream has everything that was confirmed when
// it came back.
type repair struct {
	kind   kind
	from   time.Time
	target target
}

const pingEvery = 2 * time.Second

var (
	errRemoved = errors.New("no longer a member")
	errRefused = errors.New("refused for now")
	errPlanned = errors.New("a break that was planned")
	errDone    = errors.New("everything has come")
)

// run follows until everything that was sent has come, or ctx ends.
func (f *follower) run(ctx context.Context) {
	if !wait(ctx, f.plan.start) {
		return
	}
	f.attentive = time.Now()
	if f.everything != nil && !f.plan.fromNow {
		if err := f.fetch(ctx, true); err != nil {
			return // which shows, because nothing comes
		}
	}
	for pause := firstPause; ctx.Err() == nil; {
		before := f.stream.progress()
		err := f.connection(ctx)
		f.stream.note(time.Now(), "%s: %v", f.nodeName(), err)
		switch {
		case errors.Is(err, errDone):
			return
		case errors.Is(err, errPlanned):
			pause = firstPause
			continue
		case f.stream.progress() > before:
			pause = firstPause
		}
		if !errors.Is(err, errRemoved) {
			f.broken(kindOf(err), err)
			f.node++ // perhaps another serves
		}
		if !wait(ctx, pause) {
			return
		}
		pause = min(2*pause, lastPause)
	}
}

func (f *follower) nodeName() string { return "node " + strconv.Itoa(f.node%f.nodes.count()+1) }

// broken begins a repair, unless one is under way.
func (f *follower) broken(k kind, err error) {
	if errors.Is(err, errRefused) {
		k = wasRefused
	}
	if f.repair == nil {
		f.repair = &repair{kind: k, from: time.Now(), target: f.stream.target()}
	}
}

// caughtUp ends a repair once the stream has what it needs for that.
func (f *follower) caughtUp() {
	if f.repair == nil || !f.stream.reached(f.repair.target) {
		return
	}
	f.report.repaired(f.repair.kind, time.Since(f.repair.from))
	f.repair = nil
	if f.away {
		f.away, f.attentive = false, time.Now()
	}
}

// connection is one from the beginning to its end, which is told by the error.
func (f *follower) connection(ctx context.Context) error {
	cut := f.cutNext
	f.cutNext = planned{}
	session, token, err := f.device.signIn(ctx, f.node)
	if err != nil {
		return err
	}
	budget := uncut
	if cut.kind == cutHandshake {
		budget = 1 + int64(cut.depth%180) // the answer to the upgrade, and a bit of connection_ack
	}
	s, err := dial(ctx, f.nodes.url(f.node), f.plan.transport, f.plan.tight, budget)
	if err != nil {
		return f.endOfCut(cut, err)
	}
	defer s.close()
	if err := s.open(ctx, token); err != nil {
		if closeCode(err) == 4403 {
			f.device.doubt(token)
		}
		return f.endOfCut(cut, err)
	}
	if cut.kind == cutAck && cut.depth%2 == 0 {
		return errPlanned
	}
	l := &listening{follower: f, link: s, session: session, token: token}
	if cut.kind == cutReplay {
		s.cutAfter(100 + 7*int64(cut.depth)) // anywhere in the first frames, or between them
	}
	if err := l.subscribe(ctx); err != nil {
		return f.endOfCut(cut, s.because(err))
	}
	if cut.kind == cutAck {
		return errPlanned
	}
	return f.endOfCut(cut, l.listen(ctx))
}

// endOfCut tells what was planned from what was not.
func (f *follower) endOfCut(cut planned, err error) error {
	if errors.Is(err, errCut) || cut.kind == cutHandshake && closeCode(err) == -1 {
		return errPlanned
	}
	return err
}

// listening is a connection on which the follower listens.
type listening struct {
	*follower
	link      link
	session   string
	token     string
	operation int
	sub       hearing
	heard     time.Time
	renewal   *repair // while the answer of refreshSession is awaited; then the device is locked
}

func (l *listening) id() string { return strconv.Itoa(l.operation) }

// subscribe asks for what follows the last item. The ping behind it shows that the server has taken
// it.
func (l *listening) subscribe(ctx context.Context) error {
	if l.operation > 0 && l.plan.transport == overSSE { // which is for one operation
		return errPlanned
	}
	if l.away && l.repair == nil && (l.everything != nil || !l.ledger.mayNot(l.conversation, l.device.person.id)) {
		l.broken(wasRemoved, nil)
	}
	l.operation++
	query, variables, from := l.stream.ask()
	l.stream.note(time.Now(), "%s: subscribes behind what it has: %s", l.nodeName(), from)
	l.sub = l.stream.subscribing(l.session)
	if err := l.link.operate(ctx, l.id(), query, variables); err != nil {
		return err
	}
	return l.link.write(ctx, frame{Type: "ping"})
}

// listen takes what comes, and breaks what is to be broken, until the connection has ended.
func (l *listening) listen(ctx context.Context) error {
	defer l.endRenewal(nil)
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	nextBreak := time.NewTimer(l.untilBreak())
	defer nextBreak.Stop()
	closing := l.closing
	l.heard = time.Now()
	for {
		select {
		case f, ok := <-l.link.received():
			if !ok {
				if closeCode(l.link.failure()) == 4403 {
					l.doubt()
				}
				return l.link.failure()
			}
			l.heard = time.Now()
			if err := l.take(ctx, f); err != nil {
				return err
			}
		case <-nextBreak.C:
			if err := l.breakNow(ctx); err != nil {
				return err
			}
			nextBreak.Reset(l.untilBreak())
		case <-ping.C:
			if time.Since(l.heard) > l.link.silence(l.patience) {
				return errSilent
			}
			if err := l.link.write(ctx, frame{Type: "ping"}); err != nil {
				return l.link.because(err)
			}
		case <-closing:
			closing = nil // checked with every frame from now on; the next pong is not far
		case <-ctx.Done():
			return errOver
		}
		if l.complete() {
			return errDone
		}
	}
}

// untilBreak is a long time when no break is left.
func (l *listening) untilBreak() time.Duration {
	if len(l.breaks) == 0 {
		return time.Hour
	}
	return time.Until(l.began.Add(l.breaks[0].at))
}

// take acts on a frame.
func (l *listening) take(ctx context.Context, f frame) error {
	switch {
	case f.Type == "ping":
		return l.link.write(ctx, frame{Type: "pong"})
	case f.Type == "pong":
		l.caughtUp()
		return nil
	case f.ID == "renew":
		l.endRenewal(&f)
		return nil
	case f.ID != l.id(): // of an operation that was ended here
		return nil
	case f.Type == "complete":
		return l.refused(ctx, []apiError{{Message: "complete, without an error"}})
	case f.Type == "error":
		var list []apiError
		if err := json.Unmarshal(f.Payload, &list); err != nil {
			return fmt.Errorf("an error that cannot be read: %w", err)
		}
		return l.refused(ctx, list)
	}
	it, list, err := f.delivered()
	if err != nil {
		return err
	}
	if len(list) > 0 || it == nil {
		return l.refused(ctx, list)
	}
	return l.receive(ctx, *it)
}

func (l *listening) receive(ctx context.Context, it item) error {
	now := time.Now()
	if l.everything == nil {
		it.conversation = l.conversation
	}
	l.sub.receive(it, now)
	if it.Kind == messageAdded && it.Added != nil && !l.away {
		if acked := l.ledger.ackedAt(it.conversation, it.Added.Content); acked.After(l.attentive) {
			l.report.delivered(acked, now)
		}
	}
	l.caughtUp()
	if l.everything != nil && (it.Kind == streamReset || it.Kind == caughtUp && !l.fetched) {
		return l.fetch(ctx, false)
	}
	return nil
}

// fetch reads how far each conversation of the person has come, as a client does that begins, or
// that has to begin anew; and perhaps where the stream is to begin.
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
		f.ledger.gaveUp(f.conversation, "the cursor of "+f.name, err)
		return err
	}
	lastSeqs := map[string]int64{}
	for _, c := range answer.Conversations.Nodes {
		lastSeqs[c.ID] = c.LastSeq
	}
	if !begin {
		answer.EventsCursor = ""
	}
	f.fetched = true
	f.everything.starting(answer.EventsCursor, lastSeqs)
	f.stream.note(time.Now(), "has read its %d conversations", len(lastSeqs))
	return nil
}

// refused acts on the end of the subscription.
func (l *listening) refused(ctx context.Context, list []apiError) error {
	err := l.client.judge(list)
	switch code := codeOf(err); code {
	case "UNAUTHENTICATED":
		l.doubt()
		return fmt.Errorf("%w: %w", errRefused, err)
	case "FORBIDDEN", "NOT_FOUND", "":
		if errors.Is(err, errUnknown) {
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		l.stream.note(time.Now(), "%s: refused: %v", l.nodeName(), err)
		if l.sub.refused(fmt.Sprint(err)) {
			l.away, l.repair = true, nil
			return errRemoved
		}
		if !wait(ctx, firstPause) {
			return errOver
		}
		return l.subscribe(ctx) // a member again already
	case "RATE_LIMITED":
		return fmt.Errorf("%w: %w", errRefused, err)
	default:
		l.sub.unexpected("that it resumes behind what it has", err.Error())
		return fmt.Errorf("%w: %w", errRefused, err)
	}
}

// breakNow does the next break of the plan.
func (l *listening) breakNow(ctx context.Context) error {
	b := l.breaks[0]
	// its answer has to be taken first, because others of the person wait for the tokens
	if l.renewal != nil {
		l.breaks[0].at = time.Since(l.began) + 500*time.Millisecond
		return nil
	}
	l.breaks = l.breaks[1:]
	l.stream.note(time.Now(), "%s: %s", l.nodeName(), b.kind)
	switch b.kind {
	case renewing:
		return l.renew(ctx)
	case again:
		l.broken(b.kind, nil)
		if err := l.link.write(ctx, frame{ID: l.id(), Type: "complete"}); err != nil {
			return l.link.because(err)
		}
		return l.subscribe(ctx)
	case sleeping:
		l.leave()
		if !wait(ctx, b.away) {
			return errOver
		}
		l.heard = time.Now()
		l.broken(b.kind, nil)
		return nil
	case switching:
		l.link.goodbye()
		l.node++
	default:
		l.link.close()
	}
	l.leave()
	l.cutNext = planned{kind: b.kind, depth: b.depth}
	if !wait(ctx, b.away) {
		return errOver
	}
	l.broken(b.kind, nil)
	return errPlanned
}

// leave begins an absence of the follower's own doing. Who is no member is away already, and stays
// it.
func (l *listening) leave() {
	l.away, l.repair = true, nil
}

// renew trades the refresh token over the socket, unless somebody else just does.
func (l *listening) renew(ctx context.Context) error {
	if l.renewal != nil || !l.device.mu.TryLock() {
		return nil
	}
	if l.device.session == nil || l.device.session.id != l.session {
		l.device.mu.Unlock()
		return nil
	}
	l.renewal = &repair{kind: renewing, from: time.Now()}
	in := map[string]any{"in": map[string]any{"refreshToken": l.device.session.refresh}}
	if err := l.link.operate(ctx, "renew", refreshQuery, in); err != nil {
		return l.link.because(err)
	}
	return nil
}

// doubt has the device ask for other tokens.
func (l *listening) doubt() {
	l.endRenewal(nil) // which holds the device
	l.device.doubt(l.token)
}

// endRenewal takes the answer, or nothing where there is none any more.
func (l *listening) endRenewal(f *frame) {
	if l.renewal == nil {
		return
	}
	defer l.device.mu.Unlock()
	renewal := l.renewal
	l.renewal = nil
	// Until there is an answer: the tokens may have been traded, and for a while trading them again
	// gives the same ones.
	l.device.session.expires = time.Time{}
	var payload struct {
		Data *struct {
			RefreshSession *struct{ Tokens *tokens }
		}
	}
	if f == nil || f.Type != "next" || json.Unmarshal(f.Payload, &payload) != nil {
		return
	}
	if payload.Data == nil || payload.Data.RefreshSession == nil || payload.Data.RefreshSession.Tokens == nil {
		return
	}
	l.device.session.take(*payload.Data.RefreshSession.Tokens)
	l.token = l.device.session.access
	l.report.repaired(renewing, time.Since(renewal.from))
}

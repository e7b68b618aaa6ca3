package graph

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/99designs/gqlgen/graphql"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/feed"
	"parley/model"
	"parley/wire"
)

// # Broadcast
//
// A thousand clients of the same app follow a conversation with the same document. The answer to an
// event is then the same bytes for all of them, so it is executed and encoded once, and put into
// the outbox of each connection. A follower that waits costs no goroutine: the feed of the
// conversation calls its subscription. ADR 17 has the decision.
//
// # Modes
//
// A subscription has one of three modes, which subscribe chooses and which never changes:
//
//   - executed: the executor runs it, on goroutines of its own (see stream). These are all
//     subscriptions but messageAdded and conversationEvents; and of these two, those that select a
//     field whose value depends on the viewer, those of members who do not see the whole history,
//     and those that are refused, because the executor reports the error.
//   - broadcast: each live event is executed once for all followers with the same key (see
//     broadcastKey), while the feed waits.
//   - individual: the selection is too expensive for that. Each live event is read again and
//     replayed.
//
// To replay an event is to execute it for one follower alone, on a goroutine of package feed that
// ends when the follower has caught up. Both of the latter modes start with the replay of what the
// client missed. A live event of a broadcast subscription is replayed as well if
//
//   - the connection has no room for it, or
//   - the node has not looked at revoked sessions lately, or
//   - its answer has errors, for example while the database is away, or
//   - something was looked up for its answer, and a member was removed after the event: the answer
//     may show that member what came later, or
//   - one of the bounds below is reached.
//
// # Bounds
//
// Of one event at most maxAnswers answers are made, in at most maxAnswersTime and of at most
// maxAnswersBytes, all together. Answers of the newest maxEvents events are kept: they are needed
// while an event is delivered to its followers.
//
// # Locks
//
// The feed calls a subscription with the lock of its stream held. eventAnswers.mu is held while an
// answer is made, so that followers with the same key wait for the one that makes it.
// broadcaster.mu is held for a moment. Lock order: the stream's → eventAnswers.mu → broadcaster.mu.

const (
	maxEvents       = 1024
	maxAnswers      = 16
	maxAnswersBytes = 64 << 10
	maxAnswersTime  = time.Second
)

// broadcaster serves the subscriptions in the modes broadcast and individual.
type broadcaster struct {
	resolver *Resolver
	exec     graphql.GraphExecutor
	present  func(context.Context, error) *gqlerror.Error
	// answers has the event itself as its key, which is the same in memory for all followers on
	// this node. An event that is read from the database is another one: it is executed again, and
	// its answer shows what is true by then.
	answers *lru.Cache[*model.Event, *eventAnswers]

	mu     sync.Mutex // guards closed, and that nothing is added to making after it is set
	closed bool
	making sync.WaitGroup // answers for all followers
}

func newBroadcaster(
	r *Resolver, exec graphql.GraphExecutor, present func(context.Context, error) *gqlerror.Error,
) *broadcaster {
	answers, err := lru.New[*model.Event, *eventAnswers](maxEvents)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &broadcaster{resolver: r, exec: exec, present: present, answers: answers}
}

// close waits for the answers that are being made, and prevents further ones: an answer needs the
// database, and may outlive the connection that it is made for.
func (b *broadcaster) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.making.Wait()
}

// register adds an answer to making. It reports false after close.
func (b *broadcaster) register() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.making.Add(1)
	}
	return !b.closed
}

// mode is how a subscription is served, see the top of the file.
type mode int

const (
	executedMode mode = iota
	broadcastMode
	individualMode
)

// modeOf returns the mode of an operation, as far as its selection decides that. Except in
// executedMode, it also returns the root field and the key.
func modeOf(oc *graphql.OperationContext) (mode, *ast.Field, broadcastKey) {
	field, key, ok := broadcastKeyOf(oc)
	switch {
	case !ok:
		return executedMode, nil, key
	case !fitsFeed(oc):
		return individualMode, field, key
	}
	return broadcastMode, field, key
}

// broadcastSubscription is a subscription in broadcastMode or individualMode. The fields that each
// event needs come first, so that they share cache lines.
type broadcastSubscription struct {
	*broadcaster
	op           *wire.Operation
	selects      func(*model.Event) bool // whether the client gets an event
	key          broadcastKey
	viewer       model.Actor
	conversation model.ConversationID
	oc           *graphql.OperationContext
	mode         mode
	field        string          // messageAdded or conversationEvents
	ctx          context.Context //nolint:containedctx // the operation's
}

// subscribe serves a subscription until ctx ends, and returns at once. It reports false if the
// executor has to run it.
func (b *broadcaster) subscribe(
	ctx context.Context, op *wire.Operation, oc *graphql.OperationContext,
) bool {
	mode, field, key := modeOf(oc)
	if mode == executedMode {
		return false
	}
	viewer, err := actor(ctx)
	if err != nil {
		return false
	}
	arguments := field.ArgumentMap(oc.Variables)
	text, _ := arguments["conversationId"].(string)
	conversation, err := model.ParseID[model.ConversationID](text)
	if err != nil {
		return false
	}
	var cursor *string
	var seq *int64
	if text, ok := arguments["after"].(string); ok {
		cursor = &text
	}
	if n, ok := arguments["afterSeq"].(int64); ok {
		seq = &n
	}
	after, err := placeAfter(conversation, cursor, seq)
	if err != nil {
		return false
	}
	s := &broadcastSubscription{
		broadcaster: b, op: op, oc: oc, ctx: ctx, mode: mode, field: field.Name, key: key,
		viewer: viewer, conversation: conversation, selects: anyEvent,
	}
	if s.field == "messageAdded" {
		s.selects = addsMessage
	}
	return b.resolver.Feed.FollowInto(ctx, viewer, conversation, after, s.sink()) == nil
}

// sink is where the feed of the conversation delivers to.
func (s *broadcastSubscription) sink() feed.Sink {
	sink := feed.Sink{Accepts: seesEverything, Replay: s.replay, CaughtUp: s.caughtUp, End: s.end}
	if s.mode == broadcastMode {
		sink.Live = s.broadcastLive
	} else {
		sink.Live = s.replayLive
	}
	return sink
}

// seesEverything accepts members from whom no event is hidden. What is looked up for an answer may
// be hidden from the others.
func seesEverything(hidden int64) bool { return hidden == 0 }

func anyEvent(*model.Event) bool { return true }

func addsMessage(e *model.Event) bool { return e.Kind == model.MessageAdded && e.Message != nil }

// broadcastLive puts the answer to a live event into the connection's outbox, and never waits for
// the client. If it reports false, the event is replayed.
func (s *broadcastSubscription) broadcastLive(e *model.Event) bool {
	if !s.selects(e) {
		return true
	}
	if !s.resolver.Auth.Watches() {
		return false
	}
	payload := s.answerForAll(e)
	return payload != nil && s.op.TryNext(payload)
}

// replayLive reports false for the live events that the client gets, so that they are replayed.
func (s *broadcastSubscription) replayLive(e *model.Event) bool { return !s.selects(e) }

// replay executes an event for this follower alone, and waits for room on the connection.
func (s *broadcastSubscription) replay(ctx context.Context, e *model.Event) error {
	if !s.selects(e) {
		return nil
	}
	if err := s.resolver.Auth.AwaitWatch(ctx); err != nil {
		return err
	}
	return s.put(ctx, feed.Followed{Event: e})
}

// caughtUp sends the notice that the replay is over, which only conversationEvents has.
func (s *broadcastSubscription) caughtUp(ctx context.Context, place feed.Place) error {
	if s.field != "conversationEvents" {
		return nil
	}
	return s.put(ctx, feed.Followed{CaughtUp: place})
}

// put sends the answer to one item. An error ends the subscription, because its client could not go
// on without the item.
func (s *broadcastSubscription) put(ctx context.Context, followed feed.Followed) error {
	item := &streamItem{Followed: followed}
	payload, _ := s.execute(ctx, item)
	if fault := item.fault(); fault != nil && ctx.Err() == nil {
		return fault
	}
	if payload == nil {
		return context.Cause(ctx)
	}
	if s.op.Put(ctx, payload) != nil {
		return context.Canceled // the connection or the operation has ended: nothing to report
	}
	return nil
}

func (s *broadcastSubscription) end(err error) {
	s.op.Fail(gqlerror.List{s.present(withRootField(s.ctx, s.oc), err)})
}

// answerForAll returns the answer to a live event for all followers with the same key. The first of
// them makes it. It returns nil if there is no such answer.
func (s *broadcastSubscription) answerForAll(e *model.Event) []byte {
	all, ok := s.answers.Get(e)
	if !ok {
		all = newEventAnswers()
		if existing, ok, _ := s.answers.PeekOrAdd(e, all); ok {
			all = existing
		}
	}
	return all.getOrMake(s.key, func(timeout time.Duration) []byte {
		return s.makeForAll(e, timeout)
	})
}

// makeForAll executes a live event in the name of this follower. Its context does not end with the
// operation: the other followers need the answer when this one has left.
func (s *broadcastSubscription) makeForAll(e *model.Event, timeout time.Duration) []byte {
	if !s.register() {
		return nil
	}
	defer s.making.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), timeout)
	defer cancel()
	item := &streamItem{Followed: feed.Followed{Event: e}, onFeed: true}
	payload, ok := s.execute(ctx, item)
	if !ok || item.loaders.used() && !s.visibleToAll(ctx, e) {
		return nil
	}
	return payload
}

// visibleToAll reports whether all followers may see an answer for which something was looked up.
// It is called after the look-up, which may have found what came after the event. All to whom the
// event is delivered were members then; if none has been removed since, all may see it.
func (s *broadcastSubscription) visibleToAll(ctx context.Context, e *model.Event) bool {
	removed, err := s.resolver.Feed.RemovedSince(ctx, s.conversation, e.Seq)
	return err == nil && !removed
}

// execute runs the operation for one item, and reports whether the answer has no errors. The
// payload is nil if the item has a fault, or if ctx has ended.
func (s *broadcastSubscription) execute(
	ctx context.Context, item *streamItem,
) (payload []byte, ok bool) {
	defer func() {
		if reason := recover(); reason != nil {
			payload, ok = s.failed(ctx, recovered(ctx, reason)), false
		}
	}()
	ctx = graphql.WithOperationContext(withItem(graphql.StartOperationTrace(ctx), item), s.oc)
	responses, ctx := s.exec.DispatchOperation(ctx, s.oc)
	response := responses(ctx)
	switch {
	case response == nil && ctx.Err() != nil, item.fault() != nil:
		return nil, false
	case response == nil:
		return s.failed(ctx, errors.New("an event has no answer")), false
	}
	return wire.Encode(response), len(response.Errors) == 0
}

// failed is an answer that has only an error.
func (s *broadcastSubscription) failed(ctx context.Context, err error) []byte {
	shown := s.present(withRootField(ctx, s.oc), err)
	return wire.Encode(&graphql.Response{
		Errors: gqlerror.List{shown}, Data: json.RawMessage("null"),
	})
}

// eventAnswers are the answers to one live event by key. Their bounds are at the top of the file:
// the feed waits while an answer is made, and the memory for answers is used by all conversations.
type eventAnswers struct {
	mu       sync.Mutex              // guards what follows; held while an answer is made
	payloads map[broadcastKey][]byte // nil if there is no answer for all followers
	bytes    int
	took     time.Duration
}

func newEventAnswers() *eventAnswers {
	return &eventAnswers{payloads: map[broadcastKey][]byte{}}
}

// getOrMake returns the answer with this key, which it makes once, or nil beyond the bounds.
// timeout is how long making it may take.
func (a *eventAnswers) getOrMake(
	key broadcastKey, make func(timeout time.Duration) []byte,
) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	payload, ok := a.payloads[key]
	if ok || len(a.payloads) >= maxAnswers || a.took >= maxAnswersTime {
		return payload
	}
	start := time.Now()
	payload = make(maxAnswersTime - a.took)
	a.took += time.Since(start)
	if a.bytes+len(payload) > maxAnswersBytes {
		payload = nil
	}
	a.bytes += len(payload)
	a.payloads[key] = payload
	return payload
}

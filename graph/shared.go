package graph

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
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

// shared serves subscriptions to one conversation whose answer is the same for all who asked the
// same: each event is executed and encoded once, and every follower's connection gets these very
// bytes. Who may follow is decided for each. A follower that waits costs no goroutine: the
// conversation's feed puts what comes into its connection's outbox.
type shared struct {
	resolver *Resolver
	exec     graphql.GraphExecutor
	present  func(context.Context, error) *gqlerror.Error
	answers  *lru.Cache[*model.Event, *answers]

	mu        sync.Mutex // guards closed, and that nothing is added to answering after it
	closed    bool
	answering sync.WaitGroup
}

// close waits for the answers that are being made, and has none made after it: an answer does not
// end with the connection that it is made for, and needs the database.
func (s *shared) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.answering.Wait()
}

// begin reports false once no answers are made any more; else the caller has to say that it is
// done.
func (s *shared) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.answering.Add(1)
	}
	return !s.closed
}

// answers are those to one event, by what was asked. The event is that very one in memory, which
// all followers on this node are handed: what is read again from the database is executed again,
// and shows what is true by then. The conversation waits while one is made, and the memory for them
// is everybody's, so there is an end to both.
type answers struct {
	mu       sync.Mutex                   // guards what follows; held while an answer is made
	payloads map[[sha256.Size]byte][]byte // nil where it cannot be shared
	bytes    int
	took     time.Duration
}

const (
	keptEvents  = 1024 // with answers: these are needed while an event is handed to the followers
	maxAnswers  = 16   // to an event
	answerBytes = 64 << 10
	answersTake = time.Second
)

// makeOnce returns the answer to what was asked, which the first who asks it makes; nil beyond the
// limits.
func (a *answers) makeOnce(asked [sha256.Size]byte, make func(patience time.Duration) []byte) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	payload, there := a.payloads[asked]
	if there || len(a.payloads) >= maxAnswers || a.took >= answersTake {
		return payload
	}
	start := time.Now()
	payload = make(answersTake - a.took)
	a.took += time.Since(start)
	if a.bytes+len(payload) > answerBytes {
		payload = nil
	}
	a.bytes += len(payload)
	a.payloads[asked] = payload
	return payload
}

func newShared(r *Resolver, exec graphql.GraphExecutor, present func(context.Context, error) *gqlerror.Error) *shared {
	kept, err := lru.New[*model.Event, *answers](keptEvents)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &shared{resolver: r, exec: exec, present: present, answers: kept}
}

// sharing is one subscription that is served like this. What each event needs comes first, so that
// it is near.
type sharing struct {
	*shared
	op    *wire.Operation
	pick  func(*model.Event) bool
	asked [sha256.Size]byte
	who   model.Actor
	id    model.ConversationID
	oc    *graphql.OperationContext
	dear  bool            // too dear to be executed while the conversation's feed waits
	ctx   context.Context //nolint:containedctx // the operation's
}

// subscribe takes a subscription over, and reports false for all that the executor serves: other
// subscriptions, those that show what depends on who is looking, people who do not see the whole
// history, and whatever is wrong, for the executor to tell.
func (s *shared) subscribe(ctx context.Context, op *wire.Operation, oc *graphql.OperationContext) bool {
	field, asked, ok := s.sharable(oc)
	if !ok {
		return false
	}
	who, err := actor(ctx)
	if err != nil {
		return false
	}
	arguments := field.ArgumentMap(oc.Variables)
	text, _ := arguments["conversationId"].(string)
	id, err := model.ParseID[model.ConversationID](text)
	if err != nil {
		return false
	}
	var after *int64
	if n, ok := arguments["afterSeq"].(int64); ok {
		after = &n
	}
	sh := &sharing{
		shared: s, oc: oc, op: op, ctx: ctx, who: who, id: id, asked: asked, pick: everyEvent, dear: !fitsFeed(oc),
	}
	if field.Name == "messageAdded" {
		sh.pick = addedOnly
	}
	return s.resolver.Feed.FollowInto(ctx, who, id, after, feed.Sink{
		Accepts: seesEverything, Live: sh.live, Replay: sh.replay, CaughtUp: sh.caughtUp, End: sh.end,
	}) == nil
}

// seesEverything keeps members from whom something is hidden apart: what is looked up for an answer
// may be hidden from them.
func seesEverything(hidden int64) bool { return hidden == 0 }

func everyEvent(*model.Event) bool { return true }

func addedOnly(e *model.Event) bool { return e.Kind == model.MessageAdded && e.Message != nil }

// sharable finds the one field of a subscription that has the same value for everybody, and names
// what is asked of it.
func (s *shared) sharable(oc *graphql.OperationContext) (field *ast.Field, asked [sha256.Size]byte, ok bool) {
	if len(oc.Operation.SelectionSet) != 1 {
		return nil, asked, false
	}
	field, ok = oc.Operation.SelectionSet[0].(*ast.Field)
	if !ok || len(field.Directives) > 0 || field.Name != "messageAdded" && field.Name != "conversationEvents" {
		return nil, asked, false
	}
	variables := map[string]any{}
	if !sameForAll(field.SelectionSet, oc.Variables, variables) {
		return nil, asked, false
	}
	values, err := json.Marshal(variables)
	if err != nil {
		return nil, asked, false
	}
	return field, sha256.Sum256(slices.Concat([]byte(oc.RawQuery), []byte{0}, []byte(oc.Operation.Name), []byte{0}, values)), true
}

// sameForAll reports whether nothing in a selection depends on who is looking, and collects the
// variables that it has.
func sameForAll(set ast.SelectionSet, values, used map[string]any) bool {
	for _, selection := range set {
		switch s := selection.(type) {
		case *ast.Field:
			if s.Definition == nil || s.Definition.Directives.ForName("perViewer") != nil {
				return false
			}
			for _, a := range s.Arguments {
				collectVariables(a.Value, values, used)
			}
			collectDirectives(s.Directives, values, used)
			if !sameForAll(s.SelectionSet, values, used) {
				return false
			}
		case *ast.InlineFragment:
			collectDirectives(s.Directives, values, used)
			if !sameForAll(s.SelectionSet, values, used) {
				return false
			}
		case *ast.FragmentSpread:
			collectDirectives(s.Directives, values, used)
			if !sameForAll(s.Definition.SelectionSet, values, used) {
				return false
			}
		}
	}
	return true
}

func collectDirectives(list ast.DirectiveList, values, used map[string]any) {
	for _, d := range list {
		for _, a := range d.Arguments {
			collectVariables(a.Value, values, used)
		}
	}
}

func collectVariables(v *ast.Value, values, used map[string]any) {
	if value, given := values[v.Raw]; given && v.Kind == ast.Variable {
		used[v.Raw] = value
	}
	for _, child := range v.Children {
		collectVariables(child.Value, values, used)
	}
}

// live puts an event into the connection's outbox, unless there is no room, or no answer that can
// be shared, or one that is too dear, or it is not known whether the session still lasts: then it
// is read and answered for this follower alone, beside the feed, which goes on to the others.
func (sh *sharing) live(e *model.Event) bool {
	if !sh.pick(e) {
		return true
	}
	if sh.dear || !sh.resolver.Auth.Watches() {
		return false
	}
	payload := sh.answerTo(e)
	return payload != nil && sh.op.TryNext(payload)
}

func (sh *sharing) replay(ctx context.Context, e *model.Event) error {
	if !sh.pick(e) {
		return nil
	}
	if err := sh.resolver.Auth.AwaitWatch(ctx); err != nil {
		return err
	}
	return sh.put(ctx, feed.Followed{Event: e})
}

func (sh *sharing) caughtUp(ctx context.Context, seq int64) error {
	if sh.oc.Operation.SelectionSet[0].(*ast.Field).Name != "conversationEvents" {
		return nil
	}
	return sh.put(ctx, feed.Followed{CaughtUp: seq})
}

func (sh *sharing) put(ctx context.Context, item feed.Followed) error {
	given := &given{Followed: item}
	payload, _ := sh.tryExecute(ctx, given)
	if fault := given.fault(); fault != nil && ctx.Err() == nil {
		return fault // the subscription ends with it: the client could not go on without the event
	}
	if payload == nil {
		return context.Cause(ctx)
	}
	if sh.op.Put(ctx, payload) != nil {
		// the connection or the operation has ended, which is no fault of ours to log
		return context.Canceled
	}
	return nil
}

func (sh *sharing) end(err error) {
	sh.op.Fail(gqlerror.List{sh.present(withRootField(sh.ctx, sh.oc), err)})
}

// answerTo is the answer for all who asked the same of an event; nil where each has to make their
// own.
func (sh *sharing) answerTo(e *model.Event) []byte {
	all, there := sh.answers.Get(e)
	if !there {
		all = &answers{payloads: map[[sha256.Size]byte][]byte{}}
		if before, there, _ := sh.answers.PeekOrAdd(e, all); there {
			all = before
		}
	}
	return all.makeOnce(sh.asked, func(patience time.Duration) []byte { return sh.answer(e, patience) })
}

func (sh *sharing) answer(e *model.Event, patience time.Duration) []byte {
	if !sh.begin() {
		return nil
	}
	defer sh.answering.Done()
	// The connection that happens to be first may end meanwhile: others need the answer all the
	// same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(sh.ctx), patience)
	defer cancel()
	item := &given{Followed: feed.Followed{Event: e}, onFeed: true}
	payload, ok := sh.tryExecute(ctx, item)
	if !ok || item.loaders.used() && !sh.forAll(ctx, e) {
		return nil
	}
	return payload
}

// forAll is asked after an answer for which something was looked up, which may show what came after
// the event. Everybody to whom the event is handed was a member then; where all still are, all may
// see it.
func (sh *sharing) forAll(ctx context.Context, e *model.Event) bool {
	removed, err := sh.resolver.Feed.RemovedSince(ctx, sh.id, e.Seq)
	return err == nil && !removed
}

type givenKey struct{}

// given is the one item that a subscription is executed for, where it is executed item by item.
type given struct {
	feed.Followed
	onFeed  bool             // the conversation's feed waits for the answer
	loaders *responseLoaders // of the answer, once there is one
	answer  *answer          // while it is made, and after that
}

// fault is why there is no answer, if it was too large or could not have its turn.
func (item *given) fault() error {
	if item.answer == nil {
		return nil
	}
	if fault := item.answer.fault.Load(); fault != nil {
		return fault
	}
	return nil
}

func givenTo(ctx context.Context) *given {
	item, _ := ctx.Value(givenKey{}).(*given)
	return item
}

// tryExecute runs the operation for one item, and reports whether the answer is without errors.
// There is none where ctx has ended, because then nobody waits for it.
func (sh *sharing) tryExecute(ctx context.Context, item *given) (payload []byte, ok bool) {
	defer func() {
		if reason := recover(); reason != nil {
			shown := sh.present(withRootField(ctx, sh.oc), fmt.Errorf("panic: %v\n%s", reason, debug.Stack()))
			payload, ok = wire.Encode(&graphql.Response{Errors: gqlerror.List{shown}, Data: json.RawMessage("null")}), false
		}
	}()
	ctx = graphql.WithOperationContext(context.WithValue(graphql.StartOperationTrace(ctx), givenKey{}, item), sh.oc)
	responses, ctx := sh.exec.DispatchOperation(ctx, sh.oc)
	response := responses(ctx)
	if response == nil && ctx.Err() != nil {
		return nil, false
	}
	if response == nil {
		shown := sh.present(withRootField(ctx, sh.oc), errors.New("an event has no answer"))
		response = &graphql.Response{Errors: gqlerror.List{shown}, Data: json.RawMessage("null")}
	}
	if item.fault() != nil {
		return nil, false
	}
	return wire.Encode(response), len(response.Errors) == 0
}

// just is a subscription of one item.
func just[T any](item T) <-chan T {
	items := make(chan T, 1)
	items <- item
	close(items)
	return items
}

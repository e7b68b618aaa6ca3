package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"parley/feed"
	"parley/membership"
	"parley/model"
	"parley/pubsub/natsbus"
	"parley/ratelimit"
	"parley/wake"
)

// typingSignal is published when a user types in a conversation, or has stopped. It is not stored.
type typingSignal struct {
	UserID model.UserID `json:"userId"`
	Typing bool         `json:"typing"`
	// Seq is the newest event at that moment. A message with a higher seq ends this typing, even if
	// it overtakes the signal.
	Seq int64 `json:"seq"`
}

const typingPrefix = "typing_"

func typingTopic(id model.ConversationID) string { return typingPrefix + id.String() }

var typingCodec = natsbus.Codec[typingSignal]{ //nolint:gochecknoglobals // a constant
	Encode: func(sig typingSignal) ([]byte, error) { return json.Marshal(sig) },
	Decode: func(topic string, data []byte) (sig typingSignal, err error) {
		text, ok := strings.CutPrefix(topic, typingPrefix)
		if !ok {
			return sig, fmt.Errorf("%.64q is not a topic of typing", topic)
		}
		if _, err := model.ParseID[model.ConversationID](text); err != nil {
			return sig, err
		}
		return sig, json.Unmarshal(data, &sig)
	},
}

// SetTyping publishes to the other members that the actor types, at most once per TypingEvery, or
// has stopped. It returns NOT_FOUND for non-members.
func (s *Service) SetTyping(
	ctx context.Context, actor model.Actor, id model.ConversationID, typing bool,
) error {
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.State.Times(1)); err != nil {
		return err
	}
	bounds, err := membership.Bounds(ctx, s.db, actor, id)
	if err != nil {
		return err
	}
	if s.throttle.allow(typist{id, actor.UserID}, typing) {
		s.typing.Publish(typingTopic(id),
			typingSignal{UserID: actor.UserID, Typing: typing, Seq: bounds.Last})
	}
	return nil
}

// stoppedPerStarted is how many times a repeated "stopped" may be published per TypingEvery.
const stoppedPerStarted = 6

type typist struct {
	conversation model.ConversationID
	user         model.UserID
}

// typingThrottle limits how often this node publishes that a user types or has stopped.
type typingThrottle struct {
	every time.Duration

	mu        sync.Mutex                 // guards what follows
	published map[typist]typingPublished // entries younger than every, and some older ones
	swept     time.Time                  // when older entries were removed
}

type typingPublished struct{ started, stopped time.Time }

func (p typingPublished) last() time.Time {
	if p.stopped.After(p.started) {
		return p.stopped
	}
	return p.started
}

func newTypingThrottle(every time.Duration) *typingThrottle {
	return &typingThrottle{every: every, published: map[typist]typingPublished{}}
}

// allow reports whether a signal may be published, and records it if so. After each "types" that
// this node has published, "stopped" may be published at once. Another node may have published a
// "types" that this one does not know of, so "stopped" may also be published without one, up to
// stoppedPerStarted times per TypingEvery.
func (t *typingThrottle) allow(who typist, typing bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if now.Sub(t.swept) >= t.every {
		maps.DeleteFunc(t.published, func(_ typist, p typingPublished) bool {
			return now.Sub(p.last()) >= t.every
		})
		t.swept = now
	}
	p := t.published[who]
	switch {
	case typing && now.Sub(p.started) >= t.every:
		p.started = now
	case !typing && (p.started.After(p.stopped) || now.Sub(p.stopped) >= t.every/stoppedPerStarted):
		p.stopped = now
	default:
		return false
	}
	t.published[who] = p
	return true
}

// Typing is whether a user types in a conversation.
type Typing struct {
	UserID model.UserID
	Typing bool
}

// Typing yields which users, except the actor, start and stop typing in a conversation from now on.
// Typing stops when the user says so, sends a message or is no longer a member, or TypingTimeout
// after the last signal. A slow consumer gets the newest state. Typing returns NOT_FOUND for
// non-members. The sequence ends with ctx's error, or FORBIDDEN once the actor is no longer a
// member.
func (s *Service) Typing(
	ctx context.Context, actor model.Actor, id model.ConversationID,
) (iter.Seq2[Typing, error], error) {
	if _, err := membership.Bounds(ctx, s.db, actor, id); err != nil {
		return nil, err
	}
	return func(yield func(Typing, error) bool) {
		if err := s.deliverTyping(ctx, actor, id, yield); !errors.Is(err, errStopped) {
			yield(Typing{}, err)
		}
	}, nil
}

func (s *Service) deliverTyping(
	ctx context.Context, actor model.Actor, id model.ConversationID,
	yield func(Typing, error) bool,
) error {
	watch := newTypingWatch(actor.UserID, s.opts.TypingTimeout)
	sub := s.typing.Handle(typingTopic(id), watch.handle)
	defer sub.Close()
	log, err := s.feed.Watch(ctx, actor, id, watch.Notifier)
	if err != nil {
		return err
	}
	defer log.Close()
	for {
		if err := watch.observe(ctx, log); err != nil {
			return err
		}
		if t, changed := watch.next(); changed {
			if !yield(t, nil) {
				return errStopped
			}
			continue
		}
		if err := watch.wait(ctx); err != nil {
			return err
		}
	}
}

// typingWatch is the users who type in one conversation, for one consumer.
type typingWatch struct {
	wake.Notifier

	viewer    model.UserID
	timeout   time.Duration
	delivered map[model.UserID]bool // the users who type, as yielded; only the consumer uses it

	mu    sync.Mutex                 // guards what follows
	until map[model.UserID]time.Time // the users who type, with when their typing times out
	// the seq of the event that ended typing last; earlier signals are void
	ended map[model.UserID]int64
}

func newTypingWatch(viewer model.UserID, timeout time.Duration) *typingWatch {
	return &typingWatch{
		Notifier: wake.NewNotifier(), viewer: viewer, timeout: timeout,
		delivered: map[model.UserID]bool{}, until: map[model.UserID]time.Time{},
		ended: map[model.UserID]int64{},
	}
}

// handle takes a signal, and returns at once.
func (w *typingWatch) handle(sig typingSignal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, types := w.until[sig.UserID]
	switch {
	case sig.UserID == w.viewer || sig.Seq < w.ended[sig.UserID]:
		return
	case !sig.Typing && types:
		delete(w.until, sig.UserID)
	case sig.Typing && (types || len(w.until) < membership.Max): // there cannot be more members
		w.until[sig.UserID] = time.Now().Add(w.timeout)
	default:
		return
	}
	w.Notify()
}

// end ends the user's typing, and voids signals from before an event.
func (w *typingWatch) end(id model.UserID, seq int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.until, id)
	w.ended[id] = max(seq, w.ended[id])
}

// observe ends typing by events of the log: messages and removals. It does not read missed events:
// the typing that they ended ends by its timeout.
func (w *typingWatch) observe(ctx context.Context, log *feed.Watcher) error {
	events, _, err := log.Drain(ctx)
	if err != nil {
		return err
	}
	for _, e := range events {
		switch e.Kind {
		case model.MessageAdded:
			if e.ActorID != nil {
				w.end(*e.ActorID, e.Seq)
			}
		case model.MemberRemoved:
			var removed model.MemberRemovedData
			if err := json.Unmarshal(e.Data, &removed); err != nil {
				return err
			}
			w.end(removed.UserID, e.Seq)
		default:
		}
	}
	return nil
}

// next returns one change that has not been yielded yet.
func (w *typingWatch) next() (t Typing, changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(w.until, func(_ model.UserID, until time.Time) bool {
		return !until.After(now)
	})
	for id := range w.delivered {
		if _, types := w.until[id]; !types {
			delete(w.delivered, id)
			return Typing{UserID: id}, true
		}
	}
	for id := range w.until {
		if !w.delivered[id] {
			w.delivered[id] = true
			return Typing{UserID: id, Typing: true}, true
		}
	}
	return Typing{}, false
}

// wait waits for a notification, or for the first timeout.
func (w *typingWatch) wait(ctx context.Context) error {
	var expired <-chan time.Time
	if first, ok := w.firstTimeout(); ok {
		timer := time.NewTimer(time.Until(first))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-w.C():
	case <-expired:
	}
	return nil
}

func (w *typingWatch) firstTimeout() (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.until) == 0 {
		return time.Time{}, false
	}
	return slices.MinFunc(slices.Collect(maps.Values(w.until)), time.Time.Compare), true
}

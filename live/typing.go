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

// typingSignal says that a user types in a conversation, or has stopped. It is stored nowhere: a
// lost one is lost.
type typingSignal struct {
	UserID model.UserID `json:"userId"`
	Typing bool         `json:"typing"`
	// Seq is the newest event at that moment. A message of the user that comes after it may
	// overtake the signal.
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

// SetTyping publishes to the other members that the actor types, at most every three seconds, or
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

// stoppedPerStarted is how many times as often as that a user types it may be published again that
// the user has stopped.
const stoppedPerStarted = 6

type typist struct {
	conversation model.ConversationID
	user         model.UserID
}

// typingThrottle limits how often it is published on this node that a user types or has stopped.
type typingThrottle struct {
	every time.Duration

	mu        sync.Mutex // guards what follows
	published map[typist]typingPublished
	swept     time.Time
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

// allow reports whether a signal may be published, and counts it. "Stopped" may be published once
// after each "started" that this node knows of. Another node may have published a "started", so it
// may also be published without one, but less often.
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

// Typing is whether a user types.
type Typing struct {
	UserID model.UserID
	Typing bool
}

// Typing yields which users, except the actor, start and stop typing in a conversation from now on.
// A user has stopped who sends a message, is no longer a member, or was not signaled for six
// seconds. A slow consumer gets the newest state. It returns NOT_FOUND for non-members. The
// sequence ends with ctx's error, or FORBIDDEN once the actor is no longer a member.
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

// typingWatch is who types in one conversation, for one consumer.
type typingWatch struct {
	wake.Notifier

	viewer  model.UserID
	timeout time.Duration
	// who types, as far as the consumer knows; owned by the consumer
	delivered map[model.UserID]bool

	mu    sync.Mutex // guards what follows
	until map[model.UserID]time.Time
	// ended has the newest message of each user, or the end of their membership: earlier signals
	// are void.
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

// end ends whatever a user has typed up to a seq.
func (w *typingWatch) end(id model.UserID, seq int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.until, id)
	w.ended[id] = max(seq, w.ended[id])
}

// observe takes from the log what ends typing. Events that were missed are not read: what they
// would have ended ends by its timeout.
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

// next returns one change that the consumer does not know yet.
func (w *typingWatch) next() (t Typing, changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(w.until, func(_ model.UserID,
		until time.Time,
	) bool {
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

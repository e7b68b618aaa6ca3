package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"parley/model"
	"parley/pubsub/natsbus"
	"parley/ratelimit"
)

// typingSign says that a person types in a conversation, or does no longer. It is kept nowhere: a
// lost one is lost.
type typingSign struct {
	UserID model.UserID `json:"userId"`
	Typing bool         `json:"typing"`
	// Seq is the newest event when they did. A message of theirs that comes after it may overtake
	// it.
	Seq int64 `json:"seq"`
}

const typingPrefix = "typing_"

func typingTopic(id model.ConversationID) string { return typingPrefix + id.String() }

var typingCodec = natsbus.Codec[typingSign]{ //nolint:gochecknoglobals // a constant
	Encode: func(sign typingSign) ([]byte, error) { return json.Marshal(sign) },
	Decode: func(topic string, data []byte) (sign typingSign, err error) {
		text, ok := strings.CutPrefix(topic, typingPrefix)
		if !ok {
			return sign, fmt.Errorf("%.64q is not a topic of typing", topic)
		}
		if _, err := model.ParseID[model.ConversationID](text); err != nil {
			return sign, err
		}
		return sign, json.Unmarshal(data, &sign)
	},
}

// SetTyping tells the other members that the actor types, at most every three seconds, or has
// stopped. NOT_FOUND for anybody but a member.
func (s *Service) SetTyping(ctx context.Context, actor model.Actor, id model.ConversationID, typing bool) error {
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.State.Times(1)); err != nil {
		return err
	}
	last, _, err := s.position(ctx, actor, id)
	if err != nil {
		return err
	}
	if s.typists.mayTell(typist{id, actor.UserID}, typing) {
		s.publishTyping(typingTopic(id), typingSign{UserID: actor.UserID, Typing: typing, Seq: last})
	}
	return nil
}

// endedAgain is how many times as often as that somebody types it may be told again that they have
// stopped.
const endedAgain = 6

type typist struct {
	conversation model.ConversationID
	user         model.UserID
}

// typists remembers of whom it was told on this node that they type, or have stopped, for as long
// as it is not to be told again.
type typists struct {
	every time.Duration

	mu    sync.Mutex // guards what follows
	told  map[typist]toldTyping
	swept time.Time
}

type toldTyping struct{ began, ended time.Time }

func (t toldTyping) last() time.Time {
	if t.ended.After(t.began) {
		return t.ended
	}
	return t.began
}

func newTypists(every time.Duration) *typists {
	return &typists{every: every, told: map[typist]toldTyping{}}
}

// mayTell says whether others are told, and notes that they are. That somebody has stopped is told
// once for each time that they have begun, as far as this node knows. Another may have told of
// more, so it is also told without that, though less often.
func (t *typists) mayTell(who typist, typing bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if now.Sub(t.swept) >= t.every {
		maps.DeleteFunc(t.told, func(_ typist, was toldTyping) bool { return now.Sub(was.last()) >= t.every })
		t.swept = now
	}
	was := t.told[who]
	switch {
	case typing && now.Sub(was.began) >= t.every:
		was.began = now
	case !typing && (was.began.After(was.ended) || now.Sub(was.ended) >= t.every/endedAgain):
		was.ended = now
	default:
		return false
	}
	t.told[who] = was
	return true
}

// Typing says that somebody has begun or stopped to type.
type Typing struct {
	UserID model.UserID
	Typing bool
}

// Typing yields who begins and stops to type in a conversation from now on, beside the actor:
// whoever sends a message, is a member no longer, or has given no sign for six seconds has stopped.
// A consumer that takes its time gets what is so then. NOT_FOUND for anybody but a member; the
// sequence ends with ctx's error, or FORBIDDEN once the actor is no longer a member.
func (s *Service) Typing(
	ctx context.Context, actor model.Actor, id model.ConversationID,
) (iter.Seq2[Typing, error], error) {
	if _, _, err := s.position(ctx, actor, id); err != nil {
		return nil, err
	}
	return func(yield func(Typing, error) bool) {
		if err := s.watchTyping(ctx, actor, id, yield); !errors.Is(err, errStopped) {
			yield(Typing{}, err)
		}
	}, nil
}

func (s *Service) watchTyping(
	ctx context.Context, actor model.Actor, id model.ConversationID, yield func(Typing, error) bool,
) error {
	st := newStream()
	watch := newTypingWatch(actor.UserID, s.opts.TypingTimeout, st.ring)
	sub := s.typing.Handle(typingTopic(id), watch.hear)
	defer sub.Close()
	// whatever there is already is of no interest
	fo, err := s.attach(ctx, st, actor, id, math.MaxInt64)
	if err != nil {
		return err
	}
	defer fo.detach()
	for {
		if err := watch.follow(ctx, fo); err != nil {
			return err
		}
		if t, changed := watch.next(); changed {
			if !yield(t, nil) {
				return errStopped
			}
			continue
		}
		if err := watch.wait(ctx, st.bell); err != nil {
			return err
		}
	}
}

// typingWatch is who types in one conversation, as one consumer is told.
type typingWatch struct {
	viewer  model.UserID
	timeout time.Duration
	ring    func()
	shown   map[model.UserID]bool // who types, as far as the consumer knows; its own

	mu    sync.Mutex // guards what follows
	until map[model.UserID]time.Time
	// the newest message of each, or the end of their membership: what is older is over
	ended map[model.UserID]int64
}

func newTypingWatch(viewer model.UserID, timeout time.Duration, ring func()) *typingWatch {
	return &typingWatch{
		viewer: viewer, timeout: timeout, ring: ring,
		shown: map[model.UserID]bool{}, until: map[model.UserID]time.Time{}, ended: map[model.UserID]int64{},
	}
}

// hear takes a sign, and returns at once.
func (w *typingWatch) hear(sign typingSign) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, types := w.until[sign.UserID]
	switch {
	case sign.UserID == w.viewer || sign.Seq < w.ended[sign.UserID]:
		return
	case !sign.Typing && types:
		delete(w.until, sign.UserID)
	case sign.Typing && (types || len(w.until) < MaxMembers): // more there cannot be
		w.until[sign.UserID] = time.Now().Add(w.timeout)
	default:
		return
	}
	w.ring()
}

// end says that whatever a person has typed up to a seq is over.
func (w *typingWatch) end(id model.UserID, seq int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.until, id)
	w.ended[id] = max(seq, w.ended[id])
}

// follow takes from the conversation what ends somebody's typing. Events that were too many are not
// read: what they would have ended ends by itself.
func (w *typingWatch) follow(ctx context.Context, fo *follower) error {
	events, _, err := fo.notice(ctx)
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
			var gone model.MemberRemovedData
			if err := json.Unmarshal(e.Data, &gone); err != nil {
				return err
			}
			w.end(gone.UserID, e.Seq)
		default:
		}
	}
	return nil
}

// next is one change that the consumer does not know yet.
func (w *typingWatch) next() (t Typing, changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(w.until, func(_ model.UserID, until time.Time) bool { return !until.After(now) })
	for id := range w.shown {
		if _, types := w.until[id]; !types {
			delete(w.shown, id)
			return Typing{UserID: id}, true
		}
	}
	for id := range w.until {
		if !w.shown[id] {
			w.shown[id] = true
			return Typing{UserID: id, Typing: true}, true
		}
	}
	return Typing{}, false
}

// wait waits for the bell, or for the first whose time has passed.
func (w *typingWatch) wait(ctx context.Context, bell <-chan struct{}) error {
	var expired <-chan time.Time
	if first, ok := w.first(); ok {
		timer := time.NewTimer(time.Until(first))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-bell:
	case <-expired:
	}
	return nil
}

func (w *typingWatch) first() (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.until) == 0 {
		return time.Time{}, false
	}
	return slices.MinFunc(slices.Collect(maps.Values(w.until)), time.Time.Compare), true
}

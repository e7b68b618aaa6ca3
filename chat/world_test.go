package chat

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

func TestMain(m *testing.M) {
	// A check of a property here is many transactions, and what fails once in a race need not fail
	// again from a file.
	if os.Getenv("RAPID_CHECKS") == "" {
		_ = flag.Set("rapid.checks", "8")
	}
	_ = flag.Set("rapid.nofailfile", "true")
	storetest.Main(m)
}

const (
	// patience ends a test that waits for what never comes. It is no measure of speed.
	patience = 30 * time.Second
	// never is longer than any test: with it, Run repairs nothing.
	never = time.Hour
)

// world is people, and a Service that runs until the test ends.
type world struct {
	*Service
	t      *testing.T
	actors map[string]model.Actor
}

// MustWorld makes a world whose Run compares too seldom to matter.
func MustWorld(t *testing.T, db *store.DB, nicknames ...string) *world {
	t.Helper()
	return MustWorldWith(t, db, Options{CompareEvery: never}, nicknames...)
}

// MustWorldWith is MustWorld for tests that need other options.
func MustWorldWith(t *testing.T, db *store.DB, opts Options, nicknames ...string) *world {
	t.Helper()
	w := &world{Service: New(db, opts), t: t, actors: map[string]model.Actor{}}
	w.invite(nicknames...)
	var running sync.WaitGroup
	running.Go(func() { w.Run(t.Context()) })
	t.Cleanup(running.Wait) // t's context has ended by then
	return w
}

// invite makes accounts, as auth would, but without the price of a password.
func (w *world) invite(nicknames ...string) { w.inviteWithout(nil, nicknames...) }

// inviteWithout is invite on tables that lack some columns.
func (w *world) inviteWithout(columns []string, nicknames ...string) {
	w.t.Helper()
	people := make([]*model.User, len(nicknames))
	for i, name := range nicknames {
		people[i] = &model.User{
			ID: model.NewUserID(), Email: name + "@example.org", EmailKey: name + "@example.org",
			Nickname: name, NicknameKey: name, SearchKey: name, CreatedAt: w.db.Now(),
			ShowPresence: true, SendReadReceipts: true,
		}
		w.actors[name] = model.Actor{UserID: people[i].ID, SessionID: model.NewSessionID()}
	}
	if len(people) == 0 {
		return
	}
	if _, err := w.db.NewInsert().Model(&people).ExcludeColumn(columns...).Exec(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// crowd invites n people and returns their nicknames.
func (w *world) crowd(n int) []string {
	w.t.Helper()
	nicknames := make([]string, n)
	for i := range nicknames {
		nicknames[i] = fmt.Sprintf("crowd%03d", i)
	}
	w.invite(nicknames...)
	return nicknames
}

func (w *world) actor(nickname string) model.Actor {
	w.t.Helper()
	actor, ok := w.actors[nickname]
	if !ok {
		w.t.Fatalf("%q is not in this world", nickname)
	}
	return actor
}

func (w *world) id(nickname string) model.UserID {
	w.t.Helper()
	return w.actor(nickname).UserID
}

// MustConversation starts a conversation of its owner and others.
func MustConversation(t *testing.T, w *world, owner string, others ...string) *model.Conversation {
	t.Helper()
	title := "of " + owner
	c, err := w.CreateConversation(t.Context(), w.actor(owner), CreateConversation{Title: &title, Members: w.members(others...)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) members(nicknames ...string) []*NewMember {
	w.t.Helper()
	members := make([]*NewMember, len(nicknames))
	for i, name := range nicknames {
		members[i] = &NewMember{UserID: w.id(name), Role: model.Member}
	}
	return members
}

func (w *world) send(author string, id model.ConversationID, content string) *model.Message {
	w.t.Helper()
	m, err := w.SendMessage(w.t.Context(), w.actor(author), SendMessage{ConversationID: id, Content: content})
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) sendMany(author string, id model.ConversationID, n int) {
	w.t.Helper()
	for i := range n {
		w.send(author, id, fmt.Sprintf("%d of %d", i+1, n))
	}
}

// remove ends a membership as an operation would: the row and the event in one transaction.
func (w *world) remove(nickname string, id model.ConversationID) *model.Event {
	w.t.Helper()
	e := &model.Event{ConversationID: id, Kind: model.MemberRemoved, ActorID: new(w.id(nickname))}
	err := w.db.InTx(w.t.Context(), func(ctx context.Context, tx *store.Tx) (err error) {
		p, err := nextPlace(ctx, tx, id, e.Kind)
		if err != nil {
			return err
		}
		e.Seq, e.At = p.seq, p.at
		_, err = tx.NewDelete().Model((*model.ConversationMember)(nil)).
			Where("conversation_id = ?", id).Where("user_id = ?", w.id(nickname)).Exec(ctx)
		if err != nil {
			return err
		}
		return w.appendEvent(ctx, tx, e, model.MemberRemovedData{UserID: w.id(nickname)})
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// Message finds one message.
func (w *world) Message(ctx context.Context, actor model.Actor, id model.MessageID) (*model.Message, error) {
	found, err := w.MessagesByID(ctx, actor, []model.MessageID{id})
	return found[id], err
}

// Member finds one member.
func (w *world) Member(ctx context.Context, actor model.Actor, id model.MemberID) (*model.ConversationMember, error) {
	found, err := w.MembersByID(ctx, actor, []model.MemberID{id})
	return found[id], err
}

// MessagesOf lists the messages of one conversation.
func (w *world) MessagesOf(
	ctx context.Context, actor model.Actor, id model.ConversationID, page store.PageArgs,
) (store.Page[*model.Message], error) {
	window, err := page.Window(store.DefaultPage{Last: 50})
	if err != nil {
		return store.Page[*model.Message]{}, err
	}
	found, err := w.Messages(ctx, actor, []model.ConversationID{id}, window)
	return found[id], err
}

// MembersOf lists the members of one conversation.
func (w *world) MembersOf(
	ctx context.Context, actor model.Actor, id model.ConversationID, page store.PageArgs,
) (store.Page[*model.ConversationMember], error) {
	window, err := page.Window(store.DefaultPage{First: 50})
	if err != nil {
		return store.Page[*model.ConversationMember]{}, err
	}
	found, err := w.Members(ctx, actor, []model.ConversationID{id}, window)
	return found[id], err
}

// eventually waits for what another goroutine is about to do.
func (w *world) eventually(done func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !done(); runtime.Gosched() {
		if time.Now().After(deadline) {
			w.t.Fatal("it has not happened")
		}
	}
}

// behind reports whether a follower of the conversation has lost its queue.
func (w *world) behind(id model.ConversationID) bool {
	w.feedsMu.Lock()
	f := w.feeds[id]
	w.feedsMu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for fo := range f.followers {
		fo.stream.mu.Lock()
		behind := fo.behind
		fo.stream.mu.Unlock()
		if behind {
			return true
		}
	}
	return false
}

// stored reads all events of a conversation, past the rules.
func (w *world) stored(id model.ConversationID) []*model.Event {
	w.t.Helper()
	events, err := eventsAfter(w.t.Context(), w.db, id, 0, 1_000_000)
	if err != nil {
		w.t.Fatal(err)
	}
	return events
}

// rows counts the rows of every table that package chat writes.
func (w *world) rows() map[string]int64 {
	w.t.Helper()
	counts := map[string]int64{}
	for _, table := range []string{"conversations", "conversation_members", "messages", "events"} {
		n, err := w.db.NewSelect().Table(table).Count(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		counts[table] = n
	}
	return counts
}

// unchanged makes sure that fn stores nothing.
func (w *world) unchanged(t *testing.T, fn func()) {
	t.Helper()
	count := func() map[string]int64 {
		counts := w.rows()
		tables := []string{"mentions", "reactions"}
		if !w.db.Postgres() {
			tables = append(tables, "message_tokens")
		}
		for _, table := range tables {
			n, err := w.db.NewSelect().Table(table).Count(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			counts[table] = n
		}
		return counts
	}
	before := count()
	fn()
	if diff := cmp.Diff(before, count()); diff != "" {
		t.Errorf("rows have changed (-before +after):\n%s", diff)
	}
}

// pulled takes what Follow yields one at a time: between two calls of next, the follower is as slow
// as can be.
type pulled struct {
	t    *testing.T
	next func() (*model.Event, error, bool)
	stop func()
}

// pull follows until the test ends. Following begins with the first next.
func (w *world) pull(t *testing.T, nickname string, id model.ConversationID, after *int64) *pulled {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return w.pullIn(ctx, t, nickname, id, after)
}

func (w *world) pullIn(
	ctx context.Context, t *testing.T, nickname string, id model.ConversationID, after *int64,
) *pulled {
	t.Helper()
	events, err := w.Follow(ctx, w.actor(nickname), id, after)
	if err != nil {
		t.Fatal(err)
	}
	next, stop := iter.Pull2(events)
	t.Cleanup(stop)
	return &pulled{t: t, next: next, stop: stop}
}

// event takes the next event, which has to have this seq.
func (p *pulled) event(seq int64) *model.Event {
	p.t.Helper()
	e, err, ok := p.next()
	if err != nil || !ok {
		p.t.Fatalf("got the end (%v) instead of seq %d", err, seq)
	}
	if e.Seq != seq {
		p.t.Fatalf("got seq %d, want %d", e.Seq, seq)
	}
	return e
}

// events takes the events of these seqs, both included.
func (p *pulled) events(from, to int64) (events []*model.Event) {
	p.t.Helper()
	for seq := from; seq <= to; seq++ {
		events = append(events, p.event(seq))
	}
	return events
}

// until takes events, in order, up to the one of this seq: some of them may be left out.
func (p *pulled) until(seq int64) {
	p.t.Helper()
	for last := int64(0); last != seq; {
		e, err, ok := p.next()
		if err != nil || !ok || e.Seq <= last || e.Seq > seq {
			p.t.Fatalf("got %+v (%v) after seq %d, on the way to %d", e, err, last, seq)
		}
		last = e.Seq
	}
}

// end takes the error that following ends with, and makes sure that nothing comes after it.
func (p *pulled) end() error {
	p.t.Helper()
	e, err, ok := p.next()
	if !ok || err == nil {
		p.t.Fatalf("got %+v instead of an error", e)
	}
	if e != nil {
		p.t.Errorf("an event came together with the error: %+v", e)
	}
	if e, again, ok := p.next(); ok {
		p.t.Errorf("after the error came %+v, %v", e, again)
	}
	return err
}

// mistakes writes what a person can correct as "CODE path", in order.
func mistakes(err error) (list []string) {
	for _, e := range errs.Correctable(err) {
		list = append(list, fmt.Sprintf("%s %s", e.Code, strings.Join(e.Path, ".")))
	}
	return list
}

func wantMistakes(t *testing.T, err error, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, mistakes(err)); diff != "" {
		t.Errorf("userErrors (-want +got):\n%s%v", diff, err)
	}
	if err != nil && len(want) == 0 {
		t.Errorf("it failed: %v", err)
	}
}

// wantCode asks for an error of the request as a whole.
func wantCode(t *testing.T, err error, code errs.Code) {
	t.Helper()
	e, ok := errors.AsType[*errs.Error](err)
	if !ok || e.Code != code || e.Path != nil {
		t.Errorf("got %v, want %s", err, code)
	}
}

func wantEqual(t *testing.T, what string, want, got any, opts ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, opts...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

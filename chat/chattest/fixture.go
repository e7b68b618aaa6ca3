// Package chattest has what the tests of packages chat, live and feed share.
//
// A Fixture is accounts and services on one database. MustNodes and MustTwoNodes make several of
// them: real nodes with NATS between them, or two with a Network that loses, doubles, delays and
// reorders messages. A History is a random sequence of operations for property tests. PulledEvents
// and Pulled take what a stream yields one item at a time.
//
// Functions and methods whose name begins with Must, and all methods of Fixture without an error,
// end the test if they fail.
package chattest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"parley/chat"
	"parley/errs"
	"parley/feed"
	"parley/membership"
	"parley/model"
	"parley/pubsub/natsbus"
	"parley/store"
	"parley/store/storetest"
)

// Main runs the tests of a package. Property tests make 8 checks, unless RAPID_CHECKS says
// otherwise.
func Main(m *testing.M) {
	// One check is many transactions. A failure that depends on timing cannot be replayed from a
	// file.
	if os.Getenv("RAPID_CHECKS") == "" {
		_ = flag.Set("rapid.checks", "8")
	}
	_ = flag.Set("rapid.nofailfile", "true")
	storetest.Main(m)
}

const (
	// Patience is how long a test waits before it fails. It does not measure speed.
	Patience = 30 * time.Second
	// Never is longer than any test: with it, Run reconciles nothing.
	Never = time.Hour
)

// Fixture is services and the accounts of one database, by nickname.
type Fixture struct {
	Services
	T      *testing.T
	Actors map[string]model.Actor
	Conn   *natsbus.Conn // the services' connection to NATS; nil for a node alone
}

// New returns a fixture whose services run until the test ends. They reconcile so seldom that no
// test notices.
func New(t *testing.T, db *store.DB, nicknames ...string) *Fixture {
	t.Helper()
	return NewWith(t, db, Options{ReconcileEvery: Never}, nicknames...)
}

// NewWith is New with other options.
func NewWith(t *testing.T, db *store.DB, opts Options, nicknames ...string) *Fixture {
	t.Helper()
	w := NewIdle(t, db, opts, nil)
	w.Invite(nicknames...)
	var running sync.WaitGroup
	running.Go(func() { w.Run(t.Context()) })
	t.Cleanup(running.Wait) // t's context has ended by then
	return w
}

// NewIdle returns a fixture whose services do not run. actors are the accounts of another fixture
// of the same database; nil means none.
func NewIdle(
	t *testing.T, db *store.DB, opts Options, actors map[string]model.Actor,
) *Fixture {
	t.Helper()
	if actors == nil {
		actors = map[string]model.Actor{}
	}
	return &Fixture{Services: NewServices(db, opts), T: t, Actors: actors, Conn: opts.Nodes}
}

// Invite inserts accounts, as package auth would, but without the cost of hashing a password.
func (w *Fixture) Invite(nicknames ...string) { w.InviteWithout(nil, nicknames...) }

// InviteWithout is Invite on tables that lack some columns.
func (w *Fixture) InviteWithout(columns []string, nicknames ...string) {
	w.T.Helper()
	users := make([]*model.User, len(nicknames))
	for i, name := range nicknames {
		users[i] = &model.User{
			ID: model.NewUserID(), Email: name + "@example.org", EmailKey: name + "@example.org",
			Nickname: name, NicknameKey: name, SearchKey: name, CreatedAt: w.DB.Now(),
			ShowPresence: true, SendReadReceipts: true,
		}
		w.Actors[name] = model.Actor{UserID: users[i].ID, SessionID: model.NewSessionID()}
	}
	if len(users) == 0 {
		return
	}
	if _, err := w.DB.NewInsert().Model(&users).ExcludeColumn(columns...).
		Exec(w.T.Context()); err != nil {
		w.T.Fatal(err)
	}
}

// Crowd invites n accounts and returns their nicknames.
func (w *Fixture) Crowd(n int) []string {
	w.T.Helper()
	nicknames := make([]string, n)
	for i := range nicknames {
		nicknames[i] = fmt.Sprintf("crowd%03d", i)
	}
	w.Invite(nicknames...)
	return nicknames
}

// Actor returns the actor with a nickname.
func (w *Fixture) Actor(nickname string) model.Actor {
	w.T.Helper()
	actor, ok := w.Actors[nickname]
	if !ok {
		w.T.Fatalf("%q is not an account of the fixture", nickname)
	}
	return actor
}

// UserID returns the id of the user with a nickname.
func (w *Fixture) UserID(nickname string) model.UserID {
	w.T.Helper()
	return w.Actor(nickname).UserID
}

// MustConversation creates a group of an owner and other members.
func MustConversation(
	t *testing.T, w *Fixture, owner string, others ...string,
) *model.Conversation {
	t.Helper()
	title := "of " + owner
	c, err := w.CreateConversation(t.Context(), w.Actor(owner),
		chat.CreateConversation{Title: &title, Members: w.NewMembers(others...)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// NewMembers returns the input for adding members with the role MEMBER.
func (w *Fixture) NewMembers(nicknames ...string) []*chat.NewMember {
	w.T.Helper()
	members := make([]*chat.NewMember, len(nicknames))
	for i, name := range nicknames {
		members[i] = &chat.NewMember{UserID: w.UserID(name), Role: model.Member}
	}
	return members
}

// Send sends a message.
func (w *Fixture) Send(author string, id model.ConversationID, content string) *model.Message {
	w.T.Helper()
	m, err := w.SendMessage(w.T.Context(), w.Actor(author),
		chat.SendMessage{ConversationID: id, Content: content})
	if err != nil {
		w.T.Fatal(err)
	}
	return m
}

// SendMany sends n messages.
func (w *Fixture) SendMany(author string, id model.ConversationID, n int) {
	w.T.Helper()
	for i := range n {
		w.Send(author, id, fmt.Sprintf("%d of %d", i+1, n))
	}
}

// EndMembership ends a membership without the rules: it deletes the row and appends the event in
// one transaction.
func (w *Fixture) EndMembership(nickname string, id model.ConversationID) *model.Event {
	w.T.Helper()
	user := w.UserID(nickname)
	e := &model.Event{ConversationID: id, Kind: model.MemberRemoved, ActorID: &user}
	err := w.DB.InTx(w.T.Context(), func(ctx context.Context, tx *store.Tx) error {
		_, err := w.Append(ctx, tx, e, model.MemberRemovedData{UserID: user})
		if err != nil {
			return err
		}
		_, err = tx.NewDelete().Model((*model.ConversationMember)(nil)).
			Where("conversation_id = ?", id).Where("user_id = ?", user).Exec(ctx)
		return err
	})
	if err != nil {
		w.T.Fatal(err)
	}
	return e
}

// Message returns one message that the actor may see.
func (w *Fixture) Message(
	ctx context.Context, actor model.Actor, id model.MessageID,
) (*model.Message, error) {
	found, err := w.MessagesByID(ctx, actor, []model.MessageID{id})
	return found[id], err
}

// Member returns one member that the actor may see.
func (w *Fixture) Member(
	ctx context.Context, actor model.Actor, id model.MemberID,
) (*model.ConversationMember, error) {
	found, err := w.MembersByID(ctx, actor, []model.MemberID{id})
	return found[id], err
}

// MessagesOf lists the messages of one conversation.
func (w *Fixture) MessagesOf(
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
func (w *Fixture) MembersOf(
	ctx context.Context, actor model.Actor, id model.ConversationID, page store.PageArgs,
) (store.Page[*model.ConversationMember], error) {
	window, err := page.Window(store.DefaultPage{First: 50})
	if err != nil {
		return store.Page[*model.ConversationMember]{}, err
	}
	found, err := w.Members(ctx, actor, []model.ConversationID{id}, window)
	return found[id], err
}

// Eventually waits until done is true, which another goroutine is about to make so.
func (w *Fixture) Eventually(done func() bool) {
	w.T.Helper()
	for deadline := time.Now().Add(Patience); !done(); runtime.Gosched() {
		if time.Now().After(deadline) {
			w.T.Fatal("it is still not done")
		}
	}
}

// Stored reads all events of a conversation with their messages, without the rules.
func (w *Fixture) Stored(id model.ConversationID) (events []*model.Event) {
	w.T.Helper()
	err := w.DB.NewSelect().Model(&events).Where("e.conversation_id = ?", id).OrderExpr("e.seq").
		Scan(w.T.Context())
	var messages []*model.Message
	if err == nil {
		err = w.DB.NewSelect().Model(&messages).Where("m.conversation_id = ?", id).
			Scan(w.T.Context())
	}
	if err != nil {
		w.T.Fatal(err)
	}
	byID := make(map[model.MessageID]*model.Message, len(messages))
	for _, m := range messages {
		byID[m.ID] = m
	}
	for _, e := range events {
		if e.MessageID != nil {
			e.Message = byID[*e.MessageID]
		}
	}
	return events
}

// Rows counts the rows of the main tables of package chat.
func (w *Fixture) Rows() map[string]int64 {
	w.T.Helper()
	counts := map[string]int64{}
	for _, table := range []string{"conversations", "conversation_members", "messages", "events"} {
		n, err := w.DB.NewSelect().Table(table).Count(w.T.Context())
		if err != nil {
			w.T.Fatal(err)
		}
		counts[table] = n
	}
	return counts
}

// Unchanged checks that fn inserts and deletes no row.
func (w *Fixture) Unchanged(t *testing.T, fn func()) {
	t.Helper()
	count := func() map[string]int64 {
		counts := w.Rows()
		tables := []string{"mentions", "reactions"}
		if !w.DB.Postgres() {
			tables = append(tables, "message_tokens")
		}
		for _, table := range tables {
			n, err := w.DB.NewSelect().Table(table).Count(t.Context())
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

// Mistakes lists the user errors of err as "CODE path", in order.
func Mistakes(err error) (list []string) {
	for _, e := range errs.Correctable(err) {
		list = append(list, fmt.Sprintf("%s %s", e.Code, strings.Join(e.Path, ".")))
	}
	return list
}

// WantMistakes checks the user errors of err, see Mistakes. Without want, err must be nil.
func WantMistakes(t *testing.T, err error, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, Mistakes(err)); diff != "" {
		t.Errorf("userErrors (-want +got):\n%s%v", diff, err)
	}
	if err != nil && len(want) == 0 {
		t.Errorf("it failed: %v", err)
	}
}

// WantCode checks that err has a code and no path: it is an error of the request, not a user error.
func WantCode(t *testing.T, err error, code errs.Code) {
	t.Helper()
	e, ok := errors.AsType[*errs.Error](err)
	if !ok || e.Code != code || e.Path != nil {
		t.Errorf("got %v, want %s", err, code)
	}
}

// WantEqual checks that two values are equal.
func WantEqual(t *testing.T, what string, want, got any, opts ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, append(opts, AsStored)...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// AsStored compares events without what only new ones have.
//
//nolint:gochecknoglobals // a constant
var AsStored = cmpopts.IgnoreFields(model.Event{}, "Before")

// Roles returns the roles of the members of a conversation, by nickname, without the rules.
func (w *Fixture) Roles(id model.ConversationID) map[string]model.Role {
	w.T.Helper()
	nicknames := map[model.UserID]string{}
	for name, actor := range w.Actors {
		nicknames[actor.UserID] = name
	}
	var rows []*model.ConversationMember
	if err := w.DB.NewSelect().Model(&rows).Where("cm.conversation_id = ?", id).
		Scan(w.T.Context()); err != nil {
		w.T.Fatal(err)
	}
	roles := map[string]model.Role{}
	for _, m := range rows {
		roles[nicknames[m.UserID]] = m.Role
	}
	return roles
}

// Edit edits a message.
func (w *Fixture) Edit(author string, m *model.Message, content string) *model.Message {
	w.T.Helper()
	edited, err := w.EditMessage(w.T.Context(), w.Actor(author),
		chat.EditMessage{MessageID: m.ID, Content: content})
	if err != nil {
		w.T.Fatal(err)
	}
	return edited
}

// Add adds members with the role MEMBER.
func (w *Fixture) Add(by string, id model.ConversationID, nicknames ...string) {
	w.T.Helper()
	if _, err := w.AddMembers(w.T.Context(), w.Actor(by), id,
		w.NewMembers(nicknames...)); err != nil {
		w.T.Fatal(err)
	}
}

// MustHidden is MustConversation, but members who join later do not see what came before.
func MustHidden(t *testing.T, w *Fixture, owner string, others ...string) *model.Conversation {
	t.Helper()
	c, err := w.CreateConversation(t.Context(), w.Actor(owner),
		chat.CreateConversation{
			Members:           w.NewMembers(others...),
			HistoryVisibility: model.FromJoining,
		})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Read marks a conversation as read up to a seq.
func (w *Fixture) Read(nickname string, id model.ConversationID, seq int64) {
	w.T.Helper()
	if _, err := w.MarkRead(w.T.Context(), w.Actor(nickname), id, seq); err != nil {
		w.T.Fatal(err)
	}
}

// SkipSeq appends an event that is not a message and changes nothing.
func (w *Fixture) SkipSeq(t *testing.T, id model.ConversationID) {
	t.Helper()
	err := w.DB.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		_, err := w.Append(ctx, tx, &model.Event{ConversationID: id, Kind: "nothing"}, struct{}{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// RemoveAccount removes an account as package auth does: it marks the account, and cleans up until
// nothing refers to it.
func (w *Fixture) RemoveAccount(nickname string) error {
	w.T.Helper()
	if err := w.MarkRemoved(nickname); err != nil {
		return err
	}
	for {
		if more, err := w.CleanUpOnce(nickname, nil); err != nil || !more {
			return err
		}
	}
}

// MarkRemoved marks an account as removed, which is the first part of a removal.
func (w *Fixture) MarkRemoved(nickname string) error {
	w.T.Helper()
	id := w.UserID(nickname)
	return w.DB.InTx(w.T.Context(), func(ctx context.Context, tx *store.Tx) error {
		if err := tx.Lock(ctx, (*model.User)(nil), "id = ?", id); err != nil {
			return err
		}
		if err := w.EndPresence(ctx, tx, id); err != nil {
			return err
		}
		_, err := tx.NewUpdate().Model((*model.User)(nil)).Set("removed_at = ?", tx.Now).
			Set("email = ''").Set("nickname = ''").
			Set("search_key = ''").Set("email_key = ?", uuid.UUID(id).String()).
			Set("nickname_key = ?", uuid.UUID(id).String()).
			Where("id = ?", id).Exec(ctx)
		return err
	})
}

// CleanUpOnce runs one transaction of the second part of a removal. If fail is not nil, the
// transaction is rolled back with it.
func (w *Fixture) CleanUpOnce(nickname string, fail error) (more bool, err error) {
	w.T.Helper()
	id := w.UserID(nickname)
	err = w.DB.InTx(w.T.Context(), func(ctx context.Context, tx *store.Tx) (err error) {
		if more, err = w.CleanUpAccount(ctx, tx, id); err != nil {
			return err
		}
		if !more {
			_, err = tx.NewDelete().Model((*model.User)(nil)).Where("id = ?", id).ForceDelete().
				Exec(ctx)
		}
		return errors.Join(err, fail)
	})
	return more, err
}

// MustRemoveAccount is RemoveAccount that ends the test if it fails.
func (w *Fixture) MustRemoveAccount(nickname string) {
	w.T.Helper()
	if err := w.RemoveAccount(nickname); err != nil {
		w.T.Fatalf("cannot remove the account %s: %v", nickname, err)
	}
}

// Exec runs a statement, without the rules.
func (w *Fixture) Exec(query string, args ...any) {
	w.T.Helper()
	if _, err := w.DB.NewRaw(query, args...).Exec(w.T.Context()); err != nil {
		w.T.Fatal(err)
	}
}

// LastSeq reads the newest seq of a conversation, without the rules.
func (w *Fixture) LastSeq(id model.ConversationID) (seq int64) {
	w.T.Helper()
	err := w.DB.NewSelect().Model((*model.Conversation)(nil)).Column("last_seq").
		Where("c.id = ?", id).Scan(w.T.Context(), &seq)
	if err != nil {
		w.T.Fatal(err)
	}
	return seq
}

// LoseHints loses every hint of the node from now on.
func (w *Fixture) LoseHints() { w.Hints().Intercept(func(string, feed.Hint) {}) }

// Bounds returns the newest event of a conversation, and up to which messages are hidden from the
// actor.
func (w *Fixture) Bounds(
	ctx context.Context, actor model.Actor, id model.ConversationID,
) (last, hidden int64, err error) {
	b, err := membership.Bounds(ctx, w.DB, actor, id)
	return b.Last, b.Hidden, err
}

package chat_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

func (w *fixture) mustMark(nickname string) {
	w.T.Helper()
	if err := w.MarkRemoved(nickname); err != nil {
		w.T.Fatalf("%s cannot be marked: %v", nickname, err)
	}
}

func (w *fixture) react(nickname string, m *model.Message) {
	w.T.Helper()
	w.Exec(
		"INSERT INTO reactions (message_id, conversation_id, user_id, emoji, created_at) VALUES "+
			"(?, ?, ?, ?, ?)",
		m.ID, m.ConversationID, w.UserID(nickname), "👍", w.DB.Now())
}

// traces names the columns in which something of a person stands.
func (w *fixture) traces(needles ...string) (found []string) {
	w.T.Helper()
	columns := map[string][]string{
		"users": {
			"id", "email", "email_key", "nickname", "nickname_key", "display_name",
			"search_key",
		},
		"conversations": {"id", "title", "direct_key"}, "conversation_members": {"user_id"},
		"messages": {"author_id", "content", "idempotency_key"}, "events": {"actor_id", "data"},
		"reactions":   {"user_id"},
		"credentials": {"user_id"}, "sessions": {"user_id"},
		"one_time_tokens": {"user_id", "email"}, "audit_log": {"user_id"},
	}
	for table, names := range columns {
		for _, column := range names {
			for _, needle := range needles {
				there, err := w.DB.NewSelect().Table(table).
					Where("lower(CAST(? AS text)) LIKE ?", bun.Ident(column),
						"%"+strings.ToLower(needle)+"%").Exists(w.T.Context())
				if err != nil {
					w.T.Fatal(err)
				}
				if there {
					found = append(found, table+"."+column+": "+needle)
				}
			}
		}
	}
	return found
}

// checkAll holds every conversation against the law: it has members, one of them its owner, and
// events numbered from 1 without a gap, each message with the number of its event.
func (w *fixture) checkAll() {
	w.T.Helper()
	var all []*model.Conversation
	if err := w.DB.NewSelect().Model(&all).Scan(w.T.Context()); err != nil {
		w.T.Fatal(err)
	}
	for _, c := range all {
		owners := 0
		roles := w.Roles(c.ID)
		for _, role := range roles {
			if role == model.Owner {
				owners++
			}
		}
		if owners != 1 && (owners > 1 || c.Kind == model.Group) {
			w.T.Errorf("%s has %d owners: %v", c.Title, owners, roles)
		}
		events := w.Stored(c.ID)
		messages := int64(0)
		for i, e := range events {
			if e.Seq != int64(i)+1 {
				w.T.Errorf("%s: seq %d stands at place %d", c.Title, e.Seq, i+1)
			}
			if e.Kind == model.MessageAdded {
				messages++
				if e.Message == nil || e.Message.Seq != e.Seq {
					w.T.Errorf("%s: event %d is about %+v", c.Title, e.Seq, e.Message)
				}
			}
		}
		if c.LastSeq != int64(len(events)) {
			w.T.Errorf("%s: last_seq is %d after %d events", c.Title, c.LastSeq, len(events))
		}
		n, err := w.DB.NewSelect().Model((*model.Message)(nil)).
			Where("m.conversation_id = ?", c.ID).Count(w.T.Context())
		if err != nil || int64(n) != messages {
			w.T.Errorf("%s: %d messages and %d events of them (%v)", c.Title, n, messages, err)
		}
	}
}

func TestWhatStaysOfWhoLeaves(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "vanishing", "cat")
		c := chattest.MustConversation(t, w.Fixture, "ann", "vanishing", "cat")
		theirs, err := w.SendMessage(t.Context(), w.Actor("vanishing"),
			chat.SendMessage{
				ConversationID: c.ID, Content: "what was said",
				IdempotencyKey: new("once"),
			})
		if err != nil {
			t.Fatal(err)
		}
		anns := w.Send("ann", c.ID, "an answer")
		w.react("vanishing", anns)
		w.react("cat", anns)
		w.react("cat", theirs)
		id := uuid.UUID(w.UserID("vanishing")).String()
		if found := w.traces(id, "vanishing"); len(found) < 8 {
			t.Fatalf("before, only %v was found", found)
		}
		w.MustRemoveAccount("vanishing")

		chattest.WantEqual(t, "members",
			map[string]model.Role{"ann": model.Owner, "cat": model.Member}, w.Roles(c.ID))
		chattest.WantEqual(t, "traces", []string(nil), w.traces(id, "vanishing"))
		// What the log says happened still happened, to somebody of whom nothing but the id is
		// left.
		chattest.WantEqual(t, "places of the id",
			[]string{"events.data: " + w.UserID("vanishing").String()},
			w.traces(w.UserID("vanishing").String()))
		var m model.Message
		if err := w.DB.NewSelect().Model(&m).Where("m.id = ?", theirs.ID).
			Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m.AuthorID != nil || m.Content != "what was said" || m.Seq != theirs.Seq ||
			m.IdempotencyKey != nil || m.RequestHash != nil {
			t.Errorf("the message is %+v", m)
		}
		events := w.Stored(c.ID)
		last := events[len(events)-1]
		if last.Kind != model.MemberRemoved || last.ActorID != nil ||
			string(compact(last.Data)) != fmt.Sprintf(`{"userId":%q}`, w.UserID("vanishing")) {
			t.Errorf("the last event is %+v, %s", last, last.Data)
		}
		if events[1].ActorID != nil || events[0].ActorID == nil || events[2].ActorID == nil {
			t.Errorf("actors: %v, %v, %v", events[0].ActorID, events[1].ActorID, events[2].ActorID)
		}
		var reactions int
		if reactions, err = countOf(w, "reactions"); err != nil || reactions != 2 {
			t.Errorf("%d reactions (%v), want the two of cat", reactions, err)
		}
		w.checkAll()
		w.Send("ann", c.ID, "life goes on")
	})
}

// A group without a title of its own is called by the nicknames of who is in it, and they must not
// outlive an account.
func TestATitleMadeOfNicknamesForgetsWhoLeft(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "vanishing", "cat")
		_, err := w.CreateConversation(t.Context(), w.Actor("ann"),
			chat.CreateConversation{Members: w.NewMembers("vanishing", "cat")})
		if err != nil {
			t.Fatal(err)
		}
		w.MustRemoveAccount("vanishing")
		chattest.WantEqual(t, "places of the nickname", []string(nil), w.traces("vanishing"))
	})
}

func TestOwnershipPassesOn(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db)
		for i, test := range []struct {
			name  string
			roles string // of b, c and d
			seqs  string // of joining
			heir  int
		}{
			{"the only admin", "MAM", "111", 1},
			{"the admin, though the last to join", "MMA", "123", 2},
			{"the admin who joined first", "AAM", "321", 1},
			{"an admin before an older member", "MMA", "112", 2},
			{"without admins, who joined first", "MMM", "312", 1},
			{"without admins, who joined first of all", "MMM", "123", 0},
		} {
			names := []string{
				fmt.Sprint("a", i), fmt.Sprint("b", i), fmt.Sprint("c", i),
				fmt.Sprint("d", i),
			}
			w.Invite(names...)
			c := chattest.MustConversation(t, w.Fixture, names[0], names[1:]...)
			roles := map[string]model.Role{}
			for j, name := range names[1:] {
				roles[name] = map[byte]model.Role{
					'A': model.Admin,
					'M': model.Member,
				}[test.roles[j]]
				w.Exec(
					"UPDATE conversation_members SET role = ?, joined_seq = ? WHERE "+
						"conversation_id = ? AND user_id = ?",
					string(roles[name]), int(test.seqs[j]-'0'), c.ID, w.UserID(name))
			}
			heir := names[1+test.heir]
			p := w.Pull(t, names[1], c.ID, new(int64(0)))
			p.Event(1)
			w.MustRemoveAccount(names[0])
			roles[heir] = model.Owner
			chattest.WantEqual(t, test.name, roles, w.Roles(c.ID))
			removed, promoted := p.Event(2), p.Event(3)
			if removed.Kind != model.MemberRemoved || promoted.Kind != model.MemberRoleChanged ||
				removed.ActorID != nil || promoted.ActorID != nil {
				t.Errorf("%s: told of %+v and %+v", test.name, removed, promoted)
			}
			chattest.WantEqual(t, test.name+": told",
				fmt.Sprintf(`{"userId":%q,"role":"OWNER"}`, w.UserID(heir)),
				string(compact(promoted.Data)))
			w.checkAll()
		}
	})
}

func TestWhoOwnsNothingPassesNothingOn(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "bob", "cat", "dan")
		c, others := chattest.MustConversation(t, w.Fixture, "ann", "bob", "cat"),
			chattest.MustConversation(t, w.Fixture, "dan", "cat")
		before := w.Stored(others.ID)
		w.MustRemoveAccount("bob")
		chattest.WantEqual(t, "members",
			map[string]model.Role{"ann": model.Owner, "cat": model.Member}, w.Roles(c.ID))
		if events := w.Stored(c.ID); len(events) != 2 || events[1].Kind != model.MemberRemoved {
			t.Errorf("got %d events", len(events))
		}
		chattest.WantEqual(t, "a conversation of others", before, w.Stored(others.ID))
		w.MustRemoveAccount("dan") // who shares nothing with those who left before
		chattest.WantEqual(t, "members", map[string]model.Role{"cat": model.Owner},
			w.Roles(others.ID))
		w.checkAll()
	})
}

func TestAConversationVanishesWithItsLastMember(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "bob", "cat", "dan")
		c, kept := chattest.MustConversation(t, w.Fixture, "ann", "bob"),
			chattest.MustConversation(t, w.Fixture, "cat", "dan")
		w.react("ann", w.Send("bob", c.ID, "here"))
		w.Send("dan", kept.ID, "there")
		w.MustRemoveAccount("bob")
		w.MustRemoveAccount("ann")
		chattest.WantEqual(t, "rows", map[string]int64{
			"conversations":        1,
			"conversation_members": 2, "messages": 1, "events": 2,
		}, w.Rows())
		if n, err := countOf(w, "reactions"); n != 0 || err != nil {
			t.Errorf("%d reactions (%v)", n, err)
		}
		w.checkAll()
	})
}

// The key that keeps two people from having two direct conversations is made of both ids.
func TestADirectConversationForgetsWhoLeft(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "bob")
		c := chattest.MustConversation(t, w.Fixture, "ann", "bob")
		id := uuid.UUID(w.UserID("bob")).String()
		w.Exec("UPDATE conversations SET kind = 'DIRECT', direct_key = ? WHERE id = ?",
			uuid.UUID(w.UserID("ann")).String()+" "+id, c.ID)
		w.MustRemoveAccount("bob")
		chattest.WantEqual(t, "places of the id", []string(nil), w.traces(id))
		w.checkAll()
	})
}

func TestEachPartOfLeavingIsAllOrNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "bob", "cat")
		c, last := chattest.MustConversation(t, w.Fixture, "ann", "bob", "cat"),
			chattest.MustConversation(t, w.Fixture, "ann", "bob")
		w.MustRemoveAccount("bob") // so that one of them would vanish
		w.react("ann", w.Send("ann", c.ID, "still here"))
		p := w.Pull(t, "cat", c.ID, new(int64(3)))
		w.mustMark("ann")
		before, roles := w.Stored(c.ID), w.Roles(c.ID)
		broken := errors.New("broken at the end")
		w.Unchanged(t, func() {
			if _, err := w.CleanUpOnce("ann", broken); !errors.Is(err, broken) {
				t.Errorf("got %v, want what went wrong", err)
			}
		})
		chattest.WantEqual(t, "events", before, w.Stored(c.ID))
		chattest.WantEqual(t, "roles", roles, w.Roles(c.ID))
		chattest.WantEqual(t, "the other", map[string]model.Role{"ann": model.Owner},
			w.Roles(last.ID))
		// Nobody was told either: what comes next is what happened next.
		m := w.Send("cat", c.ID, "next")
		if e := p.Event(m.Seq); e.Kind != model.MessageAdded {
			t.Errorf("told of %+v", e)
		}
		if n, err := countOf(w, "reactions"); n != 1 || err != nil {
			t.Errorf("%d reactions (%v)", n, err)
		}
	})
}

// Each of the two would pass on what they own to the other.
func TestTwoLeaveAtOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db)
		for round := range 6 {
			names := []string{
				fmt.Sprint("a", round), fmt.Sprint("b", round),
				fmt.Sprint("c", round),
			}
			w.Invite(names...)
			a, b, c := names[0], names[1], names[2]
			var shared []*model.Conversation
			for range 3 {
				shared = append(shared, chattest.MustConversation(t, w.Fixture, a, b, c),
					chattest.MustConversation(t, w.Fixture, b, a, c),
					chattest.MustConversation(t, w.Fixture, a, b))
			}
			for _, s := range shared {
				w.Send(a, s.ID, "from a")
				w.Send(b, s.ID, "from b")
			}
			w.atOnce(func() error { return w.RemoveAccount(a) },
				func() error { return w.RemoveAccount(b) })
			for i, s := range shared {
				want := map[string]model.Role{c: model.Owner}
				if i%3 == 2 {
					want = map[string]model.Role{}
				}
				chattest.WantEqual(t, "who is left", want, w.Roles(s.ID))
			}
			w.checkAll()
		}
	})
}

func TestLeavingRacesWithAnInvitation(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "cat")
		for round := range 10 {
			bob := fmt.Sprint("bob", round)
			w.Invite(bob)
			start := func(owner string, others ...string) func() error {
				title := "of " + owner
				in := chat.CreateConversation{Title: &title, Members: w.NewMembers(others...)}
				actor := w.Actor(owner)
				return func() error {
					_, err := w.CreateConversation(t.Context(), actor, in)
					return err
				}
			}
			w.atOnce(func() error { return w.RemoveAccount(bob) }, start("ann", bob),
				start("ann", "cat", bob), start("cat", bob, "ann"))
			if found := w.traces(uuid.UUID(w.UserID(bob)).String()); len(found) > 0 {
				t.Errorf("left behind: %v", found)
			}
			w.checkAll()
		}
	})
}

// The request of somebody whose account has just gone is no mistake of the server's.
func TestWhoHasLeftCanDoNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "bob")
		c := chattest.MustConversation(t, w.Fixture, "ann", "bob")
		w.MustRemoveAccount("bob")
		w.Unchanged(t, func() {
			_, err := w.SendMessage(t.Context(), w.Actor("bob"),
				chat.SendMessage{ConversationID: c.ID, Content: "too late"})
			chattest.WantCode(t, err, errs.NotFound)
			_, err = w.CreateConversation(t.Context(), w.Actor("bob"),
				chat.CreateConversation{Members: w.NewMembers("ann")})
			chattest.WantCode(t, err, errs.Unauthenticated)
			_, err = w.CreateConversation(t.Context(), w.Actor("ann"),
				chat.CreateConversation{Members: w.NewMembers("bob")})
			chattest.WantMistakes(t, err, "NOT_FOUND members.0.userId")
		})
	})
}

func TestLeavingRacesWithMessages(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "cat")
		for round := range 6 {
			bob := fmt.Sprint("bob", round)
			w.Invite(bob)
			mine, theirs := chattest.MustConversation(t, w.Fixture, bob, "ann", "cat"),
				chattest.MustConversation(t, w.Fixture, "ann", bob, "cat")
			send := func(author string, c *model.Conversation) func() error {
				actor := w.Actor(author)
				return func() error {
					_, err := w.SendMessage(t.Context(), actor,
						chat.SendMessage{
							ConversationID: c.ID, Content: "in a hurry",
							IdempotencyKey: new("key"),
						})
					return err
				}
			}
			w.atOnce(func() error { return w.RemoveAccount(bob) }, send(bob, mine),
				send(bob, theirs), send("ann", mine), send("cat", theirs))
			if found := w.traces(uuid.UUID(w.UserID(bob)).String()); len(found) > 0 {
				t.Errorf("left behind: %v", found)
			}
			chattest.WantEqual(t, "who is left", 2, len(w.Roles(mine.ID)))
			w.checkAll()
		}
	})
}

// atOnce runs all of them at the same time. Whoever is too late may be told so; nothing else may go
// wrong.
func (w *fixture) atOnce(calls ...func() error) {
	w.T.Helper()
	start, results := make(chan struct{}), make(chan error, len(calls))
	for _, call := range calls {
		go func() {
			<-start
			results <- call()
		}()
	}
	close(start)
	for range calls {
		if err := <-results; err != nil && !errs.Is(err, errs.NotFound) &&
			!errs.Is(err, errs.Unauthenticated) && len(errs.Correctable(err)) == 0 {
			w.T.Errorf("at once: %v", err)
		}
	}
}

func TestLeavingTwiceIsNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "bob")
		c := chattest.MustConversation(t, w.Fixture, "ann", "bob")
		w.atOnce(func() error { return w.RemoveAccount("bob") },
			func() error { return w.RemoveAccount("bob") },
			func() error { return w.RemoveAccount("bob") })
		if n := len(w.Stored(c.ID)); n != 2 {
			t.Errorf("%d events, want 2", n)
		}
		w.checkAll()
	})
}

func TestWhoLeavesIsToldNoMore(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "bob")
		c := chattest.MustConversation(t, w.Fixture, "ann", "bob")
		p := w.Pull(t, "bob", c.ID, new(int64(0)))
		p.Event(1)
		w.MustRemoveAccount("bob")
		w.Send("ann", c.ID, "among ourselves")
		if e, _, ok := p.Next(); ok && e != nil {
			if e.Kind != model.MemberRemoved {
				t.Errorf("told of %+v", e)
			}
			_ = p.End()
		}
	})
}

// compact writes JSON as Go does: PostgreSQL puts spaces into it.
func compact(data []byte) []byte {
	var b bytes.Buffer
	if err := json.Compact(&b, data); err != nil {
		return data
	}
	return b.Bytes()
}

func countOf(w *fixture, table string) (int, error) {
	n, err := w.DB.NewSelect().Table(table).Count(w.T.Context())
	return int(n), err
}

// Whoever's account goes while they leave, are removed, or end the conversation themselves is gone
// all the same.
func TestLeavingRacesWithTheRoster(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db)
		for round := range 5 {
			names := []string{
				fmt.Sprint("ann", round), fmt.Sprint("bob", round),
				fmt.Sprint("cat", round),
			}
			w.Invite(names...)
			group, alone := chattest.MustConversation(t, w.Fixture, names[0], names[1], names[2]),
				chattest.MustConversation(t, w.Fixture, names[1], names[2])
			if err := w.Leave(t.Context(), w.Actor(names[2]), alone.ID); err != nil {
				t.Fatal(err)
			}
			bob := w.Actor(names[1])
			var wg sync.WaitGroup
			for what, do := range map[string]func() error{
				"removal of the account": func() error { return w.RemoveAccount(names[1]) },
				"removal": func() error {
					_, err := w.RemoveMember(t.Context(), w.Actor(names[0]), group.ID, bob.UserID)
					return err
				},
				"leaving":             func() error { return w.Leave(t.Context(), bob, group.ID) },
				"ending what is left": func() error { return w.Leave(t.Context(), bob, alone.ID) },
			} {
				wg.Go(func() {
					if err := do(); err != nil && !errs.Is(err, errs.NotFound) {
						t.Errorf("%s: %v", what, err)
					}
				})
			}
			wg.Wait()
			if there, err := w.DB.NewSelect().Model((*model.User)(nil)).
				Where("u.id = ?", bob.UserID).Exists(t.Context()); err != nil || there {
				t.Errorf("the account is still there: %v (%v)", there, err)
			}
			w.checkAll()
		}
	})
}

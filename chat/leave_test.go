package chat

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// leave removes an account as package auth does: it is marked, and then cleaned up until nothing
// refers to it any more.
func (w *world) leave(nickname string) error {
	w.t.Helper()
	if err := w.mark(nickname); err != nil {
		return err
	}
	for {
		if more, err := w.cleanUp(nickname, nil); err != nil || !more {
			return err
		}
	}
}

// mark is the first part of a removal.
func (w *world) mark(nickname string) error {
	w.t.Helper()
	id := w.id(nickname)
	return w.db.InTx(w.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		if err := tx.Lock(ctx, (*model.User)(nil), "id = ?", id); err != nil {
			return err
		}
		if err := w.EndPresence(ctx, tx, id); err != nil {
			return err
		}
		_, err := tx.NewUpdate().Model((*model.User)(nil)).Set("removed_at = ?", tx.Now).Set("email = ''").Set("nickname = ''").
			Set("search_key = ''").Set("email_key = ?", uuid.UUID(id).String()).Set("nickname_key = ?", uuid.UUID(id).String()).
			Where("id = ?", id).Exec(ctx)
		return err
	})
}

// cleanUp is one transaction of the second part. It fails with the error after everything is done,
// where there is one.
func (w *world) cleanUp(nickname string, fail error) (more bool, err error) {
	w.t.Helper()
	id := w.id(nickname)
	err = w.db.InTx(w.t.Context(), func(ctx context.Context, tx *store.Tx) (err error) {
		if more, err = w.CleanUpAccount(ctx, tx, id); err != nil {
			return err
		}
		if !more {
			_, err = tx.NewDelete().Model((*model.User)(nil)).Where("id = ?", id).ForceDelete().Exec(ctx)
		}
		return cmp.Or(err, fail)
	})
	return more, err
}

func (w *world) mustMark(nickname string) {
	w.t.Helper()
	if err := w.mark(nickname); err != nil {
		w.t.Fatalf("%s cannot be marked: %v", nickname, err)
	}
}

func (w *world) mustLeave(nickname string) {
	w.t.Helper()
	if err := w.leave(nickname); err != nil {
		w.t.Fatalf("%s cannot leave: %v", nickname, err)
	}
}

// exec runs a statement past the rules.
func (w *world) exec(query string, args ...any) {
	w.t.Helper()
	if _, err := w.db.NewRaw(query, args...).Exec(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) react(nickname string, m *model.Message) {
	w.t.Helper()
	w.exec("INSERT INTO reactions (message_id, conversation_id, user_id, emoji, created_at) VALUES (?, ?, ?, ?, ?)",
		m.ID, m.ConversationID, w.id(nickname), "👍", w.db.Now())
}

// traces names the columns in which something of a person stands.
func (w *world) traces(needles ...string) (found []string) {
	w.t.Helper()
	columns := map[string][]string{
		"users":         {"id", "email", "email_key", "nickname", "nickname_key", "display_name", "search_key"},
		"conversations": {"id", "title", "direct_key"}, "conversation_members": {"user_id"},
		"messages": {"author_id", "content", "idempotency_key"}, "events": {"actor_id", "data"}, "reactions": {"user_id"},
		"credentials": {"user_id"}, "sessions": {"user_id"}, "one_time_tokens": {"user_id", "email"}, "audit_log": {"user_id"},
	}
	for table, names := range columns {
		for _, column := range names {
			for _, needle := range needles {
				there, err := w.db.NewSelect().Table(table).
					Where("lower(CAST(? AS text)) LIKE ?", bun.Ident(column), "%"+strings.ToLower(needle)+"%").Exists(w.t.Context())
				if err != nil {
					w.t.Fatal(err)
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
func (w *world) checkAll() {
	w.t.Helper()
	var all []*model.Conversation
	if err := w.db.NewSelect().Model(&all).Scan(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	for _, c := range all {
		owners := 0
		roles := w.roles(c.ID)
		for _, role := range roles {
			if role == model.Owner {
				owners++
			}
		}
		if owners != 1 && (owners > 1 || c.Kind == model.Group) {
			w.t.Errorf("%s has %d owners: %v", c.Title, owners, roles)
		}
		events := w.stored(c.ID)
		messages := int64(0)
		for i, e := range events {
			if e.Seq != int64(i)+1 {
				w.t.Errorf("%s: seq %d stands at place %d", c.Title, e.Seq, i+1)
			}
			if e.Kind == model.MessageAdded {
				messages++
				if e.Message == nil || e.Message.Seq != e.Seq {
					w.t.Errorf("%s: event %d is about %+v", c.Title, e.Seq, e.Message)
				}
			}
		}
		if c.LastSeq != int64(len(events)) {
			w.t.Errorf("%s: last_seq is %d after %d events", c.Title, c.LastSeq, len(events))
		}
		n, err := w.db.NewSelect().Model((*model.Message)(nil)).Where("m.conversation_id = ?", c.ID).Count(w.t.Context())
		if err != nil || int64(n) != messages {
			w.t.Errorf("%s: %d messages and %d events of them (%v)", c.Title, n, messages, err)
		}
	}
}

func TestWhatStaysOfWhoLeaves(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "vanishing", "cat")
		c := MustConversation(t, w, "ann", "vanishing", "cat")
		theirs, err := w.SendMessage(t.Context(), w.actor("vanishing"),
			SendMessage{ConversationID: c.ID, Content: "what was said", IdempotencyKey: new("once")})
		if err != nil {
			t.Fatal(err)
		}
		anns := w.send("ann", c.ID, "an answer")
		w.react("vanishing", anns)
		w.react("cat", anns)
		w.react("cat", theirs)
		id := uuid.UUID(w.id("vanishing")).String()
		if found := w.traces(id, "vanishing"); len(found) < 8 {
			t.Fatalf("before, only %v was found", found)
		}
		w.mustLeave("vanishing")

		wantEqual(t, "members", map[string]model.Role{"ann": model.Owner, "cat": model.Member}, w.roles(c.ID))
		wantEqual(t, "traces", []string(nil), w.traces(id, "vanishing"))
		// What the log says happened still happened, to somebody of whom nothing but the id is
		// left.
		wantEqual(t, "places of the id", []string{"events.data: " + w.id("vanishing").String()}, w.traces(w.id("vanishing").String()))
		var m model.Message
		if err := w.db.NewSelect().Model(&m).Where("m.id = ?", theirs.ID).Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m.AuthorID != nil || m.Content != "what was said" || m.Seq != theirs.Seq || m.IdempotencyKey != nil || m.RequestHash != nil {
			t.Errorf("the message is %+v", m)
		}
		events := w.stored(c.ID)
		last := events[len(events)-1]
		if last.Kind != model.MemberRemoved || last.ActorID != nil || string(compact(last.Data)) != fmt.Sprintf(`{"userId":%q}`, w.id("vanishing")) {
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
		w.send("ann", c.ID, "life goes on")
	})
}

// A group without a title of its own is called by the nicknames of who is in it, and they must not
// outlive an account.
func TestATitleMadeOfNicknamesForgetsWhoLeft(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "vanishing", "cat")
		_, err := w.CreateConversation(t.Context(), w.actor("ann"), CreateConversation{Members: w.members("vanishing", "cat")})
		if err != nil {
			t.Fatal(err)
		}
		w.mustLeave("vanishing")
		wantEqual(t, "places of the nickname", []string(nil), w.traces("vanishing"))
	})
}

func TestOwnershipPassesOn(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db)
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
			names := []string{fmt.Sprint("a", i), fmt.Sprint("b", i), fmt.Sprint("c", i), fmt.Sprint("d", i)}
			w.invite(names...)
			c := MustConversation(t, w, names[0], names[1:]...)
			roles := map[string]model.Role{}
			for j, name := range names[1:] {
				roles[name] = map[byte]model.Role{'A': model.Admin, 'M': model.Member}[test.roles[j]]
				w.exec("UPDATE conversation_members SET role = ?, joined_seq = ? WHERE conversation_id = ? AND user_id = ?",
					string(roles[name]), int(test.seqs[j]-'0'), c.ID, w.id(name))
			}
			heir := names[1+test.heir]
			p := w.pull(t, names[1], c.ID, new(int64(0)))
			p.event(1)
			w.mustLeave(names[0])
			roles[heir] = model.Owner
			wantEqual(t, test.name, roles, w.roles(c.ID))
			removed, promoted := p.event(2), p.event(3)
			if removed.Kind != model.MemberRemoved || promoted.Kind != model.MemberRoleChanged || removed.ActorID != nil || promoted.ActorID != nil {
				t.Errorf("%s: told of %+v and %+v", test.name, removed, promoted)
			}
			wantEqual(t, test.name+": told", fmt.Sprintf(`{"userId":%q,"role":"OWNER"}`, w.id(heir)), string(compact(promoted.Data)))
			w.checkAll()
		}
	})
}

func TestWhoOwnsNothingPassesNothingOn(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "bob", "cat", "dan")
		c, others := MustConversation(t, w, "ann", "bob", "cat"), MustConversation(t, w, "dan", "cat")
		before := w.stored(others.ID)
		w.mustLeave("bob")
		wantEqual(t, "members", map[string]model.Role{"ann": model.Owner, "cat": model.Member}, w.roles(c.ID))
		if events := w.stored(c.ID); len(events) != 2 || events[1].Kind != model.MemberRemoved {
			t.Errorf("got %d events", len(events))
		}
		wantEqual(t, "a conversation of others", before, w.stored(others.ID))
		w.mustLeave("dan") // who shares nothing with those who left before
		wantEqual(t, "members", map[string]model.Role{"cat": model.Owner}, w.roles(others.ID))
		w.checkAll()
	})
}

func TestAConversationVanishesWithItsLastMember(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "bob", "cat", "dan")
		c, kept := MustConversation(t, w, "ann", "bob"), MustConversation(t, w, "cat", "dan")
		w.react("ann", w.send("bob", c.ID, "here"))
		w.send("dan", kept.ID, "there")
		w.mustLeave("bob")
		w.mustLeave("ann")
		wantEqual(t, "rows", map[string]int64{"conversations": 1, "conversation_members": 2, "messages": 1, "events": 2}, w.rows())
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
		w := MustWorld(t, db, "ann", "bob")
		c := MustConversation(t, w, "ann", "bob")
		id := uuid.UUID(w.id("bob")).String()
		w.exec("UPDATE conversations SET kind = 'DIRECT', direct_key = ? WHERE id = ?", uuid.UUID(w.id("ann")).String()+" "+id, c.ID)
		w.mustLeave("bob")
		wantEqual(t, "places of the id", []string(nil), w.traces(id))
		w.checkAll()
	})
}

func TestEachPartOfLeavingIsAllOrNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "bob", "cat")
		c, last := MustConversation(t, w, "ann", "bob", "cat"), MustConversation(t, w, "ann", "bob")
		w.mustLeave("bob") // so that one of them would vanish
		w.react("ann", w.send("ann", c.ID, "still here"))
		p := w.pull(t, "cat", c.ID, new(int64(3)))
		w.mustMark("ann")
		before, roles := w.stored(c.ID), w.roles(c.ID)
		broken := errors.New("broken at the end")
		w.unchanged(t, func() {
			if _, err := w.cleanUp("ann", broken); !errors.Is(err, broken) {
				t.Errorf("got %v, want what went wrong", err)
			}
		})
		wantEqual(t, "events", before, w.stored(c.ID))
		wantEqual(t, "roles", roles, w.roles(c.ID))
		wantEqual(t, "the other", map[string]model.Role{"ann": model.Owner}, w.roles(last.ID))
		// Nobody was told either: what comes next is what happened next.
		m := w.send("cat", c.ID, "next")
		if e := p.event(m.Seq); e.Kind != model.MessageAdded {
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
		w := MustWorld(t, db)
		for round := range 6 {
			names := []string{fmt.Sprint("a", round), fmt.Sprint("b", round), fmt.Sprint("c", round)}
			w.invite(names...)
			a, b, c := names[0], names[1], names[2]
			var shared []*model.Conversation
			for range 3 {
				shared = append(shared, MustConversation(t, w, a, b, c), MustConversation(t, w, b, a, c), MustConversation(t, w, a, b))
			}
			for _, s := range shared {
				w.send(a, s.ID, "from a")
				w.send(b, s.ID, "from b")
			}
			w.atOnce(func() error { return w.leave(a) }, func() error { return w.leave(b) })
			for i, s := range shared {
				want := map[string]model.Role{c: model.Owner}
				if i%3 == 2 {
					want = map[string]model.Role{}
				}
				wantEqual(t, "who is left", want, w.roles(s.ID))
			}
			w.checkAll()
		}
	})
}

func TestLeavingRacesWithAnInvitation(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "cat")
		for round := range 10 {
			bob := fmt.Sprint("bob", round)
			w.invite(bob)
			start := func(owner string, others ...string) func() error {
				title := "of " + owner
				in := CreateConversation{Title: &title, Members: w.members(others...)}
				actor := w.actor(owner)
				return func() error {
					_, err := w.CreateConversation(t.Context(), actor, in)
					return err
				}
			}
			w.atOnce(func() error { return w.leave(bob) }, start("ann", bob), start("ann", "cat", bob), start("cat", bob, "ann"))
			if found := w.traces(uuid.UUID(w.id(bob)).String()); len(found) > 0 {
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
		w := MustWorld(t, db, "ann", "bob")
		c := MustConversation(t, w, "ann", "bob")
		w.mustLeave("bob")
		w.unchanged(t, func() {
			_, err := w.SendMessage(t.Context(), w.actor("bob"), SendMessage{ConversationID: c.ID, Content: "too late"})
			wantCode(t, err, errs.NotFound)
			_, err = w.CreateConversation(t.Context(), w.actor("bob"), CreateConversation{Members: w.members("ann")})
			wantCode(t, err, errs.Unauthenticated)
			_, err = w.CreateConversation(t.Context(), w.actor("ann"), CreateConversation{Members: w.members("bob")})
			wantMistakes(t, err, "NOT_FOUND members.0.userId")
		})
	})
}

func TestLeavingRacesWithMessages(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "cat")
		for round := range 6 {
			bob := fmt.Sprint("bob", round)
			w.invite(bob)
			mine, theirs := MustConversation(t, w, bob, "ann", "cat"), MustConversation(t, w, "ann", bob, "cat")
			send := func(author string, c *model.Conversation) func() error {
				actor := w.actor(author)
				return func() error {
					_, err := w.SendMessage(t.Context(), actor, SendMessage{ConversationID: c.ID, Content: "in a hurry", IdempotencyKey: new("key")})
					return err
				}
			}
			w.atOnce(func() error { return w.leave(bob) }, send(bob, mine), send(bob, theirs), send("ann", mine), send("cat", theirs))
			if found := w.traces(uuid.UUID(w.id(bob)).String()); len(found) > 0 {
				t.Errorf("left behind: %v", found)
			}
			wantEqual(t, "who is left", 2, len(w.roles(mine.ID)))
			w.checkAll()
		}
	})
}

// atOnce runs all of them at the same time. Whoever is too late may be told so; nothing else may go
// wrong.
func (w *world) atOnce(calls ...func() error) {
	w.t.Helper()
	start, results := make(chan struct{}), make(chan error, len(calls))
	for _, call := range calls {
		go func() {
			<-start
			results <- call()
		}()
	}
	close(start)
	for range calls {
		if err := <-results; err != nil && !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Unauthenticated) && len(errs.Correctable(err)) == 0 {
			w.t.Errorf("at once: %v", err)
		}
	}
}

func TestLeavingTwiceIsNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "bob")
		c := MustConversation(t, w, "ann", "bob")
		w.atOnce(func() error { return w.leave("bob") }, func() error { return w.leave("bob") }, func() error { return w.leave("bob") })
		if n := len(w.stored(c.ID)); n != 2 {
			t.Errorf("%d events, want 2", n)
		}
		w.checkAll()
	})
}

func TestWhoLeavesIsToldNoMore(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "bob")
		c := MustConversation(t, w, "ann", "bob")
		p := w.pull(t, "bob", c.ID, new(int64(0)))
		p.event(1)
		w.mustLeave("bob")
		w.send("ann", c.ID, "among ourselves")
		if e, _, ok := p.next(); ok && e != nil {
			if e.Kind != model.MemberRemoved {
				t.Errorf("told of %+v", e)
			}
			_ = p.end()
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

func countOf(w *world, table string) (int, error) {
	n, err := w.db.NewSelect().Table(table).Count(w.t.Context())
	return int(n), err
}

// Whoever's account goes while they leave, are removed, or end the conversation themselves is gone
// all the same.
func TestLeavingRacesWithTheRoster(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db)
		for round := range 5 {
			names := []string{fmt.Sprint("ann", round), fmt.Sprint("bob", round), fmt.Sprint("cat", round)}
			w.invite(names...)
			group, alone := MustConversation(t, w, names[0], names[1], names[2]), MustConversation(t, w, names[1], names[2])
			if err := w.Leave(t.Context(), w.actor(names[2]), alone.ID); err != nil {
				t.Fatal(err)
			}
			bob := w.actor(names[1])
			var wg sync.WaitGroup
			for what, do := range map[string]func() error{
				"removal of the account": func() error { return w.leave(names[1]) },
				"removal": func() error {
					_, err := w.RemoveMember(t.Context(), w.actor(names[0]), group.ID, bob.UserID)
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
			if there, err := w.db.NewSelect().Model((*model.User)(nil)).Where("u.id = ?", bob.UserID).Exists(t.Context()); err != nil || there {
				t.Errorf("the account is still there: %v (%v)", there, err)
			}
			w.checkAll()
		}
	})
}

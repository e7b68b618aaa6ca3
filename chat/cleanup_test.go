package chat_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// busyAccount is a person with more of everything than one transaction of a removal takes, and the
// conversations that they were in.
type busyAccount struct {
	nickname string
	all      []*model.Conversation
}

// mustBeBusy makes one. ann and cat are in the conversations too; the roles, the kinds and what was
// said differ.
func (w *fixture) mustBeBusy(t *testing.T, nickname string) *busyAccount {
	t.Helper()
	w.Invite(nickname)
	b := &busyAccount{nickname: nickname}
	for i := range 2*chat.MembershipsAtOnce + 3 {
		var c *model.Conversation
		switch i % 4 {
		case 0: // they own it
			c = chattest.MustConversation(t, w.Fixture, nickname, "ann", "cat")
		case 1:
			c = chattest.MustConversation(t, w.Fixture, "ann", nickname, "cat")
		case 2: // it is made of nicknames
			var err error
			if c, err = w.CreateConversation(t.Context(), w.Actor("ann"),
				chat.CreateConversation{Members: w.NewMembers(nickname, "cat")}); err != nil {
				t.Fatal(err)
			}
		case 3: // and they are alone in it
			c = chattest.MustConversation(t, w.Fixture, nickname, "ann")
			if err := w.Leave(t.Context(), w.Actor("ann"), c.ID); err != nil {
				t.Fatal(err)
			}
		}
		m := w.Send(nickname, c.ID, "hello")
		if i%4 < 3 {
			m = w.Send("ann", c.ID, "hello yourself")
			w.Send("cat", c.ID, "Hello @"+nickname)
		}
		for _, emoji := range []string{"👍", "🎉"} {
			if _, err := w.AddReaction(t.Context(), w.Actor(nickname), m.ID, emoji); err != nil {
				t.Fatal(err)
			}
		}
		b.all = append(b.all, c)
	}
	direct, err := w.OpenDirect(t.Context(), w.Actor("ann"), w.UserID(nickname))
	if err != nil {
		t.Fatal(err)
	}
	w.Send(nickname, direct.ID, "among ourselves")
	w.SendMany(nickname, b.all[0].ID, store.SomeAtOnce+1)
	b.all = append(b.all, direct)
	return b
}

// history is what became of the conversations, without what differs from one person to the next.
func (w *fixture) history(b *busyAccount) (lines []string) {
	w.T.Helper()
	for i, c := range b.all {
		for _, e := range w.Stored(c.ID) {
			data := string(compact(e.Data))
			for name, actor := range w.Actors {
				data = strings.ReplaceAll(data, actor.UserID.String(), name)
			}
			data = strings.ReplaceAll(data, b.nickname, "them")
			author := ""
			if e.Message != nil && e.Message.AuthorID == nil {
				author = ", of nobody"
			}
			lines = append(lines, fmt.Sprintf("%d: %d %s by %v%s: %s", i, e.Seq, e.Kind,
				e.ActorID != nil, author, data))
		}
		roles := w.Roles(c.ID)
		for _, name := range slices.Sorted(maps.Keys(roles)) {
			lines = append(lines, fmt.Sprintf("%d: %s is %s", i, name, roles[name]))
		}
	}
	return lines
}

// A removal that stops after any of its transactions, and in the middle of any, goes on where it
// was, on whatever node. In the end everything is as it is after one that was not interrupted.
func TestARemovalGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "cat")
		smooth, broken := w.mustBeBusy(t, "smooth"), w.mustBeBusy(t, "broken")
		w.MustRemoveAccount("smooth")

		w.mustMark("broken")
		crash := errors.New("kill -9")
		for more := true; more; {
			// which knows nothing but the database
			node := &fixture{chattest.NewIdle(t, db, chattest.Options{}, w.Actors)}
			if _, err := node.CleanUpOnce("broken", crash); !errors.Is(err, crash) {
				t.Fatal(err)
			}
			var err error
			if more, err = node.CleanUpOnce("broken", nil); err != nil {
				t.Fatal(err)
			}
		}
		chattest.WantEqual(t, "what became of the conversations", w.history(smooth),
			w.history(broken))
		w.checkAll()
		for _, b := range []*busyAccount{smooth, broken} {
			chattest.WantEqual(t, "traces", []string(nil), w.traces(b.nickname+"@"))
		}
	})
}

// Each transaction of a removal ends few memberships and changes few rows, however many there are,
// so that others who wait for it wait for a short time. What they do in between counts; who follows
// misses nothing, and hears of nothing twice.
func TestOthersGoOnDuringARemoval(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "cat")
		b := w.mustBeBusy(t, "gone")
		live := map[model.ConversationID]*chattest.Pulled{}
		for _, c := range append(slices.Clone(b.all[:3]), b.all[len(b.all)-1]) {
			live[c.ID] = w.Pull(t, "ann", c.ID, new(int64(0)))
			live[c.ID].Event(1)
		}
		mine := w.PullEvents(t, "cat", nil)
		mine.CaughtUp()
		w.mustMark("gone")
		before := w.counts(t)
		last := map[model.ConversationID]int64{}
		for more, round := true, 0; more; round++ {
			var err error
			if more, err = w.CleanUpOnce("gone", nil); err != nil {
				t.Fatal(err)
			}
			now := w.counts(t)
			for what, limit := range map[string]int64{
				"memberships": chat.MembershipsAtOnce, "reactions": chat.ReactionsAtOnce,
				"authors": store.SomeAtOnce, "actors": store.SomeAtOnce,
				"mentions": store.SomeAtOnce, "events": 3 * max(chat.MembershipsAtOnce,
					chat.ReactionsAtOnce),
			} {
				if n := before[what] - now[what]; n > limit || -n > limit {
					t.Errorf("round %d has changed %d %s, want at most %d", round, n, what, limit)
				}
			}
			for id := range live { // somebody writes after each transaction
				last[id] = w.Send("ann", id, fmt.Sprint("after round ", round)).Seq
			}
			before = w.counts(t)
		}
		for id, p := range live {
			p.Events(2, last[id]) // each, once, in order
		}
		seen := map[model.ConversationID]int64{}
		for _, c := range b.all[:3] { // in each of them cat is told of the same
			for seen[c.ID] < last[c.ID] {
				item, err, ok := mine.Next()
				if err != nil || !ok || item.Event == nil {
					t.Fatalf("got %q (%v) on the way to seq %d", chattest.ItemText(item), err,
						last[c.ID])
				}
				e := item.Event
				if before, there := seen[e.ConversationID]; there && e.Seq != before+1 {
					t.Fatalf("seq %d of %v comes after %d", e.Seq, e.ConversationID, before)
				}
				seen[e.ConversationID] = e.Seq
			}
		}
		w.checkAll()
	})
}

// counts is what a removal has yet to change.
func (w *fixture) counts(t *testing.T) map[string]int64 {
	t.Helper()
	counts := map[string]int64{}
	id := w.UserID("gone")
	for what, q := range map[string]string{
		"memberships": "SELECT count(*) FROM conversation_members WHERE user_id = ?",
		"reactions":   "SELECT count(*) FROM reactions WHERE user_id = ?",
		"authors":     "SELECT count(*) FROM messages WHERE author_id = ?",
		"actors":      "SELECT count(*) FROM events WHERE actor_id = ?",
		"mentions":    "SELECT count(*) FROM mentions WHERE user_id = ?",
		"events":      "SELECT count(*) FROM events WHERE seq > 0 OR actor_id = ?",
	} {
		var n int64
		if err := w.DB.NewRaw(q, id).Scan(t.Context(), &n); err != nil {
			t.Fatal(err)
		}
		counts[what] = n
	}
	return counts
}

// From the moment in which an account is marked, its person is nobody's member, and can do nothing,
// though nothing is cleaned up.
func TestAMarkedAccountIsGoneForTheOthers(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "bob", "cat")
		theirs, anns := chattest.MustConversation(t, w.Fixture, "bob", "ann", "cat"),
			chattest.MustConversation(t, w.Fixture, "ann", "bob")
		direct, err := w.OpenDirect(t.Context(), w.Actor("ann"), w.UserID("bob"))
		if err != nil {
			t.Fatal(err)
		}
		m := w.Send("ann", theirs.ID, "before")
		if _, err := w.AddReaction(t.Context(), w.Actor("bob"), m.ID, "👍"); err != nil {
			t.Fatal(err)
		}
		w.mustMark("bob")
		ann, bob := w.Actor("ann"), w.Actor("bob")
		ids := []model.ConversationID{theirs.ID, anns.ID, direct.ID}
		counts, err := w.MemberCounts(t.Context(), ann, ids)
		chattest.WantEqual(t, "counts",
			map[model.ConversationID]int{theirs.ID: 2, anns.ID: 1, direct.ID: 1}, counts)
		chattest.WantEqual(t, "error", nil, err)
		owners, err := w.Owners(t.Context(), ann, ids)
		chattest.WantEqual(t, "owners", []model.ConversationID{anns.ID},
			slices.Collect(maps.Keys(owners)))
		chattest.WantEqual(t, "error", nil, err)
		partners, err := w.Partners(t.Context(), ann, ids)
		chattest.WantEqual(t, "partners", 0, len(partners))
		chattest.WantEqual(t, "error", nil, err)
		window, err := store.PageArgs{}.Window(store.DefaultPage{First: 20})
		chattest.WantEqual(t, "error", nil, err)
		members, err := w.Members(t.Context(), ann, ids, window)
		for id, want := range map[model.ConversationID]int{theirs.ID: 2, anns.ID: 1, direct.ID: 1} {
			chattest.WantEqual(t, "members", want, len(members[id].Items))
		}
		chattest.WantEqual(t, "error", nil, err)
		byID := model.MemberID{Conversation: theirs.ID, User: bob.UserID}
		found, err := w.MembersByID(t.Context(), ann, []model.MemberID{byID})
		chattest.WantEqual(t, "by id", 0, len(found))
		chattest.WantEqual(t, "error", nil, err)

		w.Unchanged(t, func() {
			_, err = w.SendMessage(t.Context(), bob,
				chat.SendMessage{ConversationID: theirs.ID, Content: "too late"})
			chattest.WantCode(t, err, errs.NotFound)
			_, err = w.AddReaction(t.Context(), bob, m.ID, "🎉")
			chattest.WantCode(t, err, errs.NotFound)
			_, err = w.Rename(t.Context(), bob, theirs.ID, "too late")
			chattest.WantCode(t, err, errs.NotFound)
			_, err = w.MarkRead(t.Context(), bob, theirs.ID, 2)
			chattest.WantCode(t, err, errs.NotFound)
			_, err = w.Follow(t.Context(), bob, theirs.ID, nil)
			chattest.WantCode(t, err, errs.NotFound)
			_, err = w.CreateConversation(t.Context(), bob,
				chat.CreateConversation{Members: w.NewMembers("ann")})
			chattest.WantCode(t, err, errs.Unauthenticated)
			_, err = w.OpenDirect(t.Context(), bob, ann.UserID)
			chattest.WantCode(t, err, errs.Unauthenticated)
			_, err = w.OpenDirect(t.Context(), ann, bob.UserID)
			chattest.WantMistakes(t, err, "NOT_FOUND userId")
			_, err = w.AddMembers(t.Context(), ann, anns.ID, w.NewMembers("bob"))
			chattest.WantMistakes(t, err, "NOT_FOUND members.0.userId")
			_, err = w.CreateConversation(t.Context(), ann,
				chat.CreateConversation{Members: w.NewMembers("bob")})
			chattest.WantMistakes(t, err, "NOT_FOUND members.0.userId")
			_, err = w.RemoveMember(t.Context(), ann, anns.ID, bob.UserID)
			chattest.WantMistakes(t, err, "NOT_FOUND userId")
			_, err = w.ChangeRole(t.Context(), ann, anns.ID, bob.UserID, model.Admin)
			chattest.WantMistakes(t, err, "NOT_FOUND userId")
			_, err = w.TransferOwnership(t.Context(), ann, anns.ID, bob.UserID)
			chattest.WantMistakes(t, err, "NOT_FOUND userId")
		})
		w.Send("ann", theirs.ID, "@bob is not here") // nor is mentioned
		mentions, err := countOf(w, "mentions")
		chattest.WantEqual(t, "mentions", 0, mentions)
		chattest.WantEqual(t, "error", nil, err)
		// The others are alone with the one who is gone: they are the last, and take the
		// conversation along.
		if err := w.Leave(t.Context(), ann, anns.ID); err != nil {
			t.Errorf("the last one leaves: %v", err)
		}
		w.MustRemoveAccount("bob")
		chattest.WantEqual(t, "roles",
			map[string]model.Role{"ann": model.Owner, "cat": model.Member}, w.Roles(theirs.ID))
		chattest.WantEqual(t, "roles", map[string]model.Role{"ann": model.Member},
			w.Roles(direct.ID))
	})
}

// Two accounts that are being removed at the same time pass nothing on to each other.
func TestAnHeirIsNotBeingRemoved(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "bob", "cat")
		c, both := chattest.MustConversation(t, w.Fixture, "ann", "bob", "cat"),
			chattest.MustConversation(t, w.Fixture, "ann", "bob")
		w.mustMark("ann")
		w.mustMark("bob")
		w.MustRemoveAccount("ann")
		chattest.WantEqual(t, "roles",
			map[string]model.Role{"bob": model.Member, "cat": model.Owner}, w.Roles(c.ID))
		chattest.WantEqual(t, "the conversation of the two", map[string]model.Role{},
			w.Roles(both.ID))
		w.MustRemoveAccount("bob")
		chattest.WantEqual(t, "roles", map[string]model.Role{"cat": model.Owner}, w.Roles(c.ID))
		for _, e := range w.Stored(c.ID) {
			var data struct{ UserID model.UserID }
			if err := json.Unmarshal(e.Data, &data); err != nil {
				t.Fatal(err)
			}
			if e.Kind == model.MemberRoleChanged && data.UserID != w.UserID("cat") {
				t.Errorf("passed on to %+v", data)
			}
		}
		w.checkAll()
	})
}

// An account may be removed while the rows of a conversation that has ended are being deleted, some
// of them at a time. What is left there of the account goes without an event, whatever went first,
// and it does not wait for the rest.
func TestARemovalCleansUpInConversationsThatEnded(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		// that does not run
		w := &fixture{chattest.NewIdle(t, db, chattest.Options{}, nil)}
		w.Invite("ann", "gone", "last")
		kept := chattest.MustConversation(t, w.Fixture, "ann", "gone")
		w.addReaction("gone", w.Send("gone", kept.ID, "stays"), "👍")
		// ann's rows are deleted at once when the last member leaves, and the others' stay.
		ended := chattest.MustConversation(t, w.Fixture, "last", "gone", "ann")
		w.SendMany("ann", ended.ID, store.SomeAtOnce)
		w.Exec("INSERT INTO reactions (message_id, conversation_id, user_id, emoji, created_at) "+
			"SELECT id, conversation_id, author_id, '👍', created_at FROM messages WHERE "+
			"conversation_id = ?", ended.ID)
		w.Exec("INSERT INTO mentions (message_id, conversation_id, user_id, seq) "+
			"SELECT id, conversation_id, author_id, seq FROM messages WHERE conversation_id = ?",
			ended.ID)
		for range 2*chat.ReactionsAtOnce + 1 {
			w.addReaction("gone", w.Send("gone", ended.ID, "hello @gone"), "👍")
		}
		for _, name := range []string{"gone", "ann", "last"} {
			if err := w.Leave(t.Context(), w.Actor(name), ended.ID); err != nil {
				t.Fatal(err)
			}
		}
		both, err := w.OpenDirect(t.Context(), w.Actor("gone"), w.UserID("last"))
		if err != nil {
			t.Fatal(err)
		}
		w.addReaction("gone", w.Send("last", both.ID, "hello @gone"), "👍")
		w.SendMany("gone", both.ID, store.SomeAtOnce)
		w.MustRemoveAccount("last") // so the removal of gone ends it

		before := w.counts(t)
		if before["reactions"] != 2*chat.ReactionsAtOnce+3 ||
			before["mentions"] < chat.ReactionsAtOnce {
			t.Fatalf("too little is left for this test: %v", before)
		}
		w.mustMark("gone")
		events := before["events"]
		for more, round := true, 0; more; round++ {
			if more, err = w.CleanUpOnce("gone", nil); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			// as the deletion of ended conversations may: it deletes so many rows of each table
			if round == 0 {
				w.Exec("DELETE FROM messages WHERE conversation_id = ?", ended.ID)
			}
		}
		after := w.counts(t)
		// In the conversations that live: two reactions are taken back, two memberships end.
		if n := after["events"] - events; n > 4 {
			t.Errorf("the removal has written %d events", n)
		}
		for what, n := range after {
			if n != 0 && what != "events" {
				t.Errorf("%d %s are left", n, what)
			}
		}
		if err := w.DeleteEnded(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.checkAll()
	})
}

// A conversation with much in it is gone at once when its last member leaves, and its rows go in
// batches, whoever deletes them.
func TestAConversationThatEndedIsDeletedInBatches(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		// that does not run
		w := &fixture{chattest.NewIdle(t, db, chattest.Options{}, nil)}
		w.Invite("ann", "ben")
		c, kept := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.Send("ann", kept.ID, "stays")
		w.SendMany("ben", c.ID, 2*store.SomeAtOnce+10)
		p := w.Pull(t, "ann", c.ID, nil)
		if err := w.Leave(t.Context(), w.Actor("ben"), c.ID); err != nil {
			t.Fatal(err)
		}
		messages, err := countOf(w, "messages")
		chattest.WantEqual(t, "error", nil, err)
		if err := w.Leave(t.Context(), w.Actor("ann"), c.ID); err != nil {
			t.Fatal(err)
		}
		left, err := countOf(w, "messages")
		chattest.WantEqual(t, "error", nil, err)
		chattest.WantEqual(t, "messages that went with the last member", store.SomeAtOnce,
			messages-left)
		_, err = w.SendMessage(t.Context(), w.Actor("ann"),
			chat.SendMessage{ConversationID: c.ID, Content: "too late"})
		chattest.WantCode(t, err, errs.NotFound)
		_, err = w.Rename(t.Context(), w.Actor("ann"), c.ID, "too late")
		chattest.WantCode(t, err, errs.NotFound)
		var title string
		if err := db.NewRaw("SELECT title FROM conversations WHERE id = ?", c.ID).
			Scan(t.Context(), &title); err != nil || title != "" {
			t.Errorf("it is still called %q (%v)", title, err)
		}

		if err := chattest.NewServices(db, chattest.Options{}).
			DeleteEnded(t.Context()); err != nil {
			t.Fatal(err)
		}
		for table, want := range map[string]int{"conversations": 1, "messages": 1, "events": 2} {
			n, err := countOf(w, table)
			chattest.WantEqual(t, table, want, n)
			chattest.WantEqual(t, "error", nil, err)
		}
		if !db.Postgres() {
			n, err := countOf(w, "message_tokens")
			chattest.WantEqual(t, "words", 1, n)
			chattest.WantEqual(t, "error", nil, err)
		}
		p.Stop()
	})
}

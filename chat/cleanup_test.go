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

// largeAccount is a user with more rows of each kind than one transaction of a removal changes.
type largeAccount struct {
	nickname string
	all      []*model.Conversation // the conversations that the user is or was in
}

// mustMakeLargeAccount registers a large account. ann and cat are members of its conversations. The
// conversations differ in the user's role, in kind and in content.
func (w *fixture) mustMakeLargeAccount(t *testing.T, nickname string) *largeAccount {
	t.Helper()
	w.Invite(nickname)
	b := &largeAccount{nickname: nickname}
	for i := range 2*chat.MembershipsAtOnce + 3 {
		var c *model.Conversation
		switch i % 4 {
		case 0: // the user is the owner
			c = chattest.MustConversation(t, w.Fixture, nickname, "ann", "cat")
		case 1:
			c = chattest.MustConversation(t, w.Fixture, "ann", nickname, "cat")
		case 2: // the title is made of nicknames
			var err error
			if c, err = w.CreateConversation(t.Context(), w.Actor("ann"),
				chat.CreateConversation{Members: w.NewMembers(nickname, "cat")}); err != nil {
				t.Fatal(err)
			}
		case 3: // the user is the only member
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

// history returns the logs and roles of an account's conversations, without what differs from one
// account to the next.
func (w *fixture) history(b *largeAccount) (lines []string) {
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
				author = ", without an author"
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

// A removal that is interrupted after or during any of its transactions resumes on any node. It
// ends with the same rows as a removal without an interruption.
func TestRemovalResumesAfterACrash(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "cat")
		smooth, broken := w.mustMakeLargeAccount(t, "smooth"), w.mustMakeLargeAccount(t, "broken")
		w.MustRemoveAccount("smooth")

		w.mustMark("broken")
		crash := errors.New("kill -9")
		for more := true; more; {
			// A new node has no state but the database.
			node := &fixture{chattest.NewIdle(t, db, chattest.Options{}, w.Actors)}
			if _, err := node.CleanUpOnce("broken", crash); !errors.Is(err, crash) {
				t.Fatal(err)
			}
			var err error
			if more, err = node.CleanUpOnce("broken", nil); err != nil {
				t.Fatal(err)
			}
		}
		chattest.WantEqual(t, "the logs and roles", w.history(smooth),
			w.history(broken))
		w.checkInvariants()
		for _, b := range []*largeAccount{smooth, broken} {
			chattest.WantEqual(t, "traces", []string(nil), w.traces(b.nickname+"@"))
		}
	})
}

// Each transaction of a removal ends few memberships and changes few rows, so that others wait for
// it only a short time. Writes between the transactions succeed, and followers receive each event
// once.
func TestRemovalDoesNotBlockOthers(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "cat")
		b := w.mustMakeLargeAccount(t, "gone")
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
			for id := range live { // other users write after each transaction
				last[id] = w.Send("ann", id, fmt.Sprint("after round ", round)).Seq
			}
			before = w.counts(t)
		}
		for id, p := range live {
			p.Events(2, last[id]) // each once, in order
		}
		seen := map[model.ConversationID]int64{}
		for _, c := range b.all[:3] { // cat receives the same in each of them
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
		w.checkInvariants()
	})
}

// counts returns how many rows of each kind a removal still has to change.
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

// Once an account is marked, the user is not a member of any conversation and can do nothing, even
// before the cleanup.
func TestMarkedAccountIsInvisible(t *testing.T) {
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
		w.Send("ann", theirs.ID, "@bob is not here") // the user is not mentioned either
		mentions, err := countOf(w, "mentions")
		chattest.WantEqual(t, "mentions", 0, mentions)
		chattest.WantEqual(t, "error", nil, err)
		// The others are the last members, so the conversation ends when they leave.
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

// Of two accounts that are being removed at the same time, neither becomes the owner of a
// conversation of the other.
func TestSuccessorIsNotBeingRemoved(t *testing.T) {
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
		w.checkInvariants()
	})
}

// An account may be removed while the rows of an ended conversation are being deleted in batches.
// Its remaining rows there are deleted without an event, in any order, and the removal does not
// wait for the rest of the conversation.
func TestRemovalCleansUpEndedConversations(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		// a Service without Run
		w := &fixture{chattest.NewIdle(t, db, chattest.Options{}, nil)}
		w.Invite("ann", "gone", "last")
		kept := chattest.MustConversation(t, w.Fixture, "ann", "gone")
		w.addReaction("gone", w.Send("gone", kept.ID, "stays"), "👍")
		// Leaving deletes ann's rows at once, and the rows of others stay.
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
		w.MustRemoveAccount("last") // so the removal of gone ends the conversation

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
			// The deletion of ended conversations may do so: it deletes some rows of each table.
			if round == 0 {
				w.Exec("DELETE FROM messages WHERE conversation_id = ?", ended.ID)
			}
		}
		after := w.counts(t)
		// In the other conversations two reactions are taken back, and two memberships end.
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
		w.checkInvariants()
	})
}

// A conversation with many rows ends at once when its last member leaves. Its rows are deleted in
// batches, on any node.
func TestEndedConversationIsDeletedInBatches(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		// a Service without Run
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

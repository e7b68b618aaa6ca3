package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

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
func (w *world) mustBeBusy(t *testing.T, nickname string) *busyAccount {
	t.Helper()
	w.invite(nickname)
	b := &busyAccount{nickname: nickname}
	for i := range 2*membershipsAtOnce + 3 {
		var c *model.Conversation
		switch i % 4 {
		case 0: // they own it
			c = MustConversation(t, w, nickname, "ann", "cat")
		case 1:
			c = MustConversation(t, w, "ann", nickname, "cat")
		case 2: // it is made of nicknames
			var err error
			if c, err = w.CreateConversation(t.Context(), w.actor("ann"), CreateConversation{Members: w.members(nickname, "cat")}); err != nil {
				t.Fatal(err)
			}
		case 3: // and they are alone in it
			c = MustConversation(t, w, nickname, "ann")
			if err := w.Leave(t.Context(), w.actor("ann"), c.ID); err != nil {
				t.Fatal(err)
			}
		}
		m := w.send(nickname, c.ID, "hello")
		if i%4 < 3 {
			m = w.send("ann", c.ID, "hello yourself")
			w.send("cat", c.ID, "Hello @"+nickname)
		}
		for _, emoji := range []string{"👍", "🎉"} {
			if _, err := w.AddReaction(t.Context(), w.actor(nickname), m.ID, emoji); err != nil {
				t.Fatal(err)
			}
		}
		b.all = append(b.all, c)
	}
	direct, err := w.OpenDirect(t.Context(), w.actor("ann"), w.id(nickname))
	if err != nil {
		t.Fatal(err)
	}
	w.send(nickname, direct.ID, "among ourselves")
	w.sendMany(nickname, b.all[0].ID, store.SomeAtOnce+1)
	b.all = append(b.all, direct)
	return b
}

// history is what became of the conversations, without what differs from one person to the next.
func (w *world) history(b *busyAccount) (lines []string) {
	w.t.Helper()
	for i, c := range b.all {
		for _, e := range w.stored(c.ID) {
			data := string(compact(e.Data))
			for name, actor := range w.actors {
				data = strings.ReplaceAll(data, actor.UserID.String(), name)
			}
			data = strings.ReplaceAll(data, b.nickname, "them")
			author := ""
			if e.Message != nil && e.Message.AuthorID == nil {
				author = ", of nobody"
			}
			lines = append(lines, fmt.Sprintf("%d: %d %s by %v%s: %s", i, e.Seq, e.Kind, e.ActorID != nil, author, data))
		}
		roles := w.roles(c.ID)
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
		w := MustWorld(t, db, "ann", "cat")
		smooth, broken := w.mustBeBusy(t, "smooth"), w.mustBeBusy(t, "broken")
		w.mustLeave("smooth")

		w.mustMark("broken")
		crash := errors.New("kill -9")
		for more := true; more; {
			// which knows nothing but the database
			node := &world{Service: New(db, Options{}), t: t, actors: w.actors}
			if _, err := node.cleanUp("broken", crash); !errors.Is(err, crash) {
				t.Fatal(err)
			}
			var err error
			if more, err = node.cleanUp("broken", nil); err != nil {
				t.Fatal(err)
			}
		}
		wantEqual(t, "what became of the conversations", w.history(smooth), w.history(broken))
		w.checkAll()
		for _, b := range []*busyAccount{smooth, broken} {
			wantEqual(t, "traces", []string(nil), w.traces(b.nickname+"@"))
		}
	})
}

// Each transaction of a removal ends few memberships and changes few rows, however many there are,
// so that others who wait for it wait for a short time. What they do in between counts; who follows
// misses nothing, and hears of nothing twice.
func TestOthersGoOnDuringARemoval(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "cat")
		b := w.mustBeBusy(t, "gone")
		live := map[model.ConversationID]*pulled{}
		for _, c := range append(slices.Clone(b.all[:3]), b.all[len(b.all)-1]) {
			live[c.ID] = w.pull(t, "ann", c.ID, new(int64(0)))
			live[c.ID].event(1)
		}
		mine := w.pullMine(t, "cat", nil)
		mine.caughtUp()
		w.mustMark("gone")
		before := w.counts(t)
		last := map[model.ConversationID]int64{}
		for more, round := true, 0; more; round++ {
			var err error
			if more, err = w.cleanUp("gone", nil); err != nil {
				t.Fatal(err)
			}
			now := w.counts(t)
			for what, limit := range map[string]int64{
				"memberships": membershipsAtOnce, "reactions": reactionsAtOnce, "authors": store.SomeAtOnce, "actors": store.SomeAtOnce,
				"mentions": store.SomeAtOnce, "events": 3 * max(membershipsAtOnce, reactionsAtOnce),
			} {
				if n := before[what] - now[what]; n > limit || -n > limit {
					t.Errorf("round %d has changed %d %s, want at most %d", round, n, what, limit)
				}
			}
			for id := range live { // somebody writes after each transaction
				last[id] = w.send("ann", id, fmt.Sprint("after round ", round)).Seq
			}
			before = w.counts(t)
		}
		for id, p := range live {
			p.events(2, last[id]) // each, once, in order
		}
		seen := map[model.ConversationID]int64{}
		for _, c := range b.all[:3] { // in each of them cat is told of the same
			for seen[c.ID] < last[c.ID] {
				item, err, ok := mine.next()
				if err != nil || !ok || item.Event == nil {
					t.Fatalf("got %q (%v) on the way to seq %d", tellItem(item), err, last[c.ID])
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
func (w *world) counts(t *testing.T) map[string]int64 {
	t.Helper()
	counts := map[string]int64{}
	id := w.id("gone")
	for what, q := range map[string]string{
		"memberships": "SELECT count(*) FROM conversation_members WHERE user_id = ?", "reactions": "SELECT count(*) FROM reactions WHERE user_id = ?",
		"authors": "SELECT count(*) FROM messages WHERE author_id = ?", "actors": "SELECT count(*) FROM events WHERE actor_id = ?",
		"mentions": "SELECT count(*) FROM mentions WHERE user_id = ?", "events": "SELECT count(*) FROM events WHERE seq > 0 OR actor_id = ?",
	} {
		var n int64
		if err := w.db.NewRaw(q, id).Scan(t.Context(), &n); err != nil {
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
		w := MustWorld(t, db, "ann", "bob", "cat")
		theirs, anns := MustConversation(t, w, "bob", "ann", "cat"), MustConversation(t, w, "ann", "bob")
		direct, err := w.OpenDirect(t.Context(), w.actor("ann"), w.id("bob"))
		if err != nil {
			t.Fatal(err)
		}
		m := w.send("ann", theirs.ID, "before")
		if _, err := w.AddReaction(t.Context(), w.actor("bob"), m.ID, "👍"); err != nil {
			t.Fatal(err)
		}
		w.mustMark("bob")
		ann, bob := w.actor("ann"), w.actor("bob")
		ids := []model.ConversationID{theirs.ID, anns.ID, direct.ID}
		counts, err := w.MemberCounts(t.Context(), ann, ids)
		wantEqual(t, "counts", map[model.ConversationID]int{theirs.ID: 2, anns.ID: 1, direct.ID: 1}, counts)
		wantEqual(t, "error", nil, err)
		owners, err := w.Owners(t.Context(), ann, ids)
		wantEqual(t, "owners", []model.ConversationID{anns.ID}, slices.Collect(maps.Keys(owners)))
		wantEqual(t, "error", nil, err)
		partners, err := w.Partners(t.Context(), ann, ids)
		wantEqual(t, "partners", 0, len(partners))
		wantEqual(t, "error", nil, err)
		window, err := store.PageArgs{}.Window(store.DefaultPage{First: 20})
		wantEqual(t, "error", nil, err)
		members, err := w.Members(t.Context(), ann, ids, window)
		for id, want := range map[model.ConversationID]int{theirs.ID: 2, anns.ID: 1, direct.ID: 1} {
			wantEqual(t, "members", want, len(members[id].Items))
		}
		wantEqual(t, "error", nil, err)
		byID := model.MemberID{Conversation: theirs.ID, User: bob.UserID}
		found, err := w.MembersByID(t.Context(), ann, []model.MemberID{byID})
		wantEqual(t, "by id", 0, len(found))
		wantEqual(t, "error", nil, err)

		w.unchanged(t, func() {
			_, err = w.SendMessage(t.Context(), bob, SendMessage{ConversationID: theirs.ID, Content: "too late"})
			wantCode(t, err, errs.NotFound)
			_, err = w.AddReaction(t.Context(), bob, m.ID, "🎉")
			wantCode(t, err, errs.NotFound)
			_, err = w.Rename(t.Context(), bob, theirs.ID, "too late")
			wantCode(t, err, errs.NotFound)
			_, err = w.MarkRead(t.Context(), bob, theirs.ID, 2)
			wantCode(t, err, errs.NotFound)
			_, err = w.Follow(t.Context(), bob, theirs.ID, nil)
			wantCode(t, err, errs.NotFound)
			_, err = w.CreateConversation(t.Context(), bob, CreateConversation{Members: w.members("ann")})
			wantCode(t, err, errs.Unauthenticated)
			_, err = w.OpenDirect(t.Context(), bob, ann.UserID)
			wantCode(t, err, errs.Unauthenticated)
			_, err = w.OpenDirect(t.Context(), ann, bob.UserID)
			wantMistakes(t, err, "NOT_FOUND userId")
			_, err = w.AddMembers(t.Context(), ann, anns.ID, w.members("bob"))
			wantMistakes(t, err, "NOT_FOUND members.0.userId")
			_, err = w.CreateConversation(t.Context(), ann, CreateConversation{Members: w.members("bob")})
			wantMistakes(t, err, "NOT_FOUND members.0.userId")
			_, err = w.RemoveMember(t.Context(), ann, anns.ID, bob.UserID)
			wantMistakes(t, err, "NOT_FOUND userId")
			_, err = w.ChangeRole(t.Context(), ann, anns.ID, bob.UserID, model.Admin)
			wantMistakes(t, err, "NOT_FOUND userId")
			_, err = w.TransferOwnership(t.Context(), ann, anns.ID, bob.UserID)
			wantMistakes(t, err, "NOT_FOUND userId")
		})
		w.send("ann", theirs.ID, "@bob is not here") // nor is mentioned
		mentions, err := countOf(w, "mentions")
		wantEqual(t, "mentions", 0, mentions)
		wantEqual(t, "error", nil, err)
		// The others are alone with the one who is gone: they are the last, and take the
		// conversation along.
		if err := w.Leave(t.Context(), ann, anns.ID); err != nil {
			t.Errorf("the last one leaves: %v", err)
		}
		w.mustLeave("bob")
		wantEqual(t, "roles", map[string]model.Role{"ann": model.Owner, "cat": model.Member}, w.roles(theirs.ID))
		wantEqual(t, "roles", map[string]model.Role{"ann": model.Member}, w.roles(direct.ID))
	})
}

// Two accounts that are being removed at the same time pass nothing on to each other.
func TestAnHeirIsNotBeingRemoved(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db, "ann", "bob", "cat")
		c, both := MustConversation(t, w, "ann", "bob", "cat"), MustConversation(t, w, "ann", "bob")
		w.mustMark("ann")
		w.mustMark("bob")
		w.mustLeave("ann")
		wantEqual(t, "roles", map[string]model.Role{"bob": model.Member, "cat": model.Owner}, w.roles(c.ID))
		wantEqual(t, "the conversation of the two", map[string]model.Role{}, w.roles(both.ID))
		w.mustLeave("bob")
		wantEqual(t, "roles", map[string]model.Role{"cat": model.Owner}, w.roles(c.ID))
		for _, e := range w.stored(c.ID) {
			var data struct{ UserID model.UserID }
			if err := json.Unmarshal(e.Data, &data); err != nil {
				t.Fatal(err)
			}
			if e.Kind == model.MemberRoleChanged && data.UserID != w.id("cat") {
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
		w := &world{Service: New(db, Options{}), t: t, actors: map[string]model.Actor{}}
		w.invite("ann", "gone", "last")
		kept := MustConversation(t, w, "ann", "gone")
		w.addReaction("gone", w.send("gone", kept.ID, "stays"), "👍")
		// ann's rows are deleted at once when the last member leaves, and the others' stay.
		ended := MustConversation(t, w, "last", "gone", "ann")
		w.sendMany("ann", ended.ID, store.SomeAtOnce)
		w.exec("INSERT INTO reactions (message_id, conversation_id, user_id, emoji, created_at) "+
			"SELECT id, conversation_id, author_id, '👍', created_at FROM messages WHERE conversation_id = ?", ended.ID)
		w.exec("INSERT INTO mentions (message_id, conversation_id, user_id, seq) "+
			"SELECT id, conversation_id, author_id, seq FROM messages WHERE conversation_id = ?", ended.ID)
		for range 2*reactionsAtOnce + 1 {
			w.addReaction("gone", w.send("gone", ended.ID, "hello @gone"), "👍")
		}
		for _, name := range []string{"gone", "ann", "last"} {
			if err := w.Leave(t.Context(), w.actor(name), ended.ID); err != nil {
				t.Fatal(err)
			}
		}
		both, err := w.OpenDirect(t.Context(), w.actor("gone"), w.id("last"))
		if err != nil {
			t.Fatal(err)
		}
		w.addReaction("gone", w.send("last", both.ID, "hello @gone"), "👍")
		w.sendMany("gone", both.ID, store.SomeAtOnce)
		w.mustLeave("last") // so the removal of gone ends it

		before := w.counts(t)
		if before["reactions"] != 2*reactionsAtOnce+3 || before["mentions"] < reactionsAtOnce {
			t.Fatalf("too little is left for this test: %v", before)
		}
		w.mustMark("gone")
		events := before["events"]
		for more, round := true, 0; more; round++ {
			if more, err = w.cleanUp("gone", nil); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			// as the deletion of ended conversations may: it deletes so many rows of each table
			if round == 0 {
				w.exec("DELETE FROM messages WHERE conversation_id = ?", ended.ID)
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
		if err := w.deleteEnded(t.Context()); err != nil {
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
		w := &world{Service: New(db, Options{}), t: t, actors: map[string]model.Actor{}}
		w.invite("ann", "ben")
		c, kept := MustConversation(t, w, "ann", "ben"), MustConversation(t, w, "ann", "ben")
		w.send("ann", kept.ID, "stays")
		w.sendMany("ben", c.ID, 2*store.SomeAtOnce+10)
		p := w.pull(t, "ann", c.ID, nil)
		if err := w.Leave(t.Context(), w.actor("ben"), c.ID); err != nil {
			t.Fatal(err)
		}
		messages, err := countOf(w, "messages")
		wantEqual(t, "error", nil, err)
		if err := w.Leave(t.Context(), w.actor("ann"), c.ID); err != nil {
			t.Fatal(err)
		}
		left, err := countOf(w, "messages")
		wantEqual(t, "error", nil, err)
		wantEqual(t, "messages that went with the last member", store.SomeAtOnce, messages-left)
		_, err = w.SendMessage(t.Context(), w.actor("ann"), SendMessage{ConversationID: c.ID, Content: "too late"})
		wantCode(t, err, errs.NotFound)
		_, err = w.Rename(t.Context(), w.actor("ann"), c.ID, "too late")
		wantCode(t, err, errs.NotFound)
		var title string
		if err := db.NewRaw("SELECT title FROM conversations WHERE id = ?", c.ID).Scan(t.Context(), &title); err != nil || title != "" {
			t.Errorf("it is still called %q (%v)", title, err)
		}

		if err := New(db, Options{}).deleteEnded(t.Context()); err != nil {
			t.Fatal(err)
		}
		for table, want := range map[string]int{"conversations": 1, "messages": 1, "events": 2} {
			n, err := countOf(w, table)
			wantEqual(t, table, want, n)
			wantEqual(t, "error", nil, err)
		}
		if !db.Postgres() {
			n, err := countOf(w, "message_tokens")
			wantEqual(t, "words", 1, n)
			wantEqual(t, "error", nil, err)
		}
		p.stop()
	})
}

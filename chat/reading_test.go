package chat_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/membership"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// unreadOf says how much somebody has not read: of each conversation, and in all.
func (w *fixture) unreadOf(
	who string, conversations ...*model.Conversation,
) (each []model.Unread, all model.Unread) {
	w.T.Helper()
	var ids []model.ConversationID
	for _, c := range conversations {
		ids = append(ids, c.ID)
	}
	found, err := w.Unread(w.T.Context(), w.Actor(who), ids)
	if err != nil {
		w.T.Fatal(err)
	}
	for _, id := range ids {
		each = append(each, found[id])
	}
	if all, err = w.UnreadInAll(w.T.Context(), w.Actor(who)); err != nil {
		w.T.Fatal(err)
	}
	// What the filter finds has something unread, and all that has is found.
	for _, unread := range []bool{true, false} {
		list, err := w.MyConversations(w.T.Context(), w.Actor(who),
			chat.ConversationFilter{Unread: &unread}, store.PageArgs{})
		if err != nil {
			w.T.Fatal(err)
		}
		for _, c := range list.Items {
			if i := slices.Index(ids, c.ID); i >= 0 && (each[i].Messages > 0) != unread {
				w.T.Errorf("%s: a conversation with %+v comes with unread = %v", who, each[i],
					unread)
			}
		}
	}
	return each, all
}

func TestUnreadCounts(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "cat", "zoe")
		c, other := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ben", "ann")
		want := func(who string, messages, mentions, otherMessages int) {
			t.Helper()
			each, all := w.unreadOf(who, c, other)
			chattest.WantEqual(t, "unread of "+who,
				[]model.Unread{{Messages: messages, Mentions: mentions}, {Messages: otherMessages}},
				each)
			chattest.WantEqual(t, "unread of "+who+" in all",
				model.Unread{Messages: messages + otherMessages, Mentions: mentions}, all)
		}
		want("ann", 0, 0, 0)
		first := w.Send("ben", c.ID, "for @ann")
		w.Send("ann", c.ID, "my own, for @ann and @ben")
		third := w.Send("ben", c.ID, "third")
		w.Send("ben", other.ID, "elsewhere")
		want("ann", 2, 1, 1)
		want("ben", 1, 1, 0)
		want("zoe", 0, 0, 0)
		w.Edit("ben", third, "third, for @ann") // an edit makes nothing unread, but may mention
		want("ann", 2, 2, 1)
		w.addReaction("ben", first, "👍") // no message
		want("ann", 2, 2, 1)
		w.delete("ben", first)
		want("ann", 1, 1, 1)
		w.Add("ann", c.ID, "cat") // who has nothing to read of what was before
		want("cat", 0, 0, 0)
		w.Send("ben", c.ID, "for @cat")
		want("cat", 1, 1, 0)
		want("ann", 2, 1, 1)
		if _, err := w.MarkRead(t.Context(), w.Actor("ann"), c.ID, third.Seq); err != nil {
			t.Fatal(err)
		}
		want("ann", 1, 0, 1)
		w.Edit("ben", third, "third, again for @ann") // which is read
		want("ann", 1, 0, 1)
		if _, err := w.MarkRead(t.Context(), w.Actor("ann"), c.ID, 1000); err != nil {
			t.Fatal(err)
		}
		want("ann", 0, 0, 1)
		w.MustRemoveAccount("ben") // whose words stay, of nobody
		want("ann", 0, 0, 1)
		want("cat", 1, 1, 0)
	})
}

func TestMutedConversationsDoNotCountInAll(t *testing.T) {
	t.Parallel()
	eachWithClock(t, func(t *testing.T, db *store.DB, clock *storetest.Clock) {
		w := mustFixture(t, db, "ann", "ben")
		a, b := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ben", "ann")
		w.Send("ben", a.ID, "for @ann")
		w.Send("ben", b.ID, "for @ann")
		w.Send("ben", b.ID, "more")
		mute := func(in chat.UpdateMembership) {
			t.Helper()
			in.ConversationID = b.ID
			if _, err := w.UpdateMembership(t.Context(), w.Actor("ann"), in); err != nil {
				t.Fatal(err)
			}
		}
		want := func(what string, messages, mentions int, muted bool) {
			t.Helper()
			each, all := w.unreadOf("ann", a, b)
			chattest.WantEqual(t, what+": each",
				[]model.Unread{{Messages: 1, Mentions: 1}, {Messages: 2, Mentions: 1}}, each)
			chattest.WantEqual(t, what+": in all",
				model.Unread{Messages: messages, Mentions: mentions}, all)
			list, err := w.MyConversations(t.Context(), w.Actor("ann"),
				chat.ConversationFilter{Muted: new(true)}, store.PageArgs{})
			if err != nil || (len(list.Items) == 1) != muted {
				t.Errorf("%s: %d are muted (%v)", what, len(list.Items), err)
			}
		}
		want("at first", 3, 2, false)
		mute(chat.UpdateMembership{Muted: new(true)})
		want("muted", 1, 1, true)
		clock.Forward(1000 * time.Hour)
		want("muted for ever", 1, 1, true)
		mute(chat.UpdateMembership{Muted: new(false)})
		want("not muted", 3, 2, false)
		mute(chat.UpdateMembership{MutedUntil: new(clock.Now().Add(time.Hour))})
		want("muted for an hour", 1, 1, true)
		clock.Forward(time.Hour)
		want("after the hour", 3, 2, false)
		w.Unchanged(t, func() {
			for want, in := range map[string]chat.UpdateMembership{
				"CONFLICT mutedUntil": {
					Muted:      new(false),
					MutedUntil: new(clock.Now().Add(time.Hour)),
				},
				"INVALID mutedUntil": {MutedUntil: new(clock.Now())},
			} {
				in.ConversationID = b.ID
				if _, err := w.UpdateMembership(t.Context(), w.Actor("ann"),
					in); outcome(err) != want {
					t.Errorf("got %v, want %s", err, want)
				}
			}
		})
	})
}

func TestUnreadIsCountedUpToAThousand(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c, other := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ann", "ben")
		var rows []*model.Message
		var mentions []*model.Mention
		for i := range chat.MaxUnread + 5 {
			m := &model.Message{
				ID: model.NewMessageID(), ConversationID: c.ID, Seq: int64(i) + 2,
				AuthorID: new(w.UserID("ben")), Content: "@ann", CreatedAt: db.Now(),
			}
			rows = append(rows, m)
			mentions = append(mentions, &model.Mention{
				ConversationID: c.ID,
				UserID:         w.UserID("ann"), Seq: m.Seq, MessageID: m.ID,
			})
		}
		for _, many := range []any{&rows, &mentions} {
			if _, err := db.NewInsert().Model(many).Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		w.Exec("UPDATE conversations SET last_seq = ?, last_message_seq = ? WHERE id = ?",
			chat.MaxUnread+6, chat.MaxUnread+6, c.ID)
		w.Send("ben", other.ID, "one more")
		want := func(messages int) {
			t.Helper()
			each, all := w.unreadOf("ann", c, other)
			chattest.WantEqual(t, "each", []model.Unread{
				{Messages: messages, Mentions: messages},
				{Messages: 1},
			}, each)
			chattest.WantEqual(t, "all", model.Unread{Messages: messages + 1, Mentions: messages},
				all)
		}
		want(chat.MaxUnread)
		for read, left := range map[int64]int{1 + 5: 1000, 1 + 6: 999} {
			w.Exec(
				"UPDATE conversation_members SET last_read_seq = ? WHERE conversation_id = ? AND "+
					"user_id = ?", read, c.ID, w.UserID("ann"))
			want(left)
		}
	})
}

func (w *fixture) seen(who string, m *model.Message) (names []string) {
	w.T.Helper()
	return w.seenIn(who, m, store.Window{Limit: 20}).Items
}

func (w *fixture) seenIn(
	who string, m *model.Message, window store.Window,
) (names store.Page[string]) {
	w.T.Helper()
	found, err := w.SeenBy(w.T.Context(), w.Actor(who), []model.MessageID{m.ID}, window)
	if err != nil {
		w.T.Fatal(err)
	}
	names.More, names.Before = found[m.ID].More, found[m.ID].Before
	for _, member := range found[m.ID].Items {
		names.Items = append(names.Items, w.name(&member.UserID))
	}
	return names
}

func TestSeenBy(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "author", "ann", "ben", "hider", "late", "zoe")
		receipts := func(who string, on bool) {
			w.Exec("UPDATE users SET send_read_receipts = ? WHERE id = ?", on, w.UserID(who))
		}
		receipts("hider", false)
		c := chattest.MustConversation(t, w.Fixture, "author", "ann", "ben", "hider")
		m := w.Send("author", c.ID, "seen?")
		w.Add("author", c.ID, "late")
		second := w.Send("ann", c.ID, "and this?")
		read := func(who string, seq int64) { w.Read(who, c.ID, seq) }
		chattest.WantEqual(t, "before anybody reads", []string(nil), w.seen("author", m))
		read("ben", m.Seq)
		read("hider", second.Seq)
		read("author", second.Seq)
		read("late", second.Seq)
		chattest.WantEqual(t, "the first, to its author", []string{"ben"}, w.seen("author", m))
		chattest.WantEqual(t, "the first, to who has seen it", []string{"ben"}, w.seen("ben", m))
		chattest.WantEqual(t, "the first, to who has joined since", []string{"ben"},
			w.seen("late", m))
		chattest.WantEqual(t, "the second", []string{"author", "late"}, w.seen("ann", second))
		chattest.WantEqual(t, "to who hides it", []string(nil), w.seen("hider", m))
		chattest.WantEqual(t, "to a stranger", []string(nil), w.seen("zoe", m))
		receipts("hider", true)
		chattest.WantEqual(t, "to who hid it", []string{"author", "hider", "late"},
			inNames(w.seen("hider", second)))
		receipts("ben", false)
		chattest.WantEqual(t, "of who hides it now", []string{"hider"}, w.seen("author", m))
		receipts("ben", true)

		// One page after the other, both ways, in order of joining.
		all := w.seen("ann", second)
		forwards, backwards := w.seenIn("ann", second, store.Window{Limit: 2}),
			w.seenIn("ann", second, store.Window{Limit: 2, Backwards: true})
		chattest.WantEqual(t, "the first two", store.Page[string]{Items: all[:2], More: true},
			forwards)
		chattest.WantEqual(t, "the last two", store.Page[string]{Items: all[1:], Before: true},
			backwards)
		cursor := func(name string) string {
			member, err := w.Member(t.Context(), w.Actor(name),
				model.MemberID{Conversation: c.ID, User: w.UserID(name)})
			if err != nil {
				t.Fatal(err)
			}
			return chat.MemberCursor(member)
		}
		chattest.WantEqual(t, "the rest", store.Page[string]{Items: all[2:], Before: true},
			w.seenIn("ann", second, store.Window{Limit: 2, Cursor: cursor(all[1])}))
		chattest.WantEqual(t, "those before", store.Page[string]{Items: all[:1], More: true},
			w.seenIn("ann", second, store.Window{
				Limit: 2, Backwards: true,
				Cursor: cursor(all[1]),
			}))

		if _, err := w.RemoveMember(t.Context(), w.Actor("author"), c.ID,
			w.UserID("ben")); err != nil {
			t.Fatal(err)
		}
		chattest.WantEqual(t, "without who is removed", []string{"hider"}, w.seen("author", m))
		w.Add("author", c.ID, "ben")
		read("ben", 1000)
		chattest.WantEqual(t, "who is back was not there when it came", []string{"hider"},
			w.seen("author", m))
		w.MustRemoveAccount("author")
		chattest.WantEqual(t, "once the author is gone", []string{"hider"}, w.seen("ann", m))
		chattest.WantEqual(t, "to who is gone", []string(nil), w.seen("author", m))
	})
}

func inNames(list []string) []string {
	slices.Sort(list)
	return list
}

func TestSeenByHidesWhatIsHidden(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "late")
		c := chattest.MustHidden(t, w.Fixture, "ann", "ben")
		m := w.Send("ann", c.ID, "hidden")
		if _, err := w.MarkRead(t.Context(), w.Actor("ben"), c.ID, m.Seq); err != nil {
			t.Fatal(err)
		}
		w.Add("ann", c.ID, "late")
		chattest.WantEqual(t, "to who was there", []string{"ben"}, w.seen("ann", m))
		chattest.WantEqual(t, "to who was not", []string(nil), w.seen("late", m))
	})
}

func TestLastReadIsMutual(t *testing.T) {
	t.Parallel()
	hides, lets := &model.User{ID: model.NewUserID()},
		&model.User{ID: model.NewUserID(), SendReadReceipts: true}
	other := &model.User{ID: model.NewUserID(), SendReadReceipts: true}
	for _, c := range []struct {
		viewer, of *model.User
		known      bool
	}{
		{hides, hides, true},
		{lets, lets, true},
		{hides, lets, false},
		{lets, hides, false},
		{lets, other, true},
	} {
		m := &model.ConversationMember{UserID: c.of.ID, LastReadSeq: 7}
		if got := chat.LastRead(m, c.viewer, c.of); (got != nil) != c.known || got != nil &&
			*got != 7 {
			t.Errorf("%v of %v: %v", c.viewer, c.of, got)
		}
	}
}

func TestDrafts(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for content, want := range map[string]string{
			"half a word": "half a word", " as it is \n": " as it is \n", "e\u0301": "e\u0301",
			"a\r\nb": "a\nb",
			"":       "", " \n\t": "", strings.Repeat("字", 4000): strings.Repeat("字", 4000),
		} {
			m, err := w.SaveDraft(t.Context(), w.Actor("ann"), c.ID, content)
			if err != nil {
				t.Fatal(err)
			}
			stored, err := membership.Of(t.Context(), db, w.Actor("ann"), c.ID)
			if err != nil {
				t.Fatal(err)
			}
			chattest.WantEqual(t, "as stored", m, stored)
			if (m.Draft != nil) != (want != "") || m.Draft != nil && *m.Draft != want {
				t.Errorf("%.20q: %v", content, m.Draft)
			}
		}
		if _, err := w.SaveDraft(t.Context(), w.Actor("ann"), c.ID, "kept"); err != nil {
			t.Fatal(err)
		}
		for content, want := range map[string]string{
			strings.Repeat("x", 4001): "TOO_LONG content", "a\x00": "INVALID content",
			"\xff": "INVALID content",
		} {
			if _, err := w.SaveDraft(t.Context(), w.Actor("ann"), c.ID,
				content); outcome(err) != want {
				t.Errorf("%.10q: %v", content, err)
			}
		}
		w.Send("ann", c.ID, "sent")
		mine, err1 := membership.Of(t.Context(), db, w.Actor("ann"), c.ID)
		other, err2 := membership.Of(t.Context(), db, w.Actor("ben"), c.ID)
		if err := errors.Join(err1, err2); err != nil || *mine.Draft != "kept" ||
			other.Draft != nil {
			t.Errorf("%v and %v (%v)", mine.Draft, other.Draft, err)
		}
	})
}

func TestTheSameKeyWithAnotherReply(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		a, b := w.Send("ben", c.ID, "a"), w.Send("ben", c.ID, "b")
		send := func(key, content string, to *model.Message) (*model.Message, error) {
			in := chat.SendMessage{ConversationID: c.ID, Content: content, IdempotencyKey: &key}
			if to != nil {
				in.ReplyToID = &to.ID
			}
			return w.SendMessage(t.Context(), w.Actor("ann"), in)
		}
		for i, first := range []*model.Message{nil, a, b} {
			key := fmt.Sprint("key", i)
			sent, err := send(key, "hello", first)
			if err != nil {
				t.Fatal(err)
			}
			w.Unchanged(t, func() {
				for _, again := range []*model.Message{nil, a, b} {
					got, err := send(key, "hello", again)
					if again == first {
						if err != nil || got.ID != sent.ID {
							t.Errorf("the same again is %v (%v)", got, err)
						}
						continue
					}
					chattest.WantMistakes(t, err, "CONFLICT idempotencyKey")
				}
				_, err := send(key, "hello!", first)
				chattest.WantMistakes(t, err, "CONFLICT idempotencyKey")
			})
			// An edit changes nothing about what was asked for, and neither does a deletion of what
			// is answered.
			edited := w.Edit("ann", sent, "edited")
			if i > 0 {
				w.delete("ben", first)
			}
			w.Unchanged(t, func() {
				got, err := send(key, "hello", first)
				if err != nil {
					t.Fatal(err)
				}
				chattest.WantEqual(t, "after the edit", edited, got)
				_, err = send(key, "edited", first)
				chattest.WantMistakes(t, err, "CONFLICT idempotencyKey")
			})
			deleted := w.delete("ann", sent)
			w.Unchanged(t, func() {
				got, err := send(key, "hello", first)
				if err != nil {
					t.Fatal(err)
				}
				chattest.WantEqual(t, "after the deletion", deleted, got)
			})
		}
		w.wantLogTells(t, c.ID)
	})
}

func TestEditsThatExpect(t *testing.T) {
	t.Parallel()
	eachWithClock(t, func(t *testing.T, db *store.DB, clock *storetest.Clock) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		m := w.Send("ann", c.ID, "first")
		try := func(content string, at *time.Time) (*model.Message, string) {
			in := chat.EditMessage{MessageID: m.ID, Content: content, Expected: &chat.Edited{at}}
			edited, err := w.EditMessage(t.Context(), w.Actor("ann"), in)
			return edited, outcome(err)
		}
		const conflict = "CONFLICT expectedEditedAt"
		w.Unchanged(t, func() {
			if _, got := try("second", new(clock.Now())); got != conflict {
				t.Errorf("never edited, but expected to be: %s", got)
			}
		})
		clock.Forward(time.Minute)
		second, got := try("second", nil)
		if got != "ok" || second.EditedAt == nil || !second.EditedAt.Equal(clock.Now()) {
			t.Fatalf("%s: %+v", got, second)
		}
		w.Unchanged(t, func() {
			if _, got := try("third", nil); got != conflict {
				t.Errorf("edited, but expected not to be: %s", got)
			}
			if _, got := try("third", new(second.EditedAt.Add(time.Microsecond))); got != conflict {
				t.Errorf("edited a microsecond before: %s", got)
			}
			if again, got := try("second", nil); got != "ok" ||
				!again.EditedAt.Equal(*second.EditedAt) {
				t.Errorf("the very same edit again: %s", got)
			}
		})
		clock.Forward(time.Minute)
		if third, got := try("third", new(second.EditedAt.In(time.FixedZone("",
			3600)))); got != "ok" || third.Content != "third" {
			t.Errorf("as expected: %s, %+v", got, third)
		}
		w.delete("ann", m)
		if _, got := try("fourth", nil); got != "CONFLICT messageId" {
			t.Errorf("once deleted: %s", got)
		}
		if _, err := w.EditMessage(t.Context(), w.Actor("ann"),
			chat.EditMessage{MessageID: model.NewMessageID(), Content: "x"}); !errs.Is(err,
			errs.NotFound) {
			t.Errorf("unknown: %v", err)
		}
	})
}

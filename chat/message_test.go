package chat_test

import (
	"strings"
	"sync"
	"testing"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

func TestSendMessageContent(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		content string
		want    string // where it is accepted
		fails   string // where it is not
	}{
		"plain":             {"hello", "hello", ""},
		"one character":     {"👋", "👋", ""},
		"trimmed":           {" \n\thello \r\n\u3000", "hello", ""},
		"inner white space": {"a  b\t\n\n c", "a  b\t\n\n c", ""},
		"CRLF":              {"a\r\nb\r\n\r\nc", "a\nb\n\nc", ""},
		"composed":          {"Cafe\u0301", "Caf\u00e9", ""},
		"right to left":     {"مرحبا \u200fאבג\u200e abc", "مرحبا \u200fאבג\u200e abc", ""},
		"emoji":             {"👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇳🇴", "👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇳🇴", ""},
		"looks like SQL": {
			"'); DROP TABLE messages; -- ? ?0 ?TableAlias \\",
			"'); DROP TABLE messages; -- ? ?0 ?TableAlias \\", "",
		},
		"looks like markup": {
			"<script>alert(1)</script> &amp;",
			"<script>alert(1)</script> &amp;", "",
		},
		"4000":                {strings.Repeat("ж", 4000), strings.Repeat("ж", 4000), ""},
		"4000 beyond the BMP": {strings.Repeat("😀", 4000), strings.Repeat("😀", 4000), ""},
		"4000 once composed": {
			strings.Repeat("e\u0301", 4000), strings.Repeat("é", 4000),
			"",
		},
		"4000 that do not compose": {
			strings.Repeat("q\u0301", 2000),
			strings.Repeat("q\u0301", 2000), "",
		},
		"4000 once CRLF is LF": {
			"x" + strings.Repeat("\r\n", 3998) + "x",
			"x" + strings.Repeat("\n", 3998) + "x", "",
		},
		"4000 once trimmed": {
			strings.Repeat(" ", 99) + strings.Repeat("x", 4000) + "\n",
			strings.Repeat("x", 4000), "",
		},
		"4001":                     {strings.Repeat("ж", 4001), "", "TOO_LONG content"},
		"4001 once composed":       {strings.Repeat("e\u0301", 4001), "", "TOO_LONG content"},
		"4002 that do not compose": {strings.Repeat("q\u0301", 2001), "", "TOO_LONG content"},
		// a composition exclusion
		"4001 because NFC is apart": {strings.Repeat("x", 3999) + "\u0958", "", "TOO_LONG content"},
		"empty":                     {"", "", "REQUIRED content"},
		"blank":                     {" \t\r\n\u00a0\u2003\u3000", "", "REQUIRED content"},
		"NUL":                       {"a\x00b", "", "INVALID content"},
		"NUL alone":                 {"\x00", "", "INVALID content"},
		"NUL at the end":            {"a\x00", "", "INVALID content"},
		"escape":                    {"\x1b[2J", "", "INVALID content"},
		"carriage return":           {"a\rb", "", "INVALID content"},
		"backspace":                 {"a\bb", "", "INVALID content"},
		"delete":                    {"a\x7fb", "", "INVALID content"},
		"C1 control":                {"a\u0085b", "", "INVALID content"},
		"not UTF-8":                 {"a\xffb", "", "INVALID content"},
		"cut in a character":        {"caf\xc3", "", "INVALID content"},
		"half a surrogate":          {"\xed\xa0\x80", "", "INVALID content"},
		"overlong":                  {"\xc0\x80", "", "INVALID content"},
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				send := func() (*model.Message, error) {
					return w.SendMessage(t.Context(), w.Actor("ann"),
						chat.SendMessage{ConversationID: c.ID, Content: test.content})
				}
				if test.fails != "" {
					w.Unchanged(t, func() {
						_, err := send()
						chattest.WantMistakes(t, err, test.fails)
					})
					return
				}
				sent, err := send()
				if err != nil {
					t.Fatal(err)
				}
				got, err := w.Message(t.Context(), w.Actor("ben"), sent.ID)
				if err != nil {
					t.Fatal(err)
				}
				chattest.WantEqual(t, "content", test.want, got.Content)
				chattest.WantEqual(t, "the message, as stored", sent, got)
			})
		}
	})
}

func TestSendMessageIsForMembers(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "olga", "ann", "zoe")
		c := chattest.MustConversation(t, w.Fixture, "olga", "ann")
		w.EndMembership("ann", c.ID)
		for name, test := range map[string]struct {
			nickname string
			id       model.ConversationID
		}{
			"stranger": {"zoe", c.ID}, "removed": {"ann", c.ID},
			"unknown": {"olga", model.NewConversationID()},
		} {
			for key, idempotencyKey := range map[string]*string{
				"with a key": new("k"),
				"without":    nil,
			} {
				t.Run(name+" "+key, func(t *testing.T) {
					w.Unchanged(t, func() {
						_, err := w.SendMessage(t.Context(), w.Actor(test.nickname),
							chat.SendMessage{
								ConversationID: test.id, Content: "hello",
								IdempotencyKey: idempotencyKey,
							})
						chattest.WantCode(t, err, errs.NotFound)
					})
				})
			}
		}
		// No number was used up by those who were refused.
		if m := w.Send("olga", c.ID, "hello"); m.Seq != 3 {
			t.Errorf("seq %d, want 3", m.Seq)
		}
	})
}

func TestSendMessageKey(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		key, content string
		fails        []string
	}{
		"one character":      {"k", "x", nil},
		"128":                {strings.Repeat("k", 128), "x", nil},
		"128 beyond the BMP": {strings.Repeat("😀", 128), "x", nil},
		"a space":            {" ", "x", nil},
		"129": {
			strings.Repeat("k", 129), "x",
			[]string{"TOO_LONG idempotencyKey"},
		},
		"empty":      {"", "x", []string{"REQUIRED idempotencyKey"}},
		"NUL":        {"a\x00", "x", []string{"INVALID idempotencyKey"}},
		"line break": {"a\nb", "x", []string{"INVALID idempotencyKey"}},
		"not UTF-8":  {"\xff", "x", []string{"INVALID idempotencyKey"}},
		"and blank":  {"", " ", []string{"REQUIRED content", "REQUIRED idempotencyKey"}},
		"and too long content": {
			strings.Repeat("k", 129), strings.Repeat("x", 4001),
			[]string{"TOO_LONG content", "TOO_LONG idempotencyKey"},
		},
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				in := chat.SendMessage{
					ConversationID: c.ID, Content: test.content,
					IdempotencyKey: &test.key,
				}
				if test.fails != nil {
					w.Unchanged(t, func() {
						_, err := w.SendMessage(t.Context(), w.Actor("ann"), in)
						chattest.WantMistakes(t, err, test.fails...)
					})
					return
				}
				first, err := w.SendMessage(t.Context(), w.Actor("ann"), in)
				if err != nil {
					t.Fatal(err)
				}
				w.Unchanged(t, func() {
					again, err := w.SendMessage(t.Context(), w.Actor("ann"), in)
					if err != nil {
						t.Fatal(err)
					}
					chattest.WantEqual(t, "the message, sent again", first, again)
				})
			})
		}
	})
}

func TestTheSameKeyIsTheSameMessage(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		author, conversation, content string // sent after ann's "hello" in a, with the same key
		seq                           int64  // 2 is that very message
		fails                         []string
	}{
		"same":                     {"ann", "a", "hello", 2, nil},
		"same but for white space": {"ann", "a", " hello\r\n", 2, nil},
		"other content":            {"ann", "a", "hello!", 0, []string{"CONFLICT idempotencyKey"}},
		"other case":               {"ann", "a", "Hello", 0, []string{"CONFLICT idempotencyKey"}},
		"other author":             {"ben", "a", "hello", 3, nil},
		"other author and content": {"ben", "a", "hi", 3, nil},
		"other conversation":       {"ann", "b", "hello", 2, nil},
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				ids := map[string]model.ConversationID{
					"a": chattest.MustConversation(t, w.Fixture, "ann", "ben").ID,
					"b": chattest.MustConversation(t, w.Fixture, "ben", "ann").ID,
				}
				send := func(author, conversation, content string) (*model.Message, error) {
					return w.SendMessage(t.Context(), w.Actor(author),
						chat.SendMessage{
							ConversationID: ids[conversation], Content: content,
							IdempotencyKey: new("key"),
						})
				}
				first, err := send("ann", "a", "hello")
				if err != nil {
					t.Fatal(err)
				}
				before := w.Rows()["events"]
				got, err := send(test.author, test.conversation, test.content)
				chattest.WantMistakes(t, err, test.fails...)
				if err == nil && got.Seq != test.seq {
					t.Errorf("seq %d, want %d", got.Seq, test.seq)
				}
				isNew := err == nil && got.ID != first.ID
				if added := w.Rows()["events"] - before; isNew != (added == 1) {
					t.Errorf("%d events were added", added)
				}
				// The numbers go on as if a repetition had not been.
				next := w.Stored(ids["a"])
				if m := w.Send("ben", ids["a"], "next"); m.Seq != int64(len(next))+1 {
					t.Errorf("the next message has seq %d after %d events", m.Seq, len(next))
				}
			})
		}
	})
}

func TestARepetitionIsNotAnnounced(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		var hints []int64
		w.Hints().Intercept(func(_ string, h feed.Hint) { hints = append(hints, h.Seq) })
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for _, content := range []string{"hello", "hello", "other", "", "hello"} {
			_, _ = w.SendMessage(t.Context(), w.Actor("ann"),
				chat.SendMessage{ConversationID: c.ID, Content: content, IdempotencyKey: new("k")})
		}
		chattest.WantEqual(t, "hints", []int64{1, 2}, hints)
	})
}

func TestTheSameKeyFromManyAtOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		const racers = 20
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		var got [racers]*model.Message
		var failed [racers]error
		var all sync.WaitGroup
		start := make(chan struct{})
		for i := range racers {
			all.Go(func() {
				<-start
				in := chat.SendMessage{
					ConversationID: c.ID, Content: "hello",
					IdempotencyKey: new("key"),
				}
				got[i], failed[i] = w.SendMessage(t.Context(), w.Actor("ann"), in)
			})
		}
		close(start)
		all.Wait()
		for i := range racers {
			if failed[i] != nil {
				t.Fatal(failed[i])
			}
			chattest.WantEqual(t, "the message", got[0], got[i])
		}
		chattest.WantEqual(t, "rows", map[string]int64{
			"conversations":        1,
			"conversation_members": 2, "messages": 1, "events": 2,
		}, w.Rows())
		if m := w.Send("ann", c.ID, "next"); m.Seq != 3 {
			t.Errorf("the next message has seq %d, want 3", m.Seq)
		}
	})
}

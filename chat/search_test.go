package chat_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
	"parley/text"
)

// search returns the contents that a user finds, newest first.
func (w *fixture) search(who string, in chat.Search) (contents []string) {
	w.T.Helper()
	found, err := w.SearchMessages(w.T.Context(), w.Actor(who), in, store.PageArgs{First: new(100)})
	if err != nil {
		w.T.Fatal(err)
	}
	for _, f := range found.Items {
		contents = append(contents, f.Message.Content)
	}
	return contents
}

func TestSearchFindsOnlyTheActorsConversations(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "cat", "zoe")
		open, hidden := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustHidden(t, w.Fixture, "ann", "ben")
		direct, err := w.OpenDirect(t.Context(), w.Actor("ann"), w.UserID("ben"))
		if err != nil {
			t.Fatal(err)
		}
		w.Send("ann", open.ID, "word open 1")
		w.Send("ann", hidden.ID, "word hidden 1")
		w.Send("ann", direct.ID, "word direct 1")
		w.Add("ann", open.ID, "cat")
		w.Add("ann", hidden.ID, "cat")
		w.Send("ben", open.ID, "word open 2")
		w.Send("ben", hidden.ID, "word hidden 2")
		want := func(who string, contents ...string) {
			t.Helper()
			chattest.WantEqual(t, "what "+who+" finds", contents,
				w.search(who, chat.Search{Query: "WORD"}))
		}
		want("ann", "word hidden 2", "word open 2", "word direct 1", "word hidden 1", "word open 1")
		want("cat", "word hidden 2", "word open 2", "word open 1")
		want("zoe")
		// a filter by the removed author finds nothing
		for _, c := range []*model.Conversation{open, hidden, direct} {
			chattest.WantEqual(t, "what zoe finds", []string(nil),
				w.search("zoe", chat.Search{Query: "word", ConversationID: &c.ID}))
		}
		if err := w.Leave(t.Context(), w.Actor("cat"), open.ID); err != nil {
			t.Fatal(err)
		}
		want("cat", "word hidden 2")
		if _, err := w.RemoveMember(t.Context(), w.Actor("ann"), hidden.ID,
			w.UserID("cat")); err != nil {
			t.Fatal(err)
		}
		want("cat")
		w.Add("ann", hidden.ID, "cat")
		want("cat")
		w.Add("ann", open.ID, "cat")
		want("cat", "word open 2", "word open 1")
		w.MustRemoveAccount("cat")
		want("cat")
		// An ended conversation is removed from the index, and its rowids may be used again.
		if err := w.Leave(t.Context(), w.Actor("ben"), hidden.ID); err != nil {
			t.Fatal(err)
		}
		if err := w.Leave(t.Context(), w.Actor("ann"), hidden.ID); err != nil {
			t.Fatal(err)
		}
		w.Send("zoe", chattest.MustConversation(t, w.Fixture, "zoe", "ann").ID, "something else")
		want("ann", "word open 2", "word direct 1", "word open 1")
		want("zoe")
	})
}

func TestSearchFilters(t *testing.T) {
	t.Parallel()
	eachWithClock(t, func(t *testing.T, db *store.DB, clock *storetest.Clock) {
		w := mustFixture(t, db, "ann", "ben", "zoe")
		a, b := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ann", "ben")
		var sent []*model.Message
		for i, c := range []*model.Conversation{a, b, a, b} {
			clock.Forward(time.Microsecond)
			sent = append(sent, w.Send([]string{"ann", "ben"}[i/2], c.ID, fmt.Sprint("word ", i)))
		}
		at := func(i int) *time.Time { return &sent[i].CreatedAt }
		elsewhere := at(1).In(time.FixedZone("", 5*3600))
		for name, test := range map[string]struct {
			in   chat.Search
			want string
		}{
			"all":          {chat.Search{}, "3210"},
			"conversation": {chat.Search{ConversationID: &a.ID}, "20"},
			"unknown conversation": {
				chat.Search{ConversationID: new(model.NewConversationID())},
				"",
			},
			"author":              {chat.Search{AuthorID: new(w.UserID("ben"))}, "32"},
			"author with no part": {chat.Search{AuthorID: new(w.UserID("zoe"))}, ""},
			"author, conversation": {chat.Search{
				AuthorID:       new(w.UserID("ben")),
				ConversationID: &b.ID,
			}, "3"},
			"after":                 {chat.Search{SentAfter: at(1)}, "32"},
			"after, another zone":   {chat.Search{SentAfter: &elsewhere}, "32"},
			"before":                {chat.Search{SentBefore: at(2)}, "10"},
			"between":               {chat.Search{SentAfter: at(0), SentBefore: at(3)}, "21"},
			"between, turned round": {chat.Search{SentAfter: at(3), SentBefore: at(0)}, ""},
			"everything at once": {chat.Search{
				SentAfter: at(0), SentBefore: at(3),
				AuthorID: new(w.UserID("ann")), ConversationID: &b.ID,
			}, "1"},
		} {
			test.in.Query = "word"
			var got strings.Builder
			for _, content := range w.search("ann", test.in) {
				got.WriteString(strings.TrimPrefix(content, "word "))
			}
			chattest.WantEqual(t, name, test.want, got.String())
		}
		w.MustRemoveAccount("ben")
		chattest.WantEqual(t, "of a removed author", []string(nil),
			w.search("ann", chat.Search{Query: "word", AuthorID: new(w.UserID("ben"))}))
		chattest.WantEqual(t, "how many are still there", 4,
			len(w.search("ann", chat.Search{Query: "word"})))
	})
}

func TestSearchSeesEditsAndDeletions(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		m, other := w.Send("ben", c.ID, "apple pear"), w.Send("ben", c.ID, "apple")
		finds := func(query string, want ...string) {
			t.Helper()
			chattest.WantEqual(t, query, want, w.search("ann", chat.Search{Query: query}))
		}
		finds("apple", "apple", "apple pear")
		w.Edit("ben", m, "plum pear")
		finds("apple", "apple")
		finds("plum", "plum pear")
		finds("pear", "plum pear")
		w.Edit("ben", m, "!?") // it has no words
		finds("pear")
		w.Edit("ben", m, "cherry")
		finds("cherry", "cherry")
		w.delete("ben", m)
		finds("cherry")
		w.delete("ben", other)
		finds("apple")
		w.Send("ben", c.ID, "apple again")
		finds("apple", "apple again")
	})
}

// A page may end between messages of the same time. Messages that are sent meanwhile do not change
// the pages.
func TestSearchPages(t *testing.T) {
	t.Parallel()
	eachWithClock(t, func(t *testing.T, db *store.DB, clock *storetest.Clock) {
		w := mustFixture(t, db, "ann", "ben")
		const n = 23
		for i := range n {
			c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
			w.Send("ben", c.ID, fmt.Sprint("word ", i))
			if i%5 == 0 {
				clock.Forward(time.Microsecond)
			}
		}
		all, err := w.SearchMessages(t.Context(), w.Actor("ann"), chat.Search{Query: "word"},
			store.PageArgs{First: new(100)})
		if err != nil || len(all.Items) != n || all.More || all.Before {
			t.Fatalf("%d found, %+v (%v)", len(all.Items), all, err)
		}
		for i := range n - 1 {
			a, b := all.Items[i].Message, all.Items[i+1].Message
			if a.CreatedAt.Before(b.CreatedAt) || a.CreatedAt.Equal(b.CreatedAt) &&
				a.ID.String() <= b.ID.String() {
				t.Errorf("%v comes before %v", a, b)
			}
		}
		for size := 1; size <= n; size += 3 {
			for _, backwards := range []bool{false, true} {
				var got []*model.Message
				page := store.PageArgs{First: &size}
				if backwards {
					page = store.PageArgs{Last: &size}
				}
				for i := 0; ; i++ {
					found, err := w.SearchMessages(t.Context(), w.Actor("ann"),
						chat.Search{Query: "word"}, page)
					if err != nil {
						t.Fatal(err)
					}
					if i == 0 {
						w.Send("ben", chattest.MustConversation(t, w.Fixture, "ben", "ann").ID,
							"another one")
					}
					if backwards {
						got = append(foundMessages(found), got...)
						if !found.Before {
							break
						}
						page.Before = chat.FoundCursor(found.Items[0])
						continue
					}
					got = append(got, foundMessages(found)...)
					if !found.More {
						break
					}
					page.After = chat.FoundCursor(found.Items[len(found.Items)-1])
				}
				chattest.WantEqual(t, fmt.Sprint("pages of ", size, ", backwards: ", backwards),
					foundMessages(all), got)
			}
		}
		_, err = w.SearchMessages(t.Context(), w.Actor("ann"), chat.Search{Query: "word"},
			store.PageArgs{After: feed.MessageCursor(all.Items[0].Message)})
		chattest.WantCode(t, err, errs.BadUserInput)
		_, err = w.SearchMessages(t.Context(), w.Actor("ann"), chat.Search{Query: "word"},
			store.PageArgs{First: new(101)})
		chattest.WantCode(t, err, errs.BadUserInput)
	})
}

func foundMessages(found store.Page[*chat.Found]) (list []*model.Message) {
	for _, f := range found.Items {
		list = append(list, f.Message)
	}
	return list
}

func TestSearchQueries(t *testing.T) {
	t.Parallel()
	words := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "w%d ", i)
		}
		return b.String()
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.Send("ben", c.ID, "near "+words(30))
		w.Send("ben", c.ID,
			"AND or not NEAR, rock'n'roll: \"it\" is 3.14 & C++; foo_bar, a*b, tokens:w1 w2")
		for query, want := range map[string]int{ // how many are found; -1 is refused
			"near": 2, "NEAR": 2, "w1 w2": 2, "w2   w1": 2, "w29 w0": 1, "w29 w30": 0, "w": 0,
			"rock": 1, "rock'n'roll": 1,
			"NEAR(w1 w2)": 2, "NEAR(w1 w2, 5)": 0, "w1 AND w2": 1, "w1 OR w99": 0, "NOT w1": 1,
			"tokens:w1": 1, "tokens : w1": 1,
			"w*": 0, `"w1 w2"`: 2, `"w1`: 2, "w1\"": 2, "'w1'": 2, "w1' | 'w2": 2, "w1:*": 2,
			"w1 & !w2": 2, "w1 <-> w2": 2, "^w1": 2,
			"-w1": 2, "{tokens}": 1, "w1\\": 2, "\\'w1": 2, "?": -1, "w1 ? ?0": 0, "%": -1, "w_": 0,
			"foo_bar": 1, "3.14": 1, "c++": 1,
			"C": 1, "$1": 0, ";--": -1, "": -1, "  \n ": -1, "\"": -1, "*": -1, "''": -1, ":": -1,
			"&|!()<>": -1, "\\": -1,
			words(20): 1, words(21): -1, strings.Repeat("w1 ", 60): 2, strings.Repeat("x", 200): 0,
			strings.Repeat("x", 201): -1,
			strings.Repeat(" ", 201): -1, "w1\x00": -1, "\xff": -1, "w1\tw2\nw3": 1, "\u200b": -1,
			"\u0301": 0,
		} {
			found, err := w.SearchMessages(t.Context(), w.Actor("ann"), chat.Search{Query: query},
				store.PageArgs{})
			if want < 0 {
				if !errs.Is(err, errs.BadUserInput) {
					t.Errorf("%q: got %v, want BAD_USER_INPUT", query, err)
				}
				continue
			}
			if err != nil || len(found.Items) != want {
				t.Errorf("%q finds %d, want %d (%v)", query, len(found.Items), want, err)
			}
		}
	})
}

// For any content and query, both databases find what package text finds.
func TestSearchAgreesWithTokens(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	pieces := []string{
		"a", "b", "ab", "A", "é", "e\u0301", "ß", "SS", "Σ", "ς", "ı", "İ", "I", "i", "你", "好", "こ",
		"カ", "ー", "ｶ", "ไ", "ท", "한", "국", "अ", "्",
		"م", "ש", "ּ", "😀", "👍🏽", "👨‍👩‍👧", "🇳🇴", "❤️", "1", "½", "٣", "ﬁ", " ", " ", "\n", "\"",
		"'", "*", "\\", ":", "&", "|", "!", "(", ")", "^", "-",
		"+", "NEAR", "AND", "?", "%", "_", "$", ".", ",", "@", "\u200d", "\u200f", "\u00ad",
		"\U000e0101", "\u0378", "\ufffd", "～", "™", "§", "¼",
	}
	draw := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		return b.String()
	}
	var contents, queries []string
	for range 60 {
		contents = append(contents, "x"+draw(1+random.IntN(8)))
	}
	for range 250 {
		queries = append(queries, draw(1+random.IntN(3)))
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for i := range contents {
			contents := []string{text.Clean(contents[i])}
			if got := w.Send("ben", c.ID, contents[0]).Content; got != contents[0] {
				t.Errorf("%q is stored as %q", contents[0], got)
			}
		}
		for _, query := range queries {
			found, err := w.SearchMessages(t.Context(), w.Actor("ann"), chat.Search{Query: query},
				store.PageArgs{First: new(100)})
			terms := text.Terms(query)
			if len(terms) == 0 {
				if !errs.Is(err, errs.BadUserInput) {
					t.Errorf("%q: got %v, want BAD_USER_INPUT", query, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%q: %v", query, err)
				continue
			}
			var got, want []string
			for _, f := range found.Items {
				got = append(got, f.Message.Content)
				var whole strings.Builder
				for _, p := range f.Snippet() {
					whole.WriteString(p.Text)
				}
				if whole.String() != f.Message.Content {
					t.Errorf("%q: the snippet of %q is %q", query, f.Message.Content,
						whole.String())
				}
			}
			for _, content := range contents {
				tokens := text.Tokens(content)
				if !slices.ContainsFunc(terms,
					func(term string) bool { return !slices.Contains(tokens, term) }) {
					want = append(want, text.Clean(content))
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			chattest.WantEqual(t, fmt.Sprintf("what %q finds", query), want, got)
		}
	})
}

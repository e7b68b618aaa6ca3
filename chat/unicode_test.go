package chat_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
	"parley/text"
)

// Real text in its scripts, what finds it, and what does not.
var scripts = map[string]struct {
	content string
	found   []string
	not     []string
}{
	"Arabic": {
		"السلام عليكم ورحمة الله", []string{
			"عليكم", "السلام", "الله السلام", "«عليكم»",
			"\u200fعليكم\u200f",
		}, []string{"عليك", "سلام"},
	},
	"Arabic, presentation forms": {"\ufefb إله", []string{"لا", "\ufefb"}, []string{"ل"}},
	"Hebrew": {
		"שלום עולם, מה שלומך?",
		[]string{"שלום", "עולם שלום", "\u200fעולם", "מה"},
		[]string{"שלו"},
	},
	"Hebrew with points": {
		"בְּרֵאשִׁית בָּרָא",
		[]string{"בָּרָא", norm.NFD.String("בְּרֵאשִׁית"), norm.NFC.String("בְּרֵאשִׁית")},
		[]string{"ברא"},
	},
	"Right to left with marks": {
		"\u202bשלום\u202c abc\u200e 123",
		[]string{"שלום", "abc", "123"},
		[]string{"שלוםabc"},
	},
	"Devanagari": {
		"नमस्ते दुनिया, क्या हाल है?",
		[]string{"नमस्ते", "दुनिया", "क्या हाल"},
		[]string{"नमस", "दुनि"},
	},
	"Thai": {
		"สวัสดีชาวโลก",
		[]string{"สวัสดี", "ชาวโลก", "โลก", "สวัสดี โลก", "ก"},
		[]string{"โชค"},
	},
	"Chinese": {
		"我们明天在北京见面吧。",
		[]string{"北京", "明天", "明天 北京", "见面吧", "我", "北京见面"},
		[]string{"京北", "上海"},
	},
	"Chinese, beyond the BMP": {"𠮷野家で", []string{"𠮷野家", "𠮷", "野"}, []string{"吉"}},
	"Japanese": {
		"東京タワーでコーヒーを飲みました",
		[]string{"東京", "タワー", "コーヒー", "ｺｰﾋｰ", "飲みました", "タワー 東京"},
		[]string{"京都", "お茶"},
	},
	"Japanese, half width": {"ｶﾞｷﾞｸﾞ ﾃｽﾄ", []string{"ガギグ", "テスト", "ﾃｽﾄ"}, []string{"カキク"}},
	"Korean": {
		"안녕하세요 세계",
		[]string{"안녕하세요", "세계", norm.NFD.String("세계"), "세계 안녕하세요"},
		[]string{"안녕"},
	},
	"Greek": {
		"Ο ΣΊΣΥΦΟΣ και ο κόσμος",
		[]string{"Σίσυφος", "σίσυφοσ", "ΚΌΣΜΟΣ", norm.NFD.String("κόσμοσ")},
		[]string{"κοσμος", "κόσμ"},
	},
	"Turkish": {
		"Işık İstanbul kadar güzel",
		[]string{"Işık", "işık", "İSTANBUL", "güzel", norm.NFD.String("GÜZEL")},
		[]string{"ışık", "istanbul"},
	},
	"German": {
		"Die Straße ist GROẞ",
		[]string{"STRASSE", "strasse", "straße", "groß", "gross", "die"},
		[]string{"strase", "stra"},
	},
	"French": {
		"L’été à Orléans",
		[]string{"ÉTÉ", norm.NFD.String("orléans"), "l'été", "à"},
		[]string{"ete", "orleans"},
	},
	"Vietnamese": {
		norm.NFD.String("Tiếng Việt đẹp"),
		[]string{"tiếng", "VIỆT", norm.NFD.String("đẹp")},
		[]string{"viet"},
	},
	"Russian": {
		"Ещё Йод",
		[]string{"ЕЩЁ", norm.NFD.String("йод"), "йод ещё"},
		[]string{"еще"},
	},
	"Full width": {
		"Ｐａｒｌｅｙ ＡＢＣ１２３",
		[]string{"parley", "abc123", "ＰＡＲＬＥＹ"},
		[]string{"abc"},
	},
	"Ligatures": {"ﬁne oﬃce", []string{"fine", "OFFICE", "ﬁne"}, []string{"fi"}},
	"Digits":    {"١٢٣ 4２ x²", []string{"١٢٣", "42", "x2"}, []string{"123"}},
	"Emoji": {
		"party 🎉🎉 with 👩\u200d👩\u200d👧\u200d👦 and 👍🏽",
		[]string{"🎉", "party 🎉", "👩", "👩\u200d👩\u200d👧\u200d👦", "👍", "🎉\ufe0f"},
		[]string{"🎈"},
	},
	"Flags": {"🇳🇴 won", []string{"🇳🇴", "won"}, []string{"🇸🇪"}},
	"Script after script": {
		"今日はhello明日 день",
		[]string{"hello", "今日", "明日", "день"},
		[]string{"日h"},
	},
	"Lao, Khmer, Burmese": {
		"ສະບາຍດີ សួស្តី မင်္ဂလာပါ",
		[]string{"ສະບາຍ", "សួស្តី", "မင်္ဂလာ"},
		nil,
	},
}

func TestScripts(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for name, test := range scripts {
			m := w.Send("ben", c.ID, test.content)
			chattest.WantEqual(t, name+": what is stored", norm.NFC.String(test.content), m.Content)
		}
		for name, test := range scripts {
			content := norm.NFC.String(test.content)
			for _, query := range test.found {
				found, err := w.SearchMessages(t.Context(), w.Actor("ann"),
					chat.Search{Query: query}, store.PageArgs{})
				if err != nil {
					t.Errorf("%s: %q: %v", name, query, err)
					continue
				}
				there, marked := false, ""
				for _, f := range found.Items {
					if f.Message.Content == content {
						there, marked = true, marks(f.Snippet())
					}
				}
				if !there || !strings.Contains(marked, "[") && name != "Japanese, half width" {
					t.Errorf("%s: %q finds it: %v, as %s", name, query, there, marked)
				}
			}
			for _, query := range test.not {
				found, err := w.SearchMessages(t.Context(), w.Actor("ann"),
					chat.Search{Query: query}, store.PageArgs{})
				if err != nil {
					t.Errorf("%s: %q: %v", name, query, err)
				}
				for _, f := range found.Items {
					if f.Message.Content == content {
						t.Errorf("%s: %q finds it, as %s", name, query, marks(f.Snippet()))
					}
				}
			}
		}
	})
}

// marks writes a snippet with its matches in brackets.
func marks(snippet []*text.Part) string {
	var b strings.Builder
	for _, p := range snippet {
		if p.Match {
			fmt.Fprintf(&b, "[%s]", p.Text)
		} else {
			b.WriteString(p.Text)
		}
	}
	return b.String()
}

func TestMentions(t *testing.T) {
	t.Parallel()
	people := []string{
		"ann", "ann lee", "ann lee jr.", "straße", "Σίσυφος", "émile", "小明", "दीपा",
		"o'neil", "rock🎸star", "x_y", "7", "stranger",
	}
	tests := map[string]string{ // by what is written, who is mentioned, separated by |
		"@ann": "ann", "@ANN": "ann", "@Ａｎｎ": "ann", "hi @ann!": "ann", "(@ann)": "ann",
		"@ann's": "ann", "@ann, @ann": "ann", "\n@ann\n": "ann",
		"@ann lee": "ann lee", "@Ann Lee is here": "ann lee", "@ann leek": "ann",
		"@ann  lee": "ann", "@ann lee jr.": "ann lee jr.",
		"@ann lee jr": "ann lee", "@ann lee jr.!": "ann lee jr.", "@ann lee, @ann": "ann|ann lee",
		"@ann @ann lee": "ann|ann lee",
		"@anna":         "", "@ann_": "", "@ann1": "", "@anń": "", "@ann\u0301": "", "ann": "",
		"@": "", "@ ann": "", "@@ann": "ann", "@\u200fann": "",
		"mail@ann": "", "mail@ann.org": "", "é@ann": "", "e\u0301@ann": "", "1@ann": "",
		"_@ann": "", "小@ann": "", "write to ben.@ann": "ann",
		"@STRASSE": "straße", "@Straße": "straße", "@σίσυφοσ": "Σίσυφος", "@ΣΊΣΥΦΟΣ": "Σίσυφος",
		"@e\u0301mile": "émile", "@ÉMILE": "émile", "@emile": "",
		"@小明 你好": "小明", "@小明，你好": "小明", "@小明你好": "", "@दीपा कैसी हो": "दीपा", "@दीप": "",
		"@o'neil": "o'neil", "@O'NEIL's": "o'neil",
		"@rock🎸star": "rock🎸star", "@rock🎸stars": "", "@x_y": "x_y", "@x": "", "@7": "7",
		"@7up": "", "@stranger": "", "\u200f@ann\u200e": "ann",
		"👋@ann👋": "ann", "@ann\u200d": "ann", "@" + strings.Repeat("x", 100) + " @ann": "ann",
		"@all": "", "https://example.org/@ann": "ann",
		strings.Repeat("@nobody ", 50) + "@ann": "ann",
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "writer")
		for _, name := range people {
			w.Invite(name)
			w.Exec("UPDATE users SET nickname_key = ? WHERE id = ?", text.Fold(name),
				w.UserID(name))
		}
		c := chattest.MustConversation(t, w.Fixture, "writer", people[:len(people)-1]...)
		for content, want := range tests {
			m := w.Send("writer", c.ID, content)
			if got := strings.Join(w.mentioned(m), "|"); got != want {
				t.Errorf("%q mentions %q, want %q", content, got, want)
			}
			w.delete("writer", m)
		}
	})
}

func (w *fixture) mentioned(m *model.Message) []string {
	w.T.Helper()
	found, err := w.Mentioned(w.T.Context(), w.Actor("writer"), []model.MessageID{m.ID})
	if err != nil {
		w.T.Fatal(err)
	}
	return w.nicknamesOf(found[m.ID])
}

func TestMentionsStayWithThePerson(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "writer", "ann", "ben", "cat", "late")
		c := chattest.MustConversation(t, w.Fixture, "writer", "ann", "ben", "cat")
		m := w.Send("writer", c.ID, "@ann, @ben, @cat and @late")
		chattest.WantEqual(t, "as sent", []string{"ann", "ben", "cat"}, w.mentioned(m))
		// Names change hands: the message still means whom it meant.
		w.Exec("UPDATE users SET nickname = 'x', nickname_key = 'x' WHERE id = ?", w.UserID("ann"))
		w.Exec("UPDATE users SET nickname = 'ann', nickname_key = 'ann' WHERE id = ?",
			w.UserID("ben"))
		chattest.WantEqual(t, "after new names", []string{"ann", "ben", "cat"}, w.mentioned(m))
		w.Add("writer", c.ID, "late")
		chattest.WantEqual(t, "after somebody joined", []string{"ann", "ben", "cat"},
			w.mentioned(m))
		if err := w.Leave(t.Context(), w.Actor("cat"), c.ID); err != nil {
			t.Fatal(err)
		}
		chattest.WantEqual(t, "after somebody left", []string{"ann", "ben", "cat"}, w.mentioned(m))
		w.MustRemoveAccount("cat")
		chattest.WantEqual(t, "after an account was removed", []string{"ann", "ben"},
			w.mentioned(m))
		// An edit is as new: who is called ann now is ben, and late has come.
		m = w.Edit("writer", m, "@ann and @late")
		chattest.WantEqual(t, "after an edit", []string{"ben", "late"}, w.mentioned(m))
		m = w.Edit("writer", m, "nobody")
		chattest.WantEqual(t, "after an edit without names", []string(nil), w.mentioned(m))
	})
}

func TestAMessageFullOfNames(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "writer")
		crowd := w.Crowd(120)
		c := chattest.MustConversation(t, w.Fixture, "writer", crowd...)
		m := w.Send("writer", c.ID, "@"+strings.Join(crowd, " @"))
		// no more places are looked at
		chattest.WantEqual(t, "mentions", crowd[:100], w.mentioned(m))
		w.Send("writer", c.ID, strings.Repeat("@", 4000))
		w.Send("writer", c.ID, strings.Repeat("@a ", 1333))
	})
}

// Names that are made up are not looked up in the transaction that others wait for, however many
// they are; those of members are found among them.
func TestNamesThatAreMadeUp(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "writer", "ann", "ann---", "stranger")
		c := chattest.MustConversation(t, w.Fixture, "writer", "ann", "ann---")
		const maxPlaces = 100
		var made strings.Builder
		for i := range maxPlaces - 3 {
			fmt.Fprintf(&made, "@%d%s ", i, strings.Repeat("-", 30))
		}
		content := made.String() + "@ann----- @ann-- @stranger"
		if n := len(chat.DistinctNames(chat.MentionCandidates(content))); n < 1000 {
			t.Fatalf("the message has %d names only", n)
		}
		m := w.Send("writer", c.ID, content)
		chattest.WantEqual(t, "mentioned", []string{"ann", "ann---"}, w.mentioned(m))
		m = w.Edit("writer", w.Send("writer", c.ID, "nobody"), content)
		chattest.WantEqual(t, "mentioned by an edit", []string{"ann", "ann---"}, w.mentioned(m))
		for author, want := range map[string]int{"writer": 2, "stranger": 0} {
			o := w.mustOutgoing(t, author, chat.SendMessage{ConversationID: c.ID, Content: content})
			if n := len(chat.DistinctNames(o.Names())); n != want {
				t.Errorf("%d names of a message by %s are left, want %d", n, author, want)
			}
		}
		_, err := w.SendMessage(t.Context(), w.Actor("stranger"),
			chat.SendMessage{ConversationID: c.ID, Content: content})
		chattest.WantCode(t, err, errs.NotFound)
	})
}

func TestReactionsAreOneEmoji(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for stored, same := range map[string][]string{
			"❤️": {"❤", "❤️"}, "👍": {"👍", "👍\ufe0f"}, "👍🏽": {"👍🏽"}, "🇳🇴": {"🇳🇴"},
			"2️⃣": {"2️⃣", "2⃣"}, "#️⃣": {"#⃣"}, "☺️": {"☺"},
			"👩‍👩‍👧‍👦": {"👩‍👩‍👧‍👦"}, "🏳️‍🌈": {"🏳️‍🌈", "🏳‍🌈"}, "👁️‍🗨️": {"👁‍🗨", "👁️‍🗨"},
			"🏴󠁧󠁢󠁥󠁮󠁧󠁿": {"🏴󠁧󠁢󠁥󠁮󠁧󠁿"}, "👩🏻‍❤️‍💋‍👩🏿": {"👩🏻‍❤️‍💋‍👩🏿", "👩🏻‍❤‍💋‍👩🏿"},
			"©️": {"©"},
		} {
			m := w.Send("ben", c.ID, "react")
			for _, emoji := range same {
				w.addReaction("ann", m, emoji)
			}
			groups, err := w.Reactions(t.Context(), w.Actor("ben"), []model.MessageID{m.ID})
			if err != nil {
				t.Fatal(err)
			}
			chattest.WantEqual(t, stored, []*model.ReactionGroup{{
				MessageID: m.ID, Emoji: stored,
				Count: 1,
			}}, groups[m.ID])
			if err := w.takingBack("ann", m, same[0])(); err != nil {
				t.Error(err)
			}
		}
		if n, err := countOf(w, "reactions"); n != 0 || err != nil {
			t.Errorf("%d are left (%v)", n, err)
		}
		m := w.Send("ben", c.ID, "react")
		w.Unchanged(t, func() {
			for _, emoji := range []string{
				"", " ", "a", "1", "#", "👍👍", "👍 ", " 👍", "❤️👍", "🇳", "🇳🇳", "🇳🇴🇳🇴", "👍\u200d",
				"\u200d", "\ufe0f", "❤\ufe0e", "👍🏽🏽",
				"👍\x00", "\xf0\x9f", "😀\n", "👩‍👍", strings.Repeat("👍", 1000), ":+1:", "♥‍", "½",
				"中",
			} {
				if _, err := w.AddReaction(t.Context(), w.Actor("ann"), m.ID,
					emoji); outcome(err) != "INVALID emoji" {
					t.Errorf("%q: %v", emoji, err)
				}
				if _, err := w.RemoveReaction(t.Context(), w.Actor("ann"), m.ID,
					emoji); outcome(err) != "INVALID emoji" {
					t.Errorf("%q, taken back: %v", emoji, err)
				}
			}
		})
	})
}

// As long as allowed is as long as is searched, edited and shown, in every script.
func TestTheLongestMessages(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		for name, test := range map[string]struct{ piece, last string }{
			"one word": {"x", ""}, "Chinese": {"", ""}, "emoji": {"😀", "🎉"},
			"short words": {"a ", "z"}, "a ligature of 18": {"\ufdfa ", "z"},
			"marks": {"q\u0301", ""}, "spaces": {"a\u3000", "z"}, "Thai": {"ก", "ข"},
			"family": {"👨\u200d👩\u200d👧 ", "z"},
		} {
			n := (chat.MaxContent - text.Len(test.last)) / max(1, text.Len(test.piece))
			content := strings.Repeat(test.piece, n) + test.last
			if name == "Chinese" { // many that differ
				var b strings.Builder
				for i := range chat.MaxContent {
					b.WriteRune('一' + rune(i%400))
				}
				content, test.last = b.String(), "一丁"
			}
			m := w.Send("ben", c.ID, content)
			query := test.last
			if query == "" {
				query = content[:len(test.piece)*60]
			}
			if name == "one word" || name == "marks" {
				query = string([]rune(content)[:200]) // of a word that long, the beginning counts
			}
			found, err := w.SearchMessages(t.Context(), w.Actor("ann"), chat.Search{Query: query},
				store.PageArgs{First: new(1)})
			if err != nil || len(found.Items) != 1 || found.Items[0].Message.ID != m.ID {
				t.Errorf("%s: %d found (%v)", name, len(found.Items), err)
				continue
			}
			var shown strings.Builder
			for _, p := range found.Items[0].Snippet() {
				shown.WriteString(p.Text)
			}
			if n := text.Len(shown.String()); n > chat.MaxSnippet+2 {
				t.Errorf("%s: a snippet of %d", name, n)
			}
			w.Edit("ben", m, string([]rune(content)[1:])+"!")
			if _, err := w.EditMessage(t.Context(), w.Actor("ben"),
				chat.EditMessage{
					MessageID: m.ID,
					Content:   strings.Repeat("字", chat.MaxContent+1),
				}); outcome(
				err) != "TOO_LONG content" {
				t.Errorf("%s: %v", name, err)
			}
			w.delete("ben", m)
		}
	})
}

package backup_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/backup"
	"parley/chat"
	"parley/chat/chattest"
	"parley/model"
	"parley/seed"
	"parley/store"
	"parley/store/storetest"
)

func TestMain(m *testing.M) { chattest.Main(m) }

// story is a fixture with a conversation in which everything has happened.
type story struct {
	*chattest.Fixture
	group, direct model.ConversationID
	plain         *model.Message // seq 2, mentions ben
	reply         *model.Message // seq 3, answers plain
	deleted       *model.Message // seq 4, deleted by seq 6
	edited        *model.Message // seq 7, with a reaction of ben
	last          int64          // the newest seq of the group
	ann           model.UserID
	ben           model.UserID
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func mustStory(t *testing.T, db *store.DB) *story {
	t.Helper()
	w := &story{Fixture: chattest.New(t, db, "ann", "ben", "cy", "dan", "eve")}
	ctx, message := t.Context(), must[*model.Message](t)
	w.ann, w.ben = w.UserID("ann"), w.UserID("ben")
	w.group = chattest.MustConversation(t, w.Fixture, "ann", "ben", "cy").ID
	w.plain = message(w.SendMessage(ctx, w.Actor("ann"), chat.SendMessage{
		ConversationID: w.group, Content: "hello @ben, words", IdempotencyKey: new("once"),
	}))
	w.reply = message(w.SendMessage(ctx, w.Actor("ben"), chat.SendMessage{
		ConversationID: w.group, Content: "an answer", ReplyToID: &w.plain.ID,
	}))
	w.deleted = w.Send("cy", w.group, "to be deleted")
	message(w.AddReaction(ctx, w.Actor("ben"), w.deleted.ID, "👍"))
	message(w.DeleteMessage(ctx, w.Actor("cy"), w.deleted.ID))
	w.edited = w.Send("ann", w.group, "to be edited")
	w.Edit("ann", w.edited, "edited")
	message(w.AddReaction(ctx, w.Actor("ben"), w.edited.ID, "👍"))
	message(w.AddReaction(ctx, w.Actor("cy"), w.edited.ID, "👍"))
	message(w.RemoveReaction(ctx, w.Actor("cy"), w.edited.ID, "👍"))
	w.Add("ann", w.group, "dan", "eve")
	if err := w.Leave(ctx, w.Actor("dan"), w.group); err != nil {
		t.Fatal(err)
	}
	w.Read("ben", w.group, 7)
	must[*model.ConversationMember](t)(w.UpdateMembership(ctx, w.Actor("ben"),
		chat.UpdateMembership{ConversationID: w.group, Archived: new(true)}))
	w.direct = must[*model.Conversation](t)(w.OpenDirect(ctx, w.Actor("ben"), w.ann)).ID
	w.Send("ann", w.direct, "between us")
	hidden := chattest.MustHidden(t, w.Fixture, "cy", "ben")
	w.Send("cy", hidden.ID, "before")
	w.Add("cy", hidden.ID, "dan")
	w.MustRemoveAccount("eve")
	w.last = w.LastSeq(w.group)
	session := &model.SessionSecrets{
		Session: model.Session{
			ID: model.NewSessionID(), UserID: w.UserID("dan"),
			CreatedAt: db.Now(), LastUsedAt: db.Now(), ExpiresAt: db.Now().Add(time.Hour),
		},
		RefreshHash: make([]byte, 32),
	}
	if _, err := db.NewInsert().Model(session).Exec(ctx); err != nil {
		t.Fatal(err)
	}
	return w
}

func kindsOf(r *backup.Report) (kinds []string) {
	for _, f := range r.Findings {
		if !slices.Contains(kinds, f.Kind) {
			kinds = append(kinds, f.Kind)
		}
	}
	slices.Sort(kinds)
	return kinds
}

func mustBeSound(t *testing.T, db *store.DB) *backup.Report {
	t.Helper()
	r, err := backup.Check(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		t.Errorf("found although nothing is broken: %s: %s", f.Kind, f)
	}
	return r
}

// What the operations of chat leave behind breaks no invariant, also in the middle of a removal.
func TestCheckFindsNothingInASoundDatabase(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustStory(t, db)
		r := mustBeSound(t, db)
		if r.Accounts != 4 || r.Conversations != 3 || r.Messages != 6 || r.Newest.IsZero() {
			t.Errorf("got %s", r.Figures)
		}
		if err := w.MarkRemoved("ann"); err != nil {
			t.Fatal(err)
		}
		for more := true; more; {
			mustBeSound(t, db)
			var err error
			if more, err = w.CleanUpOnce("ann", nil); err != nil {
				t.Fatal(err)
			}
		}
		mustBeSound(t, db)
	})
}

func TestCheckFindsNothingInSeededData(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if _, err := seed.Fill(t.Context(), db, seed.Options{Size: seed.Small}); err != nil {
			t.Fatal(err)
		}
		if r := mustBeSound(t, db); r.Messages != int64(seed.Small.Messages) {
			t.Errorf("got %s", r.Figures)
		}
	})
}

// The names of the kinds that tests look for.
const (
	gap          = "the log has a gap or a doubled seq"
	lastSeq      = "last_seq is not the seq of the newest event"
	lastMessage  = "last_message_seq is not the seq of the newest message"
	times        = "the times of a conversation are not those of its newest events"
	order        = "an event is earlier than the one before it"
	beginning    = "a conversation begins twice, or without an event"
	about        = "an event is about a message that is missing"
	noEvent      = "a message has no event, or one that does not agree"
	noMessage    = "an event has no message"
	doubledID    = "a message id is doubled"
	changes      = "a message has other edits or deletions than its log"
	content      = "a deleted message has content, or another one has none"
	answers      = "a message answers one that is missing"
	keys         = "an idempotency key has no author or no request hash"
	reactionOf   = "a reaction has no message"
	reactionsLog = "the number of reactions is not the one in the log"
	mentionOf    = "a mention has no message"
	bounds       = "a member's seq is out of bounds"
	owners       = "a group does not have one owner"
	memberCount  = "a conversation has the wrong number of members"
	departed     = "a departure is not in the log"
	personal     = "an account that is being removed has personal data"
	refresh      = "a session cannot be refreshed"
	oneRow       = "a table has not its one row"
	noTokens     = "a message has no tokens, or a deleted one has"
	otherTokens  = "the tokens of a message are not those of its content"
	lostTokens   = "tokens have no message"
	beyond       = "a position is beyond event_position"
	refers       = "a row refers to one that is missing"
	members      = "the members are not those of the log"
	names        = "an account cannot be found by its names"
	fts          = "SQLite finds the file damaged"
)

// breaks are changes that no operation makes, and what Check finds then.
type breaks struct {
	name string
	do   func(w *story, exec func(query string, args ...any))
	want []string
	only string // "SQLite", "PostgreSQL"; "" for both
}

func allBreaks() []breaks {
	in := func(query string) func(*story, func(string, ...any)) {
		return func(w *story, exec func(string, ...any)) { exec(query, w.group) }
	}
	plain := func(query string) func(*story, func(string, ...any)) {
		return func(_ *story, exec func(string, ...any)) { exec(query) }
	}
	return []breaks{
		{
			"an event is lost", in("DELETE FROM events WHERE conversation_id = ? AND seq = 12"),
			[]string{gap},
			"",
		},
		{"a message and its event are lost", func(w *story, exec func(string, ...any)) {
			exec("DELETE FROM events WHERE conversation_id = ? AND seq = 3", w.group)
			exec("DELETE FROM messages WHERE conversation_id = ? AND seq = 3", w.group)
		}, []string{gap}, ""},
		{
			"the newest event is lost", in(`DELETE FROM events WHERE (conversation_id, seq) IN
			(SELECT id, last_seq FROM conversations WHERE id = ?)`),
			[]string{lastSeq, times, members},
			"",
		},
		{"a seq is doubled", func(w *story, exec func(string, ...any)) {
			exec("ALTER TABLE events DROP CONSTRAINT events_pkey")
			exec(`INSERT INTO events SELECT * FROM events WHERE conversation_id = ? AND seq = 12`,
				w.group)
		}, []string{gap}, "PostgreSQL"},
		{
			"last_seq is behind",
			in("UPDATE conversations SET last_seq = last_seq - 1 WHERE id = ?"),
			[]string{lastSeq},
			"",
		},
		{
			"last_seq is ahead",
			in("UPDATE conversations SET last_seq = last_seq + 1 WHERE id = ?"),
			[]string{lastSeq},
			"",
		},
		{
			"last_message_seq is behind",
			in("UPDATE conversations SET last_message_seq = 3 WHERE id = ?"),
			[]string{lastMessage},
			"",
		},
		{
			"the activity is old",
			in("UPDATE conversations SET last_activity_at = created_at WHERE id = ?"),
			[]string{times},
			"",
		},
		{"an event is from earlier", func(w *story, exec func(string, ...any)) {
			exec("UPDATE events SET at = ? WHERE conversation_id = ? AND seq = 9",
				w.plain.CreatedAt.Add(-time.Hour), w.group)
		}, []string{order}, ""},
		{
			"a conversation begins twice",
			in(`UPDATE events SET kind = 'conversation_created' WHERE conversation_id = ?
				AND seq = 12`),
			[]string{beginning},
			"",
		},
		{"an edit is of a message that is lost", func(w *story, exec func(string, ...any)) {
			exec("UPDATE events SET message_id = ? WHERE conversation_id = ? AND seq = 8",
				model.NewMessageID(), w.group)
		}, []string{about, changes}, ""},
		{
			"a message is lost", in("DELETE FROM messages WHERE conversation_id = ? AND seq = 3"),
			[]string{noMessage},
			"",
		},
		{"an event is of another message", func(w *story, exec func(string, ...any)) {
			exec("UPDATE events SET message_id = ? WHERE conversation_id = ? AND seq = 3",
				w.plain.ID, w.group)
		}, []string{noEvent, noMessage}, ""},
		{
			"an event is of another kind",
			in("UPDATE events SET kind = 'nothing' WHERE conversation_id = ? AND seq = 3"),
			[]string{noEvent},
			"",
		},
		{"a message is of another author", func(w *story, exec func(string, ...any)) {
			exec("UPDATE messages SET author_id = ? WHERE conversation_id = ? AND seq = 3", w.ann,
				w.group)
		}, []string{noEvent}, ""},
		{"a message is from another time", func(w *story, exec func(string, ...any)) {
			exec("UPDATE messages SET created_at = ? WHERE conversation_id = ? AND seq = 3",
				w.plain.CreatedAt.Add(-time.Hour), w.group)
		}, []string{noEvent}, ""},
		{"two messages have an id", func(w *story, exec func(string, ...any)) {
			exec("UPDATE messages SET id = ? WHERE conversation_id = ? AND seq = 3", w.plain.ID,
				w.group)
			exec("UPDATE events SET message_id = ? WHERE conversation_id = ? AND seq = 3",
				w.plain.ID, w.group)
		}, []string{answers, doubledID}, ""},
		{
			"a deletion is lost",
			in("UPDATE messages SET deleted_at = NULL WHERE conversation_id = ? AND seq = 4"),
			[]string{content, changes, noTokens, reactionsLog},
			"",
		},
		{
			"an edit is lost",
			in("UPDATE messages SET edited_at = NULL WHERE conversation_id = ? AND seq = 7"),
			[]string{changes},
			"",
		},
		{
			"a deleted message has content",
			in("UPDATE messages SET content = 'there' WHERE conversation_id = ? AND seq = 4"),
			[]string{content},
			"",
		},
		{
			"the request hash of a key is lost",
			in("UPDATE messages SET request_hash = NULL WHERE conversation_id = ? AND seq = 2"),
			[]string{keys},
			"",
		},
		{"an answer is to a message that is lost", func(w *story, exec func(string, ...any)) {
			exec("UPDATE messages SET reply_to_id = ? WHERE conversation_id = ? AND seq = 3",
				model.NewMessageID(), w.group)
		}, []string{answers}, ""},
		{
			"a reaction is lost", in("DELETE FROM reactions WHERE conversation_id = ?"),
			[]string{reactionsLog},
			"",
		},
		{"a reaction is to a deleted message", func(w *story, exec func(string, ...any)) {
			exec("UPDATE reactions SET message_id = ? WHERE conversation_id = ?", w.deleted.ID,
				w.group)
		}, []string{reactionOf, reactionsLog}, ""},
		{"a mention is in a message that is lost", func(w *story, exec func(string, ...any)) {
			exec("UPDATE mentions SET message_id = ? WHERE conversation_id = ?",
				model.NewMessageID(), w.group)
		}, []string{mentionOf}, ""},
		{"a read pointer is beyond", in(`UPDATE conversation_members SET last_read_seq = 1000
			WHERE conversation_id = ?`), []string{bounds}, ""},
		{"a member sees nothing", in(`UPDATE conversation_members SET hidden_seq = joined_seq
			WHERE conversation_id = ?`), []string{bounds}, ""},
		{"a member joins later", in(`UPDATE conversation_members SET joined_seq = 1000
			WHERE conversation_id = ?`), []string{bounds}, ""},
		{"archived beyond", in(`UPDATE conversation_members SET archived_seq = 1000
			WHERE conversation_id = ? AND archived_seq > 0`), []string{bounds}, ""},
		{"no owner", in(`UPDATE conversation_members SET role = 'ADMIN'
			WHERE conversation_id = ? AND role = 'OWNER'`), []string{owners, members}, ""},
		{"two owners", func(w *story, exec func(string, ...any)) {
			exec("DROP INDEX conversation_members_one_owner")
			exec("UPDATE conversation_members SET role = 'OWNER' WHERE conversation_id = ?",
				w.group)
		}, []string{owners, members}, ""},
		{"a member is lost", func(w *story, exec func(string, ...any)) {
			exec("DELETE FROM conversation_members WHERE conversation_id = ? AND user_id = ?",
				w.group, w.ben)
		}, []string{members}, ""},
		{
			"no members", in("DELETE FROM conversation_members WHERE conversation_id = ?"),
			[]string{memberCount, owners, members},
			"",
		},
		{"a direct conversation of one", func(w *story, exec func(string, ...any)) {
			exec("DELETE FROM conversation_members WHERE conversation_id = ? AND user_id = ?",
				w.direct, w.ben)
		}, []string{memberCount, members}, ""},
		{"a member who never joined", func(w *story, exec func(string, ...any)) {
			exec(`UPDATE conversation_members SET user_id = ?
				WHERE conversation_id = ? AND user_id = ?`, w.UserID("dan"), w.group, w.ben)
		}, []string{members}, ""},
		{"an ended conversation has members", func(w *story, exec func(string, ...any)) {
			exec("UPDATE conversations SET ended_at = created_at WHERE id = ?", w.group)
		}, []string{memberCount}, ""},
		{
			"a departure that never was",
			in("UPDATE departures SET seq = 2 WHERE conversation_id = ?"),
			[]string{departed},
			"",
		},
		{"a removed account has a name", func(w *story, exec func(string, ...any)) {
			exec("UPDATE users SET removed_at = created_at WHERE id = ?", w.UserID("dan"))
		}, []string{personal}, ""},
		{"an address has another key", func(w *story, exec func(string, ...any)) {
			exec("UPDATE users SET email_key = 'x' WHERE id = ?", w.ann)
		}, []string{names}, ""},
		{"a hash is cut off", func(_ *story, exec func(string, ...any)) {
			exec("UPDATE sessions SET refresh_hash = ?", []byte("short"))
		}, []string{refresh}, ""},
		{"the key of cursors is lost", plain("DELETE FROM cursor_key"), []string{oneRow}, ""},
		{"the epoch is lost", plain("DELETE FROM stream_epoch"), []string{oneRow}, ""},
		{
			"the tokens of a message are lost",
			in("UPDATE messages SET tokens = NULL WHERE conversation_id = ? AND seq = 2"),
			[]string{noTokens},
			"PostgreSQL",
		},
		{
			"a token of a message is lost",
			in(`UPDATE messages SET tokens = ts_delete(tokens, 'hello') WHERE conversation_id = ?
				AND seq = 2`),
			[]string{otherTokens},
			"PostgreSQL",
		},
		{
			"the tokens of a message are lost", in(`DELETE FROM message_tokens WHERE rowid =
			(SELECT rowid FROM messages WHERE conversation_id = ? AND seq = 2)`),
			[]string{noTokens},
			"SQLite",
		},
		{
			"a token of a message is lost",
			in(`UPDATE message_tokens SET tokens = 'hello' WHERE rowid =
			(SELECT rowid FROM messages WHERE conversation_id = ? AND seq = 2)`),
			[]string{otherTokens},
			"SQLite",
		},
		{
			"tokens are left",
			plain("INSERT INTO message_tokens (rowid, tokens) VALUES (999, 'x')"),
			[]string{lostTokens},
			"SQLite",
		},
		{
			"the full-text index is of another text",
			plain("UPDATE message_tokens_content SET c0 = c0 || ' more' WHERE id = 1"),
			[]string{fts, otherTokens},
			"SQLite",
		},
		{
			"a position is beyond the counter", plain("UPDATE event_position SET last = last - 1"),
			[]string{beyond},
			"SQLite",
		},
		{"the counter is lost", plain("DELETE FROM event_position"), []string{oneRow}, "SQLite"},
		{
			"positions go back",
			in("UPDATE events SET position = 1 WHERE conversation_id = ? AND seq = 9"),
			[]string{order},
			"SQLite",
		},
		{"an account is lost", func(w *story, exec func(string, ...any)) {
			exec("DELETE FROM users WHERE id = ?", w.ann)
		}, []string{refers}, ""},
	}
}

// Check finds each invariant that is broken, and nothing else.
func TestCheckFindsWhatIsBroken(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustStory(t, db)
		found := map[string]bool{}
		for _, b := range allBreaks() {
			if b.only != "" && (b.only == "PostgreSQL") != db.Postgres() {
				continue
			}
			r := mustBreak(t, w, b)
			slices.Sort(b.want)
			if diff := cmp.Diff(b.want, kindsOf(r)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", b.name, diff)
				for _, f := range r.Findings {
					t.Logf("%s: %s: %s", b.name, f.Kind, f)
				}
			}
			for _, kind := range b.want {
				found[kind] = true
			}
			for _, f := range r.Findings {
				if f.Table == "" || strings.Contains(f.Problem, "%!") {
					t.Errorf("a finding without a place: %#v", f)
				}
			}
		}
		mustBeSound(t, db) // every break was rolled back
	})
}

// mustBreak breaks the data in a transaction, checks it there, and rolls back.
func mustBreak(t *testing.T, w *story, b breaks) (r *backup.Report) {
	t.Helper()
	rollback := errors.New("roll back")
	err := w.DB.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) (err error) {
		exec := func(query string, args ...any) {
			t.Helper()
			if _, err := tx.NewRaw(query, args...).Exec(ctx); err != nil {
				t.Fatalf("%s: %v", b.name, err)
			}
		}
		// Without foreign keys, which would refuse some of the changes.
		if tx.Postgres() {
			exec("SET LOCAL session_replication_role = replica")
		} else {
			exec("PRAGMA defer_foreign_keys = ON")
		}
		b.do(w, exec)
		if r, err = backup.CheckIn(ctx, tx.Tx, tx.Postgres()); err != nil {
			t.Fatalf("%s: %v", b.name, err)
		}
		return rollback
	})
	if !errors.Is(err, rollback) {
		t.Fatal(err)
	}
	return r
}

// Numbers that never were are covered by the event that says so, and by nothing else.
func TestCheckAllowsARestoredHistory(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustStory(t, db)
		restored := func(first string, seq int64) *backup.Report {
			return mustBreak(t, w, breaks{name: "restored", do: func(
				w *story, exec func(string, ...any),
			) {
				exec(`INSERT INTO events (conversation_id, seq, kind, data, at, position)
					SELECT conversation_id, ?, 'history_restored', ?, at, position FROM events
					WHERE conversation_id = ? AND seq = ?`,
					seq, `{"first": `+first+`}`, w.group, w.last)
				exec(`UPDATE conversations SET last_seq = ? WHERE id = ?`, seq, w.group)
			}})
		}
		last := w.last
		if r := restored(fmt.Sprint(last+1), last+100); !r.Sound() {
			t.Errorf("a restored history is found: %v", r.Findings)
		}
		for _, first := range []string{
			fmt.Sprint(last), fmt.Sprint(last + 2), "null", `"x"`,
		} {
			if r := restored(first, last+100); !slices.Contains(kindsOf(r), gap) {
				t.Errorf("with first %s, got %v", first, r.Findings)
			}
		}
	})
}

// Check looks at every foreign key that the tables have.
func TestCheckKnowsEveryForeignKey(t *testing.T) {
	t.Parallel()
	db := storetest.MustSQLite(t)
	var keys []string
	err := db.NewSelect().TableExpr("sqlite_schema AS s, pragma_foreign_key_list(s.name) AS f").
		ColumnExpr(`s.name || '.' || f."from" || ' ' || f."table"`).OrderExpr("1").
		Scan(t.Context(), &keys)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(keys, backup.References()); diff != "" || len(keys) == 0 {
		t.Errorf("(-in the tables +checked):\n%s", diff)
	}
}

// A report has at most 20 findings of a kind.
func TestReportIsBounded(t *testing.T) {
	t.Parallel()
	w := mustStory(t, storetest.MustSQLite(t))
	w.SendMany("ann", w.group, 30)
	r := mustBreak(t, w, breaks{name: "all", do: func(_ *story, exec func(string, ...any)) {
		exec("DELETE FROM message_tokens")
	}})
	if len(r.Findings) != 20 || len(r.More) != 1 || r.More[0] != noTokens {
		t.Errorf("got %d findings, and more of %v", len(r.Findings), r.More)
	}
	var printed strings.Builder
	r.Print(&printed)
	if out := printed.String(); strings.Count(out, "tokens are missing") != 20 ||
		!strings.HasSuffix(out, "  and more\n") {
		t.Errorf("printed:\n%s", out)
	}
	if err := r.Err("FILE"); err == nil ||
		err.Error() != "FILE is not sound: 20 problems or more, of 1 kinds" {
		t.Errorf("got %v", err)
	}
}

package chat_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/uptrace/bun/migrate"

	"parley/chat"
	"parley/chat/chattest"
	"parley/membership"
	"parley/migrations"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// mustOpenOld opens a database with the tables from before the migration that lets messages be
// edited, searched and marked as read.
func mustOpenOld(t *testing.T, url string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	all, old := migrate.NewMigrations(), migrate.NewMigrations()
	if err := all.Discover(os.DirFS("../migrations")); err != nil {
		t.Fatal(err)
	}
	for _, m := range all.Sorted() {
		if m.Name <= "20261122000003" {
			old.Add(m)
		}
	}
	types := migrations.Dialect{
		UUID: "text", Time: "text", JSON: "text", Bytes: "blob",
		SortedText: "text",
	}
	if db.Postgres() {
		types = migrations.Dialect{
			Postgres: true, UUID: "uuid", Time: "timestamptz", JSON: "jsonb", Bytes: "bytea",
			SortedText: `text COLLATE "C"`,
		}
	}
	m := migrate.NewMigrator(db.DB, old, migrate.WithTemplateData(types),
		migrate.WithMarkAppliedOnSuccess(true))
	if err := m.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db
}

// After the migration, old messages can be searched, and old conversations stay archived until the
// next message. It is the same after a migration down and up again.
func TestMigrationOfStoredRows(t *testing.T) {
	t.Parallel()
	for kind, url := range map[string]func(testing.TB) string{
		"SQLite":     storetest.SQLiteURL,
		"PostgreSQL": storetest.PostgresURL,
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := mustOpenOld(t, url(t))
			w := mustFixture(t, db)
			w.InviteWithout([]string{"removed_at"}, "ann", "ben")
			const many = 1203 // more than are indexed at once
			full, quiet := model.NewConversationID(), model.NewConversationID()
			w.storeOld(full, many)
			w.storeOld(quiet, 0)
			up := func() {
				t.Helper()
				if _, err := migrations.Up(t.Context(), db.DB); err != nil {
					t.Fatal(err)
				}
			}
			check := func(what string) {
				t.Helper()
				w.checkMigrated(t, what, full, quiet, many)
			}
			up()
			check("after the migration")
			before := w.contents(full)
			migrator, err := migrations.New(db.DB, migrations.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := migrator.Down(t.Context()); err != nil {
				t.Fatal(err)
			}
			chattest.WantEqual(t, "archived, one migration down",
				[]string{"archived=true ", "archived=true "},
				w.dump(
					"SELECT CASE WHEN archived THEN 'true' ELSE 'false' END AS archived FROM "+
						"conversation_members WHERE user_id = ?", w.UserID("ann")))
			up()
			check("after going back and forth")
			after := w.contents(full)
			for _, table := range []string{
				"conversations", "messages", "events",
				"message_tokens",
			} {
				chattest.WantEqual(t, table, before[table], after[table])
			}
			m := w.Send("ben", full, "something quite new")
			chattest.WantEqual(t, "new messages that are found", []string{m.Content},
				w.search("ann", chat.Search{Query: "quite"}))
			if err := w.Leave(t.Context(), w.Actor("ben"), full); err != nil {
				t.Fatal(err)
			}
			if err := w.Leave(t.Context(), w.Actor("ann"), full); err != nil {
				t.Fatal(err)
			}
			chattest.WantEqual(t, "messages that are found after the conversation has ended",
				[]string(nil),
				w.search("ann", chat.Search{Query: "word"}))
		})
	}
}

// storeOld writes a conversation of ann, who has archived it, and ben. It has n messages, every
// third of which is deleted, and one more event after them.
func (w *fixture) storeOld(id model.ConversationID, n int) {
	w.T.Helper()
	now := w.DB.Now().Add(-time.Hour)
	w.Exec(
		`INSERT INTO conversations (id, kind, title, untitled, history, members_may_rename,
			last_seq, created_at, last_activity_at)
		VALUES (?, 'GROUP', 'old', false, 'FROM_START', false, ?, ?, ?)`, id, n+2, now, now)
	for i, name := range []string{"ann", "ben"} {
		w.Exec(
			`INSERT INTO conversation_members (conversation_id, user_id, role, joined_at,
				joined_seq, hidden_seq, last_read_seq, archived, pinned)
			VALUES (?, ?, ?, ?, 1, 0, 1, ?, false)`,
			id, w.UserID(name), []string{"OWNER", "MEMBER"}[i], now, i == 0)
	}
	event := func(seq int, kind model.EventKind, message any) string {
		return w.DB.NewRaw("(?, ?, ?, ?, ?, ?, ?, 1)", id, seq, string(kind), w.UserID("ben"),
			message, "{}", now).String()
	}
	events := []string{event(1, model.ConversationCreated, nil)}
	var messages []string
	for i := range n {
		m := model.NewMessageID()
		content, deleted := fmt.Sprintf("word Straße n%d 北京", i), any(nil)
		if i%3 == 2 {
			content, deleted = "", now
		}
		messages = append(messages, w.DB.NewRaw("(?, ?, ?, ?, ?, ?, ?)", m, id, i+2,
			w.UserID("ben"), content, now, deleted).String())
		events = append(events, event(i+2, model.MessageAdded, m))
	}
	events = append(events, event(n+2, model.ConversationRenamed, nil))
	if n > 0 {
		w.Exec(
			"INSERT INTO messages (id, conversation_id, seq, author_id, content, created_at, " +
				"deleted_at) VALUES " + strings.Join(messages, ", "))
	}
	w.Exec(
		"INSERT INTO events (conversation_id, seq, kind, actor_id, message_id, data, at, " +
			"position) VALUES " + strings.Join(events, ", "))
}

func (w *fixture) checkMigrated(
	t *testing.T, what string, full, quiet model.ConversationID, many int,
) {
	t.Helper()
	ctx := t.Context()
	found, err := w.Conversations(ctx, w.Actor("ann"), []model.ConversationID{full, quiet})
	if err != nil || found[full].LastMessageSeq != int64(many)+1 ||
		found[quiet].LastMessageSeq != 0 {
		t.Errorf("%s: %+v (%v)", what, found, err)
	}
	for name, want := range map[string]int{"ann": 2, "ben": 0} {
		list, err := w.MyConversations(ctx, w.Actor(name),
			chat.ConversationFilter{Archived: new(true)}, store.PageArgs{})
		if err != nil || len(list.Items) != want {
			t.Errorf("%s: %s has archived %d, want %d (%v)", what, name, len(list.Items), want, err)
		}
		for _, c := range list.Items {
			m, err := membership.Of(ctx, w.DB, w.Actor(name), c.ID)
			if err != nil || m.ArchivedSeq != c.LastSeq || !chat.Archived(c, m) {
				t.Errorf("%s: archived at %+v of %+v (%v)", what, m, c, err)
			}
		}
	}
	all := 0
	for page := (store.PageArgs{First: new(100)}); ; {
		found, err := w.SearchMessages(ctx, w.Actor("ann"), chat.Search{Query: "STRASSE 北京"}, page)
		if err != nil {
			t.Fatal(err)
		}
		if all += len(found.Items); !found.More {
			break
		}
		page.After = chat.FoundCursor(found.Items[len(found.Items)-1])
	}
	chattest.WantEqual(t, what+": how many are found", many-many/3, all)
	for _, i := range []int{0, 499, 501, 1000, many - 3} {
		want := []string{fmt.Sprintf("word Straße n%d 北京", i)}
		if i%3 == 2 {
			want = nil
		}
		chattest.WantEqual(t, fmt.Sprint(what, ": number ", i), want,
			w.search("ann", chat.Search{Query: fmt.Sprint("n", i)}))
	}
	each, _ := w.unreadOf("ann", &model.Conversation{ID: full}, &model.Conversation{ID: quiet})
	chattest.WantEqual(t, what+": unread", []model.Unread{{Messages: many - many/3}, {}}, each)
}

package chat

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/migrations"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// eachWithClock is storetest.Each with a clock that only the test moves.
func eachWithClock(t *testing.T, fn func(t *testing.T, db *store.DB, clock *storetest.Clock)) {
	t.Helper()
	for kind, url := range map[string]func(testing.TB) string{"SQLite": storetest.SQLiteURL, "PostgreSQL": storetest.PostgresURL} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			clock := storetest.NewClock()
			fn(t, mustOpenAt(t, url(t), clock.Now), clock)
		})
	}
}

func mustOpenAt(t *testing.T, url string, now func() time.Time) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), url, store.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := migrations.Up(t.Context(), db.DB); err != nil {
		t.Fatal(err)
	}
	return db
}

func (w *world) reply(author string, to *model.Message, content string) *model.Message {
	w.t.Helper()
	in := SendMessage{ConversationID: to.ConversationID, Content: content, ReplyToID: &to.ID}
	m, err := w.SendMessage(w.t.Context(), w.actor(author), in)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) edit(author string, m *model.Message, content string) *model.Message {
	w.t.Helper()
	edited, err := w.EditMessage(w.t.Context(), w.actor(author), EditMessage{MessageID: m.ID, Content: content})
	if err != nil {
		w.t.Fatal(err)
	}
	return edited
}

func (w *world) delete(nickname string, m *model.Message) *model.Message {
	w.t.Helper()
	deleted, err := w.DeleteMessage(w.t.Context(), w.actor(nickname), m.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return deleted
}

func (w *world) addReaction(nickname string, m *model.Message, emoji string) {
	w.t.Helper()
	if _, err := w.AddReaction(w.t.Context(), w.actor(nickname), m.ID, emoji); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) add(by string, id model.ConversationID, nicknames ...string) {
	w.t.Helper()
	if _, err := w.AddMembers(w.t.Context(), w.actor(by), id, w.members(nicknames...)); err != nil {
		w.t.Fatal(err)
	}
}

// MustHidden is MustConversation where who joins later does not see what was before.
func MustHidden(t *testing.T, w *world, owner string, others ...string) *model.Conversation {
	t.Helper()
	c, err := w.CreateConversation(t.Context(), w.actor(owner),
		CreateConversation{Members: w.members(others...), HistoryVisibility: model.FromJoining})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// nicknamesOf writes people in order of their nicknames.
func (w *world) nicknamesOf(ids []model.UserID) (names []string) {
	w.t.Helper()
	for name, actor := range w.actors {
		if slices.Contains(ids, actor.UserID) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// chatTables are the tables that tell of one conversation, by their column for it.
var chatTables = map[string]string{
	"conversations": "id", "conversation_members": "conversation_id", "messages": "conversation_id", "events": "conversation_id",
	"mentions": "conversation_id", "reactions": "conversation_id",
}

// contents reads all that is stored of a conversation, past the rules: the rows of each table, as
// text.
func (w *world) contents(id model.ConversationID) map[string][]string {
	w.t.Helper()
	all := map[string][]string{}
	for table, column := range chatTables {
		all[table] = w.dump(fmt.Sprintf("SELECT * FROM %s WHERE %s = ?", table, column), id)
	}
	if !w.db.Postgres() {
		all["message_tokens"] = w.dump(
			"SELECT rowid, tokens FROM message_tokens WHERE rowid IN (SELECT rowid FROM messages WHERE conversation_id = ?)", id)
	}
	return all
}

// dump writes the rows of a query as sorted text.
func (w *world) dump(query string, args ...any) (list []string) {
	w.t.Helper()
	rows, err := w.db.QueryContext(w.t.Context(), query, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		w.t.Fatal(err)
	}
	for rows.Next() {
		values := make([]sql.RawBytes, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			w.t.Fatal(err)
		}
		var b strings.Builder
		for i, column := range columns {
			fmt.Fprintf(&b, "%s=%s ", column, values[i])
		}
		list = append(list, b.String())
	}
	if err := rows.Err(); err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// tables names every table of the database, those of a full-text index included.
func (w *world) tables() (names []string) {
	w.t.Helper()
	query := "SELECT name FROM sqlite_master WHERE type = 'table'"
	if w.db.Postgres() {
		query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
	}
	if err := w.db.NewRaw(query).Scan(w.t.Context(), &names); err != nil {
		w.t.Fatal(err)
	}
	return names
}

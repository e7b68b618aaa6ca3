package chat_test

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/chat"
	"parley/migrations"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// eachWithClock is storetest.Each with a clock that only the test moves.
func eachWithClock(t *testing.T, fn func(t *testing.T, db *store.DB, clock *storetest.Clock)) {
	t.Helper()
	for kind, url := range map[string]func(testing.TB) string{
		"SQLite":     storetest.SQLiteURL,
		"PostgreSQL": storetest.PostgresURL,
	} {
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

func (w *fixture) reply(author string, to *model.Message, content string) *model.Message {
	w.T.Helper()
	in := chat.SendMessage{ConversationID: to.ConversationID, Content: content, ReplyToID: &to.ID}
	m, err := w.SendMessage(w.T.Context(), w.Actor(author), in)
	if err != nil {
		w.T.Fatal(err)
	}
	return m
}

func (w *fixture) delete(nickname string, m *model.Message) *model.Message {
	w.T.Helper()
	deleted, err := w.DeleteMessage(w.T.Context(), w.Actor(nickname), m.ID)
	if err != nil {
		w.T.Fatal(err)
	}
	return deleted
}

func (w *fixture) addReaction(nickname string, m *model.Message, emoji string) {
	w.T.Helper()
	if _, err := w.AddReaction(w.T.Context(), w.Actor(nickname), m.ID, emoji); err != nil {
		w.T.Fatal(err)
	}
}

// nicknamesOf writes people in order of their nicknames.
func (w *fixture) nicknamesOf(ids []model.UserID) (names []string) {
	w.T.Helper()
	for name, actor := range w.Actors {
		if slices.Contains(ids, actor.UserID) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// chatTables are the tables that tell of one conversation, by their column for it.
var chatTables = map[string]string{
	"conversations": "id", "conversation_members": "conversation_id", "messages": "conversation_id",
	"events":   "conversation_id",
	"mentions": "conversation_id", "reactions": "conversation_id",
}

// contents reads all that is stored of a conversation, past the rules: the rows of each table, as
// text.
func (w *fixture) contents(id model.ConversationID) map[string][]string {
	w.T.Helper()
	all := map[string][]string{}
	for table, column := range chatTables {
		all[table] = w.dump(fmt.Sprintf("SELECT * FROM %s WHERE %s = ?", table, column), id)
	}
	if !w.DB.Postgres() {
		all["message_tokens"] = w.dump(
			"SELECT rowid, tokens FROM message_tokens WHERE rowid IN (SELECT rowid FROM messages "+
				"WHERE conversation_id = ?)", id)
	}
	return all
}

// dump writes the rows of a query as sorted text.
func (w *fixture) dump(query string, args ...any) (list []string) {
	w.T.Helper()
	rows, err := w.DB.QueryContext(w.T.Context(), query, args...)
	if err != nil {
		w.T.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		w.T.Fatal(err)
	}
	for rows.Next() {
		values := make([]sql.RawBytes, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			w.T.Fatal(err)
		}
		var b strings.Builder
		for i, column := range columns {
			fmt.Fprintf(&b, "%s=%s ", column, values[i])
		}
		list = append(list, b.String())
	}
	if err := rows.Err(); err != nil {
		w.T.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// tables names every table of the database, those of a full-text index included.
func (w *fixture) tables() (names []string) {
	w.T.Helper()
	query := "SELECT name FROM sqlite_master WHERE type = 'table'"
	if w.DB.Postgres() {
		query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
	}
	if err := w.DB.NewRaw(query).Scan(w.T.Context(), &names); err != nil {
		w.T.Fatal(err)
	}
	return names
}

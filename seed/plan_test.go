package seed

import (
	"context"
	"database/sql"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/uptrace/bun"

	"parley/chat"
	"parley/feed"
	"parley/live"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// queryLog records the queries of a database.
type queryLog struct {
	mu      sync.Mutex
	queries []query
}

// query is the text of a query. Queries of Bun have their arguments in the text, those of
// store.Read have placeholders.
type query struct {
	text string
	args int // the number of placeholders
}

func (l *queryLog) BeforeQuery(
	ctx context.Context, _ *bun.QueryEvent,
) context.Context {
	return ctx
}

func (l *queryLog) AfterQuery(_ context.Context, e *bun.QueryEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.HasPrefix(e.Query, "SELECT") {
		q := query{text: e.Query}
		if e.Query == e.QueryTemplate {
			q.args = len(e.QueryArgs)
		}
		l.queries = append(l.queries, q)
	}
}

func (l *queryLog) drain() []query {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.queries
	l.queries = nil
	return taken
}

// A plan must not scan all of a table that grows with the number of messages. In plans of SQLite,
// tables have the aliases of the query.
var (
	wholeTable = regexp.MustCompile(
		`Seq Scan on (messages|events|conversations|conversation_members|reactions|mentions)\b`)
	wholeLiteTable = regexp.MustCompile(`SCAN (m|e|c|cm|r|mn|viewer)\b`)
	// an index that SQLite makes for this query alone, of all of the table
	withoutAnyIndex = regexp.MustCompile(`AUTOMATIC .*INDEX`)
)

func TestReadsUseIndexes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		mustFill(t, db, Size{People: 300, Conversations: 2500, Messages: 25_000}, 3)
		log := new(queryLog)
		plain := db.DB
		db.Watch(log)
		for name, read := range readsOf(t, db) {
			log.drain()
			if err := read(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			queries := log.drain()
			if len(queries) == 0 {
				t.Errorf("%s makes no query", name)
			}
			for _, query := range queries {
				plan := planOf(t, plain, db.Postgres(), query)
				if wholeTable.MatchString(plan) || wholeLiteTable.MatchString(plan) ||
					withoutAnyIndex.MatchString(plan) {
					t.Errorf("%s scans all of a table:\n%s\n%.1500s", name, plan, query.text)
				}
				if inOrder[name] && strings.Contains(plan, sorting(db)) {
					t.Errorf("%s sorts what an index has in order:\n%s\n%.1500s", name, plan,
						query.text)
				}
			}
		}
	})
}

// inOrder are the reads of pages that must not sort all of a list for one page.
var inOrder = map[string]bool{"messages": true, "messages before": true, "members": true}

func sorting(db *store.DB) string {
	if db.Postgres() {
		return "Sort"
	}
	return "USE TEMP B-TREE"
}

func planOf(t *testing.T, db *bun.DB, postgres bool, q query) string {
	t.Helper()
	explain, args := "EXPLAIN QUERY PLAN "+q.text, make([]any, q.args)
	if postgres && q.args > 0 {
		return keptPlanOf(t, db, q)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // not at the end of the test: SQLite has only one
	if postgres {
		explain = "EXPLAIN " + q.text
		// The cost of a page on a solid-state disk. With the default, PostgreSQL scans tables of
		// this size.
		if _, err := conn.ExecContext(t.Context(), "SET random_page_cost = 1.1"); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := conn.Conn.QueryContext(t.Context(), explain, args...)
	if err != nil {
		t.Fatal(err)
	}
	return linesOf(t, rows, postgres)
}

// keptPlanOf returns the generic plan of a prepared statement.
func keptPlanOf(t *testing.T, db *bun.DB, q query) string {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }() // restores the settings
	for _, statement := range []string{store.KeptPlans, "PREPARE kept AS " + q.text} {
		if _, err := tx.Tx.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%v: %s", err, statement)
		}
	}
	rows, err := tx.Tx.QueryContext(t.Context(),
		"EXPLAIN EXECUTE kept("+strings.Repeat("NULL, ", q.args-1)+"NULL)")
	if err != nil {
		t.Fatal(err)
	}
	plan := linesOf(t, rows, true)
	if _, err := tx.Tx.ExecContext(t.Context(), "DEALLOCATE kept"); err != nil {
		t.Fatal(err)
	}
	return plan
}

func linesOf(t *testing.T, rows *sql.Rows, postgres bool) string {
	t.Helper()
	defer func() { _ = rows.Close() }()
	var plan []string
	for rows.Next() {
		var line string
		to := []any{&line}
		if !postgres {
			to = []any{new(int), new(int), new(int), &line}
		}
		if err := rows.Scan(to...); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(plan, "\n")
}

// readsOf returns the reads of a user of the generated database.
func readsOf(t *testing.T, db *store.DB) map[string]func() error {
	t.Helper()
	ctx := t.Context()
	feeds := feed.New(db, feed.Options{})
	service := chat.New(db, feeds, live.New(db, feeds, live.Options{}), chat.Options{})
	m := new(model.Message) // one that has reactions
	err := db.NewSelect().Model(m).Join("JOIN reactions AS r ON r.message_id = m.id").
		Join("JOIN conversations AS c ON c.id = m.conversation_id AND c.kind = 'GROUP'").
		OrderExpr("m.seq DESC").Limit(1).Scan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	actor := model.Actor{UserID: *m.AuthorID}
	list, err := service.MyConversations(ctx, actor, chat.ConversationFilter{}, store.PageArgs{})
	if err != nil || len(list.Items) < 2 {
		t.Fatalf("%+v (%v)", list.Items, err)
	}
	var ids []model.ConversationID
	for _, c := range list.Items {
		ids = append(ids, c.ID)
	}
	one, newest := []model.ConversationID{m.ConversationID},
		store.Window{Limit: 50, Backwards: true}
	pages, err := service.Messages(ctx, actor, one, newest)
	if err != nil {
		t.Fatal(err)
	}
	page := pages[m.ConversationID]
	var messages []model.MessageID
	for _, m := range page.Items {
		messages = append(messages, m.ID)
	}
	reactions, err := service.Reactions(ctx, actor, []model.MessageID{m.ID})
	if err != nil || len(reactions[m.ID]) == 0 {
		t.Fatalf("%+v (%v)", reactions, err)
	}
	five, yes := store.Window{Limit: 5}, true
	search := func(in chat.Search) func() error {
		return func() error {
			return second(service.SearchMessages(ctx, actor, in,
				store.PageArgs{}))
		}
	}
	conversations := func(filter chat.ConversationFilter, page store.PageArgs) func() error {
		return func() error { return second(service.MyConversations(ctx, actor, filter, page)) }
	}
	return map[string]func() error{
		"conversations": conversations(chat.ConversationFilter{}, store.PageArgs{}),
		"conversations, further": conversations(chat.ConversationFilter{},
			store.PageArgs{After: chat.ConversationCursor(list.Items[1])}),
		"unread conversations": conversations(chat.ConversationFilter{Unread: &yes},
			store.PageArgs{}),
		"conversations by id": func() error {
			return second(service.Conversations(ctx, actor, ids))
		},
		"last messages": func() error { return second(service.LastMessages(ctx, actor, ids)) },
		"memberships":   func() error { return second(service.Memberships(ctx, actor, ids)) },
		"owners":        func() error { return second(service.Owners(ctx, actor, ids)) },
		"partners":      func() error { return second(service.Partners(ctx, actor, ids)) },
		"member counts": func() error { return second(service.MemberCounts(ctx, actor, ids)) },
		"members":       func() error { return second(service.Members(ctx, actor, ids, five)) },
		"unread":        func() error { return second(service.Unread(ctx, actor, ids)) },
		"unread in all": func() error { return second(service.UnreadInAll(ctx, actor)) },
		"messages":      func() error { return second(service.Messages(ctx, actor, one, newest)) },
		"messages before": func() error {
			before := store.Window{Limit: 50, Backwards: true, Cursor: feed.MessageCursor(m)}
			return second(service.Messages(ctx, actor, one, before))
		},
		"messages by id": func() error {
			return second(service.MessagesByID(ctx, actor, messages))
		},
		"mentions":  func() error { return second(service.Mentioned(ctx, actor, messages)) },
		"reactions": func() error { return second(service.Reactions(ctx, actor, messages)) },
		"reactors": func() error {
			groups := []chat.EmojiOn{{MessageID: m.ID, Emoji: reactions[m.ID][0].Emoji}}
			return second(service.Reactors(ctx, actor, groups, five))
		},
		"seen by": func() error {
			return second(service.SeenBy(ctx, actor, messages, five))
		},
		"search, a common word": search(chat.Search{Query: "the"}),
		"search, a rare word":   search(chat.Search{Query: "99999"}),
		"search in a conversation": search(chat.Search{
			Query:          "the",
			ConversationID: &m.ConversationID,
		}),
		"search by an author":       search(chat.Search{Query: "the", AuthorID: &actor.UserID}),
		"following from the middle": func() error { return followOne(ctx, feeds, actor, m) },
	}
}

func second[T any](_ T, err error) error { return err }

func followOne(
	ctx context.Context, feeds *feed.Service, actor model.Actor, m *model.Message,
) error {
	after := m.Seq - 1
	events, err := feeds.Follow(ctx, actor, m.ConversationID, feed.AfterSeq(&after))
	if err != nil {
		return err
	}
	for _, err := range events {
		return err
	}
	return nil
}

package chat_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/feed"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// listed is an item of any list: its cursor and its id.
type listed struct{ Cursor, ID string }

// list is a list of package chat, as ann sees it.
type list struct {
	name      string
	byDefault store.DefaultPage
	page      func(store.PageArgs) (store.Page[listed], error)
	want      []listed // all of it, in order
}

// positions returns the index of each item in the list, or -1 if it is not in it.
func (l list) positions(items []listed) (positions []int) {
	for _, item := range items {
		positions = append(positions, slices.Index(l.want, item))
	}
	return positions
}

func span(from, to int) (positions []int) {
	for i := from; i < to; i++ {
		positions = append(positions, i)
	}
	return positions
}

func listOf[T any](items []T, cursor, id func(T) string) []listed {
	out := make([]listed, len(items))
	for i, item := range items {
		out[i] = listed{cursor(item), id(item)}
	}
	return out
}

func pager[T any](
	fetch func(store.PageArgs) (store.Page[T], error), cursor, id func(T) string,
) func(store.PageArgs) (store.Page[listed], error) {
	return func(p store.PageArgs) (store.Page[listed], error) {
		got, err := fetch(p)
		return store.Page[listed]{
			Items: listOf(got.Items, cursor, id), More: got.More,
			Before: got.Before,
		}, err
	}
}

// listLength is more than any page holds.
const listLength = 103

// longLists are three lists of listLength items each.
func longLists(t *testing.T, db *store.DB) []list {
	t.Helper()
	w := mustFixture(t, db, "ann", "ben")
	return []list{conversationsOf(t, w), membersOf(t, w), messagesOf(t, w)}
}

func conversationsOf(t *testing.T, w *fixture) list {
	t.Helper()
	// Whole seconds, fractions and equal times would break an order by text, or one without a
	// second column.
	start := time.Date(2026, 11, 22, 10, 15, 30, 0, time.UTC)
	var all []*model.Conversation
	for i := range listLength - 2 { // membersOf and messagesOf add one each
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		c.LastActivityAt = start.Add(time.Duration(i/3) * 100_001 * time.Microsecond).
			Truncate(time.Duration(1+i%4*499_999) * time.Microsecond)
		all = append(all, c)
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if _, err := w.DB.NewUpdate().Model(&all).Column("last_activity_at").Bulk().
		Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	return list{
		name: "MyConversations", byDefault: store.DefaultPage{First: 20},
		page: pager(func(p store.PageArgs) (store.Page[*model.Conversation], error) {
			return w.MyConversations(t.Context(), w.Actor("ann"), chat.ConversationFilter{}, p)
		}, chat.ConversationCursor, func(c *model.Conversation) string { return c.ID.String() }),
		want: nil, // read after the other lists are made, because they add to this one
	}
}

func membersOf(t *testing.T, w *fixture) list {
	t.Helper()
	c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
	w.Crowd(listLength - 2)
	var all []*model.ConversationMember
	for _, actor := range w.Actors {
		all = append(all, &model.ConversationMember{
			ConversationID: c.ID, UserID: actor.UserID, Role: model.Member, JoinedAt: c.CreatedAt,
			JoinedSeq: 1 + rand.Int64N(30),
		})
	}
	_, err := w.DB.NewDelete().Model((*model.ConversationMember)(nil)).
		Where("conversation_id = ?", c.ID).Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.DB.NewInsert().Model(&all).Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b *model.ConversationMember) int {
		if a.JoinedSeq != b.JoinedSeq {
			return int(a.JoinedSeq - b.JoinedSeq)
		}
		return bytes.Compare(a.UserID[:], b.UserID[:])
	})
	id := func(m *model.ConversationMember) string { return m.ID().String() }
	return list{
		name: "Members", byDefault: store.DefaultPage{First: 50},
		page: pager(func(p store.PageArgs) (store.Page[*model.ConversationMember], error) {
			return w.MembersOf(t.Context(), w.Actor("ann"), c.ID, p)
		}, chat.MemberCursor, id),
		want: listOf(all, chat.MemberCursor, id),
	}
}

func messagesOf(t *testing.T, w *fixture) list {
	t.Helper()
	c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
	var all []*model.Message
	for i := range listLength {
		all = append(all, w.Send([]string{"ann", "ben"}[i%2], c.ID, fmt.Sprint(i)))
		if i%10 == 0 { // other events leave gaps between the messages
			w.SkipSeq(t, c.ID)
		}
	}
	id := func(m *model.Message) string { return m.ID.String() }
	return list{
		name: "Messages", byDefault: store.DefaultPage{Last: 50},
		page: pager(func(p store.PageArgs) (store.Page[*model.Message], error) {
			return w.MessagesOf(t.Context(), w.Actor("ann"), c.ID, p)
		}, feed.MessageCursor, id),
		want: listOf(all, feed.MessageCursor, id),
	}
}

// wantConversations reads the conversations from the table, and sorts them here.
func wantConversations(t *testing.T, db *store.DB) []listed {
	t.Helper()
	var all []*model.Conversation
	if err := db.NewSelect().Model(&all).Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b *model.Conversation) int {
		if order := b.LastActivityAt.Compare(a.LastActivityAt); order != 0 {
			return order
		}
		return bytes.Compare(b.ID[:], a.ID[:])
	})
	return listOf(all, chat.ConversationCursor,
		func(c *model.Conversation) string { return c.ID.String() })
}

func eachList(t *testing.T, fn func(t *testing.T, l list)) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for _, l := range longLists(t, db) {
			if l.want == nil {
				l.want = wantConversations(t, db)
			}
			if len(l.want) != listLength {
				t.Fatalf("%s has %d items", l.name, len(l.want))
			}
			t.Run(l.name, func(t *testing.T) { fn(t, l) })
		}
	})
}

func TestPages(t *testing.T) {
	t.Parallel()
	eachList(t, func(t *testing.T, l list) {
		t.Run("refusals", func(t *testing.T) { testPageRefusals(t, l) })
		t.Run("forwards", func(t *testing.T) { testPagesForwards(t, l) })
		t.Run("backwards", func(t *testing.T) { testPagesBackwards(t, l) })
	})
}

type pageTest struct {
	page         store.PageArgs
	from, to     int
	before, more bool
}

func testPage(t *testing.T, l list, name string, test pageTest) {
	t.Run(name, func(t *testing.T) {
		got, err := l.page(test.page)
		if err != nil {
			t.Fatal(err)
		}
		chattest.WantEqual(t, "positions", span(test.from, test.to), l.positions(got.Items))
		chattest.WantEqual(t, "before and more", []bool{test.before, test.more},
			[]bool{got.Before, got.More})
	})
}

func testPagesForwards(t *testing.T, l list) {
	whole := len(l.want)
	third, last := l.want[2].Cursor, l.want[whole-1].Cursor
	tests := map[string]pageTest{
		"first 0": {store.PageArgs{First: new(0)}, 0, 0, false, true},
		"first 0 after the last": {
			store.PageArgs{First: new(0), After: last},
			whole, whole, true,
			false,
		},
		"first 1":   {store.PageArgs{First: new(1)}, 0, 1, false, true},
		"first 100": {store.PageArgs{First: new(100)}, 0, 100, false, true},
		"first 100 after the 3rd": {
			store.PageArgs{First: new(100), After: third},
			3, whole, true,
			false,
		},
		"first 1 after the last": {
			store.PageArgs{First: new(1), After: last},
			whole, whole, true,
			false,
		},
		"no size": {store.PageArgs{}, 0, l.byDefault.First, false, true},
		"no size after the 3rd": {
			store.PageArgs{After: third},
			3,
			3 + l.byDefault.First + l.byDefault.Last, true, true,
		},
	}
	if l.byDefault.Last > 0 {
		tests["no size"] = pageTest{store.PageArgs{}, whole - l.byDefault.Last, whole, true, false}
	}
	for name, test := range tests {
		testPage(t, l, name, test)
	}
	for _, size := range []int{3, 50, 100} {
		t.Run(fmt.Sprintf("all by %d", size), func(t *testing.T) { testWalkForwards(t, l, size) })
	}
}

func testPagesBackwards(t *testing.T, l list) {
	whole := len(l.want)
	third, last := l.want[2].Cursor, l.want[whole-1].Cursor
	tests := map[string]pageTest{
		"last 0": {store.PageArgs{Last: new(0)}, whole, whole, true, false},
		"last 1": {store.PageArgs{Last: new(1)}, whole - 1, whole, true, false},
		"last 100": {
			store.PageArgs{Last: new(100)},
			whole - 100, whole, true,
			false,
		},
		"last 2 before the 3rd": {
			store.PageArgs{Last: new(2), Before: third},
			0, 2, false,
			true,
		},
		"last 1 before the 3rd": {store.PageArgs{Last: new(1), Before: third}, 1, 2, true, true},
		"last 100 before the last": {
			store.PageArgs{Last: new(100), Before: last},
			whole - 101,
			whole - 1, true, true,
		},
		"last 1 before the first": {
			store.PageArgs{Last: new(1), Before: l.want[0].Cursor},
			0, 0,
			false, true,
		},
		"no size before the 3rd": {store.PageArgs{Before: third}, 0, 2, false, true},
	}
	for name, test := range tests {
		testPage(t, l, name, test)
	}
	for _, size := range []int{3, 50, 100} {
		t.Run(fmt.Sprintf("all by %d", size), func(t *testing.T) { testWalkBackwards(t, l, size) })
	}
}

func testPageRefusals(t *testing.T, l list) {
	here := l.want[5].Cursor
	tests := map[string]store.PageArgs{
		"first -1":           {First: new(-1)},
		"first 101":          {First: new(101)},
		"last -1":            {Last: new(-1)},
		"last 101":           {Last: new(101)},
		"first and last":     {First: new(1), Last: new(1)},
		"first and before":   {First: new(1), Before: here},
		"last and after":     {Last: new(1), After: here},
		"after and before":   {After: here, Before: here},
		"garbage":            {After: "garbage"},
		"not base64":         {After: "!"},
		"garbage before":     {Last: new(1), Before: "garbage"},
		"cut short":          {After: here[:len(here)-4]},
		"something appended": {After: here + "AAAA"},
		"much too long":      {After: string(bytes.Repeat([]byte("A"), 10_000))},
		"of people":          {After: store.NewCursor('u').Text("ann").String()},
	}
	for name, cursor := range map[string]string{
		"MyConversations": chat.ConversationCursor(new(model.Conversation)),
		"Members":         chat.MemberCursor(new(model.ConversationMember)),
		"Messages":        feed.MessageCursor(new(model.Message)),
	} {
		if name != l.name {
			tests["of "+name] = store.PageArgs{After: cursor}
		}
	}
	for name, page := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := l.page(page)
			chattest.WantCode(t, err, errs.BadUserInput)
			if len(got.Items) != 0 {
				t.Errorf("and yet there are %d items", len(got.Items))
			}
		})
	}
}

func testWalkForwards(t *testing.T, l list, size int) {
	var walked []listed
	for page := (store.PageArgs{First: &size}); ; {
		got, err := l.page(page)
		if err != nil {
			t.Fatal(err)
		}
		walked = append(walked, got.Items...)
		if before := page.After != ""; got.Before != before ||
			got.More != (len(walked) < len(l.want)) {
			t.Fatalf("after %d: before %v, more %v", len(walked), got.Before, got.More)
		}
		if !got.More || len(got.Items) == 0 {
			break
		}
		page.After = got.Items[len(got.Items)-1].Cursor
	}
	chattest.WantEqual(t, "the walk", span(0, len(l.want)), l.positions(walked))
}

func testWalkBackwards(t *testing.T, l list, size int) {
	var walked []listed
	for page := (store.PageArgs{Last: &size}); ; {
		got, err := l.page(page)
		if err != nil {
			t.Fatal(err)
		}
		walked = append(slices.Clone(got.Items), walked...)
		if more := page.Before != ""; got.More != more ||
			got.Before != (len(walked) < len(l.want)) {
			t.Fatalf("after %d: before %v, more %v", len(walked), got.Before, got.More)
		}
		if !got.Before || len(got.Items) == 0 {
			break
		}
		page.Before = got.Items[0].Cursor
	}
	chattest.WantEqual(t, "the walk", span(0, len(l.want)), l.positions(walked))
}

func TestNewestActivityComesFirst(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben", "zoe")
		a, b, c := chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ann", "ben"),
			chattest.MustConversation(t, w.Fixture, "ann", "zoe")
		wantOrder(t, w, "ann", c, b, a)
		wantOrder(t, w, "ben", b, a)
		w.Send("ben", a.ID, "up")
		wantOrder(t, w, "ann", a, c, b)
		wantOrder(t, w, "ben", a, b)
		wantOrder(t, w, "zoe", c)
		if _, err := w.SendMessage(t.Context(), w.Actor("ann"),
			chat.SendMessage{ConversationID: b.ID}); err == nil {
			t.Error("a blank message was sent")
		}
		wantOrder(t, w, "ann", a, c, b)
	})
}

func wantOrder(t *testing.T, w *fixture, nickname string, want ...*model.Conversation) {
	t.Helper()
	got, err := w.MyConversations(t.Context(), w.Actor(nickname), chat.ConversationFilter{},
		store.PageArgs{})
	if err != nil {
		t.Fatal(err)
	}
	id := func(c *model.Conversation) string { return c.ID.String() }
	chattest.WantEqual(t, nickname+"'s conversations", listOf(want, id, id),
		listOf(got.Items, id, id))
}

// texts collects the statements that run with its context, each once. It leaves out those of Run.
type texts struct {
	mu   sync.Mutex
	list map[string]bool
}

type textsKey struct{}

func (c *texts) of(ctx context.Context) context.Context {
	return context.WithValue(ctx, textsKey{}, c)
}

func (c *texts) BeforeQuery(ctx context.Context, e *bun.QueryEvent) context.Context {
	if ctx.Value(textsKey{}) == c {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.list[e.Query] = true
	}
	return ctx
}

func (*texts) AfterQuery(context.Context, *bun.QueryEvent) {}

// Each statement stays prepared on each connection, so the number of different texts must not
// depend on the arguments.
func TestListsPrepareFewStatements(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		asked := &texts{list: map[string]bool{}}
		db.Watch(asked)
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.Send("ben", c.ID, "hello")
		ann, ctx := w.Actor("ann"), asked.of(t.Context())
		members, err := w.Members(t.Context(), ann, []model.ConversationID{c.ID},
			store.Window{Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		memberCursor := chat.MemberCursor(members[c.ID].Items[0])
		messageCursor := feed.MessageCursor(&model.Message{Seq: 1})
		conversationCursor := chat.ConversationCursor(c)
		reactorCursor := chat.ReactorCursor(&model.Reaction{})
		few, many := []model.ConversationID{c.ID}, []model.ConversationID{}
		for range 30 {
			many = append(many, model.NewConversationID())
		}
		yes, no := true, false
		ask := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		for n := range store.MaxPage + 1 {
			for _, backwards := range []bool{false, true} {
				for _, cursor := range [][4]string{
					{},
					{messageCursor, memberCursor, conversationCursor, reactorCursor},
				} {
					for _, ids := range [][]model.ConversationID{few, many[:n%len(many)]} {
						ask(second(w.Messages(ctx, ann, ids,
							store.Window{Limit: n, Backwards: backwards, Cursor: cursor[0]})))
						ask(second(w.Members(ctx, ann, ids,
							store.Window{Limit: n, Backwards: backwards, Cursor: cursor[1]})))
					}
					messages, groups := []model.MessageID{}, []chat.EmojiOn{}
					for range n % len(many) {
						messages = append(messages, model.NewMessageID())
						groups = append(groups, chat.EmojiOn{MessageID: model.NewMessageID()})
					}
					ask(second(w.SeenBy(ctx, ann, messages,
						store.Window{Limit: n, Backwards: backwards, Cursor: cursor[1]})))
					ask(second(w.Reactors(ctx, ann, groups,
						store.Window{Limit: n, Backwards: backwards, Cursor: cursor[3]})))
					page := store.PageArgs{First: &n, After: cursor[2]}
					if backwards {
						page = store.PageArgs{Last: &n, Before: cursor[2]}
					}
					for _, filter := range []chat.ConversationFilter{
						{},
						{Archived: &yes},
						{Pinned: &no, Unread: &yes},
						{Muted: &yes, Unread: &no},
					} {
						ask(second(w.MyConversations(ctx, ann, filter, page)))
					}
				}
			}
			if n < len(many) {
				ask(second(w.Memberships(ctx, ann, many[:n])))
				ask(second(w.LastMessages(ctx, ann, many[:n])))
				ask(second(w.Unread(ctx, ann, many[:n])))
				ask(second(w.Conversations(ctx, ann, many[:n])))
			}
		}
		const ways = 2 * 2 // both directions, from an end or a cursor
		if n, want := len(asked.list), ways*(1+1+1+1+2)+4+1; n != want {
			t.Errorf("%d statements, not %d:\n%s", n, want,
				strings.Join(slices.Sorted(maps.Keys(asked.list)), "\n"))
		}
	})
}

func second[T any](_ T, err error) error { return err }

// The lists of messages read these messages by id. They do not read all messages of the actor's
// conversations, whatever the database knows about its tables.
func TestListsOfMessagesReadOnlyThese(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		asked := &texts{list: map[string]bool{}}
		db.Watch(asked)
		w := mustFixture(t, db, "ann")
		ctx, ann, id := asked.of(t.Context()), w.Actor("ann"), model.NewMessageID()
		_, err := w.SeenBy(ctx, ann, []model.MessageID{id}, store.Window{Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		groups := []chat.EmojiOn{{MessageID: id, Emoji: "👍"}}
		if _, err := w.Reactors(ctx, ann, groups, store.Window{Limit: 1}); err != nil {
			t.Fatal(err)
		}
		pages := 0
		for text := range asked.list {
			if !strings.Contains(text, "LIMIT") {
				continue // the query whether read receipts are on
			}
			pages++
			plan := w.plan(t, text)
			if !strings.Contains(plan, "messages_id") || strings.Contains(plan, "messages_1") ||
				strings.Contains(plan, "messages_pkey") {
				t.Errorf("%s\nis planned as\n%s", text, plan)
			}
		}
		if pages != 2 {
			t.Errorf("%d pages were read, want 2", pages)
		}
	})
}

// plan returns how the database runs the text of a page, whose arguments are a user, ids and a
// limit. On PostgreSQL it is the plan for any arguments, as store.Read uses it.
func (w *fixture) plan(t *testing.T, text string) string {
	t.Helper()
	if !w.DB.Postgres() {
		return strings.Join(w.dump("EXPLAIN QUERY PLAN "+strings.NewReplacer(
			"?1", "''", "?2", "'[]'", "?3", "1").Replace(text)), "\n")
	}
	var lines []string
	err := w.DB.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		for _, query := range []string{
			store.KeptPlans, "PREPARE page (uuid, uuid[], int) AS " + text,
		} {
			if _, err := tx.Tx.Tx.ExecContext(ctx, query); err != nil {
				return err
			}
		}
		rows, err := tx.Tx.Tx.QueryContext(ctx, "EXPLAIN EXECUTE page (NULL, NULL, 1)")
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				return err
			}
			lines = append(lines, line)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		_, err = tx.Tx.Tx.ExecContext(ctx, "DEALLOCATE page")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

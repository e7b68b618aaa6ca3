package seed

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"parley/chat"
	"parley/errs"
	"parley/feed"
	"parley/live"
	"parley/migrations"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
	"parley/text"
)

func TestMain(m *testing.M) { storetest.Main(m) }

func mustFill(t *testing.T, db *store.DB, size Size, seed uint64) *Filled {
	t.Helper()
	filled, err := Fill(t.Context(), db, Options{Size: size, Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	return filled
}

func mustRead[T any](t *testing.T, db *store.DB, order string) (rows []T) {
	t.Helper()
	if err := db.NewSelect().Model(&rows).OrderExpr(order).Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	return rows
}

// memberState is the part of a membership that the log has.
type memberState struct {
	Role                 model.Role
	At                   time.Time
	JoinedSeq, HiddenSeq int64
}

// reaction is a reaction that the log has, and that was not removed.
type reaction struct {
	Message model.MessageID
	User    model.UserID
	Emoji   string
}

// replayed is the state of a conversation by its log.
type replayed struct {
	Conversation model.Conversation
	Memberships  map[model.UserID]memberState
	Messages     map[model.MessageID]model.Message // without the fields that the log does not have
	Reactions    map[reaction]time.Time
	counts       map[reaction]int // of all users; the field User is not set
}

// replay replays a log, and checks that each actor was allowed to do what the event says.
func replay(t *testing.T, events []model.Event) *replayed {
	t.Helper()
	r := &replayed{
		Memberships: map[model.UserID]memberState{}, Messages: map[model.MessageID]model.Message{},
		Reactions: map[reaction]time.Time{}, counts: map[reaction]int{},
	}
	c := &r.Conversation
	var before model.Event
	for _, e := range events {
		if e.Seq != before.Seq+1 || e.At.Before(before.At) || e.Position < before.Position {
			t.Fatalf("%+v comes after %+v", e, before)
		}
		before = e
		c.LastSeq = e.Seq
		if r.apply(t, e) {
			c.LastActivityAt = e.At
		}
	}
	return r
}

// apply reports whether the event is activity.
func (r *replayed) apply(t *testing.T, e model.Event) bool {
	t.Helper()
	var data struct {
		model.ConversationCreatedData
		model.MemberData
		Emoji string
		Count int
	}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	actor, isMember := r.Memberships[*e.ActorID]
	if !isMember && e.Seq > 1 {
		t.Errorf("the actor of %+v is not a member", e)
	}
	mayAll := actor.Role == model.Owner || actor.Role == model.Admin
	c := &r.Conversation
	var m model.Message
	if e.MessageID != nil {
		if m = r.Messages[*e.MessageID]; e.Kind != model.MessageAdded &&
			(m.DeletedAt != nil || m.Seq <= actor.HiddenSeq) {
			t.Errorf("%+v is about a message that its actor does not see: %+v", e, m)
		}
	}
	active := true
	switch e.Kind {
	case model.ConversationCreated:
		*c = model.Conversation{
			ID: e.ConversationID, Kind: data.Kind, Title: data.Title, History: data.History,
			CreatedAt:        e.At,
			MembersMayRename: data.MembersMayRename, LastSeq: 1,
		}
		for _, m := range data.Members {
			r.Memberships[m.UserID] = memberState{Role: m.Role, At: e.At, JoinedSeq: 1}
		}
		if _, there := r.Memberships[*e.ActorID]; !there || e.Seq != 1 {
			t.Errorf("the beginning: %+v", e)
		}
	case model.ConversationRenamed:
		if c.Title == data.Title || !mayAll {
			t.Errorf("%+v renames nothing, or is not allowed", e)
		}
		c.Title = data.Title
	case model.SettingsChanged:
		if c.MembersMayRename == data.MembersMayRename || !mayAll {
			t.Errorf("%+v changes nothing, or is not allowed", e)
		}
		c.MembersMayRename = data.MembersMayRename
	case model.MemberAdded:
		if _, there := r.Memberships[data.UserID]; there || !mayAll {
			t.Errorf("%+v adds a member, or is not allowed", e)
		}
		s := memberState{Role: data.Role, At: e.At, JoinedSeq: e.Seq}
		if c.History == model.FromJoining {
			s.HiddenSeq = e.Seq - 1
		}
		r.Memberships[data.UserID] = s
	case model.MemberRemoved:
		if s, there := r.Memberships[data.UserID]; !there || s.Role == model.Owner || !mayAll &&
			*e.ActorID != data.UserID {
			t.Errorf("%+v removes a non-member, or is not allowed", e)
		}
		delete(r.Memberships, data.UserID)
	case model.MemberRoleChanged:
		s := r.Memberships[data.UserID]
		if s.Role == data.Role || actor.Role != model.Owner {
			t.Errorf("%+v changes nothing, or is not allowed", e)
		}
		s.Role = data.Role
		r.Memberships[data.UserID] = s
	case model.MessageAdded:
		c.LastMessageSeq = e.Seq
		r.Messages[*e.MessageID] = model.Message{
			ID: *e.MessageID, ConversationID: e.ConversationID, Seq: e.Seq, AuthorID: e.ActorID,
			CreatedAt: e.At,
		}
	case model.MessageEdited, model.MessageDeleted:
		active = false
		if m.AuthorID == nil || *m.AuthorID != *e.ActorID {
			t.Errorf("%+v is about a message of another author: %+v", e, m)
		}
		if m.EditedAt = &e.At; e.Kind == model.MessageDeleted {
			m.EditedAt, m.DeletedAt = nil, &e.At
		}
		r.Messages[m.ID] = m
	case model.ReactionAdded, model.ReactionRemoved:
		active = false
		key := reaction{*e.MessageID, data.UserID, data.Emoji}
		_, there := r.Reactions[key]
		if there != (e.Kind == model.ReactionRemoved) || data.UserID != *e.ActorID {
			t.Errorf("%+v: the reaction existed before: %t", e, there)
		}
		if emoji, ok := text.Emoji(data.Emoji); !ok || emoji != data.Emoji {
			t.Errorf("%q is not how that emoji is stored", data.Emoji)
		}
		if r.Reactions[key] = e.At; there {
			delete(r.Reactions, key)
		}
		all := reaction{Message: key.Message, Emoji: key.Emoji}
		if r.counts[all]++; there {
			r.counts[all] -= 2
		}
		if r.counts[all] != data.Count {
			t.Errorf("%+v, and by the log there are %d", e, r.counts[all])
		}
	default:
		t.Errorf("an event of kind %s", e.Kind)
	}
	return active
}

// The tables have the state that replaying the log gives, as after the operations of chat.
func TestTheTablesAgreeWithTheLog(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		size := Size{People: 45, Conversations: 60, Messages: 3000} // more than one transaction
		filled := mustFill(t, db, size, 7)
		people := byID(mustRead[*model.User](t, db, "u.id"),
			func(u *model.User) model.UserID { return u.ID })
		messages := mustRead[*model.Message](t, db, "m.conversation_id, m.seq")
		events := mustRead[model.Event](t, db, "e.conversation_id, e.seq")
		got := Size{len(people), len(mustRead[model.Conversation](t, db, "c.id")), len(messages)}
		if got != size || filled.Messages != size.Messages || filled.Events != len(events) {
			t.Errorf("got %+v and %d events, but Fill returned %+v", got, len(events), filled)
		}
		members := mustRead[*model.ConversationMember](t, db, "cm.user_id")
		reacted := mustRead[model.Reaction](t, db, "r.user_id")
		kinds := map[model.EventKind]int{}
		logs := map[model.ConversationID][]model.Event{}
		for _, e := range events {
			logs[e.ConversationID] = append(logs[e.ConversationID], e)
		}
		for _, c := range mustRead[model.Conversation](t, db, "c.id") {
			own := logs[c.ID]
			for _, e := range own {
				kinds[e.Kind]++
			}
			r := replay(t, own)
			opts := cmpopts.IgnoreFields(model.Conversation{}, "BaseModel", "Untitled", "DirectKey")
			wantEqual(t, "conversation", r.Conversation, c, opts)
			wantEqual(t, "members", r.Memberships, membershipsOf(t, c, members))
			wantEqual(t, "messages", r.Messages, messagesOf(t, c, messages))
			wantEqual(t, "reactions", r.Reactions, reactionsOf(c, reacted))
			checkTitle(t, c, own[0], people)
		}
		if len(kinds) != 11 {
			t.Errorf("kinds of events: %v", kinds)
		}
		checkPositions(t, db)
		checkWords(t, db, messages)
		checkMentions(t, db, messages, people, members)
	})
}

func byID[K comparable, V any](list []V, id func(V) K) map[K]V {
	all := make(map[K]V, len(list))
	for _, v := range list {
		all[id(v)] = v
	}
	return all
}

func wantEqual(t *testing.T, what string, want, got any, opts ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, opts...); diff != "" {
		t.Errorf("%s (-by the log +by the table):\n%s", what, diff)
	}
}

func membershipsOf(
	t *testing.T, c model.Conversation, members []*model.ConversationMember,
) map[model.UserID]memberState {
	t.Helper()
	memberships := map[model.UserID]memberState{}
	for _, m := range members {
		if m.ConversationID != c.ID {
			continue
		}
		if m.LastReadSeq < m.JoinedSeq || m.LastReadSeq > c.LastSeq || m.ArchivedSeq > c.LastSeq {
			t.Errorf("%+v has read or archived beyond the end of %+v", m, c)
		}
		memberships[m.UserID] = memberState{m.Role, m.JoinedAt, m.JoinedSeq, m.HiddenSeq}
	}
	return memberships
}

func messagesOf(
	t *testing.T, c model.Conversation, messages []*model.Message,
) map[model.MessageID]model.Message {
	t.Helper()
	own := map[model.MessageID]model.Message{}
	for _, m := range messages {
		if m.ConversationID != c.ID {
			continue
		}
		if m.ReplyToID != nil && own[*m.ReplyToID].Seq == 0 {
			t.Errorf("%+v replies to a message that is not before it", m)
		}
		deleted := m.DeletedAt != nil
		if deleted != (m.Content == "") || deleted != (m.RequestHash == nil) ||
			m.Content != text.Clean(m.Content) || text.Len(m.Content) > 4000 {
			t.Errorf("%+v is not as chat would store it", m)
		}
		own[m.ID] = model.Message{
			ID: m.ID, ConversationID: m.ConversationID, Seq: m.Seq, AuthorID: m.AuthorID,
			CreatedAt: m.CreatedAt,
			EditedAt:  m.EditedAt, DeletedAt: m.DeletedAt,
		}
	}
	return own
}

func reactionsOf(c model.Conversation, reacted []model.Reaction) map[reaction]time.Time {
	own := map[reaction]time.Time{}
	for _, r := range reacted {
		if r.ConversationID == c.ID {
			own[reaction{r.MessageID, r.UserID, r.Emoji}] = r.CreatedAt
		}
	}
	return own
}

// checkTitle checks the fields that the log does not have.
func checkTitle(
	t *testing.T, c model.Conversation, created model.Event, people map[model.UserID]*model.User,
) {
	t.Helper()
	var data model.ConversationCreatedData
	if err := json.Unmarshal(created.Data, &data); err != nil {
		t.Fatal(err)
	}
	var nicknames, ids []string
	for _, m := range data.Members {
		nicknames, ids = append(nicknames, people[m.UserID].Nickname),
			append(ids, m.UserID.String())
	}
	slices.Sort(ids)
	if c.Kind == model.Direct {
		if c.DirectKey == nil || *c.DirectKey != strings.Join(ids, " ") || c.Title != "" ||
			c.Untitled {
			t.Errorf("a direct conversation: %+v", c)
		}
	} else if c.DirectKey != nil || c.Title == "" || c.Untitled &&
		c.Title != strings.Join(nicknames, ", ") {
		t.Errorf("a group: %+v", c)
	}
}

// checkPositions checks that positions have the order of the events' times.
func checkPositions(t *testing.T, db *store.DB) {
	t.Helper()
	events := mustRead[model.Event](t, db, "e.position, e.at")
	positions := map[int64]bool{}
	for i, e := range events {
		positions[e.Position] = true
		if i > 0 && e.At.Before(events[i-1].At) {
			t.Fatalf("%+v comes after %+v", e, events[i-1])
		}
	}
	if db.Postgres() {
		if len(positions) < 2 {
			t.Errorf("%d transactions", len(positions))
		}
		return
	}
	var last int64
	if err := db.NewRaw("SELECT last FROM event_position").Scan(t.Context(), &last); err != nil {
		t.Fatal(err)
	}
	if len(positions) != len(events) || last != int64(len(events)) || events[0].Position != 1 {
		t.Errorf("%d events have %d positions, the last of them %d", len(events), len(positions),
			last)
	}
}

// checkWords compares the indexed words of all messages with those that chat would index.
func checkWords(t *testing.T, db *store.DB, messages []*model.Message) {
	t.Helper()
	query :=
		"SELECT m.id, t.tokens AS words FROM messages AS m JOIN message_tokens AS t ON t.rowid = " +
			"m.rowid"
	if db.Postgres() {
		query =
			"SELECT id, array_to_string(tsvector_to_array(tokens), ' ') AS words FROM messages " +
				"WHERE tokens IS NOT NULL"
	}
	var found []struct {
		ID    model.MessageID
		Words string
	}
	if err := db.NewRaw(query).Scan(t.Context(), &found); err != nil {
		t.Fatal(err)
	}
	got, want := map[model.MessageID][]string{}, map[model.MessageID][]string{}
	for _, row := range found {
		got[row.ID] = slices.Sorted(strings.SplitSeq(row.Words, " "))
	}
	for _, m := range messages {
		if m.DeletedAt == nil {
			want[m.ID] = slices.Sorted(slices.Values(text.Tokens(m.Content)))
		}
	}
	wantEqual(t, "words", want, got)
}

// checkMentions compares the mentions with the nicknames in the messages.
func checkMentions(
	t *testing.T, db *store.DB, messages []*model.Message, people map[model.UserID]*model.User,
	members []*model.ConversationMember,
) {
	t.Helper()
	byNickname := byID(slices.Collect(maps.Values(people)),
		func(u *model.User) string { return u.Nickname })
	want := map[model.MessageID]model.UserID{}
	for _, m := range messages {
		if nickname, _, found := strings.Cut(m.Content, " "); found &&
			strings.HasPrefix(nickname, "@") {
			want[m.ID] = byNickname[nickname[1:]].ID
		}
	}
	got := map[model.MessageID]model.UserID{}
	seqs := byID(messages, func(m *model.Message) model.MessageID { return m.ID })
	for _, m := range mustRead[model.Mention](t, db, "mn.seq") {
		got[m.MessageID] = m.UserID
		if of := seqs[m.MessageID]; of.Seq != m.Seq || of.ConversationID != m.ConversationID {
			t.Errorf("%+v is of %+v", m, of)
		}
	}
	if len(members) == 0 || len(want) == 0 {
		t.Error("no one is mentioned")
	}
	wantEqual(t, "mentions", want, got)
}

// The operations of chat work on the generated rows.
func TestOperationsWorkAfterwards(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		mustFill(t, db, Small, 1)
		feeds := feed.New(db, feed.Options{})
		service := chat.New(db, feeds, live.New(db, feeds, live.Options{}), chat.Options{})
		ctx := t.Context()
		m := new(model.Message) // the newest one in a group
		err := db.NewSelect().Model(m).
			Join("JOIN conversations AS c ON c.id = m.conversation_id AND c.kind = 'GROUP'").
			Where("m.deleted_at IS NULL").OrderExpr("m.created_at DESC").Limit(1).Scan(ctx)
		if err != nil {
			t.Fatal(err)
		}
		actor := model.Actor{UserID: *m.AuthorID}
		key := m.IdempotencyKey
		again, err := service.SendMessage(ctx, actor,
			chat.SendMessage{
				ConversationID: m.ConversationID, Content: "other",
				IdempotencyKey: key,
			})
		if errs.Correctable(err) == nil {
			t.Errorf("a key for another message: %+v (%v)", again, err)
		}
		sent, err := service.SendMessage(ctx, actor,
			chat.SendMessage{
				ConversationID: m.ConversationID, Content: "zyzzyva",
				ReplyToID: &m.ID,
			})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := service.EditMessage(ctx, actor,
			chat.EditMessage{MessageID: m.ID, Content: "quokka"}); err != nil {
			t.Fatal(err)
		}
		for word, want := range map[string]model.MessageID{"zyzzyva": sent.ID, "quokka": m.ID} {
			found, err := service.SearchMessages(ctx, actor, chat.Search{Query: word},
				store.PageArgs{})
			if err != nil || len(found.Items) != 1 || found.Items[0].Message.ID != want {
				t.Errorf("search for %s: %+v (%v)", word, found.Items, err)
			}
		}
		if _, err := service.AddReaction(ctx, actor, m.ID, "🦘"); err != nil {
			t.Error(err)
		}
		member, err := service.MarkRead(ctx, actor, m.ConversationID, sent.Seq)
		if err != nil || member.LastReadSeq != sent.Seq {
			t.Errorf("%+v (%v)", member, err)
		}
		followTo(t, feeds, actor, m.ConversationID, sent.Seq)
	})
}

// followTo follows a conversation from its beginning to an event.
func followTo(
	t *testing.T, feeds *feed.Service, actor model.Actor, id model.ConversationID, last int64,
) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := feeds.Follow(ctx, actor, id, &feed.Place{})
	if err != nil {
		t.Fatal(err)
	}
	var seen int64
	for e, err := range events {
		if err != nil || e.Seq != seen+1 && seen > 0 {
			t.Fatalf("after %d: %+v (%v)", seen, e, err)
		}
		if seen = e.Seq; seen >= last {
			return
		}
	}
}

func TestTheSameSeedGivesTheSameRows(t *testing.T) {
	t.Parallel()
	clock := storetest.NewClock()
	contents := func(seed uint64) (all []model.Message) {
		db, err := store.Open(t.Context(), storetest.SQLiteURL(t), store.Options{Now: clock.Now})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		if _, err := migrations.Up(t.Context(), db.DB); err != nil {
			t.Fatal(err)
		}
		mustFill(t, db, Size{People: 5, Conversations: 4, Messages: 200}, seed)
		return mustRead[model.Message](t, db, "m.conversation_id, m.seq")
	}
	first := contents(1)
	wantEqual(t, "messages", first, contents(1))
	if cmp.Equal(first, contents(2)) {
		t.Error("another seed gives the same rows")
	}
}

func TestOnlyAnEmptyDatabaseIsFilled(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		size := Size{People: 2, Conversations: 1, Messages: 3} // the least
		mustFill(t, db, size, 1)
		if _, err := Fill(t.Context(), db,
			Options{Size: size}); err != errNotEmpty { //nolint:errorlint // it comes as it is
			t.Errorf("got %v", err)
		}
		for _, size := range []Size{{1, 1, 1}, {2, 0, 1}, {2, 1, -1}} {
			if err := size.check(); err == nil {
				t.Errorf("%+v is accepted", size)
			}
		}
	})
}

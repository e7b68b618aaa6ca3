package chat_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"parley/chat"
	"parley/chat/chattest"
	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// scene is a conversation with a message in it that things can be done to, and everybody that a
// rule can tell apart.
type scene struct {
	*fixture
	c *model.Conversation
	m *model.Message
}

// act is something that somebody does to the scene.
type act func(ctx context.Context, s *scene, as model.Actor) error

// The effects of an act that is allowed: an event, a change of the actor's own membership alone, or
// none at all.
const (
	anEvent = "event"
	theirs  = "their own"
	nothing = "nothing"
)

func edits(ctx context.Context, s *scene, as model.Actor) error {
	_, err := s.EditMessage(ctx, as,
		chat.EditMessage{MessageID: s.m.ID, Content: "another content"})
	return err
}

func editsNothing(ctx context.Context, s *scene, as model.Actor) error {
	_, err := s.EditMessage(ctx, as,
		chat.EditMessage{MessageID: s.m.ID, Content: " " + s.m.Content + "\n"})
	return err
}

func deletes(ctx context.Context, s *scene, as model.Actor) error {
	_, err := s.DeleteMessage(ctx, as, s.m.ID)
	return err
}

func reacts(emoji string) act {
	return func(ctx context.Context, s *scene, as model.Actor) error {
		_, err := s.AddReaction(ctx, as, s.m.ID, emoji)
		return err
	}
}

func takesBack(emoji string) act {
	return func(ctx context.Context, s *scene, as model.Actor) error {
		_, err := s.RemoveReaction(ctx, as, s.m.ID, emoji)
		return err
	}
}

func replies(ctx context.Context, s *scene, as model.Actor) error {
	in := chat.SendMessage{ConversationID: s.c.ID, Content: "an answer", ReplyToID: &s.m.ID}
	_, err := s.SendMessage(ctx, as, in)
	return err
}

func marksRead(seq int64) act {
	return func(ctx context.Context, s *scene, as model.Actor) error {
		_, err := s.MarkRead(ctx, as, s.c.ID, seq)
		return err
	}
}

func pins(ctx context.Context, s *scene, as model.Actor) error {
	_, err := s.UpdateMembership(ctx, as,
		chat.UpdateMembership{ConversationID: s.c.ID, Pinned: new(true)})
	return err
}

func archives(ctx context.Context, s *scene, as model.Actor) error {
	_, err := s.UpdateMembership(ctx, as,
		chat.UpdateMembership{ConversationID: s.c.ID, Archived: new(true)})
	return err
}

func drafts(ctx context.Context, s *scene, as model.Actor) error {
	_, err := s.SaveDraft(ctx, as, s.c.ID, "to be continued")
	return err
}

// effect runs an act and says in short what came of it. Whatever it was, the log still tells what
// the tables hold; where it was refused, nothing has changed.
func (s *scene) effect(t *testing.T, who string, do act) string {
	t.Helper()
	before := s.contents(s.c.ID)
	err := do(t.Context(), s, s.Actor(who))
	after := s.contents(s.c.ID)
	if err != nil {
		chattest.WantEqual(t, "what is stored after a refusal of "+who, before, after)
		return outcome(err)
	}
	changed := []string{}
	for table := range after {
		if !slices.Equal(before[table], after[table]) {
			changed = append(changed, table)
		}
	}
	s.wantLogTells(t, s.c.ID)
	switch events := len(after["events"]) - len(before["events"]); {
	case events == 1:
		return anEvent
	case events == 0 && len(changed) == 0:
		return nothing
	case events == 0 && slices.Equal(changed, []string{"conversation_members"}):
		return theirs
	default:
		return fmt.Sprintf("%d events and changes of %v", events, changed)
	}
}

// inviteAs has a new person play a part.
func (w *fixture) inviteAs(part string, n int) {
	w.T.Helper()
	name := fmt.Sprint(part, n)
	w.Invite(name)
	w.Actors[part] = w.Actor(name)
	delete(w.Actors, name)
}

// mustScene makes a group in which "author", who is a member, has written a message; "admin" has
// put a thumb to it. "gone" was a member, and their account is removed.
func mustScene(t *testing.T, w *fixture, n int) *scene {
	t.Helper()
	w.inviteAs("gone", n)
	w.inviteAs("author", n)
	in := chat.CreateConversation{
		Title:   new("scene"),
		Members: w.NewMembers("admin", "author", "member", "removed", "gone"),
	}
	in.Members[0].Role = model.Admin
	c, err := w.CreateConversation(t.Context(), w.Actor("owner"), in)
	if err != nil {
		t.Fatal(err)
	}
	m := w.Send("author", c.ID, "for @member and @gone")
	w.addReaction("admin", m, "👍")
	if _, err := w.RemoveMember(t.Context(), w.Actor("owner"), c.ID,
		w.UserID("removed")); err != nil {
		t.Fatal(err)
	}
	w.MustRemoveAccount("gone")
	return &scene{fixture: w, c: c, m: m}
}

func TestWhoMayDoWhatToMessages(t *testing.T) {
	t.Parallel()
	const no, not = "FORBIDDEN", "NOT_FOUND"
	all := func(what string) [7]string {
		return [7]string{
			what, what, what, what, what, what,
			what,
		}
	}
	members := func(what string) [7]string {
		return [7]string{
			what, what, what, what, not, not,
			not,
		}
	}
	elsewhere := func(ctx context.Context, s *scene, as model.Actor) error {
		other := chattest.MustConversation(t, s.fixture.Fixture, "owner", "member", "author",
			"admin")
		target := s.Send("owner", other.ID, "in another conversation")
		_, err := s.SendMessage(ctx, as,
			chat.SendMessage{ConversationID: s.c.ID, Content: "x", ReplyToID: &target.ID})
		return err
	}
	type want = [7]string // owner, admin, author, member, removed, stranger, gone
	type row struct {
		do   act
		want want
	}
	live := map[string]row{
		"edit":                   {edits, want{no, no, anEvent, no, not, not, not}},
		"edit, the same content": {editsNothing, want{no, no, nothing, no, not, not, not}},
		"edit, blank": {func(ctx context.Context, s *scene, as model.Actor) error {
			_, err := s.EditMessage(ctx, as, chat.EditMessage{MessageID: s.m.ID, Content: " \n"})
			return err
		}, all("REQUIRED content")},
		"delete": {deletes, want{anEvent, anEvent, anEvent, no, not, not, not}},
		"react":  {reacts("🎉"), members(anEvent)},
		"react as the admin": {
			reacts("👍"),
			want{anEvent, nothing, anEvent, anEvent, not, not, not},
		},
		"react with a word": {reacts("ok"), all("INVALID emoji")},
		"take back": {
			takesBack("👍"),
			want{nothing, anEvent, nothing, nothing, not, not, not},
		},
		"take a word back":    {takesBack("ok"), all("INVALID emoji")},
		"reply":               {replies, members(anEvent)},
		"reply to elsewhere":  {elsewhere, members("NOT_FOUND replyToId")},
		"mark read":           {marksRead(2), members(theirs)},
		"mark read, the past": {marksRead(1), members(nothing)},
		"mark read, -1":       {marksRead(-1), all("INVALID seq")},
		"pin":                 {pins, members(theirs)},
		"archive":             {archives, members(theirs)},
		"draft":               {drafts, members(theirs)},
	}
	deleted := map[string]row{
		"edit":               {edits, want{no, no, "CONFLICT messageId", no, not, not, not}},
		"delete":             {deletes, want{nothing, nothing, nothing, no, not, not, not}},
		"react":              {reacts("🎉"), members("CONFLICT messageId")},
		"react as the admin": {reacts("👍"), members("CONFLICT messageId")},
		"take back":          {takesBack("👍"), members(nothing)},
		"reply":              {replies, members(anEvent)},
		"mark read":          {marksRead(2), members(theirs)},
	}
	orphaned := map[string]row{ // the author's account is gone
		"edit":   {edits, want{no, no, not, no, not, not, not}},
		"delete": {deletes, want{anEvent, anEvent, not, no, not, not, not}},
		"react":  {reacts("🎉"), want{anEvent, anEvent, not, anEvent, not, not, not}},
		"reply":  {replies, want{anEvent, anEvent, not, anEvent, not, not, not}},
	}
	for state, test := range map[string]struct {
		rows    map[string]row
		prepare func(t *testing.T, s *scene)
	}{
		"live":    {live, func(*testing.T, *scene) {}},
		"deleted": {deleted, func(_ *testing.T, s *scene) { s.delete("admin", s.m) }},
		"orphaned": {orphaned, func(_ *testing.T, s *scene) {
			s.MustRemoveAccount("author")
		}},
	} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				w := mustFixture(t, db, "owner", "admin", "member", "removed", "stranger")
				var s *scene
				n := 0
				for name, row := range test.rows {
					for i, who := range []string{
						"owner", "admin", "author", "member", "removed",
						"stranger", "gone",
					} {
						if s == nil {
							n++
							s = mustScene(t, w, n)
							test.prepare(t, s)
						}
						got := s.effect(t, who, row.do)
						if got != row.want[i] {
							t.Errorf("%s by the %s: got %s, want %s", name, who, got, row.want[i])
						}
						if got == anEvent || got == theirs {
							s = nil // the next one finds it as it was
						}
					}
				}
			})
		})
	}
}

// Where history is hidden from those who join, what they do not see cannot be touched either,
// whatever their role, and though they have written it themselves.
func TestWhatIsHiddenCannotBeTouched(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "owner", "admin", "author", "late")
		c := chattest.MustHidden(t, w.Fixture, "owner", "author")
		s := &scene{fixture: w, c: c, m: w.Send("author", c.ID, "before @author")}
		w.addReaction("owner", s.m, "👍")
		if _, err := w.RemoveMember(t.Context(), w.Actor("owner"), c.ID,
			w.UserID("author")); err != nil {
			t.Fatal(err)
		}
		// The author is back as the owner of all, who has not seen their own words.
		w.Add("owner", c.ID, "author", "late")
		if _, err := w.TransferOwnership(t.Context(), w.Actor("owner"), c.ID,
			w.UserID("author")); err != nil {
			t.Fatal(err)
		}
		for name, do := range map[string]act{
			"edit": edits, "delete": deletes, "react": reacts("🎉"), "react too": reacts("👍"),
			"take back": takesBack("👍"),
		} {
			for _, who := range []string{"author", "late"} {
				if got := s.effect(t, who, do); got != "NOT_FOUND" {
					t.Errorf("%s by %s: %s", name, who, got)
				}
			}
		}
		for _, who := range []string{"author", "late"} {
			if got := s.effect(t, who, replies); got != "NOT_FOUND replyToId" {
				t.Errorf("reply by %s: %s", who, got)
			}
			chattest.WantEqual(t, "what the "+who+" sees", sight{}, s.seenBy(t, who))
		}
		if got := s.effect(t, "owner", reacts("🎉")); got != anEvent {
			t.Errorf("who was there from the start: %s", got)
		}
		chattest.WantEqual(t, "what the first owner sees",
			sight{
				Message: true, Listed: true, Found: true, Reactions: 2, Reactors: 1, Mentions: 1,
				Unread: 1,
			}, s.seenBy(t, "owner"))
	})
}

// sight is what somebody can find out about the message of a scene.
type sight struct {
	Message, Listed, Found        bool
	Reactions, Reactors, Mentions int
	Unread                        int
}

func (s *scene) seenBy(t *testing.T, who string) (got sight) {
	t.Helper()
	ctx, as, ids := t.Context(), s.Actor(who), []model.MessageID{s.m.ID}
	byID, err := s.MessagesByID(ctx, as, ids)
	if err != nil {
		t.Fatal(err)
	}
	got.Message = byID[s.m.ID] != nil
	page, err := s.MessagesOf(ctx, as, s.c.ID, store.PageArgs{})
	if err != nil && !errs.Is(err, errs.NotFound) {
		t.Fatal(err)
	}
	got.Listed = slices.ContainsFunc(page.Items,
		func(m *model.Message) bool { return m.ID == s.m.ID })
	found, err := s.SearchMessages(ctx, as, chat.Search{Query: "before"}, store.PageArgs{})
	if err != nil {
		t.Fatal(err)
	}
	got.Found = slices.ContainsFunc(found.Items,
		func(f *chat.Found) bool { return f.Message.ID == s.m.ID })
	reactions, err := s.Reactions(ctx, as, ids)
	if err != nil {
		t.Fatal(err)
	}
	got.Reactions = len(reactions[s.m.ID])
	group := chat.EmojiOn{s.m.ID, "👍"}
	reactors, err := s.Reactors(ctx, as, []chat.EmojiOn{group}, store.Window{Limit: 20})
	if err != nil {
		t.Fatal(err)
	}
	got.Reactors = len(reactors[group].Items)
	mentioned, err := s.Mentioned(ctx, as, ids)
	if err != nil {
		t.Fatal(err)
	}
	got.Mentions = len(mentioned[s.m.ID])
	unread, err := s.Unread(ctx, as, []model.ConversationID{s.c.ID})
	if err != nil {
		t.Fatal(err)
	}
	got.Unread = unread[s.c.ID].Messages
	return got
}

func TestWhoSeesAMessage(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "owner", "admin", "member", "removed", "stranger")
		s := mustScene(t, w, 0)
		s.Edit("author", s.m, "before, for @member and @admin")
		every := sight{
			Message: true, Listed: true, Found: true, Reactions: 1, Reactors: 1,
			Mentions: 2, Unread: 1,
		}
		byAuthor := every
		byAuthor.Unread = 0
		for who, want := range map[string]sight{
			"owner": every, "admin": every, "member": every, "author": byAuthor, "removed": {},
			"stranger": {}, "gone": {},
		} {
			chattest.WantEqual(t, "what the "+who+" sees", want, s.seenBy(t, who))
		}
		s.delete("author", s.m)
		for who, want := range map[string]sight{
			"owner": {Message: true, Listed: true}, "author": {Message: true, Listed: true},
			"removed": {}, "stranger": {}, "gone": {},
		} {
			chattest.WantEqual(t, "what the "+who+" sees of it once deleted", want,
				s.seenBy(t, who))
		}
	})
}

// A direct conversation has no roles: nobody deletes what the other wrote, also once the other is
// gone.
func TestMessagesInADirectConversation(t *testing.T) {
	t.Parallel()
	const no, not = "FORBIDDEN", "NOT_FOUND"
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "member", "stranger")
		n := 0
		open := func() *scene {
			t.Helper()
			n++
			w.inviteAs("author", n)
			c, err := w.OpenDirect(t.Context(), w.Actor("author"), w.UserID("member"))
			if err != nil {
				t.Fatal(err)
			}
			return &scene{fixture: w, c: c, m: w.Send("author", c.ID, "between us, @member")}
		}
		for name, row := range map[string]struct {
			do     act
			author string
			member string
			after  string // of the member once the author is gone
		}{
			"edit":      {edits, anEvent, no, no},
			"delete":    {deletes, anEvent, no, no},
			"react":     {reacts("🎉"), anEvent, anEvent, anEvent},
			"take back": {takesBack("🎉"), nothing, nothing, nothing},
			"reply":     {replies, anEvent, anEvent, anEvent},
			"mark read": {marksRead(2), theirs, theirs, theirs},
			"draft":     {drafts, theirs, theirs, theirs},
			"archive":   {archives, theirs, theirs, theirs},
		} {
			for who, want := range map[string]string{
				"author": row.author, "member": row.member,
				"stranger": not,
			} {
				if got := open().effect(t, who, row.do); got != want {
					t.Errorf("%s by the %s: got %s, want %s", name, who, got, want)
				}
			}
			s := open()
			s.MustRemoveAccount("author")
			for who, want := range map[string]string{"author": not, "member": row.after} {
				if got := s.effect(t, who, row.do); got != want {
					t.Errorf("%s by the %s once the author is gone: got %s, want %s", name, who,
						got, want)
				}
			}
		}
	})
}

func TestTheEditWindow(t *testing.T) {
	t.Parallel()
	eachWithClock(t, func(t *testing.T, db *store.DB, clock *storetest.Clock) {
		const window = 24 * time.Hour
		w := mustFixtureWith(t, db, chattest.Options{
			ReconcileEvery: chattest.Never,
			EditWindow:     window,
		}, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		m := w.Send("ben", c.ID, "first")
		try := func(content string) string {
			_, err := w.EditMessage(t.Context(), w.Actor("ben"),
				chat.EditMessage{MessageID: m.ID, Content: content})
			return outcome(err)
		}
		clock.Forward(window)
		if got := try("at the last moment"); got != "ok" {
			t.Errorf("as the window ends: %s", got)
		}
		clock.Forward(time.Microsecond)
		w.Unchanged(t, func() {
			if got := try("too late"); got != "FORBIDDEN" {
				t.Errorf("after the window: %s", got)
			}
		})
		if got := try("at the last moment"); got != "ok" { // the answer was lost
			t.Errorf("the same edit again: %s", got)
		}
		w.delete("ben", m) // for which there is no window
		w.wantLogTells(t, c.ID)

		forever := mustFixtureWith(t, db, chattest.Options{ReconcileEvery: chattest.Never})
		forever.Actors = w.Actors
		old := forever.Send("ben", c.ID, "old")
		clock.Forward(100 * 365 * 24 * time.Hour)
		forever.Edit("ben", old, "as good as new")
	})
}

func TestInWords(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		24 * time.Hour: "24 hours", time.Hour: "1 hour", 90 * time.Minute: "90 minutes",
		time.Minute: "1 minute", 90 * time.Second: "90 seconds",
	} {
		if got := chat.InWords(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

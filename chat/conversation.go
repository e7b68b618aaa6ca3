package chat

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"parley/errs"
	"parley/feed"
	"parley/membership"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
	"parley/text"
)

const maxTitle = 200

// CreateConversation is what a new group is made from.
type CreateConversation struct {
	Title             *string
	Members           []*NewMember
	HistoryVisibility model.History // empty means FromStart
	MembersMayRename  bool
}

// NewMember is a person to be in a conversation from its start.
type NewMember struct {
	UserID model.UserID
	Role   model.Role
}

// CreateConversation starts a group with everybody in it. The actor is its owner, listed or not.
func (s *Service) CreateConversation(
	ctx context.Context, actor model.Actor, in CreateConversation,
) (*model.Conversation, error) {
	var problems errs.List
	var title string
	if in.Title != nil {
		title = checkTitle(&problems, *in.Title)
	}
	in.checkMembers(&problems, actor)
	if len(in.Members) > membership.Max+1 {
		return nil, problems.Err() // refused already, and too many to look up
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Conversations.Times(1),
		in.cost(actor)); err != nil {
		return nil, err
	}
	var c *model.Conversation
	err := s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		problems := slices.Clone(problems) // what is found out below counts for this try only
		if err := s.requireVerified(ctx, tx, actor); err != nil {
			return err
		}
		people, err := s.lockPeople(ctx, tx, append(idsOf(in.Members), actor.UserID)...)
		if err != nil {
			return err
		}
		if _, there := people.nicknames[actor.UserID]; !there {
			return errNoAccount
		}
		if people.full[actor.UserID] {
			problems = append(problems, s.errFull())
		}
		for i, m := range in.Members {
			switch _, there := people.nicknames[m.UserID]; {
			case !there:
				problems.Add(errs.NotFound, fmt.Sprintf("members.%d.userId", i),
					"There is no such person.")
			case people.full[m.UserID] && m.UserID != actor.UserID:
				problems.Add(errs.LimitReached, fmt.Sprintf("members.%d.userId", i), personFull)
			}
		}
		if err := problems.Err(); err != nil {
			return err
		}
		members := in.membersWithOwner(actor)
		c = &model.Conversation{
			ID: model.NewConversationID(), Kind: model.Group, Title: title, LastSeq: 1,
			CreatedAt: tx.Now, LastActivityAt: tx.Now,
			History:          cmp.Or(in.HistoryVisibility, model.FromStart),
			MembersMayRename: in.MembersMayRename,
		}
		if c.Title == "" {
			c.Title, c.Untitled = joinNicknames(members, people.nicknames), true
		}
		return s.insertConversation(ctx, tx, actor, c, members)
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// errNoAccount is for who acts with an account that has just been removed.
var errNoAccount = errs.New(errs.Unauthenticated, "The account is gone.")

func (s *Service) requireVerified(ctx context.Context, tx *store.Tx, actor model.Actor) error {
	if !s.opts.RequireVerifiedEmail {
		return nil
	}
	verified, err := tx.NewSelect().Model((*model.User)(nil)).
		Where("u.id = ?", actor.UserID).Where("u.email_verified_at IS NOT NULL").Exists(ctx)
	if err == nil && !verified {
		return errs.New(errs.Forbidden,
			"Confirm your e-mail address first: follow the link in the mail, or ask for another.")
	}
	return err
}

func checkTitle(problems *errs.List, title string) string {
	title = text.Clean(title)
	if problem := text.Problem(title, false); problem != "" {
		problems.Add(errs.Invalid, "title", "The title %s.", problem)
	} else if text.Len(title) > maxTitle {
		problems.Add(errs.TooLong, "title", "A title has at most %d characters.", maxTitle)
	}
	return title
}

func (in CreateConversation) checkMembers(problems *errs.List, actor model.Actor) {
	first := map[model.UserID]int{}
	for i, m := range in.Members {
		if j, listed := first[m.UserID]; listed {
			problems.Add(errs.Conflict, fmt.Sprintf("members.%d.userId", i),
				"This person is listed already, at position %d.", j)
			continue
		}
		first[m.UserID] = i
		if m.Role == model.Owner && m.UserID != actor.UserID {
			problems.Add(errs.Conflict, fmt.Sprintf("members.%d.role", i),
				"A conversation has one owner, and that is who creates it.")
		}
	}
	first[actor.UserID] = 0
	switch {
	case len(first) == 1:
		problems.Add(errs.Required, "members", "At least one other person is needed.")
	case len(first) > membership.Max:
		problems.Add(errs.LimitReached, "members",
			"A conversation has at most %d members, and these are %d.", membership.Max, len(first))
	}
}

// cost is what adding the others costs.
func (in CreateConversation) cost(actor model.Actor) ratelimit.Cost {
	n := 0
	for _, m := range in.Members {
		if m.UserID != actor.UserID {
			n++
		}
	}
	return ratelimit.Members.Times(n)
}

// membersWithOwner lists everybody with their role, the owner first.
func (in CreateConversation) membersWithOwner(actor model.Actor) []model.MemberData {
	members := []model.MemberData{{UserID: actor.UserID, Role: model.Owner}}
	for _, m := range in.Members {
		if m.UserID != actor.UserID {
			members = append(members, model.MemberData{UserID: m.UserID, Role: m.Role})
		}
	}
	return members
}

func joinNicknames(members []model.MemberData, nicknames map[model.UserID]string) string {
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = nicknames[m.UserID]
	}
	return joinNames(names)
}

// joinNames makes a title of as many names as it has room for.
func joinNames(names []string) (title string) {
	for i, name := range names {
		longer := name
		if i > 0 {
			longer = title + ", " + name
		}
		if text.Len(longer) > maxTitle-len("…") {
			return title + ", …"
		}
		title = longer
	}
	return title
}

func (s *Service) insertConversation(
	ctx context.Context, tx *store.Tx, actor model.Actor, c *model.Conversation,
	members []model.MemberData,
) error {
	if _, err := tx.NewInsert().Model(c).Exec(ctx); err != nil {
		return err
	}
	rows := make([]*model.ConversationMember, len(members))
	for i, m := range members {
		rows[i] = &model.ConversationMember{
			ConversationID: c.ID, UserID: m.UserID, Role: m.Role, JoinedAt: tx.Now,
			JoinedSeq: c.LastSeq, LastReadSeq: c.LastSeq,
		}
	}
	if err := feed.InsertMembers(ctx, tx, rows); err != nil {
		return err
	}
	for _, m := range members {
		s.feed.PublishMembership(tx, c.ID, m.UserID)
	}
	e := &model.Event{
		ConversationID: c.ID, Seq: c.LastSeq, Kind: model.ConversationCreated,
		ActorID: &actor.UserID, At: c.CreatedAt,
	}
	return s.feed.AppendFirst(ctx, tx, e, model.ConversationCreatedData{
		Kind: c.Kind, Title: c.Title, History: c.History, MembersMayRename: c.MembersMayRename,
		Members: members,
	})
}

const conversationList = 'c' // the letter of this list's cursors

// ConversationCursor is where a conversation stands in its members' lists.
func ConversationCursor(c *model.Conversation) string {
	return store.NewCursor(conversationList).Time(c.LastActivityAt).UUID(c.ID).String()
}

// ConversationFilter narrows the actor's conversations; nil narrows nothing.
type ConversationFilter struct {
	Archived *bool
	Pinned   *bool
	Muted    *bool
	Unread   *bool // with at least one message that the actor has not read
}

// MyConversations lists the conversations that the actor is in, newest activity first.
func (s *Service) MyConversations(
	ctx context.Context, actor model.Actor, filter ConversationFilter, page store.PageArgs,
) (store.Page[*model.Conversation], error) {
	var none store.Page[*model.Conversation]
	window, err := page.Window(store.DefaultPage{First: 20})
	if err != nil {
		return none, err
	}
	var position []any
	if window.Cursor != "" {
		cursor := store.ReadCursor(conversationList, window.Cursor)
		position = []any{cursor.ReadTime(), model.ConversationID(cursor.ReadUUID())}
		if err := cursor.Done(); err != nil {
			return none, err
		}
	}
	text, args := narrowedConversations,
		[]any{actor.UserID, filter.Archived, filter.Pinned, filter.Muted, filter.Unread, s.db.Now()}
	if filter == (ConversationFilter{}) {
		text, args = conversationsOfViewer, args[:1]
	}
	newestFirst := store.Order{Columns: []string{"c.last_activity_at", "c.id"}, Descending: true}
	text, args = window.Continue(text, newestFirst, args, position...)
	found, err := store.Read[model.Conversation](ctx, s.db, text, args...)
	if err != nil {
		return none, err
	}
	return store.Cut(window, found), nil
}

const (
	conversationsOfViewer = `
		SELECT ?TableColumns FROM conversation_members AS viewer JOIN conversations AS c ON c.id = viewer.conversation_id
		WHERE viewer.user_id = ?1`
	// narrowedConversations narrows them: null narrows nothing. ?6 is the time.
	narrowedConversations = conversationsOfViewer + `
		AND (CAST(?2 AS boolean) IS NULL OR ?2 = (viewer.archived_seq > 0 AND viewer.archived_seq >= c.last_message_seq))
		AND (CAST(?3 AS boolean) IS NULL OR ?3 = viewer.pinned)
		AND (CAST(?4 AS boolean) IS NULL OR ?4 = (viewer.muted_until IS NOT NULL AND viewer.muted_until > ?6))
		AND (CAST(?5 AS boolean) IS NULL OR ?5 = (c.last_message_seq > viewer.last_read_seq
			AND EXISTS (SELECT 1 FROM messages AS m WHERE ` + unreadByViewer + `)))`
)

// Archived reports whether a member has put a conversation away, and no message has come since.
func Archived(c *model.Conversation, m *model.ConversationMember) bool {
	return m.ArchivedSeq > 0 && m.ArchivedSeq >= c.LastMessageSeq
}

// Conversation returns nil where there is none that the actor may see.
func (s *Service) Conversation(
	ctx context.Context, actor model.Actor, id model.ConversationID,
) (*model.Conversation, error) {
	found, err := s.Conversations(ctx, actor, []model.ConversationID{id})
	return found[id], err
}

// Conversations returns those of the conversations that the actor is in.
func (s *Service) Conversations(
	ctx context.Context, actor model.Actor, ids []model.ConversationID,
) (map[model.ConversationID]*model.Conversation, error) {
	found, err := store.Read[model.Conversation](ctx, s.db,
		conversationsOfViewer+` AND viewer.conversation_id IN (?2...)`,
		actor.UserID, store.IDs(ids))
	if err != nil {
		return nil, err
	}
	byID := make(map[model.ConversationID]*model.Conversation, len(found))
	for _, c := range found {
		byID[c.ID] = c
	}
	return byID, nil
}

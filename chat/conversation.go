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

// CreateConversation describes a new group.
type CreateConversation struct {
	Title             *string
	Members           []*NewMember
	HistoryVisibility model.History // empty means FromStart
	MembersMayRename  bool
}

// NewMember is a user who becomes a member, and the role.
type NewMember struct {
	UserID model.UserID
	Role   model.Role
}

// CreateConversation creates a group with all its members. The actor is the owner, listed or not.
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
		return nil, problems.Err() // checkMembers refused it; the list is too long to look up
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Conversations.Times(1),
		in.cost(actor)); err != nil {
		return nil, err
	}
	var c *model.Conversation
	err := s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		problems := slices.Clone(problems) // a retry of the transaction starts with these again
		if err := s.requireVerified(ctx, tx, actor); err != nil {
			return err
		}
		candidates, err := s.lockAccounts(ctx, tx, append(idsOf(in.Members), actor.UserID)...)
		if err != nil {
			return err
		}
		if _, there := candidates.nicknames[actor.UserID]; !there {
			return errNoAccount
		}
		if candidates.full[actor.UserID] {
			problems = append(problems, s.errFull())
		}
		for i, m := range in.Members {
			switch _, there := candidates.nicknames[m.UserID]; {
			case !there:
				problems.Add(errs.NotFound, fmt.Sprintf("members.%d.userId", i),
					"There is no such person.")
			case candidates.full[m.UserID] && m.UserID != actor.UserID:
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
			c.Title, c.Untitled = joinNicknames(members, candidates.nicknames), true
		}
		return s.insertConversation(ctx, tx, actor, c, members)
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// errNoAccount is the error of an actor whose account was removed during the request.
var errNoAccount = errs.New(errs.Unauthenticated, "This account has been removed.")

func (s *Service) requireVerified(ctx context.Context, tx *store.Tx, actor model.Actor) error {
	if !s.opts.RequireVerifiedEmail {
		return nil
	}
	verified, err := tx.NewSelect().Model((*model.User)(nil)).
		Where("u.id = ?", actor.UserID).Where("u.email_verified_at IS NOT NULL").Exists(ctx)
	if err == nil && !verified {
		return errs.New(errs.Forbidden,
			"Confirm your e-mail address first: follow the link in the mail, or request a new one.")
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
				"This person is already listed at index %d.", j)
			continue
		}
		first[m.UserID] = i
		if m.Role == model.Owner && m.UserID != actor.UserID {
			problems.Add(errs.Conflict, fmt.Sprintf("members.%d.role", i),
				"The creator of a conversation is its only owner.")
		}
	}
	first[actor.UserID] = 0
	switch {
	case len(first) == 1:
		problems.Add(errs.Required, "members", "A conversation needs at least one other person.")
	case len(first) > membership.Max:
		problems.Add(errs.LimitReached, "members",
			"A conversation has at most %d members, but this one would have %d.", membership.Max,
			len(first))
	}
}

// cost is the rate limit cost of adding the members, the actor excepted.
func (in CreateConversation) cost(actor model.Actor) ratelimit.Cost {
	n := 0
	for _, m := range in.Members {
		if m.UserID != actor.UserID {
			n++
		}
	}
	return ratelimit.Members.Times(n)
}

// membersWithOwner returns all members and their roles, the owner first.
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

// joinNames makes a title of as many names as fit into maxTitle, and ends it with … if some do not.
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

// ConversationCursor is the cursor of a conversation in the list of each member.
func ConversationCursor(c *model.Conversation) string {
	return store.NewCursor(conversationList).Time(c.LastActivityAt).UUID(c.ID).String()
}

// ConversationFilter selects some of the actor's conversations. A field that is nil filters
// nothing.
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
	var keyset []any
	if window.Cursor != "" {
		cursor := store.ReadCursor(conversationList, window.Cursor)
		keyset = []any{cursor.ReadTime(), model.ConversationID(cursor.ReadUUID())}
		if err := cursor.Done(); err != nil {
			return none, err
		}
	}
	text, args := filteredConversations,
		[]any{actor.UserID, filter.Archived, filter.Pinned, filter.Muted, filter.Unread, s.db.Now()}
	if filter == (ConversationFilter{}) {
		text, args = conversationsOfViewer, args[:1]
	}
	newestFirst := store.Order{Columns: []string{"c.last_activity_at", "c.id"}, Descending: true}
	text, args = window.Continue(text, newestFirst, args, keyset...)
	found, err := store.Read[model.Conversation](ctx, s.db, text, args...)
	if err != nil {
		return none, err
	}
	return store.Cut(window, found), nil
}

const (
	conversationsOfViewer = `
		SELECT ?TableColumns FROM conversation_members AS viewer
			JOIN conversations AS c ON c.id = viewer.conversation_id
		WHERE viewer.user_id = ?1`
	// filteredConversations are those that match a ConversationFilter: ?2 to ?5 are its fields, and
	// ?6 is the time. A field that is null filters nothing.
	filteredConversations = conversationsOfViewer + `
		AND (CAST(?2 AS boolean) IS NULL
			OR ?2 = (viewer.archived_seq > 0 AND viewer.archived_seq >= c.last_message_seq))
		AND (CAST(?3 AS boolean) IS NULL OR ?3 = viewer.pinned)
		AND (CAST(?4 AS boolean) IS NULL
			OR ?4 = (viewer.muted_until IS NOT NULL AND viewer.muted_until > ?6))
		AND (CAST(?5 AS boolean) IS NULL OR ?5 = (c.last_message_seq > viewer.last_read_seq
			AND EXISTS (SELECT 1 FROM messages AS m WHERE ` + unreadByViewer + `)))`
)

// Archived reports whether a member has archived a conversation, and no message has come since
// then.
func Archived(c *model.Conversation, m *model.ConversationMember) bool {
	return m.ArchivedSeq > 0 && m.ArchivedSeq >= c.LastMessageSeq
}

// Conversation returns a conversation, or nil if the actor is not a member.
func (s *Service) Conversation(
	ctx context.Context, actor model.Actor, id model.ConversationID,
) (*model.Conversation, error) {
	found, err := s.Conversations(ctx, actor, []model.ConversationID{id})
	return found[id], err
}

// Conversations returns the conversations that the actor is in. Others are left out.
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

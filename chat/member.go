package chat

import (
	"cmp"
	"context"

	"github.com/uptrace/bun"

	"parley/membership"
	"parley/model"
	"parley/store"
)

const memberList = 'm' // the letter of this list's cursors

// MemberCursor is where a member stands among the members of their conversation.
func MemberCursor(m *model.ConversationMember) string {
	return store.NewCursor(memberList).Int(m.JoinedSeq).UUID(m.UserID).String()
}

var membersInOrder = store.Order{Columns: []string{
	"cm.joined_seq",
	"cm.user_id",
}} //nolint:gochecknoglobals // a constant

func readMemberCursor(window store.Window) (position []any, err error) {
	if window.Cursor == "" {
		return nil, nil
	}
	c := store.ReadCursor(memberList, window.Cursor)
	position = []any{c.ReadInt(), model.UserID(c.ReadUUID())}
	return position, c.Done()
}

// Members lists the members of each of the conversations that the actor is in, in order of joining.
func (s *Service) Members(
	ctx context.Context, actor model.Actor, ids []model.ConversationID, window store.Window,
) (map[model.ConversationID]store.Page[*model.ConversationMember], error) {
	position, err := readMemberCursor(window)
	if err != nil {
		return nil, err
	}
	found, err := readPages[model.ConversationMember](ctx, s, actor, ids, pageText{
		from: "conversation_members AS cm",
		where: "cm.conversation_id = viewer.conversation_id AND " +
			membership.NotRemoved("cm.user_id"), alias: "cm",
		order: membersInOrder,
	}, window, position)
	if err != nil {
		return nil, err
	}
	of := func(m *model.ConversationMember) model.ConversationID { return m.ConversationID }
	return cutEach(window, ids, found, of, compareMembers), nil
}

func compareMembers(a, b *model.ConversationMember) int {
	return cmp.Or(cmp.Compare(a.JoinedSeq, b.JoinedSeq), model.CompareIDs(a.UserID, b.UserID))
}

// MembersByID returns those of the members that the actor may see.
func (s *Service) MembersByID(
	ctx context.Context, actor model.Actor, ids []model.MemberID,
) (map[model.MemberID]*model.ConversationMember, error) {
	var found []*model.ConversationMember
	err := s.db.NewSelect().Model(&found).Apply(membership.Shared(actor, "cm.conversation_id")).
		Where(membership.NotRemoved("cm.user_id")).
		WhereGroup(" AND ", func(q *bun.SelectQuery) *bun.SelectQuery {
			for _, id := range ids {
				q = q.WhereOr("cm.conversation_id = ? AND cm.user_id = ?", id.Conversation, id.User)
			}
			return q
		}).Scan(ctx)
	if err != nil {
		return nil, store.Error(err)
	}
	byID := make(map[model.MemberID]*model.ConversationMember, len(found))
	for _, m := range found {
		byID[m.ID()] = m
	}
	return byID, nil
}

// Memberships returns the actor's own membership in each of the conversations.
func (s *Service) Memberships(
	ctx context.Context, actor model.Actor, ids []model.ConversationID,
) (map[model.ConversationID]*model.ConversationMember, error) {
	found, err := store.Read[model.ConversationMember](ctx, s.db,
		`SELECT ?TableColumns FROM conversation_members AS cm WHERE cm.user_id = ?1 AND cm.conversation_id IN (?2...)`,
		actor.UserID, store.IDs(ids))
	if err != nil {
		return nil, err
	}
	return byConversation(found), nil
}

// Owners returns the owner of each of the conversations that the actor is in.
func (s *Service) Owners(
	ctx context.Context, actor model.Actor, ids []model.ConversationID,
) (map[model.ConversationID]*model.ConversationMember, error) {
	return membersByConversation(ctx, s.db.NewSelect().
		Apply(membership.Shared(actor, "cm.conversation_id")).
		Where("cm.conversation_id IN (?)", bun.List(ids)).Where("cm.role = ?", model.Owner).
		Where(membership.NotRemoved("cm.user_id")))
}

func membersByConversation(
	ctx context.Context, q *bun.SelectQuery,
) (map[model.ConversationID]*model.ConversationMember, error) {
	var found []*model.ConversationMember
	if err := q.Model(&found).Scan(ctx); err != nil {
		return nil, store.Error(err)
	}
	return byConversation(found), nil
}

func byConversation(
	found []*model.ConversationMember,
) map[model.ConversationID]*model.ConversationMember {
	members := make(map[model.ConversationID]*model.ConversationMember, len(found))
	for _, m := range found {
		members[m.ConversationID] = m
	}
	return members
}

// Partners returns the other member of each of the direct conversations that the actor is in.
func (s *Service) Partners(
	ctx context.Context, actor model.Actor, ids []model.ConversationID,
) (map[model.ConversationID]model.UserID, error) {
	found, err := membersByConversation(ctx, s.db.NewSelect().
		Apply(membership.Shared(actor, "cm.conversation_id")).
		Join("JOIN conversations AS c ON c.id = cm.conversation_id").
		Where("c.kind = ?", model.Direct).
		Where("cm.conversation_id IN (?)", bun.List(ids)).Where("cm.user_id <> ?", actor.UserID).
		Where(membership.NotRemoved("cm.user_id")))
	if err != nil {
		return nil, err
	}
	partners := make(map[model.ConversationID]model.UserID, len(found))
	for id, m := range found {
		partners[id] = m.UserID
	}
	return partners, nil
}

// MemberCounts says how many members each of the conversations has that the actor is in.
func (s *Service) MemberCounts(
	ctx context.Context, actor model.Actor, ids []model.ConversationID,
) (map[model.ConversationID]int, error) {
	var found []struct {
		ConversationID model.ConversationID
		Count          int
	}
	err := s.db.NewSelect().Model((*model.ConversationMember)(nil)).
		ColumnExpr("cm.conversation_id, count(*) AS count").
		Apply(membership.Shared(actor, "cm.conversation_id")).
		Where("cm.conversation_id IN (?)", bun.List(ids)).
		Where(membership.NotRemoved("cm.user_id")).GroupExpr("cm.conversation_id").Scan(ctx, &found)
	if err != nil {
		return nil, store.Error(err)
	}
	counts := make(map[model.ConversationID]int, len(found))
	for _, row := range found {
		counts[row.ConversationID] = row.Count
	}
	return counts, nil
}

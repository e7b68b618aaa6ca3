package chat

import (
	"context"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
)

// MaxUnread is where counting what is unread ends: it stands for as many or more.
const MaxUnread = 1000

// MarkRead says that the actor has read everything up to a seq. What was read stays read, and
// nobody has read what is not there yet: a smaller seq changes nothing, and a larger one means the
// newest event.
func (s *Service) MarkRead(
	ctx context.Context, actor model.Actor, id model.ConversationID, seq int64,
) (*model.ConversationMember, error) {
	if seq < 0 {
		return nil, errs.Input(errs.Invalid, "seq", "A seq is not negative.")
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.State.Times(1)); err != nil {
		return nil, err
	}
	return s.changingMembership(ctx, actor, id,
		func(ctx context.Context, tx *store.Tx, m *model.ConversationMember) error {
			var last int64
			err := tx.NewSelect().Model((*model.Conversation)(nil)).Column("last_seq").
				Where("c.id = ?", id).Scan(ctx, &last)
			if err != nil || min(seq, last) <= m.LastReadSeq {
				return err
			}
			m.LastReadSeq = min(seq, last)
			s.live.PublishRead(tx, id, actor.UserID, m.LastReadSeq)
			return updateMembership(ctx, tx, m, "last_read_seq")
		})
}

const (
	// countsForViewer is a condition on messages m, of which those count that are of others than
	// the member called viewer.
	countsForViewer = `m.author_id IS DISTINCT FROM viewer.user_id AND m.deleted_at IS NULL`
	unreadByViewer  = `m.conversation_id = viewer.conversation_id AND m.seq > viewer.last_read_seq AND ` + countsForViewer
	// unreadMessages selects, of ?1's memberships, how much of each conversation is not read, up to
	// ?2. Where no message has come since then, there is nothing to count.
	unreadMessages = `
		SELECT viewer.conversation_id,
			(SELECT count(*) FROM (SELECT 1 FROM messages AS m WHERE ` + unreadByViewer + ` LIMIT ?2 + 0) AS counted) AS messages,
			(SELECT count(*) FROM (
				SELECT 1 FROM mentions AS mn JOIN messages AS m ON m.conversation_id = mn.conversation_id AND m.seq = mn.seq
				WHERE mn.conversation_id = viewer.conversation_id AND mn.user_id = viewer.user_id
					AND mn.seq > viewer.last_read_seq AND ` + countsForViewer + ` LIMIT ?2 + 0
			) AS counted) AS mentions
		FROM conversation_members AS viewer
		JOIN conversations AS c ON c.id = viewer.conversation_id AND c.last_message_seq > viewer.last_read_seq
		WHERE viewer.user_id = ?1`
	unreadHere  = unreadMessages + ` AND viewer.conversation_id IN (?3...)`
	unreadInAll = `
		SELECT CAST(coalesce(sum(u.messages), 0) AS bigint) AS messages, CAST(coalesce(sum(u.mentions), 0) AS bigint) AS mentions
		FROM (` + unreadMessages + ` AND (viewer.muted_until IS NULL OR viewer.muted_until <= ?3)) AS u`
)

// unreadIn is how much of one conversation is not read.
type unreadIn struct {
	ConversationID model.ConversationID
	model.Unread   `bun:",extend"`
}

// Unread says how much of each of the conversations the actor has not read: messages of others that
// are not deleted.
func (s *Service) Unread(
	ctx context.Context, actor model.Actor, ids []model.ConversationID,
) (map[model.ConversationID]model.Unread, error) {
	found, err := store.Read[unreadIn](ctx, s.db, unreadHere, actor.UserID, MaxUnread, store.IDs(ids))
	if err != nil {
		return nil, err
	}
	byConversation := make(map[model.ConversationID]model.Unread, len(found))
	for _, row := range found {
		byConversation[row.ConversationID] = row.Unread
	}
	return byConversation, nil
}

// UnreadInAll says how much the actor has not read in all conversations that are not muted.
func (s *Service) UnreadInAll(ctx context.Context, actor model.Actor) (model.Unread, error) {
	found, err := store.Read[model.Unread](ctx, s.db, unreadInAll, actor.UserID, MaxUnread, s.db.Now())
	if err != nil {
		return model.Unread{}, err
	}
	return *found[0], nil
}

// letsKnow reports whether the actor lets others know how far they have read.
func (s *Service) letsKnow(ctx context.Context, actor model.Actor) (bool, error) {
	lets, err := s.db.NewSelect().Model((*model.User)(nil)).Where("u.id = ?", actor.UserID).Where("u.send_read_receipts").
		Exists(ctx)
	return lets, store.Error(err)
}

// SeenBy lists, for each of the messages, the members who have read up to it, in order of joining:
// those who were there when it came, beside its author, and who let others know. Who hides how far
// they have read does not see it of others.
func (s *Service) SeenBy(
	ctx context.Context, actor model.Actor, ids []model.MessageID, window store.Window,
) (map[model.MessageID]store.Page[*model.ConversationMember], error) {
	position, err := readMemberCursor(window)
	if err != nil {
		return nil, err
	}
	lets, err := s.letsKnow(ctx, actor)
	if err != nil || !lets {
		return nil, err
	}
	var found []*seenBy
	page := s.db.NewSelect().Model((*model.ConversationMember)(nil)).
		Join("JOIN users AS u ON u.id = cm.user_id AND u.send_read_receipts AND u.removed_at IS NULL").Where("cm.conversation_id = m.conversation_id").
		Where("cm.last_read_seq >= m.seq").Where("cm.joined_seq < m.seq").Where("m.author_id IS DISTINCT FROM cm.user_id")
	q := s.db.NewSelect().Model((*model.ConversationMember)(nil)).ColumnExpr("m.id AS parent").ColumnExpr("?TableColumns")
	parents := "messages AS m JOIN conversation_members AS viewer ON viewer.conversation_id = m.conversation_id"
	visible := func(q *bun.SelectQuery) *bun.SelectQuery {
		return q.Where("viewer.user_id = ?", actor.UserID).Where("m.seq > viewer.hidden_seq").Where("m.id IN (?)", bun.List(ids))
	}
	err = s.pageEach(ctx, q, "cm", parents, window.Apply(page, membersInOrder, position...), visible, &found)
	if err != nil {
		return nil, err
	}
	of := func(by *seenBy) model.MessageID { return by.Parent }
	inOrder := func(a, b *seenBy) int { return compareMembers(&a.ConversationMember, &b.ConversationMember) }
	slices := make(map[model.MessageID]store.Page[*model.ConversationMember], len(ids))
	for id, page := range cutEach(window, ids, found, of, inOrder) {
		members := make([]*model.ConversationMember, len(page.Items))
		for i, by := range page.Items {
			members[i] = &by.ConversationMember
		}
		slices[id] = store.Page[*model.ConversationMember]{Items: members, More: page.More, Before: page.Before}
	}
	return slices, nil
}

// seenBy is a member who has read up to a message.
type seenBy struct {
	Parent                   model.MessageID
	model.ConversationMember `bun:",extend"`
}

// LastRead is how far a member has read, as far as the viewer may know it: of themselves, and where
// both let others know. of is the member as a person.
func LastRead(m *model.ConversationMember, viewer, of *model.User) *int64 {
	if viewer.ID == m.UserID || viewer.SendReadReceipts && of.SendReadReceipts {
		return &m.LastReadSeq
	}
	return nil
}

package chat

import (
	"context"

	"parley/errs"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
)

// MaxUnread is the largest count of unread messages. It means this many or more.
const MaxUnread = 1000

// MarkRead moves the actor's read pointer to a seq. The pointer never moves back, so a smaller seq
// is a no-op. A seq beyond the newest event means the newest event.
func (s *Service) MarkRead(
	ctx context.Context, actor model.Actor, id model.ConversationID, seq int64,
) (*model.ConversationMember, error) {
	if seq < 0 {
		return nil, errs.Input(errs.Invalid, "seq", "The seq is negative.")
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.State.Times(1)); err != nil {
		return nil, err
	}
	return s.changeMembership(ctx, actor, id,
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
	// countsForViewer is a condition on messages m: the member viewer is not the author, and they
	// are not deleted.
	countsForViewer = `m.author_id IS DISTINCT FROM viewer.user_id AND m.deleted_at IS NULL`
	unreadByViewer  = `m.conversation_id = viewer.conversation_id AND m.seq > viewer.last_read_seq
		AND ` + countsForViewer
	// unreadMessages counts, up to ?2, what user ?1 has not read in each conversation.
	// Conversations without a message after the read pointer are left out.
	unreadMessages = `
		SELECT viewer.conversation_id,
			(SELECT count(*) FROM (
				SELECT 1 FROM messages AS m WHERE ` + unreadByViewer + ` LIMIT ?2 + 0
			) AS counted) AS messages,
			(SELECT count(*) FROM (
				SELECT 1 FROM mentions AS mn
					JOIN messages AS m ON m.conversation_id = mn.conversation_id AND m.seq = mn.seq
				WHERE mn.conversation_id = viewer.conversation_id AND mn.user_id = viewer.user_id
					AND mn.seq > viewer.last_read_seq AND ` + countsForViewer + ` LIMIT ?2 + 0
			) AS counted) AS mentions
		FROM conversation_members AS viewer
		JOIN conversations AS c ON c.id = viewer.conversation_id
			AND c.last_message_seq > viewer.last_read_seq
		WHERE viewer.user_id = ?1`
	unreadByConversation = unreadMessages + ` AND viewer.conversation_id IN (?3...)`
	unreadTotal          = `
		SELECT CAST(coalesce(sum(u.messages), 0) AS bigint) AS messages,
			CAST(coalesce(sum(u.mentions), 0) AS bigint) AS mentions
		FROM (` + unreadMessages + `
			AND (viewer.muted_until IS NULL OR viewer.muted_until <= ?3)) AS u`
)

// unreadIn is what is unread in one conversation.
type unreadIn struct {
	ConversationID model.ConversationID
	model.Unread   `bun:",extend"`
}

// Unread counts what the actor has not read in each of the conversations: messages of others that
// are not deleted. A conversation that is left out has nothing unread.
func (s *Service) Unread(
	ctx context.Context, actor model.Actor, ids []model.ConversationID,
) (map[model.ConversationID]model.Unread, error) {
	found, err := store.Read[unreadIn](ctx, s.db, unreadByConversation,
		actor.UserID, MaxUnread, store.IDs(ids))
	if err != nil {
		return nil, err
	}
	byConversation := make(map[model.ConversationID]model.Unread, len(found))
	for _, row := range found {
		byConversation[row.ConversationID] = row.Unread
	}
	return byConversation, nil
}

// UnreadInAll counts what the actor has not read in all conversations that are not muted.
func (s *Service) UnreadInAll(ctx context.Context, actor model.Actor) (model.Unread, error) {
	found, err := store.Read[model.Unread](ctx, s.db, unreadTotal,
		actor.UserID, MaxUnread, s.db.Now())
	if err != nil {
		return model.Unread{}, err
	}
	return *found[0], nil
}

// receiptsEnabled reports whether the actor lets other members see the read pointer.
func (s *Service) receiptsEnabled(ctx context.Context, actor model.Actor) (bool, error) {
	enabled, err := s.db.NewSelect().Model((*model.User)(nil)).Where("u.id = ?", actor.UserID).
		Where("u.send_read_receipts").Exists(ctx)
	return enabled, store.Error(err)
}

// SeenBy lists the members who have read each of the messages, in order of joining. It leaves out
// the author, members who joined after the message, and members who have turned read receipts off.
// It returns nothing if the actor has turned them off.
func (s *Service) SeenBy(
	ctx context.Context, actor model.Actor, ids []model.MessageID, window store.Window,
) (map[model.MessageID]store.Page[*model.ConversationMember], error) {
	keyset, err := readMemberCursor(window)
	if err != nil {
		return nil, err
	}
	enabled, err := s.receiptsEnabled(ctx, actor)
	if err != nil || !enabled {
		return nil, err
	}
	found, err := readPages[seenBy](ctx, s, actor, ids, listText{
		parents: messagesWithIDs + " CROSS JOIN " + viewers,
		visible: messageVisible,
		parent:  "m.id AS parent, ",
		items:   "conversation_members AS cm", alias: "cm",
		of: `cm.conversation_id = m.conversation_id
			AND cm.last_read_seq >= m.seq AND cm.joined_seq < m.seq
			AND m.author_id IS DISTINCT FROM cm.user_id
			AND EXISTS (SELECT 1 FROM users AS u
				WHERE u.id = cm.user_id AND u.send_read_receipts AND u.removed_at IS NULL)`,
		order: membersInOrder,
	}, window, keyset)
	if err != nil {
		return nil, err
	}
	of := func(by *seenBy) model.MessageID { return by.Parent }
	inOrder := func(a, b *seenBy) int {
		return compareMembers(&a.ConversationMember, &b.ConversationMember)
	}
	pages := make(map[model.MessageID]store.Page[*model.ConversationMember], len(ids))
	for id, page := range cutEach(window, ids, found, of, inOrder) {
		members := make([]*model.ConversationMember, len(page.Items))
		for i, by := range page.Items {
			members[i] = &by.ConversationMember
		}
		pages[id] = store.Page[*model.ConversationMember]{
			Items: members, More: page.More, Before: page.Before,
		}
	}
	return pages, nil
}

// seenBy is a member who has read the message Parent.
type seenBy struct {
	Parent                   model.MessageID `bun:",scanonly"`
	model.ConversationMember `bun:",extend"`
}

// LastRead returns the read pointer of a member if the viewer may see it, else nil. Viewers see
// their own, and those of others if both have read receipts on. user is the user of the membership.
func LastRead(m *model.ConversationMember, viewer, user *model.User) *int64 {
	if viewer.ID == m.UserID || viewer.SendReadReceipts && user.SendReadReceipts {
		return &m.LastReadSeq
	}
	return nil
}

package chat

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/uptrace/bun"

	"parley/membership"
	"parley/model"
	"parley/store"
)

// An account is removed in two parts, and package auth owns the transactions of both. The first
// marks the account, and calls live's EndPresence, in one short transaction. From then on no other
// user sees the account. The second calls CleanUpAccount, each time in a transaction of its own,
// until no row refers to the account any more.

// These are how much one transaction of CleanUpAccount changes at most. It takes milliseconds, so
// others do not wait long for SQLite's one writer, or for the lock of one of the conversations.
const (
	membershipsAtOnce = 8
	reactionsAtOnce   = 16
)

// CleanUpAccount removes some of the references to a user whose account is marked as removed, and
// reports whether there may be more. It takes the user's reactions back, ends the memberships, and
// removes the author from messages and events, which stay. Each reaction and each membership ends
// together with the event about it, so a caller may stop after any call.
func (s *Service) CleanUpAccount(
	ctx context.Context, tx *store.Tx, id model.UserID,
) (more bool, err error) {
	for _, step := range []func(context.Context, *store.Tx, model.UserID) (n int64, err error){
		s.removeReactions, s.endMemberships,
		func(ctx context.Context, tx *store.Tx, id model.UserID) (int64, error) {
			return tx.DeleteSome(ctx, "mentions", "user_id = ?", id)
		},
		func(ctx context.Context, tx *store.Tx, id model.UserID) (int64, error) {
			const anonymous = "author_id = NULL, idempotency_key = NULL, request_hash = NULL"
			return tx.UpdateSome(ctx, "messages", anonymous, "author_id = ?", id)
		},
		func(ctx context.Context, tx *store.Tx, id model.UserID) (int64, error) {
			return tx.UpdateSome(ctx, "events", "actor_id = NULL", "actor_id = ?", id)
		},
		func(ctx context.Context, tx *store.Tx, id model.UserID) (int64, error) {
			return tx.DeleteSome(ctx, "departures", "user_id = ?", id)
		},
	} {
		if n, err := step(ctx, tx, id); err != nil || n > 0 {
			return n > 0, err
		}
	}
	return false, nil
}

// endMemberships ends some of a user's memberships, in the lock order of conversations.
func (s *Service) endMemberships(
	ctx context.Context, tx *store.Tx, id model.UserID,
) (n int64, err error) {
	var some []*model.ConversationMember
	err = tx.NewSelect().Model(&some).Where("cm.user_id = ?", id).OrderExpr("cm.conversation_id").
		Limit(membershipsAtOnce).Scan(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range some {
		if err := s.removeMembership(ctx, tx, m); err != nil {
			return 0, err
		}
	}
	return int64(len(some)), nil
}

// removeReactions takes some of a user's reactions back, including those in conversations that the
// user has left.
func (s *Service) removeReactions(
	ctx context.Context, tx *store.Tx, id model.UserID,
) (n int64, err error) {
	var some []*model.Reaction
	err = tx.NewSelect().Model(&some).Where("r.user_id = ?", id).
		OrderExpr("r.conversation_id, r.created_at").Limit(reactionsAtOnce).Scan(ctx)
	if err != nil {
		return 0, err
	}
	for _, r := range some {
		if err := s.removeReaction(ctx, tx, r); err != nil {
			return 0, err
		}
	}
	return int64(len(some)), nil
}

// removeReaction takes one reaction back. In an ended conversation it writes no event: the
// conversation has no followers, and the message may be deleted already.
func (s *Service) removeReaction(ctx context.Context, tx *store.Tx, r *model.Reaction) error {
	ended, err := lockEndedToo(ctx, tx, r.ConversationID)
	if err != nil {
		return err
	}
	res, err := tx.NewDelete().Model(r).WherePK().Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 || ended {
		return err // n is 0 if it was deleted with its message or conversation just before
	}
	m := new(model.Message)
	if err := tx.NewSelect().Model(m).Where("m.id = ?", r.MessageID).Scan(ctx); err != nil {
		return err
	}
	left, err := tx.NewSelect().Model((*model.Reaction)(nil)).
		Where("r.conversation_id = ?", r.ConversationID).
		Where("r.message_id = ?", r.MessageID).Where("r.emoji = ?", r.Emoji).Count(ctx)
	if err != nil {
		return err
	}
	e := &model.Event{
		ConversationID: r.ConversationID, Kind: model.ReactionRemoved, Message: m,
	}
	return s.appendEvent(ctx, tx, e,
		model.ReactionData{UserID: r.UserID, Emoji: r.Emoji, Count: int(left)})
}

// lockEndedToo locks a conversation, and reports whether it has ended or is deleted. Without the
// lock, a transaction that deletes the conversation's rows could lock the same rows in another
// order, and deadlock.
func lockEndedToo(
	ctx context.Context, tx *store.Tx, id model.ConversationID,
) (ended bool, err error) {
	c := new(model.Conversation)
	q := tx.NewSelect().Model(c).Column("ended_at").WhereAllWithDeleted().Where("c.id = ?", id)
	if tx.Postgres() {
		q = q.For("UPDATE")
	}
	err = q.Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return true, nil
	}
	return c.EndedAt != nil, err
}

// removeMembership ends one membership. If no member is left, it ends the conversation. If the
// owner leaves, it makes the successor the owner.
func (s *Service) removeMembership(
	ctx context.Context, tx *store.Tx, m *model.ConversationMember,
) error {
	if err := tx.Lock(ctx, (*model.Conversation)(nil), "id = ?", m.ConversationID); err != nil {
		return err
	}
	// The membership is read again under the lock: its role may have changed, or it may have ended.
	err := tx.NewSelect().Model(m).WherePK().Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := tx.NewDelete().Model(m).WherePK().Exec(ctx); err != nil {
		return err
	}
	heir, err := successor(ctx, tx, m.ConversationID)
	if err != nil {
		return err
	}
	if heir == nil {
		return s.endConversation(ctx, tx, m.ConversationID)
	}
	// OpenDirect no longer finds a direct conversation that a member has left.
	if _, err := tx.NewUpdate().Model((*model.Conversation)(nil)).Set("direct_key = NULL").
		Where("id = ?", m.ConversationID).Exec(ctx); err != nil {
		return err
	}
	if err := s.appendEvent(ctx, tx,
		&model.Event{ConversationID: m.ConversationID, Kind: model.MemberRemoved},
		model.MemberRemovedData{UserID: m.UserID}); err != nil {
		return err
	}
	if err := s.renameUntitled(ctx, tx, m.ConversationID); err != nil {
		return err
	}
	if m.Role != model.Owner {
		return nil
	}
	if _, err := tx.NewUpdate().Model(heir).Set("role = ?", model.Owner).WherePK().
		Exec(ctx); err != nil {
		return err
	}
	e := &model.Event{ConversationID: m.ConversationID, Kind: model.MemberRoleChanged}
	return s.appendEvent(ctx, tx, e,
		model.MemberRoleChangedData{UserID: heir.UserID, Role: model.Owner})
}

// renameUntitled makes a new title for a conversation without a title of its own, from the
// nicknames of the remaining members, and replaces the previous titles in the log.
func (s *Service) renameUntitled(ctx context.Context, tx *store.Tx, id model.ConversationID) error {
	c := new(model.Conversation)
	if err := tx.NewSelect().Model(c).Where("c.id = ?", id).Scan(ctx); err != nil || !c.Untitled {
		return err
	}
	var names []string
	err := tx.NewSelect().Model((*model.ConversationMember)(nil)).Column("u.nickname").
		Join("JOIN users AS u ON u.id = cm.user_id AND u.removed_at IS NULL").
		Where("cm.conversation_id = ?", id).
		OrderExpr("cm.joined_seq, cm.user_id").Scan(ctx, &names)
	if err != nil {
		return err
	}
	c.Title = joinNames(names)
	if _, err := tx.NewUpdate().Model(c).Column("title").WherePK().Exec(ctx); err != nil {
		return err
	}
	if err := rewriteTitles(ctx, tx, id, c.Title); err != nil {
		return err
	}
	return s.appendEvent(ctx, tx, &model.Event{ConversationID: id, Kind: model.ConversationRenamed},
		model.ConversationRenamedData{Title: c.Title})
}

// appendEvent appends an event without an actor.
func (s *Service) appendEvent(
	ctx context.Context, tx *store.Tx, e *model.Event, data any,
) error {
	_, err := s.feed.Append(ctx, tx, e, data)
	return err
}

// rewriteTitles replaces the titles in all events of an untitled conversation, because all of them
// were made of nicknames.
func rewriteTitles(ctx context.Context, tx *store.Tx, id model.ConversationID, title string) error {
	var events []*model.Event
	err := tx.NewSelect().Model(&events).Where("e.conversation_id = ?", id).
		Where("e.kind IN (?)", bun.List([]model.EventKind{
			model.ConversationCreated, model.ConversationRenamed,
		})).Scan(ctx)
	if err != nil {
		return err
	}
	for _, e := range events {
		data := map[string]json.RawMessage{}
		if err := json.Unmarshal(e.Data, &data); err != nil {
			return err
		}
		if data["title"], err = json.Marshal(title); err != nil {
			return err
		}
		if e.Data, err = json.Marshal(data); err != nil {
			return err
		}
		if _, err := tx.NewUpdate().Model(e).Column("data").WherePK().Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// successor returns the next owner of a conversation: the admin who joined first or, without
// admins, the member who joined first. It returns nil if no member is left.
func successor(
	ctx context.Context, tx *store.Tx, id model.ConversationID,
) (*model.ConversationMember, error) {
	heir := new(model.ConversationMember)
	err := tx.NewSelect().Model(heir).Where("cm.conversation_id = ?", id).
		Where(membership.NotRemoved("cm.user_id")).
		OrderExpr("CASE cm.role WHEN 'ADMIN' THEN 0 ELSE 1 END, cm.joined_seq, cm.user_id").
		Limit(1).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // no member is left
	}
	return heir, err
}

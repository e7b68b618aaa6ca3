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

// An account is removed in two parts, and package auth owns the transactions of both. First it is
// marked, in one short transaction, of which EndPresence is a part. From then on live leaves it out
// wherever people see each other. Then CleanUpAccount runs again and again, each time in a
// transaction of its own, until nothing refers to the account any more.

// What one transaction of CleanUpAccount changes at most. Each takes milliseconds, and whoever
// waits for SQLite's one writer, or for one of the conversations, waits no longer than that.
const (
	membershipsAtOnce = 8
	reactionsAtOnce   = 16
)

// CleanUpAccount takes a person, whose account is marked as removed, out of some of what still
// refers to them, and reports whether there may be more: their reactions are taken back, their
// memberships end, and their messages and events, which stay, lose their author. Each reaction and
// each membership goes with its events or not at all, so a caller may stop after any call.
func (s *Service) CleanUpAccount(
	ctx context.Context, tx *store.Tx, id model.UserID,
) (more bool, err error) {
	for _, step := range []func(context.Context, *store.Tx, model.UserID) (n int64, err error){
		s.removeReactions, s.endMemberships,
		func(ctx context.Context, tx *store.Tx, id model.UserID) (int64, error) {
			return tx.DeleteSome(ctx, "mentions", "user_id = ?", id)
		},
		func(ctx context.Context, tx *store.Tx, id model.UserID) (int64, error) {
			const none = "author_id = NULL, idempotency_key = NULL, request_hash = NULL"
			return tx.UpdateSome(ctx, "messages", none, "author_id = ?", id)
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

// endMemberships ends some of a person's memberships, in order of the conversations' ids, as
// everybody locks them.
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
		if err := s.removeLeaving(ctx, tx, m); err != nil {
			return 0, err
		}
	}
	return int64(len(some)), nil
}

// removeReactions takes some of a person's reactions back, also where the person is no longer a
// member.
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
		if err := s.removeReactionOf(ctx, tx, r); err != nil {
			return 0, err
		}
	}
	return int64(len(some)), nil
}

// removeReactionOf takes one reaction back. In a conversation that has ended, and whose rows are
// being deleted, the reaction goes without an event: nobody follows it, and its message may have
// gone first.
func (s *Service) removeReactionOf(ctx context.Context, tx *store.Tx, r *model.Reaction) error {
	ended, err := lockEndedToo(ctx, tx, r.ConversationID)
	if err != nil {
		return err
	}
	res, err := tx.NewDelete().Model(r).WherePK().Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 || ended {
		return err // n is 0 if it went with its message or its conversation just before
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
	return s.appendEvent(ctx, tx, &model.Event{
		ConversationID: r.ConversationID,
		Kind:           model.ReactionRemoved, Message: m,
	},
		model.ReactionData{UserID: r.UserID, Emoji: r.Emoji, Count: int(left)})
}

// lockEndedToo locks a conversation and reports whether it has ended. One that is gone has. It
// takes turns with the deletion of the conversation's rows, which would lock the same rows in
// another order.
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

// removeLeaving ends one membership. A conversation that is left empty goes with it; one that is
// left without its owner gets the next.
func (s *Service) removeLeaving(
	ctx context.Context, tx *store.Tx, m *model.ConversationMember,
) error {
	if err := tx.Lock(ctx, (*model.Conversation)(nil), "id = ?", m.ConversationID); err != nil {
		return err
	}
	// Under the lock: just before it they may have become the owner, or have left, or the
	// conversation may have ended.
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
	// A direct conversation can be found no more by the pair that it was of.
	if _, err := tx.NewUpdate().Model((*model.Conversation)(nil)).Set("direct_key = NULL").
		Where("id = ?", m.ConversationID).Exec(ctx); err != nil {
		return err
	}
	if err := s.appendEvent(ctx, tx,
		&model.Event{ConversationID: m.ConversationID, Kind: model.MemberRemoved},
		model.MemberRemovedData{UserID: m.UserID}); err != nil {
		return err
	}
	if err := s.forgetNickname(ctx, tx, m.ConversationID); err != nil {
		return err
	}
	if m.Role != model.Owner {
		return nil
	}
	if _, err := tx.NewUpdate().Model(heir).Set("role = ?", model.Owner).WherePK().
		Exec(ctx); err != nil {
		return err
	}
	promoted := model.MemberRoleChangedData{UserID: heir.UserID, Role: model.Owner}
	return s.appendEvent(ctx, tx, &model.Event{
		ConversationID: m.ConversationID,
		Kind:           model.MemberRoleChanged,
	}, promoted)
}

// forgetNickname makes a title that was made of nicknames anew, of those who are left, and takes
// the old one out of the log.
func (s *Service) forgetNickname(ctx context.Context, tx *store.Tx, id model.ConversationID) error {
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

// rewriteTitles gives the events of an untitled conversation, all of whose titles are made of
// nicknames, the newest one.
func rewriteTitles(ctx context.Context, tx *store.Tx, id model.ConversationID, title string) error {
	var told []*model.Event
	err := tx.NewSelect().Model(&told).Where("e.conversation_id = ?", id).
		Where("e.kind IN (?)", bun.List([]model.EventKind{
			model.ConversationCreated,
			model.ConversationRenamed,
		})).Scan(ctx)
	if err != nil {
		return err
	}
	for _, e := range told {
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

// successor is who owns a conversation next: of the admins, else of the members, the one who joined
// first; nil where nobody is left.
func successor(
	ctx context.Context, tx *store.Tx, id model.ConversationID,
) (*model.ConversationMember, error) {
	heir := new(model.ConversationMember)
	err := tx.NewSelect().Model(heir).Where("cm.conversation_id = ?", id).
		Where(membership.NotRemoved("cm.user_id")).
		OrderExpr("CASE cm.role WHEN 'ADMIN' THEN 0 ELSE 1 END, cm.joined_seq, cm.user_id").
		Limit(1).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // nobody
	}
	return heir, err
}

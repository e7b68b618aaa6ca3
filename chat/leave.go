package chat

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/store"
)

// LockForRemoval locks the conversations that RemoveAccount is going to change, in order of id. It has to be done before the
// account is locked, in the same transaction: senders lock their conversation first, and then refer to the account.
func (s *Service) LockForRemoval(ctx context.Context, tx *store.Tx, id model.UserID) error {
	if !tx.Postgres() {
		return nil
	}
	_, err := tx.NewSelect().Model((*model.Conversation)(nil)).Column("id").
		Where("c.id IN (SELECT conversation_id FROM conversation_members WHERE user_id = ?)", id).
		WhereOr("c.id IN (SELECT conversation_id FROM reactions WHERE user_id = ?)", id).
		OrderExpr("c.id").For("UPDATE").Exec(ctx)
	return err
}

// RemoveAccount takes a person out of everything, in the transaction that removes their account: out of their conversations,
// whose ownership passes on, and away from their messages, which stay. It is for the removal of accounts alone, which has
// made sure of who asks.
func (s *Service) RemoveAccount(ctx context.Context, tx *store.Tx, id model.UserID) error {
	if err := s.removeReactions(ctx, tx, id); err != nil {
		return err
	}
	var memberships []*model.ConversationMember
	// In order of id, so that two who leave the same conversations lock them in the same order.
	err := tx.NewSelect().Model(&memberships).Where("cm.user_id = ?", id).OrderExpr("cm.conversation_id").Scan(ctx)
	if err != nil {
		return err
	}
	for _, m := range memberships {
		if err := s.removeLeaving(ctx, tx, m); err != nil {
			return err
		}
	}
	_, err = tx.NewUpdate().Model((*model.Message)(nil)).Set("author_id = NULL").Set("idempotency_key = NULL").
		Set("request_hash = NULL").Where("author_id = ?", id).Exec(ctx)
	if err != nil {
		return err
	}
	_, err = tx.NewUpdate().Model((*model.Event)(nil)).Set("actor_id = NULL").Where("actor_id = ?", id).Exec(ctx)
	if err != nil {
		return err
	}
	// Whoever knows of their presence is told that it is gone.
	tx.AfterCommit(func() { s.publishSign(presenceTopic, sign{Users: []model.UserID{id}}) })
	_, err = tx.NewDelete().Model((*model.Mention)(nil)).Where("user_id = ?", id).Exec(ctx)
	return err
}

// removeReactions takes a person's reactions back, also where they are a member no longer.
func (s *Service) removeReactions(ctx context.Context, tx *store.Tx, id model.UserID) error {
	var reactions []*model.Reaction
	err := tx.NewSelect().Model(&reactions).Where("r.user_id = ?", id).
		OrderExpr("r.conversation_id, r.created_at").Scan(ctx)
	if err != nil {
		return err
	}
	for _, r := range reactions {
		if err := s.removeReactionOf(ctx, tx, r); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) removeReactionOf(ctx context.Context, tx *store.Tx, r *model.Reaction) error {
	if err := tx.Lock(ctx, (*model.Conversation)(nil), "id = ?", r.ConversationID); err != nil {
		return err
	}
	res, err := tx.NewDelete().Model(r).WherePK().Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err // it went with its message just before
	}
	m := new(model.Message)
	if err := tx.NewSelect().Model(m).Where("m.id = ?", r.MessageID).Scan(ctx); err != nil {
		return err
	}
	left, err := tx.NewSelect().Model((*model.Reaction)(nil)).Where("r.conversation_id = ?", r.ConversationID).
		Where("r.message_id = ?", r.MessageID).Where("r.emoji = ?", r.Emoji).Count(ctx)
	if err != nil {
		return err
	}
	return s.happen(ctx, tx, r.ConversationID, model.ReactionRemoved, m,
		model.ReactionData{UserID: r.UserID, Emoji: r.Emoji, Count: int(left)})
}

// removeLeaving ends one membership. A conversation that is left empty goes with it; one that is left without its owner gets
// the next.
func (s *Service) removeLeaving(ctx context.Context, tx *store.Tx, m *model.ConversationMember) error {
	if err := tx.Lock(ctx, (*model.Conversation)(nil), "id = ?", m.ConversationID); err != nil {
		return err
	}
	// Under the lock: just before it they may have become the owner, or have left, or the conversation may have ended.
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
		_, err := tx.NewDelete().Model((*model.Conversation)(nil)).Where("id = ?", m.ConversationID).Exec(ctx)
		return err
	}
	// A direct conversation can be found no more by the pair that it was of.
	if _, err := tx.NewUpdate().Model((*model.Conversation)(nil)).Set("direct_key = NULL").
		Where("id = ?", m.ConversationID).Exec(ctx); err != nil {
		return err
	}
	if err := s.happen(ctx, tx, m.ConversationID, model.MemberRemoved, nil, model.MemberRemovedData{UserID: m.UserID}); err != nil {
		return err
	}
	if err := s.forgetNickname(ctx, tx, m.ConversationID); err != nil {
		return err
	}
	if m.Role != model.Owner {
		return nil
	}
	if _, err := tx.NewUpdate().Model(heir).Set("role = ?", model.Owner).WherePK().Exec(ctx); err != nil {
		return err
	}
	promoted := model.MemberRoleChangedData{UserID: heir.UserID, Role: model.Owner}
	return s.happen(ctx, tx, m.ConversationID, model.MemberRoleChanged, nil, promoted)
}

// forgetNickname makes a title that was made of nicknames anew, of those who are left, and takes the old one out of the log.
func (s *Service) forgetNickname(ctx context.Context, tx *store.Tx, id model.ConversationID) error {
	c := new(model.Conversation)
	if err := tx.NewSelect().Model(c).Where("c.id = ?", id).Scan(ctx); err != nil || !c.Untitled {
		return err
	}
	var names []string
	err := tx.NewSelect().Model((*model.ConversationMember)(nil)).Column("u.nickname").
		Join("JOIN users AS u ON u.id = cm.user_id").Where("cm.conversation_id = ?", id).
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
	return s.happen(ctx, tx, id, model.ConversationRenamed, nil, model.ConversationRenamedData{Title: c.Title})
}

// happen writes an event that nobody is named for; m is nil where it is not about a message.
func (s *Service) happen(
	ctx context.Context, tx *store.Tx, id model.ConversationID, kind model.EventKind, m *model.Message, data any,
) error {
	p, err := nextPlace(ctx, tx, id, kind)
	if err != nil {
		return err
	}
	e := &model.Event{ConversationID: id, Seq: p.seq, At: p.at, Kind: kind, Message: m}
	if m != nil {
		e.MessageID = &m.ID
	}
	return s.appendEvent(ctx, tx, e, data)
}

// rewriteTitles gives the events of an untitled conversation, all of whose titles are made of nicknames, the newest one.
func rewriteTitles(ctx context.Context, tx *store.Tx, id model.ConversationID, title string) error {
	var told []*model.Event
	err := tx.NewSelect().Model(&told).Where("e.conversation_id = ?", id).
		Where("e.kind IN (?)", bun.List([]model.EventKind{model.ConversationCreated, model.ConversationRenamed})).Scan(ctx)
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

// successor is who owns a conversation next: of the admins, else of the members, the one who joined first; nil where nobody
// is left.
func successor(ctx context.Context, tx *store.Tx, id model.ConversationID) (*model.ConversationMember, error) {
	heir := new(model.ConversationMember)
	err := tx.NewSelect().Model(heir).Where("cm.conversation_id = ?", id).
		OrderExpr("CASE cm.role WHEN 'ADMIN' THEN 0 ELSE 1 END, cm.joined_seq, cm.user_id").Limit(1).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // nobody
	}
	return heir, err
}

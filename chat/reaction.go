package chat

import (
	"cmp"
	"context"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/membership"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
	"parley/text"
)

// MaxReactions is how many different emoji one message can have.
const MaxReactions = 20

// AddReaction adds the actor's reaction with an emoji to a message. A repetition is a no-op.
func (s *Service) AddReaction(
	ctx context.Context, actor model.Actor, id model.MessageID, emoji string,
) (*model.Message, error) {
	emoji, err := checkEmoji(emoji)
	if err != nil {
		return nil, err
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Reactions.Times(1)); err != nil {
		return nil, err
	}
	return s.changeMessage(ctx, actor, id,
		func(ctx context.Context, c *change, m *model.Message) error {
			if m.DeletedAt != nil {
				return errs.Input(errs.Conflict, "messageId", "The message is deleted.")
			}
			kinds, err := c.reactionCounts(ctx, m)
			if err != nil {
				return err
			}
			if _, there := kinds[emoji]; !there && len(kinds) >= MaxReactions {
				return errs.Input(errs.LimitReached, "emoji",
					"A message has at most %d different reactions.", MaxReactions)
			}
			reaction := &model.Reaction{
				ConversationID: m.ConversationID, MessageID: m.ID,
				UserID: actor.UserID, Emoji: emoji,
			}
			if there, err := c.tx.NewSelect().Model(reaction).WherePK().Exists(ctx); err != nil ||
				there {
				return err
			}
			data := model.ReactionData{UserID: actor.UserID, Emoji: emoji, Count: kinds[emoji] + 1}
			e, err := s.recordAbout(ctx, c, model.ReactionAdded, m, data)
			if err != nil {
				return err
			}
			reaction.CreatedAt = e.At
			_, err = c.tx.NewInsert().Model(reaction).Exec(ctx)
			return err
		})
}

// RemoveReaction takes back the actor's reaction with an emoji. It is a no-op if there is none.
func (s *Service) RemoveReaction(
	ctx context.Context, actor model.Actor, id model.MessageID, emoji string,
) (*model.Message, error) {
	emoji, err := checkEmoji(emoji)
	if err != nil {
		return nil, err
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Reactions.Times(1)); err != nil {
		return nil, err
	}
	return s.changeMessage(ctx, actor, id,
		func(ctx context.Context, c *change, m *model.Message) error {
			kinds, err := c.reactionCounts(ctx, m)
			if err != nil {
				return err
			}
			reaction := &model.Reaction{
				ConversationID: m.ConversationID, MessageID: m.ID,
				UserID: actor.UserID, Emoji: emoji,
			}
			res, err := c.tx.NewDelete().Model(reaction).WherePK().Exec(ctx)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n == 0 {
				return err
			}
			data := model.ReactionData{UserID: actor.UserID, Emoji: emoji, Count: kinds[emoji] - 1}
			_, err = s.recordAbout(ctx, c, model.ReactionRemoved, m, data)
			return err
		})
}

func checkEmoji(s string) (string, error) {
	emoji, ok := text.Emoji(s)
	if !ok {
		return "", errs.Input(errs.Invalid, "emoji", "This is not a single emoji.")
	}
	return emoji, nil
}

// reactionCounts counts the reactions to a message by emoji.
func (c *change) reactionCounts(ctx context.Context, m *model.Message) (map[string]int, error) {
	var found []struct {
		Emoji string
		Count int
	}
	err := c.tx.NewSelect().Model((*model.Reaction)(nil)).ColumnExpr("r.emoji, count(*) AS count").
		Where("r.conversation_id = ?", m.ConversationID).Where("r.message_id = ?", m.ID).
		GroupExpr("r.emoji").Scan(ctx, &found)
	counts := make(map[string]int, len(found))
	for _, row := range found {
		counts[row.Emoji] = row.Count
	}
	return counts, err
}

// reactionsTo limits a query for reactions to messages that the actor may see.
func reactionsTo(actor model.Actor, ids []model.MessageID) func(*bun.SelectQuery) *bun.SelectQuery {
	return func(q *bun.SelectQuery) *bun.SelectQuery {
		return q.Join(
			"JOIN messages AS m ON m.conversation_id = r.conversation_id AND m.id = r.message_id").
			Apply(membership.Shared(actor, "m.conversation_id")).
			Where("m.seq > viewer.hidden_seq").Where("r.message_id IN (?)", bun.List(ids))
	}
}

// Reactions returns the reactions to each of the messages that the actor may see, grouped by emoji,
// in the order in which each emoji was first used.
func (s *Service) Reactions(
	ctx context.Context, actor model.Actor, ids []model.MessageID,
) (map[model.MessageID][]*model.ReactionGroup, error) {
	var found []*model.ReactionGroup
	err := s.db.NewSelect().Model((*model.Reaction)(nil)).
		ColumnExpr("r.message_id, r.emoji, count(*) AS count").
		ColumnExpr("max(CASE WHEN r.user_id = ? THEN 1 ELSE 0 END) = 1 AS viewer_reacted",
			actor.UserID).
		Apply(reactionsTo(actor, ids)).GroupExpr("r.message_id, r.emoji").
		OrderExpr("min(r.created_at), r.emoji").Scan(ctx, &found)
	if err != nil {
		return nil, store.Error(err)
	}
	byMessage := map[model.MessageID][]*model.ReactionGroup{}
	for _, g := range found {
		byMessage[g.MessageID] = append(byMessage[g.MessageID], g)
	}
	return byMessage, nil
}

const reactorList = 'r' // the letter of this list's cursors

// ReactorCursor is the cursor of a reactor in the list of a reaction group.
func ReactorCursor(r *model.Reaction) string {
	return store.NewCursor(reactorList).Time(r.CreatedAt).UUID(r.UserID).String()
}

// EmojiOn identifies a reaction group.
type EmojiOn struct {
	MessageID model.MessageID
	Emoji     string
}

// The parents of the list of reactors are the reaction groups g of the messages with the ids ?2...,
// joined with the actor's membership. See messagesWithIDs for the order of the joins.
const (
	groupsOfMessages = `(
		WITH found AS MATERIALIZED (
			SELECT id, conversation_id, seq FROM messages WHERE id IN (?2...)
		) SELECT DISTINCT found.id AS message_id, found.conversation_id, found.seq, any_of.emoji
		FROM found CROSS JOIN reactions AS any_of WHERE any_of.message_id = found.id
	) AS g`
	groupVisible = "viewer.conversation_id = g.conversation_id AND viewer.user_id = ?1 " +
		"AND g.seq > viewer.hidden_seq"
)

// Reactors lists the reactions of each reaction group, oldest first. Groups of messages that the
// actor may not see are empty.
func (s *Service) Reactors(
	ctx context.Context, actor model.Actor, groups []EmojiOn, window store.Window,
) (map[EmojiOn]store.Page[*model.Reaction], error) {
	var keyset []any
	if window.Cursor != "" {
		cursor := store.ReadCursor(reactorList, window.Cursor)
		keyset = []any{cursor.ReadTime(), model.UserID(cursor.ReadUUID())}
		if err := cursor.Done(); err != nil {
			return nil, err
		}
	}
	ids := make([]model.MessageID, len(groups))
	for i, g := range groups {
		ids[i] = g.MessageID
	}
	found, err := readPages[model.Reaction](ctx, s, actor, ids, listText{
		parents: groupsOfMessages + " CROSS JOIN " + viewers,
		visible: groupVisible,
		items:   "reactions AS r", alias: "r",
		of:    "r.message_id = g.message_id AND r.emoji = g.emoji",
		order: store.Order{Columns: []string{"r.created_at", "r.user_id"}},
	}, window, keyset)
	if err != nil {
		return nil, err
	}
	of := func(r *model.Reaction) EmojiOn { return EmojiOn{MessageID: r.MessageID, Emoji: r.Emoji} }
	inOrder := func(a, b *model.Reaction) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), model.CompareIDs(a.UserID, b.UserID))
	}
	return cutEach(window, groups, found, of, inOrder), nil
}

package chat

import (
	"context"
	"time"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/text"
)

// MaxReactions is how many different emoji one message can have.
const MaxReactions = 20

// AddReaction puts an emoji to a message; once, however often it is asked for.
func (s *Service) AddReaction(
	ctx context.Context, actor model.Actor, id model.MessageID, emoji string,
) (*model.Message, error) {
	emoji, err := checkEmoji(emoji)
	if err != nil {
		return nil, err
	}
	return s.changingMessage(ctx, actor, id, func(ctx context.Context, c *change, m *model.Message) error {
		if m.DeletedAt != nil {
			return errs.Input(errs.Conflict, "messageId", "The message is deleted.")
		}
		kinds, err := c.reactionCounts(ctx, m)
		if err != nil {
			return err
		}
		if _, there := kinds[emoji]; !there && len(kinds) >= MaxReactions {
			return errs.Input(errs.LimitReached, "emoji", "A message has at most %d different reactions.", MaxReactions)
		}
		reaction := &model.Reaction{ConversationID: m.ConversationID, MessageID: m.ID, UserID: actor.UserID, Emoji: emoji}
		if there, err := c.tx.NewSelect().Model(reaction).WherePK().Exists(ctx); err != nil || there {
			return err
		}
		data := model.ReactionData{UserID: actor.UserID, Emoji: emoji, Count: kinds[emoji] + 1}
		p, err := s.recordAbout(ctx, c, model.ReactionAdded, m, data)
		if err != nil {
			return err
		}
		reaction.CreatedAt = p.at
		_, err = c.tx.NewInsert().Model(reaction).Exec(ctx)
		return err
	})
}

// RemoveReaction takes the actor's own emoji back; nothing happens where it is not there.
func (s *Service) RemoveReaction(
	ctx context.Context, actor model.Actor, id model.MessageID, emoji string,
) (*model.Message, error) {
	emoji, err := checkEmoji(emoji)
	if err != nil {
		return nil, err
	}
	return s.changingMessage(ctx, actor, id, func(ctx context.Context, c *change, m *model.Message) error {
		kinds, err := c.reactionCounts(ctx, m)
		if err != nil {
			return err
		}
		reaction := &model.Reaction{ConversationID: m.ConversationID, MessageID: m.ID, UserID: actor.UserID, Emoji: emoji}
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
		return "", errs.Input(errs.Invalid, "emoji", "That is not one emoji.")
	}
	return emoji, nil
}

// reactionCounts says how many have put which emoji to a message.
func (c *change) reactionCounts(ctx context.Context, m *model.Message) (map[string]int, error) {
	var found []struct {
		Emoji string
		Count int
	}
	err := c.tx.NewSelect().Model((*model.Reaction)(nil)).ColumnExpr("r.emoji, count(*) AS count").
		Where("r.conversation_id = ?", m.ConversationID).Where("r.message_id = ?", m.ID).GroupExpr("r.emoji").Scan(ctx, &found)
	counts := make(map[string]int, len(found))
	for _, row := range found {
		counts[row.Emoji] = row.Count
	}
	return counts, err
}

// reactionsTo narrows a query for reactions to those to messages that the actor may see.
func reactionsTo(actor model.Actor, ids []model.MessageID) func(*bun.SelectQuery) *bun.SelectQuery {
	return func(q *bun.SelectQuery) *bun.SelectQuery {
		return q.Join("JOIN messages AS m ON m.conversation_id = r.conversation_id AND m.id = r.message_id").Apply(sharedWith(actor, "m.conversation_id")).
			Where("m.seq > viewer.hidden_seq").Where("r.message_id IN (?)", bun.List(ids))
	}
}

// Reactions returns the reactions to each of the messages that the actor may see, by emoji: the one that came first, first.
func (s *Service) Reactions(
	ctx context.Context, actor model.Actor, ids []model.MessageID,
) (map[model.MessageID][]*model.ReactionGroup, error) {
	var found []*model.ReactionGroup
	err := s.db.NewSelect().Model((*model.Reaction)(nil)).
		ColumnExpr("r.message_id, r.emoji, count(*) AS count").
		ColumnExpr("max(CASE WHEN r.user_id = ? THEN 1 ELSE 0 END) = 1 AS viewer_reacted", actor.UserID).
		Apply(reactionsTo(actor, ids)).GroupExpr("r.message_id, r.emoji").OrderExpr("min(r.created_at), r.emoji").Scan(ctx, &found)
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

// Reactor is somebody who has put an emoji to a message.
type Reactor struct {
	UserID model.UserID
	At     time.Time
}

// ReactorCursor is where somebody stands among those who put the same emoji to a message.
func ReactorCursor(r *Reactor) string {
	return store.NewCursor(reactorList).Time(r.At).UUID(r.UserID).String()
}

// EmojiOn names a group of reactions.
type EmojiOn struct {
	MessageID model.MessageID
	Emoji     string
}

// Reactors lists, for each group of reactions to messages that the actor may see, who reacted, in the order in which they did.
func (s *Service) Reactors(
	ctx context.Context, actor model.Actor, groups []EmojiOn, window store.Window,
) (map[EmojiOn]store.Slice[*Reactor], error) {
	var position []any
	if window.Cursor != "" {
		cursor := store.ReadCursor(reactorList, window.Cursor)
		position = []any{cursor.ReadTime(), model.UserID(cursor.ReadUUID())}
		if err := cursor.Done(); err != nil {
			return nil, err
		}
	}
	order := store.Order{Columns: []string{"r.created_at", "r.user_id"}}
	queries := make([]*bun.SelectQuery, len(groups))
	for i, g := range groups {
		q := s.db.NewSelect().Model((*model.Reaction)(nil)).ColumnExpr("r.message_id, r.emoji, r.user_id, r.created_at AS at").
			Apply(reactionsTo(actor, []model.MessageID{g.MessageID})).Where("r.emoji = ?", g.Emoji)
		queries[i] = window.Apply(q, order, position...)
	}
	var found []struct {
		EmojiOn `bun:",extend"`
		Reactor `bun:",extend"`
	}
	if err := eachOf(ctx, s.db, queries, &found); err != nil {
		return nil, err
	}
	byGroup := map[EmojiOn][]*Reactor{}
	for i := range found {
		byGroup[found[i].EmojiOn] = append(byGroup[found[i].EmojiOn], &found[i].Reactor)
	}
	return cutEach(window, groups, byGroup), nil
}

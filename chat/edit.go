package chat

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"parley/errs"
	"parley/model"
	"parley/ratelimit"
)

// EditMessage is a new content for a message.
type EditMessage struct {
	MessageID model.MessageID
	Content   string
	// Expected, if it is set, is the last edit that the author knows of. If the message has been
	// edited since then, the new edit is refused.
	Expected *Edited
}

// Edited is when a message was last edited. At is nil if it was never edited.
type Edited struct{ At *time.Time }

// EditMessage replaces the content of a message. Only the author may do so, and only within
// Options.EditWindow.
func (s *Service) EditMessage(
	ctx context.Context, actor model.Actor, in EditMessage,
) (*model.Message, error) {
	var problems errs.List
	content := checkContent(&problems, in.Content)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Edits.Times(1)); err != nil {
		return nil, err
	}
	return s.changeMessage(ctx, actor, in.MessageID,
		func(ctx context.Context, c *change, m *model.Message) error {
			switch {
			case m.AuthorID == nil || *m.AuthorID != actor.UserID:
				return errs.New(errs.Forbidden, "Only the author can edit a message.")
			case m.DeletedAt != nil:
				return errs.Input(errs.Conflict, "messageId", "The message is deleted.")
			case m.Content == content: // or the client repeats an edit whose answer it lost
				return nil
			case s.opts.EditWindow > 0 && c.tx.Now.Sub(m.CreatedAt) > s.opts.EditWindow:
				return errs.New(errs.Forbidden,
					"A message can only be edited for %s after it was sent.",
					inWords(s.opts.EditWindow))
			case in.Expected != nil && !in.Expected.is(m.EditedAt):
				return errs.Input(errs.Conflict, "expectedEditedAt",
					"The message has been edited since then.")
			}
			m.Content = content
			e, err := s.recordAbout(ctx, c, model.MessageEdited, m, struct{}{})
			if err != nil {
				return err
			}
			m.EditedAt = new(e.At)
			if _, err := c.tx.NewUpdate().Model(m).Column("content", "edited_at").WherePK().
				Exec(ctx); err != nil {
				return err
			}
			if err := indexMessage(ctx, c.tx, m); err != nil {
				return err
			}
			if err := deleteMentions(ctx, c.tx, m); err != nil {
				return err
			}
			return insertMentions(ctx, c.tx, actor, m)
		})
}

func (e Edited) is(at *time.Time) bool {
	if e.At == nil || at == nil {
		return e.At == at
	}
	return e.At.Equal(*at)
}

// DeleteMessage deletes the content, tokens, mentions and reactions of a message. The message keeps
// its seq. The author may do so, and in a group the owner and the admins. Deleting a deleted
// message is a no-op.
func (s *Service) DeleteMessage(
	ctx context.Context, actor model.Actor, id model.MessageID,
) (*model.Message, error) {
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Edits.Times(1)); err != nil {
		return nil, err
	}
	return s.changeMessage(ctx, actor, id,
		func(ctx context.Context, c *change, m *model.Message) error {
			if m.AuthorID == nil || *m.AuthorID != actor.UserID {
				if err := c.requireRole(model.Owner, model.Admin); err != nil {
					return err
				}
			}
			if m.DeletedAt != nil {
				return nil
			}
			e, err := s.recordAbout(ctx, c, model.MessageDeleted, m, struct{}{})
			if err != nil {
				return err
			}
			c.logAfterCommit(s.opts.Log, MessageDeletedLog, "message", m.ID)
			m.Content, m.RequestHash, m.DeletedAt = "", nil, new(e.At)
			if _, err := c.tx.NewUpdate().Model(m).Column("content", "request_hash", "deleted_at").
				WherePK().Exec(ctx); err != nil {
				return err
			}
			if err := indexMessage(ctx, c.tx, m); err != nil {
				return err
			}
			if err := deleteMentions(ctx, c.tx, m); err != nil {
				return err
			}
			_, err = c.tx.NewDelete().Model((*model.Reaction)(nil)).
				Where("conversation_id = ?", m.ConversationID).Where("message_id = ?", m.ID).
				Exec(ctx)
			return err
		})
}

var errNoMessage = errs.New(errs.NotFound, "There is no such message.")

// changeMessage locks the conversation of a message, reads the message, runs fn, and returns the
// changed message. NOT_FOUND if the actor may not see the message.
func (s *Service) changeMessage(
	ctx context.Context, actor model.Actor, id model.MessageID,
	fn func(ctx context.Context, c *change, m *model.Message) error,
) (*model.Message, error) {
	found, err := s.MessagesByID(ctx, actor, []model.MessageID{id})
	if err != nil {
		return nil, err
	}
	if found[id] == nil {
		return nil, errNoMessage
	}
	var m *model.Message
	_, err = s.changeConversation(ctx, actor, found[id].ConversationID,
		func(ctx context.Context, c *change) error {
			m = new(model.Message)
			err := c.tx.NewSelect().Model(m).Where("m.id = ?", id).
				Where("m.seq > ?", c.member.HiddenSeq).Scan(ctx)
			if errors.Is(err, sql.ErrNoRows) {
				return errNoMessage
			}
			if err != nil {
				return err
			}
			return fn(ctx, c, m)
		})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// inWords writes a duration in the largest unit of which it is a whole number, such as "15
// minutes".
func inWords(d time.Duration) string {
	n, unit := d/time.Second, "second"
	switch {
	case d%time.Hour == 0:
		n, unit = d/time.Hour, "hour"
	case d%time.Minute == 0:
		n, unit = d/time.Minute, "minute"
	}
	if n != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", n, unit)
}

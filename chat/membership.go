package chat

import (
	"context"
	"strings"
	"time"

	"parley/errs"
	"parley/feed"
	"parley/membership"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
	"parley/text"
)

// UpdateMembership is what the actor changes of how they have a conversation; nil leaves it as it
// is.
type UpdateMembership struct {
	ConversationID model.ConversationID
	Muted          *bool      // true without MutedUntil is until it is taken back
	MutedUntil     *time.Time // in the future
	Archived       *bool      // until a message comes
	Pinned         *bool
}

// UpdateMembership changes how the actor has a conversation. Nobody else learns of it.
func (s *Service) UpdateMembership(
	ctx context.Context, actor model.Actor, in UpdateMembership,
) (*model.ConversationMember, error) {
	if in.MutedUntil != nil {
		switch {
		case in.Muted != nil && !*in.Muted:
			return nil, errs.Input(errs.Conflict, "mutedUntil",
				"Either muted until then, or not muted.")
		case !in.MutedUntil.After(s.db.Now()):
			return nil, errs.Input(errs.Invalid, "mutedUntil",
				"That time has passed; to unmute, set muted to false.")
		case in.MutedUntil.After(model.Forever):
			return nil, errs.Input(errs.Invalid, "mutedUntil",
				"That is further than the calendar goes here.")
		}
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.State.Times(1)); err != nil {
		return nil, err
	}
	return s.changingMembership(ctx, actor, in.ConversationID,
		func(ctx context.Context, tx *store.Tx, m *model.ConversationMember) error {
			switch {
			case in.MutedUntil != nil:
				until := in.MutedUntil.UTC().Truncate(time.Microsecond)
				m.MutedUntil = &until
			case in.Muted != nil && *in.Muted:
				m.MutedUntil = &model.Forever
			case in.Muted != nil:
				m.MutedUntil = nil
			}
			if in.Pinned != nil {
				m.Pinned = *in.Pinned
			}
			if in.Archived != nil {
				m.ArchivedSeq = 0
			}
			if in.Archived != nil && *in.Archived {
				err := tx.NewSelect().Model((*model.Conversation)(nil)).Column("last_seq").
					Where("c.id = ?", m.ConversationID).
					Scan(ctx, &m.ArchivedSeq)
				if err != nil {
					return err
				}
			}
			return updateMembership(ctx, tx, m, "muted_until", "pinned", "archived_seq")
		})
}

// SaveDraft keeps what the actor has written and not sent, for their other devices; a blank one is
// none. The last one counts.
func (s *Service) SaveDraft(
	ctx context.Context, actor model.Actor, id model.ConversationID, content string,
) (*model.ConversationMember, error) {
	// and otherwise as it is: it is being written
	content = strings.ReplaceAll(content, "\r\n", "\n")
	switch problem := text.Problem(content, true); {
	case problem != "":
		return nil, errs.Input(errs.Invalid, "content", "The draft %s.", problem)
	case text.Len(content) > maxContent:
		return nil, errs.Input(errs.TooLong, "content", "A draft has at most %d characters.",
			maxContent)
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.State.Times(1)); err != nil {
		return nil, err
	}
	return s.changingMembership(ctx, actor, id,
		func(ctx context.Context, tx *store.Tx, m *model.ConversationMember) error {
			m.Draft = &content
			if text.Clean(content) == "" {
				m.Draft = nil
			}
			return updateMembership(ctx, tx, m, "draft")
		})
}

// MutedUntil is when a mute ends; nil where there is none any more.
func (s *Service) MutedUntil(m *model.ConversationMember) *time.Time {
	if m.MutedUntil == nil || !m.MutedUntil.After(s.db.Now()) {
		return nil
	}
	return m.MutedUntil
}

// changingMembership locks the actor's own membership and runs fn; NOT_FOUND for anybody but a
// member. It returns the membership as it is afterwards.
func (s *Service) changingMembership(
	ctx context.Context, actor model.Actor, id model.ConversationID,
	fn func(ctx context.Context, tx *store.Tx, m *model.ConversationMember) error,
) (m *model.ConversationMember, err error) {
	err = s.db.InQueuedTx(ctx, model.MemberID{Conversation: id, User: actor.UserID},
		func(ctx context.Context, tx *store.Tx) error {
			table := (*model.ConversationMember)(nil)
			if err := tx.Lock(ctx, table, "conversation_id = ? AND user_id = ?", id,
				actor.UserID); err != nil {
				return err
			}
			if m, err = membership.Of(ctx, tx, actor, id); err != nil {
				return err
			}
			s.feed.PublishMembership(tx, id, actor.UserID)
			return fn(ctx, tx, m)
		})
	if err != nil {
		return nil, err
	}
	return m, nil
}

func updateMembership(
	ctx context.Context, tx *store.Tx, m *model.ConversationMember, columns ...string,
) error {
	position, err := feed.NextPosition(ctx, tx)
	if err != nil {
		return err
	}
	return tx.NewUpdate().Model(m).Column(append(columns, "position")...).
		Value("position", "?", position).WherePK().
		Returning("position").Scan(ctx, &m.Position)
}

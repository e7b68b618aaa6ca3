package live

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"parley/membership"
	"parley/model"
	"parley/store"
)

// Presence is whether a user is online: has a live connection to some node, or had one less than
// PresenceTimeout ago.
type Presence struct {
	UserID model.UserID
	Online bool
	// LastSeenAt is when the last connection ended; nil while the user is online, or if it is not
	// known.
	LastSeenAt *time.Time
}

func (p Presence) equal(q Presence) bool {
	return p.Online == q.Online && (p.LastSeenAt == nil) == (q.LastSeenAt == nil) &&
		(p.LastSeenAt == nil || p.LastSeenAt.Equal(*q.LastSeenAt))
}

// Presences returns the presence of those of the users whose presence the actor may know: users who
// share a conversation with the actor, and the actor, if they show their presence. The others are
// missing.
func (s *Service) Presences(
	ctx context.Context, actor model.Actor, ids []model.UserID,
) (map[model.UserID]Presence, error) {
	byUser := make(map[model.UserID]Presence, len(ids))
	for some := range slices.Chunk(ids, presenceBatch) {
		found, err := s.readPresences(ctx, actor, some)
		if err != nil {
			return nil, err
		}
		for _, p := range found {
			if p.Shown {
				byUser[p.UserID] = p.Presence
			}
		}
	}
	return byUser, nil
}

// sharedPresence is the presence of a user who shares a conversation with the actor, or is the
// actor.
type sharedPresence struct {
	Presence
	Shown bool // the user shows it; if not, it must not leave this package
}

// readPresences reads the presence of some users, in order of their ids.
func (s *Service) readPresences(
	ctx context.Context, actor model.Actor, ids []model.UserID,
) ([]sharedPresence, error) {
	return s.scanPresences(ctx, actor, func(q, shared *bun.SelectQuery) *bun.SelectQuery {
		return q.Where("u.id IN (?)", bun.List(ids)).
			Where("u.id = ? OR u.id IN (?)", actor.UserID, shared)
	})
}

// readAllPresences reads the presence of all users who share a conversation with the actor, except
// the actor's, in order of their ids.
func (s *Service) readAllPresences(
	ctx context.Context, actor model.Actor,
) ([]sharedPresence, error) {
	return s.scanPresences(ctx, actor, func(q, shared *bun.SelectQuery) *bun.SelectQuery {
		return q.Where("u.id IN (?)", shared).Where("u.id <> ?", actor.UserID)
	})
}

// scanPresences reads the presence of the users to which narrow narrows the query. shared selects
// the ids of the members of the actor's conversations.
func (s *Service) scanPresences(
	ctx context.Context, actor model.Actor,
	narrow func(q, shared *bun.SelectQuery) *bun.SelectQuery,
) ([]sharedPresence, error) {
	shared := s.db.NewSelect().TableExpr("conversation_members AS theirs").
		Column("theirs.user_id").Apply(membership.Shared(actor, "theirs.conversation_id"))
	newest := func(column string) *bun.SelectQuery {
		return s.db.NewSelect().Model((*model.Presence)(nil)).
			ColumnExpr("max(?)", bun.Ident(column)).
			Join("JOIN nodes AS n ON n.id = p.node_id").Where("p.user_id = u.id")
	}
	q := s.db.NewSelect().TableExpr("users AS u").
		ColumnExpr("u.id AS user_id, u.show_presence AS shown, sg.last_seen_at").
		ColumnExpr("(?) AS node_seen_at", newest("n.seen_at")).
		ColumnExpr("(?) AS alive_until", newest("n.alive_until")).
		ColumnExpr("? AS now", s.clock(0)).
		Join("LEFT JOIN sightings AS sg ON sg.user_id = u.id").
		Where("u.removed_at IS NULL").OrderExpr("u.id")
	var found []struct {
		UserID     model.UserID
		Shown      bool
		LastSeenAt *time.Time
		NodeSeenAt *time.Time // the newest heartbeat of the nodes that the user is connected to
		AliveUntil *time.Time // the latest of these nodes
		Now        time.Time
	}
	if err := narrow(q, shared).Scan(ctx, &found); err != nil {
		return nil, store.Error(err)
	}
	presences := make([]sharedPresence, len(found))
	for i, row := range found {
		p := Presence{UserID: row.UserID, LastSeenAt: row.LastSeenAt}
		switch alive := row.AliveUntil; {
		case alive == nil:
		case alive.After(row.Now):
			p.Online, p.LastSeenAt = true, nil
		case p.LastSeenAt == nil || p.LastSeenAt.Before(*row.NodeSeenAt):
			// The node is dead and not reaped yet.
			p.LastSeenAt = row.NodeSeenAt
		}
		presences[i] = sharedPresence{p, row.Shown}
	}
	return presences, nil
}

// PresenceChanges first yields the current presence of every user whose presence the actor may
// know, except the actor's, and then each change. A slow consumer gets the newest presence of each
// user. A user who starts to hide their presence, or no longer shares a conversation with the
// actor, is yielded once as offline without LastSeenAt. The sequence ends with ctx's error.
func (s *Service) PresenceChanges(
	ctx context.Context, actor model.Actor,
) iter.Seq2[Presence, error] {
	return func(yield func(Presence, error) bool) {
		w := s.watches.register(actor)
		defer s.watches.unregister(w)
		if err := s.deliverPresences(ctx, w, yield); !errors.Is(err, errStopped) {
			yield(Presence{}, err)
		}
	}
}

func (s *Service) deliverPresences(
	ctx context.Context, w *presenceWatch, yield func(Presence, error) bool,
) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.C():
		}
		ids, all := w.drain()
		if len(ids) == 0 && !all {
			continue
		}
		found, err := s.retryPresences(ctx, w.actor, ids, all)
		if err != nil {
			return err
		}
		for _, p := range w.diff(ids, all, found) {
			if !w.markDelivered(p) {
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !yield(p, nil) {
				return errStopped
			}
		}
	}
}

// retryPresences reads presence, and retries while the database is unavailable. It waits for a
// replay slot, because many watches read at the same time when many users come and go.
func (s *Service) retryPresences(
	ctx context.Context, actor model.Actor, ids []model.UserID, all bool,
) (found []sharedPresence, err error) {
	err = store.RetryWhileUnavailable(ctx, func() error {
		return s.feed.WithReplaySlot(ctx, func() (err error) {
			if all {
				found, err = s.readAllPresences(ctx, actor)
				return err
			}
			found = nil
			for some := range slices.Chunk(ids, presenceBatch) {
				part, err := s.readPresences(ctx, actor, some)
				if err != nil {
					return err
				}
				found = append(found, part...)
			}
			return nil
		})
	})
	return found, err
}

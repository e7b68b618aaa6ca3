package chat

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/store"
)

// Presence is whether somebody is online: they have a live connection, or had one a moment ago.
type Presence struct {
	UserID model.UserID
	Online bool
	// when their last connection ended; nil while they are online, and where it is not known
	LastSeenAt *time.Time
}

func (p Presence) equal(q Presence) bool {
	return p.Online == q.Online && (p.LastSeenAt == nil) == (q.LastSeenAt == nil) &&
		(p.LastSeenAt == nil || p.LastSeenAt.Equal(*q.LastSeenAt))
}

// Presences returns the presence of those of the people whose presence the actor may know: who
// share a conversation with the actor, or are the actor, and let it show. The others are missing.
func (s *Service) Presences(
	ctx context.Context, actor model.Actor, ids []model.UserID,
) (map[model.UserID]Presence, error) {
	byUser := make(map[model.UserID]Presence, len(ids))
	for some := range slices.Chunk(ids, presenceAtOnce) {
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

// knownPresence is that of somebody who shares a conversation with the actor, or is the actor.
type knownPresence struct {
	Presence
	Shown bool // to others; else it is not to leave this package
}

// readPresences reads in order of the ids; with ids nil, of everybody beside the actor.
func (s *Service) readPresences(ctx context.Context, actor model.Actor, ids []model.UserID) ([]knownPresence, error) {
	known := s.db.NewSelect().TableExpr("conversation_members AS theirs").Column("theirs.user_id").
		Apply(sharedWith(actor, "theirs.conversation_id"))
	newest := func(column string) *bun.SelectQuery {
		return s.db.NewSelect().Model((*model.Presence)(nil)).ColumnExpr("max(?)", bun.Ident(column)).
			Join("JOIN nodes AS n ON n.id = p.node_id").Where("p.user_id = u.id")
	}
	q := s.db.NewSelect().TableExpr("users AS u").ColumnExpr("u.id AS user_id, u.show_presence AS shown, sg.last_seen_at").
		ColumnExpr("(?) AS node_seen_at", newest("n.seen_at")).ColumnExpr("(?) AS alive_until", newest("n.alive_until")).
		ColumnExpr("? AS now", s.clock(0)).
		Join("LEFT JOIN sightings AS sg ON sg.user_id = u.id").Where("u.removed_at IS NULL").OrderExpr("u.id")
	if ids == nil {
		q = q.Where("u.id IN (?)", known).Where("u.id <> ?", actor.UserID)
	} else {
		q = q.Where("u.id IN (?)", bun.List(ids)).Where("u.id = ? OR u.id IN (?)", actor.UserID, known)
	}
	var found []struct {
		UserID     model.UserID
		Shown      bool
		LastSeenAt *time.Time
		// Of the nodes that the person is connected to, the newest.
		NodeSeenAt *time.Time
		AliveUntil *time.Time
		Now        time.Time
	}
	if err := q.Scan(ctx, &found); err != nil {
		return nil, store.Error(err)
	}
	presences := make([]knownPresence, len(found))
	for i, row := range found {
		p := Presence{UserID: row.UserID, LastSeenAt: row.LastSeenAt}
		switch alive := row.AliveUntil; {
		case alive == nil:
		case alive.After(row.Now):
			p.Online, p.LastSeenAt = true, nil
		case p.LastSeenAt == nil || p.LastSeenAt.Before(*row.NodeSeenAt): // of a node that is yet to be given up
			p.LastSeenAt = row.NodeSeenAt
		}
		presences[i] = knownPresence{p, row.Shown}
	}
	return presences, nil
}

// PresenceChanges yields first how it is with everybody beside the actor whose presence the actor
// may know, and then what changes; of each person the newest, for a consumer that takes its time.
// Who begins to hide it, or shares a conversation no longer, comes once as offline without
// LastSeenAt. It ends with ctx's error.
func (s *Service) PresenceChanges(ctx context.Context, actor model.Actor) iter.Seq2[Presence, error] {
	return func(yield func(Presence, error) bool) {
		w := s.watches.begin(actor)
		defer s.watches.end(w)
		if err := s.tellPresences(ctx, w, yield); !errors.Is(err, errStopped) {
			yield(Presence{}, err)
		}
	}
}

func (s *Service) tellPresences(ctx context.Context, w *presenceWatch, yield func(Presence, error) bool) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.bell:
		}
		ids, all := w.take()
		if len(ids) == 0 && !all {
			continue
		}
		found, err := s.presencesSoon(ctx, w.actor, ids, all)
		if err != nil {
			return err
		}
		for _, p := range w.compare(ids, all, found) {
			if !w.tell(p) {
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

// presencesSoon waits for the database where it is away. Only some read at once: when many people
// come and go, many want to know.
func (s *Service) presencesSoon(
	ctx context.Context, actor model.Actor, ids []model.UserID, all bool,
) (found []knownPresence, err error) {
	err = onceThere(ctx, func() error {
		return s.inTurn(ctx, func() (err error) {
			found, err = s.presencesOf(ctx, actor, ids, all)
			return err
		})
	})
	return found, err
}

func (s *Service) presencesOf(
	ctx context.Context, actor model.Actor, ids []model.UserID, all bool,
) (found []knownPresence, err error) {
	if all {
		return s.readPresences(ctx, actor, nil)
	}
	for some := range slices.Chunk(ids, presenceAtOnce) {
		part, err := s.readPresences(ctx, actor, some)
		if err != nil {
			return nil, err
		}
		found = append(found, part...)
	}
	return found, nil
}

package live

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"parley/feed"
	"parley/model"
	"parley/store"
)

// clock returns an SQL expression for a time ahead of now. On PostgreSQL, which several nodes may
// use, it is by the database's clock, because the clocks of nodes differ.
func (s *Service) clock(ahead time.Duration) schema.QueryAppender {
	if s.db.Postgres() {
		return bun.SafeQuery("(statement_timestamp() + ? * interval '1 microsecond')",
			ahead.Microseconds())
	}
	return bun.SafeQuery("?", s.db.Now().Add(ahead))
}

// heartbeat records that this node is alive. fresh reports that it was not registered, or has been
// reaped. The node's row is locked, so that no other node reaps it before the commit.
func (s *Service) heartbeat(ctx context.Context, tx *store.Tx) (fresh bool, err error) {
	node := s.connections.node
	now, until := s.clock(0), s.clock(s.connections.nodeTimeout)
	res, err := tx.NewUpdate().Model((*model.Node)(nil)).
		Set("seen_at = ?", now).Set("alive_until = ?", until).Where("id = ?", node).Exec(ctx)
	if err != nil {
		return false, err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return false, err
	}
	_, err = tx.NewInsert().Model(&model.Node{ID: node}).
		Value("seen_at", "?", now).Value("alive_until", "?", until).Exec(ctx)
	return true, err
}

// recordOnline writes that users are connected to this node.
func (s *Service) recordOnline(ctx context.Context, tx *store.Tx, users []model.UserID) error {
	return s.eachBatch(ctx, tx, users, func(batch []model.UserID) ([]*model.Sighting, error) {
		rows := make([]*model.Presence, len(batch))
		sightings := make([]*model.Sighting, len(batch))
		for i, user := range batch {
			rows[i] = &model.Presence{UserID: user, NodeID: s.connections.node}
			sightings[i] = &model.Sighting{UserID: user}
		}
		_, err := tx.NewInsert().Model(&rows).On("CONFLICT DO NOTHING").Exec(ctx)
		return sightings, err
	})
}

// recordOffline writes that users are no longer connected to this node, and when they were last
// seen.
func (s *Service) recordOffline(
	ctx context.Context, tx *store.Tx, offline map[model.UserID]time.Time,
) error {
	users := slices.SortedFunc(maps.Keys(offline), model.CompareIDs)
	for batch := range slices.Chunk(users, presenceBatch) {
		_, err := tx.NewDelete().Model((*model.Presence)(nil)).
			Where("node_id = ?", s.connections.node).
			Where("user_id IN (?)", bun.List(batch)).Exec(ctx)
		if err != nil {
			return err
		}
	}
	return s.recordSeen(ctx, tx, users, func(user model.UserID) time.Time { return offline[user] })
}

// recordSeen writes when users were last seen.
func (s *Service) recordSeen(
	ctx context.Context, tx *store.Tx, users []model.UserID, at func(model.UserID) time.Time,
) error {
	return s.eachBatch(ctx, tx, users, func(batch []model.UserID) ([]*model.Sighting, error) {
		sightings := make([]*model.Sighting, len(batch))
		for i, user := range batch {
			sightings[i] = &model.Sighting{UserID: user, LastSeenAt: new(at(user))}
		}
		return sightings, nil
	})
}

// eachBatch calls write with batches of users, and writes the sightings that it returns. All nodes
// write in order of the ids, so that two do not deadlock. Users without an account are left out.
func (s *Service) eachBatch(
	ctx context.Context, tx *store.Tx, users []model.UserID,
	write func(batch []model.UserID) ([]*model.Sighting, error),
) error {
	slices.SortFunc(users, model.CompareIDs)
	for some := range slices.Chunk(users, presenceBatch) {
		batch, err := existing(ctx, tx, some)
		if err != nil {
			return err
		}
		if len(batch) == 0 {
			continue
		}
		sightings, err := write(batch)
		if err != nil {
			return err
		}
		if err := s.writeSightings(ctx, tx, sightings); err != nil {
			return err
		}
	}
	return nil
}

// existing returns the users who have an account, in order of their ids. If an account is deleted
// after that, the transaction fails on the foreign key and runs again.
func existing(
	ctx context.Context, tx *store.Tx, users []model.UserID,
) (found []model.UserID, err error) {
	err = tx.NewSelect().Model((*model.User)(nil)).Column("id").
		Where("u.id IN (?)", bun.List(users)).OrderExpr("u.id").Scan(ctx, &found)
	return found, err
}

// writeSightings writes that users have come or gone, and publishes that after the commit. Stored
// times do not go back.
func (s *Service) writeSightings(
	ctx context.Context, tx *store.Tx, sightings []*model.Sighting,
) error {
	position, err := feed.NextPosition(ctx, tx)
	if err != nil {
		return err
	}
	_, err = tx.NewInsert().Model(&sightings).Value("position", "?", position).
		On("CONFLICT (user_id) DO UPDATE").Set("position = EXCLUDED.position").
		Set("last_seen_at = CASE WHEN EXCLUDED.last_seen_at IS NULL " +
			"OR EXCLUDED.last_seen_at < sg.last_seen_at " +
			"THEN sg.last_seen_at ELSE EXCLUDED.last_seen_at END").Exec(ctx)
	if err != nil {
		return err
	}
	sig := Signal{Users: make([]model.UserID, len(sightings))}
	for i, sighting := range sightings {
		sig.Users[i] = sighting.UserID
	}
	tx.AfterCommit(func() { s.signals.Publish(presenceTopic, sig) })
	return nil
}

// reapNodes deletes the nodes whose heartbeat has stopped, and records their users as offline.
func (s *Service) reapNodes(ctx context.Context) error {
	dead, err := s.db.NewSelect().Model((*model.Node)(nil)).
		Where("n.alive_until <= ?", s.clock(0)).Exists(ctx)
	if err != nil || !dead {
		return store.Error(err)
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		var nodes []model.Node
		err := tx.NewDelete().Model((*model.Node)(nil)).Where("alive_until <= ?", s.clock(0)).
			Returning("id, seen_at").Scan(ctx, &nodes)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if err := s.reapNode(ctx, tx, n); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Service) reapNode(ctx context.Context, tx *store.Tx, n model.Node) error {
	var users []model.UserID
	err := tx.NewDelete().Model((*model.Presence)(nil)).Where("node_id = ?", n.ID).
		Returning("user_id").Scan(ctx, &users)
	if err != nil {
		return err
	}
	return s.recordSeen(ctx, tx, users, func(model.UserID) time.Time { return n.SeenAt })
}

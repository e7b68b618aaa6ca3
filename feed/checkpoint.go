package feed

import (
	"context"
	"time"

	"parley/model"
	"parley/store"
)

// checkpoint is a row that proves what a database has. Everything below low was committed before
// it. So a database that has the checkpoint has all of that too, however it was copied, replicated
// or restored; and a history that begins before the checkpoint has another, if any.
type checkpoint struct {
	id  int64 // a random number
	low int64 // a low watermark
}

const (
	// CursorLifetime is how long checkpoints are kept, and so how long a cursor of ViewerEvents
	// works.
	CursorLifetime = 90 * 24 * time.Hour
	// idleCheckpoints is how often a node writes one without knowing of a new event.
	idleCheckpoints = time.Minute
	// pruneEvery is how often old ones are deleted, pruneBatch how many in one statement.
	pruneEvery, pruneBatch = time.Hour, 1000
)

// newestCheckpoint reads the newest one. If there is none, it writes the first.
func (s *Service) newestCheckpoint(ctx context.Context) (c checkpoint, err error) {
	for {
		var found []struct{ ID, Low int64 }
		err := s.db.NewSelect().Table("checkpoints").Column("id", "low").
			OrderExpr("low DESC").Limit(1).Scan(ctx, &found)
		if err != nil {
			return c, store.Error(err)
		}
		if len(found) > 0 {
			return checkpoint{found[0].ID, found[0].Low}, nil
		}
		if err := s.writeCheckpoint(ctx); err != nil {
			return c, err
		}
	}
}

// writeCheckpoint writes a checkpoint, unless nothing was committed since the newest.
//
// On PostgreSQL the low watermark is the oldest transaction that runs when the statement begins.
// All below it have ended. None will have such an id again: a transaction that was rolled back may
// leave no trace on disk, so after a crash PostgreSQL may assign its id a second time, but no id
// that is not above that of a committed transaction, such as this one. What is lost in a failover
// is the end of the server's log: if it has something from below the low watermark in it, it has
// the checkpoint too. This needs synchronous_commit, as every acknowledged change does.
//
// On SQLite writing transactions run one after the other, so everything that has a position is
// committed.
func (s *Service) writeCheckpoint(ctx context.Context) error {
	const postgres = `
		INSERT INTO checkpoints (id, low, at)
		SELECT ?, pg_snapshot_xmin(pg_current_snapshot())::text::bigint, ?
		WHERE NOT EXISTS ( -- one that nothing but itself has followed
			SELECT 1 FROM checkpoints
			WHERE low >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1
		)`
	const sqlite = `
		INSERT INTO checkpoints (id, low, at)
		SELECT ?, last + 1, ? FROM event_position
		WHERE NOT EXISTS (SELECT 1 FROM checkpoints WHERE low > last)`
	text := sqlite
	if s.db.Postgres() {
		text = postgres
	}
	_, err := s.db.ExecContext(ctx, text, int64(model.NewMark()), s.db.Now())
	return store.Error(err)
}

// recordProgress writes a checkpoint if this node knows of new events, or if it has not for a
// while: another node may have died before it did.
func (s *Service) recordProgress(ctx context.Context) error {
	now := s.db.Now()
	if !s.moved.Swap(false) && now.Sub(s.checkpointed) < idleCheckpoints {
		return nil
	}
	if err := s.writeCheckpoint(ctx); err != nil {
		s.moved.Store(true)
		return err
	}
	s.checkpointed = now
	return nil
}

// pruneCheckpoints deletes old checkpoints, except the newest, if that was not done for a while.
func (s *Service) pruneCheckpoints(ctx context.Context) error {
	now := s.db.Now()
	if now.Sub(s.pruned) < pruneEvery {
		return nil
	}
	old := s.db.NewSelect().Table("checkpoints").Column("id").
		Where("at < ?", now.Add(-CursorLifetime)).
		Where("low < (SELECT max(low) FROM checkpoints)").Limit(pruneBatch)
	for {
		deleted, err := s.db.NewDelete().Table("checkpoints").Where("id IN (?)", old).Exec(ctx)
		if err != nil {
			return store.Error(err)
		}
		if n, err := deleted.RowsAffected(); err != nil || n < pruneBatch {
			s.pruned = now
			return err
		}
	}
}

// proves reports whether the database has a checkpoint, and everything below a low watermark.
func (s *Service) proves(ctx context.Context, checkpoint, low int64) (bool, error) {
	exists, err := s.db.NewSelect().Table("checkpoints").ColumnExpr("1").
		Where("id = ?", checkpoint).Where("low >= ?", low).Exists(ctx)
	return exists, store.Error(err)
}

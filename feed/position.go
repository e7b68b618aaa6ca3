package feed

import (
	"context"
	"fmt"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"parley/store"
)

// NextPosition returns an SQL expression for the column position, the place of a change in the
// order of all changes. On PostgreSQL it is the id of the transaction, and so the same for all rows
// that the transaction writes. On SQLite, where writing transactions run one after the other, it is
// the next value of a counter.
func NextPosition(ctx context.Context, tx *store.Tx) (schema.QueryAppender, error) {
	if tx.Postgres() {
		return bun.SafeQuery("pg_current_xact_id()::text::bigint"), nil
	}
	_, err := tx.ExecContext(ctx, "UPDATE event_position SET last = last + 1")
	return bun.SafeQuery("(SELECT last FROM event_position)"), err
}

// LowWatermark returns the position below which no row is added any more, not even after a crash of
// PostgreSQL: see recordReached. All rows below it are visible to reads after this.
func (s *Service) LowWatermark(ctx context.Context) (position int64, err error) {
	q := s.db.NewSelect().Table("stream_epoch").
		ColumnExpr("least(pg_snapshot_xmin(pg_current_snapshot())::text::bigint, reached + 1)")
	if !s.db.Postgres() {
		q = s.db.NewSelect().Table("event_position").ColumnExpr("last + 1")
	}
	return position, store.Error(q.Scan(ctx, &position))
}

// epoch returns how many times, counted from 1, positions have begun again: see CheckEpoch.
func (s *Service) epoch(ctx context.Context) (epoch int64, err error) {
	return epoch, store.Error(s.db.NewSelect().Table("stream_epoch").Column("epoch").
		Scan(ctx, &epoch))
}

// CheckEpoch begins a new epoch if the database has positions that its server has not reached yet.
// The database was then restored from another server, whose positions mean nothing here. CheckEpoch
// must be called before anything is served.
func (s *Service) CheckEpoch(ctx context.Context) error {
	if !s.db.Postgres() {
		return nil // the counter is restored together with the positions
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		// On the same server, every transaction that this snapshot sees has an id below its end.
		const ahead = "%s >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
		restored := false
		for table, column := range map[string]string{
			"stream_epoch": "reached", "conversation_members": "position", "departures": "position",
		} {
			there, err := tx.NewSelect().Table(table).ColumnExpr("1").
				Where(fmt.Sprintf(ahead, column)).Exists(ctx)
			if err != nil {
				return err
			}
			restored = restored || there
		}
		if !restored {
			return nil
		}
		s.opts.Log.Warn("this database comes from another server: streams of events are reset")
		for _, table := range []string{"events", "conversation_members", "departures"} {
			if _, err := tx.NewRaw("UPDATE ? SET position = 0", bun.Ident(table)).
				Exec(ctx); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, "UPDATE stream_epoch SET epoch = epoch + 1, reached = 0")
		return err
	})
}

// recordReached stores how far positions have come, for LowWatermark, and for CheckEpoch, which
// would have to read every event otherwise.
//
// A transaction that was rolled back may leave no trace on disk. If PostgreSQL crashes right after,
// it assigns the same id again. The new transaction may commit below a low watermark that was read
// in between, although no row may be added there. So a low watermark must not be above an id that
// is known to be committed. recordReached commits with such an id.
func (s *Service) recordReached(ctx context.Context) error {
	if !s.db.Postgres() {
		return nil
	}
	_, err := s.db.NewUpdate().Table("stream_epoch").
		Set("reached = pg_current_xact_id()::text::bigint").
		Where("reached + 1 < pg_snapshot_xmin(pg_current_snapshot())::text::bigint").Exec(ctx)
	return store.Error(err)
}

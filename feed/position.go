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
// PostgreSQL: that of the newest checkpoint. All rows below it are visible to reads after this.
func (s *Service) LowWatermark(ctx context.Context) (position int64, err error) {
	newest, err := s.newestCheckpoint(ctx)
	return newest.low, err
}

// CheckPositions forgets the positions and checkpoints of another server. It must be called before
// anything is served.
//
// On PostgreSQL a position is the id of a transaction. If a dump is restored into another server,
// its positions may not be reached there yet. Then all of them are set to 0, and all checkpoints
// deleted, so that every cursor of ViewerEvents gets Reset. SQLite's counter is restored together
// with the positions.
func (s *Service) CheckPositions(ctx context.Context) error {
	if !s.db.Postgres() {
		return nil
	}
	// On the same server, every transaction that this snapshot sees has an id below its end. That
	// of a checkpoint is not below its low watermark.
	const ahead = "%s >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
	columns := map[string]string{
		"checkpoints": "low", "conversation_members": "position", "departures": "position",
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		fromAnotherServer := false
		for table, column := range columns {
			there, err := tx.NewSelect().Table(table).ColumnExpr("1").
				Where(fmt.Sprintf(ahead, column)).Limit(1).Exists(ctx)
			if err != nil {
				return err
			}
			fromAnotherServer = fromAnotherServer || there
		}
		if !fromAnotherServer {
			return nil
		}
		s.opts.Log.Warn("this database comes from another server: streams of events are reset")
		for _, table := range []string{"events", "conversation_members", "departures"} {
			if _, err := tx.NewRaw("UPDATE ? SET position = 0", bun.Ident(table)).
				Exec(ctx); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM checkpoints"); err != nil {
			return err
		}
		// for nodes of the version before, which read it instead of checkpoints
		_, err := tx.ExecContext(ctx, "UPDATE stream_epoch SET epoch = epoch + 1, reached = 0")
		return err
	})
}

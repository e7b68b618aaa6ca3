package chat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
)

// myCursor is where somebody's stream of everything stands: it has told every event below the horizon, and of the
// conversations in told everything up to that seq, and nothing else; a negative one is that of the membership's end, which
// has been told too. docs/adr has the argument why nothing can fall through.
type myCursor struct {
	epoch   int64
	horizon int64
	told    map[model.ConversationID]int64
}

const myStreamList = 'e' // the letter of its cursors

// maxTold is more conversations than a person has in which something happens within seconds, and than one replays at once.
const maxTold = 10_000

// ownerSize is how much of the SHA-256 of a person's id a cursor has, so that another's is refused.
const ownerSize = 8

func (c myCursor) encode(owner model.UserID) string {
	sum := sha256.Sum256(owner[:])
	w := store.NewCursor(myStreamList).Bytes(sum[:ownerSize]).Int(c.epoch).Int(c.horizon)
	for id, seq := range c.told {
		w = w.UUID(id).Int(seq)
	}
	return w.String()
}

func readMyCursor(owner model.UserID, s string) (c myCursor, err error) {
	r := store.ReadCursor(myStreamList, s)
	sum := sha256.Sum256(owner[:])
	mine := bytes.Equal(r.ReadBytes(ownerSize), sum[:ownerSize])
	c = myCursor{epoch: r.ReadInt(), horizon: r.ReadInt(), told: map[model.ConversationID]int64{}}
	for r.More() && len(c.told) < maxTold {
		id := model.ConversationID(r.ReadUUID())
		c.told[id] = r.ReadInt()
	}
	if err := r.Done(); err != nil {
		return c, errs.Wrap(err, errs.BadUserInput, "after: That is not a cursor of events.")
	}
	if !mine {
		return c, errs.New(errs.BadUserInput, "after: That is the cursor of another account.")
	}
	return c, nil
}

// MyEventsCursor is where the actor's stream of everything stands now: who reads something after this, and follows from
// here, misses nothing in between.
func (s *Service) MyEventsCursor(ctx context.Context, actor model.Actor) (string, error) {
	epoch, err := s.epoch(ctx)
	if err != nil {
		return "", err
	}
	horizon, err := s.horizon(ctx)
	if err != nil {
		return "", err
	}
	c := myCursor{epoch: epoch, horizon: horizon, told: map[model.ConversationID]int64{}}
	mine := s.db.NewSelect().Model((*model.ConversationMember)(nil)).Column("conversation_id").
		Where("cm.user_id = ?", actor.UserID)
	// What is beyond the horizon and stored already was there before the cursor was.
	recent, err := s.movedSince(ctx, mine, horizon)
	for id, moved := range recent {
		c.told[id] = moved.last
	}
	return c.encode(actor.UserID), err
}

// moved says which of a conversation's events are at or beyond a position.
type moved struct {
	first, last int64 // seq
	position    int64 // the highest
}

func (s *Service) movedSince(
	ctx context.Context, conversations any, position int64,
) (map[model.ConversationID]moved, error) {
	var found []struct {
		ConversationID        model.ConversationID
		First, Last, Position int64
	}
	err := s.db.NewSelect().Model((*model.Event)(nil)).
		ColumnExpr("e.conversation_id, min(e.seq) AS first, max(e.seq) AS last, max(e.position) AS position").
		Where("e.conversation_id IN (?)", conversations).Where("e.position >= ?", position).
		GroupExpr("e.conversation_id").Scan(ctx, &found)
	if err != nil {
		return nil, store.Error(err)
	}
	byID := make(map[model.ConversationID]moved, len(found))
	for _, row := range found {
		byID[row.ConversationID] = moved{row.First, row.Last, row.Position}
	}
	return byID, nil
}

// epoch is which life of the database's positions this is.
func (s *Service) epoch(ctx context.Context) (epoch int64, err error) {
	return epoch, store.Error(s.db.NewSelect().Table("stream_epoch").Column("epoch").Scan(ctx, &epoch))
}

// CheckEpoch begins a new epoch where the database has positions that its server has yet to reach: it was restored from
// another one, whose numbers say nothing here. It has to be done before anything is served.
func (s *Service) CheckEpoch(ctx context.Context) error {
	if !s.db.Postgres() {
		return nil // the counter is restored with what it has counted
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		// Whatever this sees was written below the snapshot's end.
		const ahead = "%s >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
		restored := false
		for table, column := range map[string]string{
			"stream_epoch": "reached", "conversation_members": "position", "departures": "position",
		} {
			there, err := tx.NewSelect().Table(table).ColumnExpr("1").Where(fmt.Sprintf(ahead, column)).Exists(ctx)
			if err != nil {
				return err
			}
			restored = restored || there
		}
		if !restored {
			return nil
		}
		s.opts.Log.Warn("this database comes from another server: streams of events begin anew")
		for _, table := range []string{"events", "conversation_members", "departures"} {
			if _, err := tx.NewRaw("UPDATE ? SET position = 0", bun.Ident(table)).Exec(ctx); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, "UPDATE stream_epoch SET epoch = epoch + 1, reached = 0")
		return err
	})
}

// noteReached keeps how far positions have come, for the horizon, and for CheckEpoch, which would have to read every event
// to know.
//
// A transaction that was rolled back may leave no trace on disk. When PostgreSQL crashes right after, it gives its id again,
// to one that commits: below a horizon that was read in between, although nothing was to come there. So a horizon is worth
// only as much as what has been committed since. This commits, with an id beyond all that it has found to be settled.
func (s *Service) noteReached(ctx context.Context) error {
	if !s.db.Postgres() {
		return nil
	}
	_, err := s.db.NewUpdate().Table("stream_epoch").Set("reached = pg_current_xact_id()::text::bigint").
		Where("reached + 1 < pg_snapshot_xmin(pg_current_snapshot())::text::bigint").Exec(ctx)
	return store.Error(err)
}

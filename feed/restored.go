package feed

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"time"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
)

const (
	// DefaultSkip is how many seqs a conversation leaves out after a restore by default. It is more
	// events than one conversation gets in the time between two backups: at one event each second,
	// it takes more than a day to use up as many.
	DefaultSkip = 100_000
	// MinSkip leaves a range of one seq.
	MinSkip = 2
	// MaxSeq is the highest seq: the type Int of GraphQL has 32 bits.
	MaxSeq = math.MaxInt32

	// raiseAtOnce is how many conversations one transaction raises. They are locked until its
	// commit.
	raiseAtOnce = 200
)

// Restoration is a run of RaiseSeqs, as it is stored.
type Restoration struct {
	bun.BaseModel `bun:"table:restorations"`

	BeganAt    time.Time `bun:",pk"`
	Skip       int64
	Reached    model.ConversationID `bun:",type:uuid"` // the newest that is done, by id
	Raised     int64                // how many conversations are done
	FinishedAt *time.Time
}

// RaiseSeqs raises the newest seq of every conversation by skip, after the database was restored
// from a backup that was made at a time. It writes an event of the kind HistoryRestored with the
// new seq. The seqs in between may have been given to events that the restore has lost, and no
// event gets one of them again. That is not activity, and nothing becomes unread.
//
// It may run while nodes serve. They learn of the events when they reconcile. It writes some
// hundred conversations in each transaction, and calls progress, if that is not nil, after each. A
// run that began after the backup was made belongs to the same restore: RaiseSeqs continues it if
// it was interrupted, and otherwise returns it and changes nothing. So no conversation is raised
// twice.
//
// The error is BAD_USER_INPUT if skip is out of range, if a seq would be above MaxSeq, or if the
// run that it continues has another skip.
func (s *Service) RaiseSeqs(
	ctx context.Context, backup time.Time, skip int64, progress func(Restoration),
) (run Restoration, err error) {
	if skip < MinSkip || skip > MaxSeq {
		return run, errs.New(errs.BadUserInput,
			"The seqs to skip have to be from %d to %d, not %d.", MinSkip, MaxSeq, skip)
	}
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		run, err = beginRestoration(ctx, tx, backup, skip)
		return err
	})
	for err == nil && run.FinishedAt == nil {
		err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
			run, err = raiseSome(ctx, tx, run.BeganAt)
			return err
		})
		if err == nil && progress != nil {
			progress(run)
		}
	}
	return run, err
}

// beginRestoration returns the run that began after the backup was made, or stores a new one.
func beginRestoration(
	ctx context.Context, tx *store.Tx, backup time.Time, skip int64,
) (run Restoration, err error) {
	if tx.Postgres() { // so that two processes do not begin one each
		_, err := tx.ExecContext(ctx, "LOCK TABLE restorations IN SHARE ROW EXCLUSIVE MODE")
		if err != nil {
			return run, err
		}
	}
	err = tx.NewSelect().Model(&run).Where("began_at > ?", backup.UTC()).
		OrderExpr("began_at DESC").Limit(1).Scan(ctx)
	switch {
	case err == nil && run.FinishedAt == nil && run.Skip != skip:
		return run, errs.New(errs.BadUserInput,
			"The run that was interrupted skips %d seqs. Continue it with the same number.",
			run.Skip)
	case !errors.Is(err, sql.ErrNoRows):
		return run, err
	}
	// Before anything is changed, so that nothing is half done.
	if err := checkRoom(ctx, tx, skip); err != nil {
		return run, err
	}
	run = Restoration{BeganAt: tx.Now, Skip: skip}
	_, err = tx.NewInsert().Model(&run).Exec(ctx)
	return run, err
}

// checkRoom returns an error if a conversation has no room for skip seqs.
func checkRoom(ctx context.Context, tx *store.Tx, skip int64) error {
	var full model.Conversation
	err := tx.NewSelect().Model(&full).Column("id", "last_seq").
		Where("c.last_seq > ?", MaxSeq-skip).OrderExpr("c.last_seq DESC").Limit(1).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return errs.New(errs.BadUserInput,
		"The conversation %s has the seq %d, and no seq may be above %d: skip at most %d.",
		full.ID, full.LastSeq, int64(MaxSeq), MaxSeq-full.LastSeq)
}

// raiseSome raises the next conversations of a run, or finishes it.
func raiseSome(
	ctx context.Context, tx *store.Tx, beganAt time.Time,
) (run Restoration, err error) {
	// The lock makes another process wait that continues the same run.
	if err := tx.Lock(ctx, (*Restoration)(nil), "began_at = ?", beganAt); err != nil {
		return run, err
	}
	if err := tx.NewSelect().Model(&run).Where("began_at = ?", beganAt).Scan(ctx); err != nil {
		return run, err
	}
	if run.FinishedAt != nil {
		return run, nil
	}
	some, err := lockConversations(ctx, tx, run)
	if err != nil {
		return run, err
	}
	if len(some) == 0 {
		run.FinishedAt = &tx.Now
	} else {
		if err := raise(ctx, tx, some, run.Skip); err != nil {
			return run, err
		}
		run.Reached = some[len(some)-1]
		run.Raised += int64(len(some))
	}
	_, err = tx.NewUpdate().Model(&run).Column("reached", "raised", "finished_at").WherePK().
		Exec(ctx)
	return run, err
}

// lockConversations locks the next conversations of a run, in order of id, as senders do. One that
// was created after the run began has lost nothing.
func lockConversations(
	ctx context.Context, tx *store.Tx, run Restoration,
) (ids []model.ConversationID, err error) {
	q := tx.NewSelect().Model((*model.Conversation)(nil)).Column("id").
		Where("c.id > ?", run.Reached).Where("c.created_at <= ?", run.BeganAt).
		OrderExpr("c.id").Limit(raiseAtOnce)
	if tx.Postgres() {
		q = q.For("UPDATE")
	}
	err = q.Scan(ctx, &ids)
	return ids, err
}

// raise raises the seqs of conversations, which must be locked, and writes the events.
func raise(
	ctx context.Context, tx *store.Tx, ids []model.ConversationID, skip int64,
) error {
	var raised []*model.Conversation
	err := tx.NewSelect().Model(&raised).Column("id", "last_seq").
		ColumnExpr("coalesce(last_event_at, last_activity_at) AS last_activity_at").
		Where("c.id IN (?)", bun.List(ids)).OrderExpr("c.id").Scan(ctx)
	if err != nil {
		return err
	}
	for _, c := range raised {
		if c.LastSeq > MaxSeq-skip { // it has grown since the run began
			return checkRoom(ctx, tx, skip)
		}
		e := &model.Event{
			ConversationID: c.ID, Kind: model.HistoryRestored, Seq: c.LastSeq + skip,
			At: c.LastActivityAt,
		}
		if e.At.Before(tx.Now) { // times never go back as seqs rise
			e.At = tx.Now
		}
		_, err := tx.NewUpdate().Model((*model.Conversation)(nil)).Set("last_seq = ?", e.Seq).
			Set("last_event_at = ?", e.At).Where("id = ?", c.ID).Exec(ctx)
		if err != nil {
			return err
		}
		data := model.HistoryRestoredData{First: c.LastSeq + 1}
		if err := insertEvent(ctx, tx, e, data); err != nil {
			return err
		}
	}
	return nil
}

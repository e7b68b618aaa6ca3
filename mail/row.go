package mail

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"
)

// row is a stored mail. It waits while SentAt and FailedAt are nil.
type row struct {
	bun.BaseModel `bun:"table:mails,alias:m"`

	ID            uuid.UUID `bun:",pk,type:uuid"`
	Key           string
	Kind          Kind
	Recipient     string
	Nickname      string
	Link          string
	CreatedAt     time.Time
	NextAttemptAt time.Time
	Attempts      int        // how often it was claimed, which identifies the claim
	ClaimedUntil  *time.Time // when the claim expires; nil without one
	// StartedAt is when handing over the content began. While it is nil, the mail has certainly not
	// arrived.
	StartedAt *time.Time
	SentAt    *time.Time
	FailedAt  *time.Time
	LastError *string
}

// claimMargin is added to the duration of a claim, for slow statements and for clocks that differ.
const claimMargin = 30 * time.Second

// claim claims a mail that is due and that no node has claimed, or returns nil. It does not stop at
// once when ctx ends: an interrupted statement may still be executed, and the mail would wait until
// the claim expires.
func (o *Outbox) claim(ctx context.Context) (*row, error) {
	ctx, cancel := withGrace(ctx, recordGrace)
	defer cancel()
	now := o.db.Now()
	due := o.db.NewSelect().TableExpr("mails AS due").Column("due.id").
		Where("due.sent_at IS NULL").Where("due.failed_at IS NULL").
		Where("due.next_attempt_at <= ?", now).
		Where("due.claimed_until IS NULL OR due.claimed_until <= ?", now).
		Order("due.next_attempt_at").Limit(1)
	if o.db.Postgres() {
		// so that nodes do not wait for each other's claims
		due = due.For("UPDATE SKIP LOCKED")
	}
	m := new(row)
	res, err := o.db.NewUpdate().Model(m).
		Set("claimed_until = ?", now.Add(o.opts.ConnectTimeout+claimMargin)).
		Set("attempts = attempts + 1").
		Where("id = (?)", due).Returning("?Columns").Exec(ctx)
	if err != nil {
		return nil, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return nil, err
	}
	return m, nil
}

// errClaimLost means that the claim has expired and another node has claimed the mail, or that the
// mail was deleted.
var errClaimLost = errors.New("the mail is no longer claimed by this node")

// update changes the row of a claimed mail. The error is errClaimLost if the claim is lost.
func (o *Outbox) update(ctx context.Context, m *row, set func(*bun.UpdateQuery)) error {
	q := o.db.NewUpdate().Model((*row)(nil)).Where("id = ?", m.ID).
		Where("attempts = ?", m.Attempts).
		Where("sent_at IS NULL").Where("failed_at IS NULL")
	set(q)
	res, err := q.Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return errClaimLost
	}
	return nil
}

// markStarted stores that the content is about to be handed over, so that the mail may have arrived
// from now on.
func (o *Outbox) markStarted(ctx context.Context, m *row) error {
	now := o.db.Now()
	return o.update(ctx, m, func(q *bun.UpdateQuery) {
		q.Set("started_at = ?", now).Set("claimed_until = ?",
			now.Add(o.opts.AnswerTimeout+o.opts.StopGrace+claimMargin))
	})
}

func (o *Outbox) setSent(q *bun.UpdateQuery) {
	wipe(q.Set("sent_at = ?", o.db.Now()).Set("last_error = NULL"))
}

func (o *Outbox) setFailed(q *bun.UpdateQuery, reason string) {
	wipe(q.Set("failed_at = ?", o.db.Now()).Set("last_error = ?", reason))
}

func setWaiting(q *bun.UpdateQuery, next time.Time, reason string) {
	q.Set("next_attempt_at = ?", next).Set("last_error = ?", reason).
		Set("claimed_until = NULL").Set("started_at = NULL")
}

// wipe removes the personal data, and the link, which has a secret.
func wipe(q *bun.UpdateQuery) {
	q.Set("recipient = ''").Set("nickname = ''").Set("link = ''").Set("claimed_until = NULL")
}

// keepFor is how long a row is kept after it was enqueued, so that an operator can see the outcome
// of a mail, and its key is not used again.
const keepFor = 30 * 24 * time.Hour

// sweep deletes old rows, also those that still wait: their mails are no longer expected.
func (o *Outbox) sweep(ctx context.Context) error {
	_, err := o.db.NewDelete().Model((*row)(nil)).Where("created_at < ?", o.db.Now().Add(-keepFor)).
		Exec(ctx)
	return err
}

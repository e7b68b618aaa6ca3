package mail

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"
)

// row is a mail as it is stored. It waits while SentAt and FailedAt are nil.
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
	Attempts      int        // how often it was claimed, which tells one claim from the next
	ClaimedUntil  *time.Time // then whoever claimed it is taken for dead
	// when handing over the content began; nil while it has certainly not arrived
	StartedAt *time.Time
	SentAt    *time.Time
	FailedAt  *time.Time
	LastError *string
}

// claimMargin is what a claim lasts longer than what is done under it, for the database and for
// clocks that differ.
const claimMargin = 30 * time.Second

// claim takes a mail that is due and that nobody works at, or returns nil. It outlives ctx for a
// moment: a statement that is cut off may still be carried out, and the mail would wait for nothing
// until the claim expires.
func (o *Outbox) claim(ctx context.Context) (*row, error) {
	ctx, cancel := linger(ctx, recordGrace)
	defer cancel()
	now := o.db.Now()
	due := o.db.NewSelect().TableExpr("mails AS due").Column("due.id").
		Where("due.sent_at IS NULL").Where("due.failed_at IS NULL").Where("due.next_attempt_at <= ?", now).
		Where("due.claimed_until IS NULL OR due.claimed_until <= ?", now).
		Order("due.next_attempt_at").Limit(1)
	if o.db.Postgres() {
		// nodes pass each other by instead of queueing for the same mail
		due = due.For("UPDATE SKIP LOCKED")
	}
	m := new(row)
	res, err := o.db.NewUpdate().Model(m).
		Set("claimed_until = ?", now.Add(o.opts.ConnectTimeout+claimMargin)).Set("attempts = attempts + 1").
		Where("id = (?)", due).Returning("*").Exec(ctx)
	if err != nil {
		return nil, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return nil, err
	}
	return m, nil
}

// errLost says that the row is another's by now: the claim expired, and another node took the mail,
// or it was removed.
var errLost = errors.New("the claim expired, and the mail is no longer this node's")

// update changes the row while it is this claim's.
func (o *Outbox) update(ctx context.Context, m *row, set func(*bun.UpdateQuery)) error {
	q := o.db.NewUpdate().Model((*row)(nil)).Where("id = ?", m.ID).Where("attempts = ?", m.Attempts).
		Where("sent_at IS NULL").Where("failed_at IS NULL")
	set(q)
	res, err := q.Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return errLost
	}
	return nil
}

// start writes down, before the content is handed over, that from now on the mail may have arrived.
func (o *Outbox) start(ctx context.Context, m *row) error {
	now := o.db.Now()
	return o.update(ctx, m, func(q *bun.UpdateQuery) {
		q.Set("started_at = ?", now).Set("claimed_until = ?", now.Add(o.opts.AnswerTimeout+o.opts.StopGrace+claimMargin))
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

// wipe takes out what nobody needs any more; the link has a secret.
func wipe(q *bun.UpdateQuery) {
	q.Set("recipient = ''").Set("nickname = ''").Set("link = ''").Set("claimed_until = NULL")
}

// keepFor is how long a row is kept, so that an operator can see what became of a mail, and its key
// stays taken.
const keepFor = 30 * 24 * time.Hour

// sweep removes old rows: those that still wait too, because nobody expects them any more.
func (o *Outbox) sweep(ctx context.Context) error {
	_, err := o.db.NewDelete().Model((*row)(nil)).Where("created_at < ?", o.db.Now().Add(-keepFor)).Exec(ctx)
	return err
}

package mail

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/uptrace/bun"
)

const (
	// maxSending is how many mails a node sends at a time: a server that is slow with one mail does
	// not delay the next.
	maxSending = 4
	sweepEvery = time.Hour
	// recordGrace is how long storing the outcome of a mail may take after Run's context has ended.
	// An outcome that is not stored counts as unknown.
	recordGrace = 5 * time.Second
)

// Run sends mails until ctx ends. Then it interrupts the attempts that have not begun to hand over
// content, whose mails stay due, waits up to StopGrace for the answers to the others, and returns.
// An outage of the database or of the mail server does not end it.
func (o *Outbox) Run(ctx context.Context) {
	var sending sync.WaitGroup
	defer sending.Wait()
	slots := make(chan struct{}, maxSending) // a semaphore
	var swept time.Time
	down := false
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return
		}
		var err error
		if now := o.db.Now(); now.Sub(swept) >= sweepEvery {
			if err = o.sweep(ctx); err == nil {
				swept = now
			}
		}
		var m *row
		if err == nil {
			m, err = o.claim(ctx)
		}
		if m == nil && ctx.Err() != nil {
			return
		}
		if (err != nil) != down { // logged once for each outage
			if down = err != nil; down {
				o.opts.Log.ErrorContext(ctx, "cannot read the mail queue; retrying", "error", err)
			} else {
				o.opts.Log.InfoContext(ctx, "the mail queue can be read again")
			}
		}
		if m != nil {
			sending.Go(func() {
				defer func() { <-slots }()
				o.deliver(ctx, m)
			})
			continue
		}
		<-slots
		select {
		case <-o.due.C():
		case <-time.After(o.opts.PollEvery):
		case <-ctx.Done():
			return
		}
	}
}

// deliver makes one attempt to send a claimed mail, and stores the outcome.
func (o *Outbox) deliver(ctx context.Context, m *row) {
	switch {
	case m.StartedAt != nil:
		o.handleOutcome(ctx, m, &failure{
			outcome: unknown, step: stepContent,
			reason: "the node that sent it stopped before its outcome was stored",
		})
	case o.relay == nil:
		log := o.logFor(m)
		if m.Link != "" {
			log = log.With("link", m.Link)
		}
		log.InfoContext(ctx, "mail not sent, because no mail server is set")
		o.record(ctx, m, o.setSent)
	default:
		o.handleOutcome(ctx, m, o.send(ctx, m))
	}
}

// logFor returns a log that identifies a mail without its recipient.
func (o *Outbox) logFor(m *row) *slog.Logger {
	return o.opts.Log.With("mail", m.ID.String(), "kind", string(m.Kind))
}

func (o *Outbox) send(ctx context.Context, m *row) *failure {
	msg, err := o.compose(m)
	if err != nil {
		// retryable, because a newer node may know the kind
		return &failure{outcome: retryable, step: stepCompose, reason: err.Error(), cause: err}
	}
	return o.relay.send(ctx, msg, func() error { return o.markStarted(ctx, m) })
}

// handleOutcome stores the outcome of an attempt, and then logs it. f is nil if the mail was sent.
func (o *Outbox) handleOutcome(ctx context.Context, m *row, f *failure) {
	log := o.logFor(m).With("attempt", m.Attempts)
	if f == nil {
		if o.record(ctx, m, o.setSent) {
			log.InfoContext(ctx, "mail sent")
		}
		return
	}
	if errors.Is(f, errClaimLost) {
		log.WarnContext(ctx, "mail not sent, because the claim expired and another node has it")
		return
	}
	log = log.With("step", string(f.step), "code", f.code, "error", f.reason)
	now := o.db.Now()
	next := now.Add(o.backoff(m.Attempts))
	switch {
	case f.outcome == retryable && ctx.Err() != nil:
		// not a failure: Run ends, and the mail stays due
		o.record(ctx, m, func(q *bun.UpdateQuery) { setWaiting(q, now, f.Error()) })
	case f.outcome == retryable && next.Sub(m.CreatedAt) <= o.opts.GiveUpAfter:
		if o.record(ctx, m, func(q *bun.UpdateQuery) { setWaiting(q, next, f.Error()) }) {
			log.WarnContext(ctx, "cannot send a mail; retrying later", "next", next)
		}
	default:
		if !o.record(ctx, m, func(q *bun.UpdateQuery) { o.setFailed(q, f.Error()) }) {
			return
		}
		switch f.outcome {
		case unknown:
			log.WarnContext(ctx, "a mail may or may not have arrived; not retrying")
		case refused:
			log.WarnContext(ctx, "the mail server refused a mail; not retrying")
		case retryable:
			log.WarnContext(ctx, "cannot send a mail; giving up, because it is too old")
		}
	}
}

// record stores an outcome, and reports whether it did. It retries while the database is
// unavailable, for up to recordGrace after the end of ctx.
func (o *Outbox) record(ctx context.Context, m *row, set func(*bun.UpdateQuery)) bool {
	log := o.logFor(m)
	ctx, cancel := withGrace(ctx, recordGrace)
	defer cancel()
	for try := 1; ; try++ {
		err := o.update(ctx, m, set)
		if err == nil {
			return true
		}
		if errors.Is(err, errClaimLost) {
			if try > 1 {
				// An earlier try was stored although it returned an error, or the claim has expired
				// meanwhile: either way there is nothing more to do.
				return true
			}
			log.WarnContext(ctx, "the outcome of a mail is not stored, because the claim expired")
			return false
		}
		if try == 1 {
			log.ErrorContext(ctx, "cannot store the outcome of a mail; retrying", "error", err)
		}
		select {
		case <-time.After(o.opts.PollEvery):
		case <-ctx.Done():
			return false
		}
	}
}

// backoff returns how long to wait after this many attempts: exponential, with a jitter of a fifth
// in both directions, so that mails that failed together are not retried together.
func (o *Outbox) backoff(attempts int) time.Duration {
	d := o.opts.MinBackoff
	for range attempts - 1 {
		if d *= 2; d >= o.opts.MaxBackoff {
			break
		}
	}
	d = min(d, o.opts.MaxBackoff)
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// withGrace returns a context that ends when the grace has passed after the end of ctx.
func withGrace(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	timer := time.AfterFunc(math.MaxInt64, cancel)
	stop := context.AfterFunc(ctx, func() { timer.Reset(grace) })
	return longer, func() {
		stop()
		timer.Stop()
		cancel()
	}
}

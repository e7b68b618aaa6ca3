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
	// mails that one node sends at a time: a server that is slow with one does not hold up the next
	atOnce     = 4
	sweepEvery = time.Hour
	// recordGrace is how long the outcome of a mail may take to be stored when Run has to end.
	// Unstored, it counts as unknown.
	recordGrace = 5 * time.Second
)

// Run sends mails until ctx ends. Then it cuts off what has not come to handing over content, which
// stays due, waits up to StopGrace for the answers to the rest, and returns. An outage of the
// database or of the mail server does not end it.
func (o *Outbox) Run(ctx context.Context) {
	var sending sync.WaitGroup
	defer sending.Wait()
	places := make(chan struct{}, atOnce)
	var swept time.Time
	down := false
	for {
		select {
		case places <- struct{}{}:
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
		if (err != nil) != down { // said once, not at every look
			if down = err != nil; down {
				o.opts.Log.ErrorContext(ctx, "the database gives no mails to send; trying on", "error", err)
			} else {
				o.opts.Log.InfoContext(ctx, "the database gives mails again")
			}
		}
		if m != nil {
			sending.Go(func() {
				defer func() { <-places }()
				o.deliver(ctx, m)
			})
			continue
		}
		<-places
		select {
		case <-o.bell:
		case <-time.After(o.opts.PollEvery):
		case <-ctx.Done():
			return
		}
	}
}

// deliver brings a claimed mail one step further, and stores the outcome.
func (o *Outbox) deliver(ctx context.Context, m *row) {
	switch {
	case m.StartedAt != nil:
		o.settle(ctx, m, &failure{outcome: unknown, step: "content", reason: "whoever sent it ended before its outcome was stored"})
	case o.relay == nil:
		log := o.logOf(m)
		if m.Link != "" {
			log = log.With("link", m.Link)
		}
		log.InfoContext(ctx, "no SMTP is set; a mail would say")
		o.record(ctx, m, o.setSent)
	default:
		o.settle(ctx, m, o.send(ctx, m))
	}
}

// logOf names a mail in the log without naming a person.
func (o *Outbox) logOf(m *row) *slog.Logger {
	return o.opts.Log.With("mail", m.ID.String(), "kind", string(m.Kind))
}

func (o *Outbox) send(ctx context.Context, m *row) *failure {
	msg, err := o.compose(m)
	if err != nil {
		// Perhaps a newer node knows the kind.
		return &failure{outcome: again, step: "compose", reason: err.Error(), cause: err}
	}
	return o.relay.send(ctx, msg, func() error { return o.start(ctx, m) })
}

// settle stores what became of an attempt, and then says it.
func (o *Outbox) settle(ctx context.Context, m *row, f *failure) {
	log := o.logOf(m).With("attempt", m.Attempts)
	if f == nil {
		if o.record(ctx, m, o.setSent) {
			log.InfoContext(ctx, "a mail is sent")
		}
		return
	}
	if errors.Is(f, errLost) {
		log.WarnContext(ctx, "a mail took too long, and another node has it now")
		return
	}
	log = log.With("step", f.step, "code", f.code, "error", f.reason)
	now := o.db.Now()
	next := now.Add(o.pause(m.Attempts))
	switch {
	case f.outcome == again && ctx.Err() != nil: // the end of Run is no failure: it goes out at the next start
		o.record(ctx, m, func(q *bun.UpdateQuery) { setWaiting(q, now, f.Error()) })
	case f.outcome == again && next.Sub(m.CreatedAt) <= o.opts.GiveUpAfter:
		if o.record(ctx, m, func(q *bun.UpdateQuery) { setWaiting(q, next, f.Error()) }) {
			log.WarnContext(ctx, "a mail could not be sent, and will be tried again", "next", next)
		}
	default:
		if !o.record(ctx, m, func(q *bun.UpdateQuery) { o.setFailed(q, f.Error()) }) {
			return
		}
		switch f.outcome {
		case unknown:
			log.WarnContext(ctx, "a mail may or may not have arrived, and will not be sent again")
		case refused:
			log.WarnContext(ctx, "a mail was refused, and will not be sent again")
		case again:
			log.WarnContext(ctx, "a mail could not be sent for too long, and is given up")
		}
	}
}

// record stores an outcome, and reports whether it did. It goes on through an outage of the
// database, and for a moment after the end of ctx.
func (o *Outbox) record(ctx context.Context, m *row, set func(*bun.UpdateQuery)) bool {
	log := o.logOf(m)
	ctx, cancel := linger(ctx, recordGrace)
	defer cancel()
	for try := 1; ; try++ {
		err := o.update(ctx, m, set)
		if err == nil {
			return true
		}
		if errors.Is(err, errLost) {
			if try > 1 {
				// an earlier try was stored after all, though its answer was lost; or it is too
				// late anyway
				return true
			}
			log.WarnContext(ctx, "the outcome of a mail came too late to be stored")
			return false
		}
		if try == 1 {
			log.ErrorContext(ctx, "the outcome of a mail could not be stored; trying on", "error", err)
		}
		select {
		case <-time.After(o.opts.PollEvery):
		case <-ctx.Done():
			return false
		}
	}
}

// pause is how long to wait after so many attempts: twice as long each time, give or take a fifth,
// so that mails that failed together do not come back together.
func (o *Outbox) pause(attempts int) time.Duration {
	d := o.opts.RetryAfter
	for range attempts - 1 {
		if d *= 2; d >= o.opts.RetryAtMost {
			break
		}
	}
	d = min(d, o.opts.RetryAtMost)
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// linger returns a context that ends a while after ctx does.
func linger(ctx context.Context, while time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	timer := time.AfterFunc(math.MaxInt64, cancel)
	stop := context.AfterFunc(ctx, func() { timer.Reset(while) })
	return longer, func() {
		stop()
		timer.Stop()
		cancel()
	}
}

package auth

import (
	"context"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"parley/model"
)

// revocation is a row by which the other nodes learn that a session has ended.
type revocation struct {
	bun.BaseModel `bun:"table:revocations"`

	SessionID model.SessionID `bun:",pk,type:uuid"`
	At        time.Time
}

const (
	// pollEvery limits how long a lease of a session that was ended on another node lives on.
	pollEvery = 500 * time.Millisecond
	// pollOverlap is how far a poll reaches back before the previous one, for revocations that were
	// committed late, or by a node with a slow clock.
	pollOverlap = time.Minute
	pollTimeout = 5 * time.Second

	// deleteEvery is how often expired rows are deleted.
	deleteEvery   = 10 * time.Minute
	deleteTimeout = time.Minute
)

// Run ends the leases of sessions that other nodes have ended, finishes the removal of accounts,
// and deletes expired rows, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { s.runRemovals(ctx) })
	// On goroutines of their own, and with timeouts: deleting may take long, and must not delay a
	// poll.
	all.Go(func() {
		s.repeat(ctx, pollEvery, pollTimeout, "poll revocations", s.pollRevocations)
	})
	all.Go(func() {
		s.repeat(ctx, deleteEvery, deleteTimeout, "delete expired rows", s.deleteExpired)
	})
	all.Wait()
}

// repeat calls fn, which does a task, at every tick, until ctx ends. It logs errors.
func (s *Service) repeat(
	ctx context.Context, every, timeout time.Duration, task string,
	fn func(context.Context) error,
) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		bounded, cancel := context.WithTimeout(ctx, timeout)
		if err := fn(bounded); err != nil && ctx.Err() == nil {
			s.opts.Log.Warn("a periodic task has failed; retrying", "task", task, "error", err)
		}
		cancel()
	}
}

// pollRevocations ends the leases of sessions that were revoked since the last successful poll, so
// that none is missed after an outage, or after the process was suspended.
func (s *Service) pollRevocations(ctx context.Context) error {
	now := poll{began: time.Now(), since: s.db.Now()}
	if s.hasLeases() { // requests check their session by themselves
		from := now.since
		if last := s.lastPoll.Load(); last != nil {
			from = last.since
		}
		var ended []model.SessionID
		err := s.db.NewSelect().Model((*revocation)(nil)).Column("session_id").
			Where("at > ?", from.Add(-pollOverlap)).Scan(ctx, &ended)
		if err != nil {
			return err
		}
		s.endLeases(ended...)
	}
	s.lastPoll.Store(&now)
	return nil
}

// poll is the time at which a successful poll of revocations began.
type poll struct {
	began time.Time // by this process's clock
	since time.Time // by the service's clock, which revocations are stored with
}

// pollStale is the age of the last poll beyond which live events are no longer delivered.
const pollStale = 3 * pollEvery

// AwaitWatch returns at once while revocations are polled regularly. If the last poll is too old,
// because the process was suspended or the database is unavailable, it polls, and retries until it
// succeeds. So when it returns nil, the leases of sessions that were revoked more than pollStale
// before the call have ended. The error is that of ctx.
func (s *Service) AwaitWatch(ctx context.Context) error {
	for {
		if s.Watches() || s.pollShared(ctx) == nil {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// Watches reports whether revocations are polled regularly, so that AwaitWatch would return at
// once.
func (s *Service) Watches() bool {
	last := s.lastPoll.Load()
	return last != nil && time.Since(last.began) < pollStale
}

// pollShared polls revocations once for all its concurrent callers.
func (s *Service) pollShared(ctx context.Context) error {
	s.pollMu.Lock()
	defer s.pollMu.Unlock()
	if s.Watches() {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	return s.pollRevocations(bounded)
}

func (s *Service) hasLeases() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.leases) > 0
}

// deleteExpired deletes rows that are no longer used.
func (s *Service) deleteExpired(ctx context.Context) error {
	now := s.db.Now()
	for _, expired := range []struct {
		table, column string
		before        time.Time
	}{
		// An access token may outlive its session, and its revocation must outlive the token.
		{"revocations", "at", now.Add(-s.opts.AccessTTL - 2*pollOverlap)},
		{"sessions", "expires_at", now.Add(-s.opts.AccessTTL)},
		{"one_time_tokens", "expires_at", now.Add(-24 * time.Hour)},
		{"rate_limits", "at", now.Add(-failuresExpireAfter)},
		{"audit_log", "at", now.Add(-auditKept)},
	} {
		err := s.db.DeleteInBatches(ctx, expired.table, "? < ?", bun.Ident(expired.column),
			expired.before)
		if err != nil {
			return err
		}
	}
	return nil
}

package auth

import (
	"context"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"parley/model"
)

// revocation says that a session has ended, for nodes that have not ended it themselves.
type revocation struct {
	bun.BaseModel `bun:"table:revocations"`

	SessionID model.SessionID `bun:",pk,type:uuid"`
	At        time.Time
}

const (
	// watchEvery bounds how long a session lives on elsewhere after it was ended.
	watchEvery = 500 * time.Millisecond
	// watchBack is how far each look reaches back: what was committed late, or by a node whose
	// clock is behind.
	watchBack  = time.Minute
	cleanEvery = 10 * time.Minute
)

// Run ends what hangs on sessions that other nodes have ended, finishes the removal of accounts,
// and clears away what is over, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { s.runRemovals(ctx) })
	// Apart, and each look with an end: clearing away may take its time, and noticing that a
	// session has ended may not.
	all.Go(func() { s.repeat(ctx, watchEvery, 5*time.Second, s.watchRevocations) })
	all.Go(func() { s.repeat(ctx, cleanEvery, time.Minute, s.clean) })
	all.Wait()
}

func (s *Service) repeat(ctx context.Context, every, timeout time.Duration, do func(context.Context) error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		bounded, cancel := context.WithTimeout(ctx, timeout)
		if err := do(bounded); err != nil && ctx.Err() == nil {
			s.opts.Log.Warn("cannot look after the sessions", "error", err)
		}
		cancel()
	}
}

// watchRevocations looks back to where it has looked before, so that an outage, or a process that
// was stopped for a while, hides no end.
func (s *Service) watchRevocations(ctx context.Context) error {
	now := look{began: time.Now(), since: s.db.Now()}
	if s.hasLeases() { // else requests look for themselves
		from := now.since
		if before := s.looked.Load(); before != nil {
			from = before.since
		}
		var ended []model.SessionID
		err := s.db.NewSelect().Model((*revocation)(nil)).Column("session_id").Where("at > ?", from.Add(-watchBack)).Scan(ctx, &ended)
		if err != nil {
			return err
		}
		s.sessionsEnded(ended...)
	}
	s.looked.Store(&now)
	return nil
}

// look is when revocations were looked at.
type look struct {
	began time.Time // by this process's clock
	since time.Time // the same, by the database's
}

// watchStale is how old the last look may be for what is live to go on being delivered.
const watchStale = 3 * watchEvery

// AwaitWatch returns at once as long as revocations are being looked at. Where that has stopped,
// because the process was stopped, or the database is away, it looks, and waits until it could:
// whatever hangs on a session that has ended meanwhile has been ended when it returns. The error is
// ctx's.
func (s *Service) AwaitWatch(ctx context.Context) error {
	for {
		if s.Watches() || s.lookNow(ctx) == nil {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(watchEvery):
		}
	}
}

// Watches reports whether revocations are being looked at, so that AwaitWatch would return at once.
func (s *Service) Watches() bool {
	looked := s.looked.Load()
	return looked != nil && time.Since(looked.began) < watchStale
}

// lookNow looks once for all who wait for it.
func (s *Service) lookNow(ctx context.Context) error {
	s.looking.Lock()
	defer s.looking.Unlock()
	if s.Watches() {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.watchRevocations(bounded)
}

func (s *Service) hasLeases() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.leases) > 0
}

// clean removes what nobody can use any more.
func (s *Service) clean(ctx context.Context) error {
	now := s.db.Now()
	for _, over := range []struct {
		table, column string
		before        time.Time
	}{
		// An access token outlives the session that it was made in, and so must the word that it is
		// void.
		{"revocations", "at", now.Add(-s.opts.AccessTTL - 2*watchBack)},
		{"sessions", "expires_at", now.Add(-s.opts.AccessTTL)},
		{"one_time_tokens", "expires_at", now.Add(-24 * time.Hour)},
		{"rate_limits", "at", now.Add(-failuresForgive)},
		{"audit_log", "at", now.Add(-auditKept)},
	} {
		if err := s.db.DeleteInBatches(ctx, over.table, "? < ?", bun.Ident(over.column), over.before); err != nil {
			return err
		}
	}
	return nil
}

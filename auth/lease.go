package auth

import (
	"time"

	"parley/errs"
	"parley/model"
)

// Lease ties something that lives longer than a request, such as a socket, to the session that it
// was opened with.
type Lease struct {
	service *Service
	session model.SessionID
	end     func(error)
	expiry  *time.Timer
}

// Lease calls end once, with an UNAUTHENTICATED error that says why, when the grant's session has
// ended or its access token has expired; not after Release, unless it was under way. It is called
// at once for a token that is expired already.
func (s *Service) Lease(grant Grant, end func(reason error)) *Lease {
	l := &Lease{service: s, session: grant.Actor.SessionID, end: end}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(l)
	l.expiry = time.AfterFunc(grant.ExpiresAt.Sub(s.db.Now()), func() {
		l.finish(errs.New(errs.Unauthenticated, expiredMessage))
	})
	if seen, ok := s.checked.Get(l.session); ok && !seen.alive { // since the grant was looked at
		go l.finish(errSessionEnded)
	}
	return l
}

// Renew moves the lease to another grant of the same account: to its session, and to its expiry.
func (l *Lease) Renew(grant Grant) {
	s := l.service
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, counted := s.leases[l.session][l]; !counted {
		return
	}
	s.drop(l)
	l.session = grant.Actor.SessionID
	s.add(l)
	l.expiry.Reset(grant.ExpiresAt.Sub(s.db.Now()))
}

// Release gives the lease back. It may be called more than once.
func (l *Lease) Release() { l.forget() }

func (l *Lease) finish(reason error) {
	if l.forget() {
		l.end(reason)
	}
}

// forget reports whether the lease still counted.
func (l *Lease) forget() bool {
	s := l.service
	s.mu.Lock()
	defer s.mu.Unlock()
	l.expiry.Stop()
	_, counted := s.leases[l.session][l]
	s.drop(l)
	return counted
}

// add and drop need the lock.
func (s *Service) add(l *Lease) {
	if s.leases[l.session] == nil {
		s.leases[l.session] = map[*Lease]struct{}{}
	}
	s.leases[l.session][l] = struct{}{}
}

func (s *Service) drop(l *Lease) {
	held := s.leases[l.session]
	delete(held, l)
	if len(held) == 0 {
		delete(s.leases, l.session)
	}
}

// sessionsEnded tells everything on this node that hangs on the sessions.
func (s *Service) sessionsEnded(ids ...model.SessionID) {
	var held []*Lease
	s.mu.Lock()
	for _, id := range ids {
		s.checked.Add(id, sessionCheck{at: s.db.Now(), alive: false})
		for l := range s.leases[id] {
			held = append(held, l)
		}
	}
	s.mu.Unlock()
	for _, l := range held {
		l.finish(errSessionEnded)
	}
}

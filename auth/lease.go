package auth

import (
	"time"

	"parley/errs"
	"parley/model"
)

// Lease ties something that lives longer than a request, such as a socket, to its session.
type Lease struct {
	service *Service
	session model.SessionID
	end     func(error)
	expiry  *time.Timer
}

// Lease calls end once, with an UNAUTHENTICATED error that gives the reason, when the grant's
// session has ended or its access token has expired. If that is so already, it calls end at once,
// on another goroutine. It does not call end after Release, unless the call had begun.
func (s *Service) Lease(grant Grant, end func(reason error)) *Lease {
	l := &Lease{service: s, session: grant.Actor.SessionID, end: end}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLease(l)
	l.expiry = time.AfterFunc(grant.ExpiresAt.Sub(s.db.Now()), func() {
		l.finish(errs.New(errs.Unauthenticated, expiredMessage))
	})
	// The session may have ended after the grant was checked.
	if cached, ok := s.sessionCache.Get(l.session); ok && !cached.alive {
		go l.finish(errSessionEnded)
	}
	return l
}

// Renew moves the lease to another grant of the same account: to its session, and to its expiry.
func (l *Lease) Renew(grant Grant) {
	s := l.service
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, active := s.leases[l.session][l]; !active {
		return
	}
	s.removeLease(l)
	l.session = grant.Actor.SessionID
	s.addLease(l)
	l.expiry.Reset(grant.ExpiresAt.Sub(s.db.Now()))
}

// Release ends the lease without a call of end. It may be called more than once.
func (l *Lease) Release() { l.remove() }

func (l *Lease) finish(reason error) {
	if l.remove() {
		l.end(reason)
	}
}

// remove ends the lease, and reports whether it was active until now.
func (l *Lease) remove() bool {
	s := l.service
	s.mu.Lock()
	defer s.mu.Unlock()
	l.expiry.Stop()
	_, active := s.leases[l.session][l]
	s.removeLease(l)
	return active
}

// addLease must be called with s.mu held.
func (s *Service) addLease(l *Lease) {
	if s.leases[l.session] == nil {
		s.leases[l.session] = map[*Lease]struct{}{}
	}
	s.leases[l.session][l] = struct{}{}
}

// removeLease must be called with s.mu held.
func (s *Service) removeLease(l *Lease) {
	leases := s.leases[l.session]
	delete(leases, l)
	if len(leases) == 0 {
		delete(s.leases, l.session)
	}
}

// endLeases ends the leases of sessions that have ended, and remembers the end.
func (s *Service) endLeases(ids ...model.SessionID) {
	var ended []*Lease
	s.mu.Lock()
	for _, id := range ids {
		s.sessionCache.Add(id, cachedSession{at: s.db.Now(), alive: false})
		for l := range s.leases[id] {
			ended = append(ended, l)
		}
	}
	s.mu.Unlock()
	for _, l := range ended {
		l.finish(errSessionEnded)
	}
}

package auth

import (
	"time"

	"parley/errs"
	"parley/model"
)

// Lease ties something that lives longer than a request, such as a socket, to the session that it was opened with.
type Lease struct {
	service *Service
	session model.SessionID
	end     func(error)
	expiry  *time.Timer
}

// Lease calls end once, with an UNAUTHENTICATED error that says why, when the grant's session has ended or its access token
// has expired; never after Release. It is called at once for a token that is expired already.
func (s *Service) Lease(grant Grant, end func(reason error)) *Lease {
	l := &Lease{service: s, session: grant.Actor.SessionID, end: end}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[l.session] == nil {
		s.leases[l.session] = map[*Lease]struct{}{}
	}
	s.leases[l.session][l] = struct{}{}
	l.expiry = time.AfterFunc(grant.ExpiresAt.Sub(s.db.Now()), func() {
		l.finish(errs.New(errs.Unauthenticated, "The access token is expired. Trade the refresh token for a new one."))
	})
	return l
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
	held := s.leases[l.session]
	_, counted := held[l]
	delete(held, l)
	if len(held) == 0 {
		delete(s.leases, l.session)
	}
	return counted
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

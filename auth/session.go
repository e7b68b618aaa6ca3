package auth

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/text"
)

// Client is what is known of the device that signs in: kept with the session, so that its owner may
// recognize it.
type Client struct {
	UserAgent string
	IP        string
}

// SignedIn is a person with a session that works.
type SignedIn struct {
	User    *model.User
	Session model.Session
	Tokens  Tokens
}

// Actor is the person, acting in this session.
func (s *SignedIn) Actor() model.Actor {
	return model.Actor{UserID: s.User.ID, SessionID: s.Session.ID}
}

// Grant is what the new access token stands for.
func (s *SignedIn) Grant() Grant { return Grant{Actor: s.Actor(), ExpiresAt: s.Tokens.ExpiresAt} }

// Login is what a person signs in with.
type Login struct {
	Email    string
	Password string
}

// refreshGrace is how long after its use a refresh token is still answered, with the same
// successor: two tabs of one browser may race.
const refreshGrace = 10 * time.Second

var errCredentials = errs.Input(errs.InvalidCredentials, "password",
	"The e-mail address and the password do not belong together.")

// Login starts a session. An unknown address and a wrong password get the same answer after the
// same work: one password is compared, and the database gets the same statements.
func (s *Service) Login(ctx context.Context, in Login, from Client) (*SignedIn, error) {
	if err := s.allow(ctx, "login from "+from.Network(), loginByAddress); err != nil {
		return nil, err
	}
	// Counted for each pair of account and address, so that nobody elsewhere can slow the owner
	// down.
	account := "login to " + lookup(in.Email) + " from " + from.Network()
	if err := s.allow(ctx, account, loginByAccount); err != nil {
		return nil, err
	}
	failures := "failed " + account
	if err := s.checkLockout(ctx, failures); err != nil {
		return nil, err
	}
	u, hash, err := s.accountOf(ctx, lookup(in.Email))
	if err != nil {
		return nil, err
	}
	matches, err := s.passwordMatches(ctx, in.Password, hash, from)
	if err != nil {
		return nil, err
	}
	// Where addresses are concealed, the first sign-in must not tell that registering with an
	// address has worked.
	matches = matches && (u.EmailVerifiedAt != nil || !s.opts.ConcealEmails)
	var signedIn *SignedIn
	// The account is locked. Attempts on one address take turns whether it has an account or not.
	err = s.db.InQueuedTx(ctx, u.ID, func(ctx context.Context, tx *store.Tx) error {
		signedIn = nil
		var known *model.UserID
		switch _, err := checkedUser(ctx, tx, u.ID, hash); {
		case err == nil:
			known = &u.ID
		case !errors.Is(err, errSessionEnded) && !errors.Is(err, errPasswordChanged): // either meanwhile, or no account
			return err
		}
		if !matches || known == nil {
			return s.audit(ctx, tx, loginFailed, known, nil, from)
		}
		signedIn, err = s.startSession(ctx, tx, u, from)
		return err
	})
	if err != nil {
		return nil, err
	}
	if signedIn == nil {
		return nil, cmp.Or(s.failed(ctx, failures), s.errCredentials())
	}
	return signedIn, s.succeeded(ctx, failures)
}

// accountOf returns the account of an address and the hash of its password. If the address has
// none, it runs the same statements, and returns a decoy and no hash.
func (s *Service) accountOf(ctx context.Context, emailKey string) (u *model.User, hash string, err error) {
	u = new(model.User)
	switch err := s.db.NewSelect().Model(u).Where("u.email_key = ?", emailKey).Scan(ctx); {
	case errors.Is(err, sql.ErrNoRows):
		u = decoyAccount(emailKey)
	case err != nil:
		return nil, "", store.Error(err)
	}
	err = s.db.NewSelect().Model((*model.Credentials)(nil)).Column("password_hash").
		Where("user_id = ?", u.ID).Scan(ctx, &hash)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, "", store.Error(err)
	}
	return u, hash, nil
}

func (s *Service) errCredentials() error {
	if s.opts.ConcealEmails {
		return errs.Input(errs.InvalidCredentials, "password",
			"The e-mail address and the password do not belong together, or the address is not confirmed yet: follow the link in the mail.")
	}
	return errCredentials
}

func (s *Service) startSession(ctx context.Context, tx *store.Tx, u *model.User, from Client) (*SignedIn, error) {
	id := model.NewSessionID()
	refresh := s.tokens.firstRefresh(id)
	row := &model.SessionSecrets{
		Session: model.Session{
			ID: id, UserID: u.ID, CreatedAt: tx.Now, LastUsedAt: tx.Now, ExpiresAt: tx.Now.Add(s.opts.RefreshTTL),
			UserAgent: optional(from.UserAgent, maxUserAgent), IP: optional(from.IP, maxUserAgent),
		},
		RefreshHash: refresh.hash(),
	}
	if _, err := tx.NewInsert().Model(row).Exec(ctx); err != nil {
		return nil, err
	}
	if err := s.audit(ctx, tx, loggedIn, &u.ID, &id, from); err != nil {
		return nil, err
	}
	if err := s.endSurplus(ctx, tx, u.ID, from); err != nil {
		return nil, err
	}
	return s.signedIn(u, row.Session, refresh)
}

// maxSessions is how many sessions an account has at most: a new one ends the one that was not used
// for longest.
const maxSessions = 100

func (s *Service) endSurplus(ctx context.Context, tx *store.Tx, user model.UserID, from Client) error {
	ids, err := liveSessions(ctx, tx, user)
	if err != nil || len(ids) <= maxSessions {
		return err
	}
	return s.endSessions(ctx, tx, user, ids[maxSessions:], from)
}

func (s *Service) signedIn(u *model.User, session model.Session, refresh refreshToken) (*SignedIn, error) {
	signedIn := &SignedIn{User: u, Session: session}
	access, expiresAt, err := s.tokens.access(signedIn.Actor())
	if err != nil {
		return nil, err
	}
	signedIn.Tokens = Tokens{AccessToken: access, ExpiresAt: expiresAt, RefreshToken: refresh.String()}
	return signedIn, nil
}

const maxUserAgent = 256

// optional cuts what a stranger's header says to what is worth keeping.
func optional(s string, limit int) *string {
	s = text.Clean(s)
	if s == "" || text.Problem(s, false) != "" {
		return nil
	}
	if runes := []rune(s); len(runes) > limit {
		s = string(runes[:limit])
	}
	return &s
}

var errRefresh = errs.Input(errs.TokenExpired, "refreshToken",
	"The refresh token is expired, or was used before, or its session has ended. Sign in again.")

// Refresh trades a refresh token for new tokens. A token that was used before ends its session,
// because then somebody else may have it; except within the grace, which gives the same successor
// again.
//
// Where account is given, a token of any other account is FORBIDDEN, and stays as it was.
func (s *Service) Refresh(ctx context.Context, token string, account *model.UserID, from Client) (*SignedIn, error) {
	if err := s.allow(ctx, "refresh from "+from.Network(), refreshByAddress); err != nil {
		return nil, err
	}
	used, ok := readRefresh(token)
	if !ok {
		return nil, errRefresh
	}
	if s.tokens.ours(used) { // what is made up must not count for the session that it names
		if err := s.allow(ctx, "refresh "+used.session().String(), refreshBySession); err != nil {
			return nil, err
		}
	}
	var signedIn *SignedIn
	err := s.db.InQueuedTx(ctx, used.session(), func(ctx context.Context, tx *store.Tx) error {
		signedIn = nil
		if account != nil {
			if err := requireOwn(ctx, tx, *account, used.session()); err != nil {
				return err
			}
		}
		next := s.tokens.nextRefresh(used)
		row := new(model.SessionSecrets)
		// The row lock makes two that race with one token take turns here.
		res, err := tx.NewUpdate().Model(row).
			Set("previous_hash = refresh_hash").Set("refresh_hash = ?", next.hash()).
			Set("rotated_at = ?", tx.Now).Set("last_used_at = ?", tx.Now).Set("expires_at = ?", tx.Now.Add(s.opts.RefreshTTL)).
			Set("user_agent = ?", optional(from.UserAgent, maxUserAgent)).Set("ip = ?", optional(from.IP, maxUserAgent)).
			Where("id = ?", used.session()).Where("refresh_hash = ?", used.hash()).
			Where("revoked_at IS NULL").Where("expires_at > ?", tx.Now).
			Returning("*").Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			if row, next, err = s.usedAgain(ctx, tx, used, from); err != nil || row == nil {
				return err
			}
		}
		u := new(model.User)
		err = tx.NewSelect().Model(u).Where("u.id = ?", row.UserID).Scan(ctx)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // removed since the session was read within the grace
		}
		if err != nil {
			return err
		}
		signedIn, err = s.signedIn(u, row.Session, next)
		return err
	})
	if err == nil && signedIn == nil {
		return nil, errRefresh
	}
	return signedIn, err
}

// usedAgain decides about a token of ours that is not its session's newest: within the grace it
// returns the session and the same successor, and otherwise ends the session and returns nil.
func (s *Service) usedAgain(
	ctx context.Context, tx *store.Tx, used refreshToken, from Client,
) (session *model.SessionSecrets, successor refreshToken, err error) {
	if !s.tokens.ours(used) {
		return nil, nil, nil // made up, and no reason to end the session that it names
	}
	row := new(model.SessionSecrets)
	err = tx.NewSelect().Model(row).Where("s.id = ?", used.session()).
		Where("s.revoked_at IS NULL").Where("s.expires_at > ?", tx.Now).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, nil // there is no such session any more
	}
	if err != nil {
		return nil, nil, err
	}
	if bytes.Equal(row.PreviousHash, used.hash()) && tx.Now.Sub(*row.RotatedAt) <= refreshGrace {
		if successor = s.tokens.successor(used, row.RefreshHash); successor == nil {
			return nil, nil, nil // made with a key that this node does not have
		}
		return row, successor, nil
	}
	if _, err := lockedUser(ctx, tx, row.UserID); err != nil {
		if errors.Is(err, errSessionEnded) {
			// removed since the session was read: nothing more is recorded of it
			return nil, nil, nil
		}
		return nil, nil, err
	}
	if err := s.audit(ctx, tx, refreshReused, &row.UserID, &row.ID, from); err != nil {
		return nil, nil, err
	}
	return nil, nil, s.revoke(ctx, tx, row.ID)
}

var errOtherAccount = errs.New(errs.Forbidden, "This refresh token belongs to another account.")

// requireOwn is FORBIDDEN for a session of another account. A session that is not there passes:
// what comes next says so.
func requireOwn(ctx context.Context, tx *store.Tx, account model.UserID, id model.SessionID) error {
	foreign, err := tx.NewSelect().Model((*model.Session)(nil)).
		Where("s.id = ?", id).Where("s.user_id <> ?", account).Exists(ctx)
	if err == nil && foreign {
		return errOtherAccount
	}
	return err
}

// Logout ends the session that the actor acts in. UNAUTHENTICATED if the account was removed: a
// node may take its tokens for up to checkFor afterwards.
func (s *Service) Logout(ctx context.Context, actor model.Actor, from Client) error {
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		if _, err := lockedUser(ctx, tx, actor.UserID); err != nil {
			return err
		}
		if err := s.audit(ctx, tx, loggedOut, &actor.UserID, &actor.SessionID, from); err != nil {
			return err
		}
		return s.revoke(ctx, tx, actor.SessionID)
	})
}

// Sessions lists the actor's sessions that have not ended, the last used first.
func (s *Service) Sessions(ctx context.Context, actor model.Actor) ([]*model.Session, error) {
	found := []*model.Session{}
	err := s.db.NewSelect().Model(&found).Where("s.user_id = ?", actor.UserID).
		Where("s.revoked_at IS NULL").Where("s.expires_at > ?", s.db.Now()).
		OrderExpr("s.last_used_at DESC, s.id DESC").Scan(ctx)
	return found, store.Error(err)
}

// Session is one of the actor's own that has not ended, or nil.
func (s *Service) Session(ctx context.Context, actor model.Actor, id model.SessionID) (*model.Session, error) {
	session := new(model.Session)
	err := s.db.NewSelect().Model(session).Where("s.id = ?", id).Where("s.user_id = ?", actor.UserID).
		Where("s.revoked_at IS NULL").Where("s.expires_at > ?", s.db.Now()).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // they have no such session
	}
	return session, store.Error(err)
}

// RevokeSession ends one of the actor's sessions. UNAUTHENTICATED if the account was removed.
func (s *Service) RevokeSession(ctx context.Context, actor model.Actor, id model.SessionID, from Client) error {
	if err := s.allow(ctx, "sessions in "+actor.SessionID.String(), revokeBySession); err != nil {
		return err
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		if _, err := lockedUser(ctx, tx, actor.UserID); err != nil {
			return err
		}
		own, err := liveSessions(ctx, tx, actor.UserID)
		if err != nil {
			return err
		}
		if !slices.Contains(own, id) {
			return errs.Input(errs.NotFound, "sessionId", "You have no such session.")
		}
		if err := s.audit(ctx, tx, sessionRevoked, &actor.UserID, &id, from); err != nil {
			return err
		}
		return s.revoke(ctx, tx, id)
	})
}

// RevokeOtherSessions ends all of the actor's sessions but the one they act in, and says how many.
func (s *Service) RevokeOtherSessions(ctx context.Context, actor model.Actor, from Client) (n int, err error) {
	if err := s.allow(ctx, "sessions in "+actor.SessionID.String(), revokeBySession); err != nil {
		return 0, err
	}
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		if _, err := lockedUser(ctx, tx, actor.UserID); err != nil {
			return err
		}
		n, err = s.revokeAll(ctx, tx, actor.UserID, &actor.SessionID, from)
		return err
	})
	return n, err
}

// revokeAll ends all sessions of an account but one. The account must be locked, as for
// endSessions.
func (s *Service) revokeAll(
	ctx context.Context, tx *store.Tx, user model.UserID, but *model.SessionID, from Client,
) (int, error) {
	ids, err := liveSessions(ctx, tx, user)
	if err != nil {
		return 0, err
	}
	if but != nil {
		ids = slices.DeleteFunc(ids, func(id model.SessionID) bool { return id == *but })
	}
	return len(ids), s.endSessions(ctx, tx, user, ids, from)
}

// endSessions ends sessions of an account and records it. The account must be locked with
// lockedUser: otherwise it may be removed meanwhile, and the audit log would keep where it was used
// from.
func (s *Service) endSessions(
	ctx context.Context, tx *store.Tx, user model.UserID, ids []model.SessionID, from Client,
) error {
	for _, id := range ids {
		if err := s.audit(ctx, tx, sessionRevoked, &user, &id, from); err != nil {
			return err
		}
	}
	return s.revoke(ctx, tx, ids...)
}

// liveSessions lists an account's sessions that have not ended, the last used first.
func liveSessions(ctx context.Context, tx *store.Tx, user model.UserID) (ids []model.SessionID, err error) {
	err = tx.NewSelect().Model((*model.Session)(nil)).Column("id").Where("s.user_id = ?", user).
		Where("s.revoked_at IS NULL").Where("s.expires_at > ?", tx.Now).
		OrderExpr("s.last_used_at DESC, s.id DESC").Scan(ctx, &ids)
	return ids, err
}

// revoke ends sessions: their tokens stop working, and what hangs on them is told.
func (s *Service) revoke(ctx context.Context, tx *store.Tx, ids ...model.SessionID) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.NewUpdate().Model((*model.Session)(nil)).Set("revoked_at = ?", tx.Now).
		Where("id IN (?)", bun.List(ids)).Where("revoked_at IS NULL").Exec(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids { // for the other nodes, see Run
		_, err := tx.NewInsert().Model(&revocation{SessionID: id, At: tx.Now}).On("CONFLICT DO NOTHING").Exec(ctx)
		if err != nil {
			return err
		}
	}
	tx.AfterCommit(func() { s.sessionsEnded(ids...) })
	return nil
}

// sessionCheck is what was last seen of a session.
type sessionCheck struct {
	at    time.Time
	user  model.UserID // whose token was looked at
	alive bool
}

// checkFor is how long a look at a session counts. Its end on another node is noticed within this
// time.
const checkFor = time.Second

var errSessionEnded = errs.New(errs.Unauthenticated,
	"The session has ended. Sign in again.")

// Authenticate says what an access token stands for, if it is valid and its session has not ended.
// UNAUTHENTICATED otherwise.
func (s *Service) Authenticate(ctx context.Context, accessToken string) (Grant, error) {
	grant, err := s.tokens.read(accessToken)
	if err != nil {
		return Grant{}, err
	}
	alive, err := s.sessionAlive(ctx, grant.Actor)
	if err != nil {
		return Grant{}, err
	}
	if !alive {
		return Grant{}, errSessionEnded
	}
	return grant, nil
}

func (s *Service) sessionAlive(ctx context.Context, actor model.Actor) (bool, error) {
	now := s.db.Now()
	if seen, ok := s.checked.Get(actor.SessionID); ok && now.Sub(seen.at) < checkFor && (seen.user == actor.UserID || !seen.alive) {
		return seen.alive, nil
	}
	found, err := store.Read[model.Session](ctx, s.db,
		`SELECT s.id FROM sessions AS s WHERE s.id = ?1 AND s.user_id = ?2 AND s.revoked_at IS NULL`, actor.SessionID, actor.UserID)
	if err != nil {
		return false, err
	}
	alive := len(found) > 0
	// the end is remembered by who ends it, and a token with the wrong user in it ends nothing
	if alive {
		s.mu.Lock()
		defer s.mu.Unlock()
		if seen, ok := s.checked.Get(actor.SessionID); ok && !seen.alive {
			return false, nil // it ended while this looked
		}
		s.checked.Add(actor.SessionID, sessionCheck{at: now, user: actor.UserID, alive: true})
	}
	return alive, nil
}

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

// Client is the device that makes a request. It is stored with a session, so that the user can
// recognize it.
type Client struct {
	UserAgent string
	IP        string
}

// SignedIn is a user with a new session, or a session with new tokens.
type SignedIn struct {
	User    *model.User
	Session model.Session
	Tokens  Tokens
}

// Actor returns the actor of the session.
func (s *SignedIn) Actor() model.Actor {
	return model.Actor{UserID: s.User.ID, SessionID: s.Session.ID}
}

// Grant returns the grant of the access token.
func (s *SignedIn) Grant() Grant { return Grant{Actor: s.Actor(), ExpiresAt: s.Tokens.ExpiresAt} }

// Login is the input of Service.Login.
type Login struct {
	Email    string
	Password string
}

// refreshGrace is how long a refresh token still returns the same successor after its first use:
// two tabs of one browser may race.
const refreshGrace = 10 * time.Second

var errCredentials = errs.Input(errs.InvalidCredentials, "password",
	"The e-mail address and the password do not match.")

// Login starts a session. An unknown address and a wrong password get the same answer after the
// same work: one password is compared, and the same statements run.
func (s *Service) Login(ctx context.Context, in Login, from Client) (*SignedIn, error) {
	if err := s.allow(ctx, "login from "+from.Network(), loginByAddress); err != nil {
		return nil, err
	}
	// Counted for each pair of account and client address, so that a client elsewhere cannot slow
	// the owner down.
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
	// If addresses are concealed, the first sign-in must not reveal that registering with an
	// address has succeeded.
	matches = matches && (u.EmailVerifiedAt != nil || !s.opts.ConcealEmails)
	var signedIn *SignedIn
	// Attempts on one address are queued, whether it has an account or not.
	err = s.db.InQueuedTx(ctx, u.ID, func(ctx context.Context, tx *store.Tx) error {
		signedIn = nil
		var known *model.UserID
		switch _, err := checkedUser(ctx, tx, u.ID, hash); {
		case err == nil:
			known = &u.ID
		// The two errors mean that there is no account, or that it has just changed.
		case !errors.Is(err, errSessionEnded) && !errors.Is(err, errPasswordChanged):
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
		return nil, cmp.Or(s.countFailure(ctx, failures), s.errCredentials())
	}
	return signedIn, s.clearFailures(ctx, failures)
}

// accountOf returns the account of an address and the hash of its password. If the address has
// none, it runs the same statements, and returns a decoy and no hash.
func (s *Service) accountOf(
	ctx context.Context, emailKey string,
) (u *model.User, hash string, err error) {
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
			"The e-mail address and the password do not match, or the address is not verified "+
				"yet: follow the link in the mail.")
	}
	return errCredentials
}

func (s *Service) startSession(
	ctx context.Context, tx *store.Tx, u *model.User, from Client,
) (*SignedIn, error) {
	id := model.NewSessionID()
	refresh := s.tokens.firstRefresh(id)
	row := &model.SessionSecrets{
		Session: model.Session{
			ID: id, UserID: u.ID, CreatedAt: tx.Now, LastUsedAt: tx.Now,
			ExpiresAt: tx.Now.Add(s.opts.RefreshTTL),
			UserAgent: sanitize(from.UserAgent), IP: sanitize(from.IP),
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

// maxSessions is the maximum number of sessions of an account. A new session beyond it ends the
// least recently used one.
const maxSessions = 100

// endSurplus ends the sessions beyond maxSessions. The account must be locked, as for endSessions.
func (s *Service) endSurplus(
	ctx context.Context, tx *store.Tx, user model.UserID, from Client,
) error {
	ids, err := liveSessions(ctx, tx, user)
	if err != nil || len(ids) <= maxSessions {
		return err
	}
	return s.endSessions(ctx, tx, user, ids[maxSessions:], from)
}

func (s *Service) signedIn(
	u *model.User, session model.Session, refresh refreshToken,
) (*SignedIn, error) {
	signedIn := &SignedIn{User: u, Session: session}
	access, expiresAt, err := s.tokens.access(signedIn.Actor())
	if err != nil {
		return nil, err
	}
	signedIn.Tokens = Tokens{
		AccessToken: access, ExpiresAt: expiresAt,
		RefreshToken: refresh.String(),
	}
	return signedIn, nil
}

const maxClientText = 256 // characters of a user agent or an address that are stored

// sanitize returns a client's user agent or address as it is stored: clipped, or nil if it is blank
// or has characters that cannot be shown.
func sanitize(s string) *string {
	s = text.Clean(s)
	if s == "" || text.Problem(s, false) != "" {
		return nil
	}
	if runes := []rune(s); len(runes) > maxClientText {
		s = string(runes[:maxClientText])
	}
	return &s
}

var errRefresh = errs.Input(errs.TokenExpired, "refreshToken",
	"The refresh token is expired, or was used before, or its session has ended. Sign in again.")

// Refresh trades a refresh token for new tokens. A token that was used before ends its session,
// because another client may have a copy. Within refreshGrace it returns the same successor
// instead. A token that is newer than the database works: the database was restored from a backup.
//
// If account is given, the error for a token of another account is FORBIDDEN, and the token is not
// used up.
func (s *Service) Refresh(
	ctx context.Context, token string, account *model.UserID, from Client,
) (*SignedIn, error) {
	if err := s.allow(ctx, "refresh from "+from.Network(), refreshByAddress); err != nil {
		return nil, err
	}
	used, ok := readRefresh(token)
	if !ok {
		return nil, errRefresh
	}
	if s.tokens.issuedHere(used) { // a forged token must not count for the session that it names
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
		// The lock of the row serializes requests that race with one token.
		row, next, err := s.rotate(ctx, tx, used, from, func(q bun.QueryBuilder) bun.QueryBuilder {
			return q.Where("refresh_hash = ?", used.hash())
		})
		if err == nil && row == nil {
			row, next, err = s.handleNotCurrent(ctx, tx, used, from)
		}
		if err != nil || row == nil {
			return err
		}
		u := new(model.User)
		err = tx.NewSelect().Model(u).Where("u.id = ?", row.UserID).Scan(ctx)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // removed after the session was read
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

// rotate replaces the tokens of the session by a token and its successor, if the session has not
// ended and meets the condition. It returns the new row and the successor, or nil.
func (s *Service) rotate(
	ctx context.Context, tx *store.Tx, used refreshToken, from Client,
	condition func(bun.QueryBuilder) bun.QueryBuilder,
) (*model.SessionSecrets, refreshToken, error) {
	count, counted := s.tokens.count(used)
	if !counted {
		// It is that of the session, and cannot change before this token is used.
		var err error
		if count, err = refreshCountOf(ctx, tx, used.session()); err != nil {
			return nil, nil, err
		}
	}
	count++
	next := s.tokens.nextRefresh(used, count)
	row := new(model.SessionSecrets)
	res, err := tx.NewUpdate().Model(row).
		Set("previous_hash = ?", used.hash()).Set("refresh_hash = ?", next.hash()).
		Set("rotated_at = ?", tx.Now).Set("last_used_at = ?", tx.Now).
		Set("expires_at = ?", tx.Now.Add(s.opts.RefreshTTL)).
		Set("user_agent = ?", sanitize(from.UserAgent)).Set("ip = ?", sanitize(from.IP)).
		Where("id = ?", used.session()).ApplyQueryBuilder(condition).
		ApplyQueryBuilder(live(tx.Now)).
		Returning("?Columns").Exec(ctx)
	if err != nil {
		return nil, nil, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return nil, nil, err
	}
	_, err = tx.NewInsert().Model(&refreshCount{SessionID: row.ID, Count: count}).
		On("CONFLICT (session_id) DO UPDATE").Set("count = EXCLUDED.count").Exec(ctx)
	return row, next, err
}

// refreshCount is the count of the session's token that works, or of the newest token before it
// that has a count.
type refreshCount struct {
	bun.BaseModel `bun:"table:refresh_counts"`

	SessionID model.SessionID `bun:",pk,type:uuid"`
	Count     int64
}

// refreshCountOf returns the count of a session. It is 0 until a token with a count is refreshed.
func refreshCountOf(
	ctx context.Context, tx *store.Tx, id model.SessionID,
) (count int64, err error) {
	err = tx.NewSelect().Model((*refreshCount)(nil)).Column("count").Where("session_id = ?", id).
		Scan(ctx, &count)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return count, err
}

// handleNotCurrent handles a token that was not the current one of its session a moment ago. It
// returns the session and the token's successor
//   - within refreshGrace of its use, without a change;
//   - if its count is higher than that of the session: no such token is issued before the session
//     has its count, so the database has been taken back, and has forgotten the token;
//   - if it has become the current one meanwhile, in the same way.
//
// Otherwise it ends the session and returns nil.
func (s *Service) handleNotCurrent(
	ctx context.Context, tx *store.Tx, used refreshToken, from Client,
) (row *model.SessionSecrets, successor refreshToken, err error) {
	if !s.tokens.issuedHere(used) {
		return nil, nil, nil // forged, which must not end the session that it names
	}
	if row, err = liveSecrets(ctx, tx, used.session()); err != nil || row == nil {
		return nil, nil, err
	}
	if _, err := lockedUser(ctx, tx, row.UserID); err != nil {
		if errors.Is(err, errSessionEnded) {
			return nil, nil, nil // removed after the session was read, and no longer audited
		}
		return nil, nil, err
	}
	// Read again with the lock: another request may have used this token or its parent.
	if err := tx.Lock(ctx, (*model.Session)(nil), "s.id = ?", used.session()); err != nil {
		return nil, nil, err
	}
	if row, err = liveSecrets(ctx, tx, used.session()); err != nil || row == nil {
		return nil, nil, err
	}
	stored, err := refreshCountOf(ctx, tx, row.ID)
	if err != nil {
		return nil, nil, err
	}
	count, counted := s.tokens.count(used)
	ahead := counted && count > stored
	switch {
	case bytes.Equal(row.PreviousHash, used.hash()) && tx.Now.Sub(*row.RotatedAt) <= refreshGrace:
		if successor = s.tokens.successor(used, stored, row.RefreshHash); successor == nil {
			return nil, nil, nil // derived with a key that this node does not have
		}
		return row, successor, nil
	case ahead:
		if err := s.audit(ctx, tx, refreshAhead, &row.UserID, &row.ID, from); err != nil {
			return nil, nil, err
		}
		fallthrough
	case bytes.Equal(row.RefreshHash, used.hash()):
		return s.rotate(ctx, tx, used, from, func(q bun.QueryBuilder) bun.QueryBuilder { return q })
	}
	if err := s.audit(ctx, tx, refreshReused, &row.UserID, &row.ID, from); err != nil {
		return nil, nil, err
	}
	return nil, nil, s.revoke(ctx, tx, row.ID)
}

// liveSecrets returns a session, or nil if it has ended.
func liveSecrets(
	ctx context.Context, tx *store.Tx, id model.SessionID,
) (*model.SessionSecrets, error) {
	row := new(model.SessionSecrets)
	err := tx.NewSelect().Model(row).Where("s.id = ?", id).ApplyQueryBuilder(live(tx.Now)).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // as documented
	}
	return row, err
}

var errOtherAccount = errs.New(errs.Forbidden, "This refresh token belongs to another account.")

// requireOwn returns FORBIDDEN for a session of another account. It returns nil if there is no such
// session, which the caller finds out by itself.
func requireOwn(ctx context.Context, tx *store.Tx, account model.UserID, id model.SessionID) error {
	foreign, err := tx.NewSelect().Model((*model.Session)(nil)).
		Where("s.id = ?", id).Where("s.user_id <> ?", account).Exists(ctx)
	if err == nil && foreign {
		return errOtherAccount
	}
	return err
}

// Logout ends the actor's session. The error is UNAUTHENTICATED if the account was removed: a node
// may accept its tokens for up to sessionCacheTTL afterwards.
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

// Sessions returns the actor's sessions that have not ended, the most recently used first.
func (s *Service) Sessions(ctx context.Context, actor model.Actor) ([]*model.Session, error) {
	found := []*model.Session{}
	err := s.db.NewSelect().Model(&found).Where("s.user_id = ?", actor.UserID).
		ApplyQueryBuilder(live(s.db.Now())).
		OrderExpr(lastUsedFirst).Scan(ctx)
	return found, store.Error(err)
}

// Session returns one of the actor's sessions, or nil if they have no such session or it has ended.
func (s *Service) Session(
	ctx context.Context, actor model.Actor, id model.SessionID,
) (*model.Session, error) {
	session := new(model.Session)
	err := s.db.NewSelect().Model(session).Where("s.id = ?", id).
		Where("s.user_id = ?", actor.UserID).
		ApplyQueryBuilder(live(s.db.Now())).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // as documented
	}
	return session, store.Error(err)
}

// RevokeSession ends one of the actor's sessions. The error is NOT_FOUND if they have no such
// session, and UNAUTHENTICATED if the account was removed.
func (s *Service) RevokeSession(
	ctx context.Context, actor model.Actor, id model.SessionID, from Client,
) error {
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

// RevokeOtherSessions ends all of the actor's sessions except the current one. It returns how many
// have ended.
func (s *Service) RevokeOtherSessions(
	ctx context.Context, actor model.Actor, from Client,
) (n int, err error) {
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

// revokeAll ends all sessions of an account, except one if it is given. It returns how many have
// ended. The account must be locked, as for endSessions.
func (s *Service) revokeAll(
	ctx context.Context, tx *store.Tx, user model.UserID, except *model.SessionID, from Client,
) (int, error) {
	ids, err := liveSessions(ctx, tx, user)
	if err != nil {
		return 0, err
	}
	if except != nil {
		ids = slices.DeleteFunc(ids, func(id model.SessionID) bool { return id == *except })
	}
	return len(ids), s.endSessions(ctx, tx, user, ids, from)
}

// endSessions ends sessions of an account and adds them to the audit log. The account must be
// locked with lockedUser: otherwise it might be removed meanwhile, and the audit log would keep the
// client's address.
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

// liveSessions returns the sessions of an account that have not ended, the most recently used
// first.
func liveSessions(
	ctx context.Context, tx *store.Tx, user model.UserID,
) (ids []model.SessionID, err error) {
	err = tx.NewSelect().Model((*model.Session)(nil)).Column("id").Where("s.user_id = ?", user).
		ApplyQueryBuilder(live(tx.Now)).
		OrderExpr(lastUsedFirst).Scan(ctx, &ids)
	return ids, err
}

const lastUsedFirst = "s.last_used_at DESC, s.id DESC" // the id makes the order unique

// live restricts a query to sessions that have not ended.
func live(now time.Time) func(bun.QueryBuilder) bun.QueryBuilder {
	return func(q bun.QueryBuilder) bun.QueryBuilder {
		return q.Where("s.revoked_at IS NULL").Where("s.expires_at > ?", now)
	}
}

// revoke ends sessions: their tokens stop working, and after the commit their leases end.
func (s *Service) revoke(ctx context.Context, tx *store.Tx, ids ...model.SessionID) error {
	if len(ids) == 0 {
		return nil
	}
	if err := revoke(ctx, tx, ids); err != nil {
		return err
	}
	tx.AfterCommit(func() { s.endLeases(ids...) })
	return nil
}

func revoke(ctx context.Context, tx *store.Tx, ids []model.SessionID) error {
	_, err := tx.NewUpdate().Model((*model.Session)(nil)).Set("revoked_at = ?", tx.Now).
		Where("id IN (?)", bun.List(ids)).Where("revoked_at IS NULL").Exec(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids { // for the other nodes, see pollRevocations
		_, err := tx.NewInsert().Model(&revocation{SessionID: id, At: tx.Now}).
			On("CONFLICT DO NOTHING").Exec(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

// cachedSession is the outcome of the last check of a session.
type cachedSession struct {
	at    time.Time
	user  model.UserID // the user of the session; zero if it has ended
	alive bool
}

// sessionCacheTTL is how long the outcome of a check is used. Requests notice the end of a session
// on another node within this time.
const sessionCacheTTL = time.Second

var errSessionEnded = errs.New(errs.Unauthenticated, "The session has ended. Sign in again.")

// Authenticate returns the grant of an access token. The error is UNAUTHENTICATED if the token is
// not valid or its session has ended.
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
	cached, ok := s.sessionCache.Get(actor.SessionID)
	if ok && now.Sub(cached.at) < sessionCacheTTL &&
		(cached.user == actor.UserID || !cached.alive) {
		return cached.alive, nil
	}
	found, err := store.Read[model.Session](ctx, s.db,
		`SELECT s.id FROM sessions AS s
		WHERE s.id = ?1 AND s.user_id = ?2 AND s.revoked_at IS NULL`,
		actor.SessionID, actor.UserID)
	if err != nil {
		return false, err
	}
	alive := len(found) > 0
	// Only endLeases remembers the end of a session: a token with the wrong user must not end it.
	if alive {
		s.mu.Lock()
		defer s.mu.Unlock()
		if cached, ok := s.sessionCache.Get(actor.SessionID); ok && !cached.alive {
			return false, nil // it ended during this check
		}
		s.sessionCache.Add(actor.SessionID, cachedSession{at: now, user: actor.UserID, alive: true})
	}
	return alive, nil
}

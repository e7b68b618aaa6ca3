package auth

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/text"
)

// Client is what is known of the device that signs in: kept with the session, so that its owner may recognize it.
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

// Login is what a person signs in with.
type Login struct {
	Email    string
	Password string
}

// refreshGrace is how long after its use a refresh token is still answered, with the same successor: two tabs of one
// browser may race.
const refreshGrace = 10 * time.Second

var errCredentials = errs.Input(errs.InvalidCredentials, "password",
	"The e-mail address and the password do not belong together.")

// Login starts a session. An unknown address and a wrong password get the same answer after the same work.
func (s *Service) Login(ctx context.Context, in Login, from Client) (*SignedIn, error) {
	u := new(model.User)
	var hash string
	err := s.db.NewSelect().Model(u).Where("u.email_key = ?", text.Fold(text.Clean(in.Email))).Scan(ctx)
	if err == nil {
		err = s.db.NewSelect().Model((*model.Credentials)(nil)).Column("password_hash").
			Where("user_id = ?", u.ID).Scan(ctx, &hash)
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	matches, err := s.passwordMatches(ctx, in.Password, hash)
	if err != nil {
		return nil, err
	}
	if !matches {
		return nil, errCredentials
	}
	var signedIn *SignedIn
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		signedIn, err = s.startSession(ctx, tx, u, from)
		return err
	})
	return signedIn, err
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
	return s.signedIn(u, row.Session, refresh)
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

// Refresh trades a refresh token for new tokens. A token that was used before ends its session, because then somebody else
// may have it; except within the grace, which gives the same successor again.
func (s *Service) Refresh(ctx context.Context, token string, from Client) (*SignedIn, error) {
	used, ours := s.tokens.readRefresh(token)
	if !ours {
		return nil, errRefresh
	}
	var signedIn *SignedIn
	err := s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		signedIn = nil
		row := new(model.SessionSecrets)
		// The row lock makes two that race with one token take turns here.
		res, err := tx.NewUpdate().Model(row).
			Set("previous_hash = refresh_hash").Set("refresh_hash = ?", s.tokens.nextRefresh(used).hash()).
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
			again, err := s.usedAgain(ctx, tx, used)
			if err != nil || again == nil {
				return err
			}
			row = again
		}
		u := new(model.User)
		if err := tx.NewSelect().Model(u).Where("u.id = ?", row.UserID).Scan(ctx); err != nil {
			return err
		}
		signedIn, err = s.signedIn(u, row.Session, s.tokens.nextRefresh(used))
		return err
	})
	if err == nil && signedIn == nil {
		return nil, errRefresh
	}
	return signedIn, err
}

// usedAgain decides about a token of ours that is not its session's newest: within the grace it returns the session, and
// otherwise ends it and returns nil.
func (s *Service) usedAgain(ctx context.Context, tx *store.Tx, used refreshToken) (*model.SessionSecrets, error) {
	row := new(model.SessionSecrets)
	err := tx.NewSelect().Model(row).Where("s.id = ?", used.session()).
		Where("s.revoked_at IS NULL").Where("s.expires_at > ?", tx.Now).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // there is no such session any more
	}
	if err != nil {
		return nil, err
	}
	if string(row.PreviousHash) == string(used.hash()) && tx.Now.Sub(*row.RotatedAt) <= refreshGrace {
		return row, nil
	}
	return nil, s.revoke(ctx, tx, row.ID)
}

// Logout ends the session that the actor acts in.
func (s *Service) Logout(ctx context.Context, actor model.Actor) error {
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		return s.revoke(ctx, tx, actor.SessionID)
	})
}

// revoke ends sessions: their tokens stop working, and what hangs on them is told.
func (s *Service) revoke(ctx context.Context, tx *store.Tx, ids ...model.SessionID) error {
	_, err := tx.NewUpdate().Model((*model.Session)(nil)).Set("revoked_at = ?", tx.Now).
		Where("id IN (?)", bun.List(ids)).Where("revoked_at IS NULL").Exec(ctx)
	tx.AfterCommit(func() { s.sessionsEnded(ids...) })
	return err
}

// sessionCheck is what was last seen of a session.
type sessionCheck struct {
	at    time.Time
	alive bool
}

// checkFor is how long a look at a session counts. Its end on another node is noticed within this time.
const checkFor = time.Second

var errSessionEnded = errs.New(errs.Unauthenticated,
	"The session has ended. Sign in again.")

// Authenticate says what an access token stands for, if it is valid and its session has not ended. UNAUTHENTICATED
// otherwise.
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
	if seen, ok := s.checked.Get(actor.SessionID); ok && now.Sub(seen.at) < checkFor {
		return seen.alive, nil
	}
	alive, err := s.db.NewSelect().Model((*model.Session)(nil)).
		Where("s.id = ?", actor.SessionID).Where("s.user_id = ?", actor.UserID).Where("s.revoked_at IS NULL").Exists(ctx)
	if err != nil {
		return false, store.Error(err)
	}
	s.checked.Add(actor.SessionID, sessionCheck{at: now, alive: alive})
	return alive, nil
}

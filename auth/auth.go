// Package auth has every rule about who somebody is: accounts, passwords, sessions, tokens.
//
// # Concurrency
//
// A Service may be used by any number of goroutines. At most a few passwords are hashed at once,
// because each takes memory: a semaphore has a slot for each core. The other callers wait on their
// own goroutines, client addresses take turns, and beyond a bound callers are refused (package
// fair). The functions that leases call when a session ends run on the goroutine that ended it, on
// Run's, or on a timer's, and must not block.
package auth

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alexedwards/argon2id"
	lru "github.com/hashicorp/golang-lru/v2"

	"parley/fair"
	"parley/mail"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
)

// Registration says who may make an account.
type Registration string

const (
	Open   Registration = "open"
	Invite Registration = "invite" // whoever has the invitation code
	Closed Registration = "closed"
)

// Options are the settings of a Service.
type Options struct {
	Keys []Key // the first signs access tokens, all of them verify
	// the claims iss and aud of access tokens: which server, or cluster, they are for
	Issuer     string
	AccessTTL  time.Duration
	RefreshTTL time.Duration
	// Argon2 is the cost of hashing a password; nil means 19 MiB, 2 passes, 1 lane, the least that
	// OWASP's Password Storage Cheat Sheet recommends. Hashes say what they were made with, so it
	// may be changed at any time.
	Argon2 *argon2id.Params

	Registration   Registration // empty means Open
	InvitationCode string       // with Invite
	// ConcealEmails keeps registering from telling whether an address has an account: nobody is
	// signed in by it then, and the mail that follows says how to go on.
	ConcealEmails bool
	RateLimits    bool // of signing in and what belongs to it
	// Accounts is how fast accounts may write and search; nil limits nothing.
	Accounts *ratelimit.Accounts

	Mail *mail.Outbox
	// Link makes the address of the page that a mail leads to; action is "verify-email" or
	// "reset-password".
	Link func(action, token string) string
	// OnDelete takes part in the transaction that marks an account as removed, which is to be
	// short; nil does nothing.
	OnDelete func(ctx context.Context, tx *store.Tx, id model.UserID) error
	// CleanUp removes some of what a marked account has outside of this package, as much as fits
	// into a short transaction, and reports whether there may be more. Run calls it until there is
	// not. It has to do nothing for what is done already; nil is for accounts that have nothing
	// there.
	CleanUp func(ctx context.Context, tx *store.Tx, id model.UserID) (more bool, err error)
	// OnSettings is told in the transaction in which somebody changes what they let others know;
	// nil tells nobody.
	OnSettings func(tx *store.Tx, id model.UserID)
	Log        *slog.Logger // nil means slog.Default
}

// Service is the accounts of one database.
type Service struct {
	db     *store.DB
	opts   Options
	tokens tokens
	limits limitStore // nil without rate limits
	// by address; one slot for each password that may be hashed at once
	hashing *fair.Semaphore[string]
	// decoy is compared with where there is no such account, so that its answer takes the time of
	// any other.
	decoy string

	checked *lru.Cache[model.SessionID, sessionCheck]

	removals chan struct{} // wakes removeMarked

	looking sync.Mutex           // held by who looks at revocations out of turn
	looked  atomic.Pointer[look] // the last time

	mu     sync.Mutex // guards leases
	leases map[model.SessionID]map[*Lease]struct{}
}

// checkedSessions is how many sessions are remembered as alive, each for a second.
const checkedSessions = 1 << 16

// New makes the service. Run has to run beside it.
func New(db *store.DB, opts Options) (*Service, error) {
	if opts.Argon2 == nil {
		opts.Argon2 = &argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}
	}
	if opts.Registration == "" {
		opts.Registration = Open
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	tokens, err := newTokens(opts, db.Now)
	if err != nil {
		return nil, err
	}
	checked, err := lru.New[model.SessionID, sessionCheck](checkedSessions)
	if err != nil {
		return nil, err
	}
	s := &Service{
		db: db, opts: opts, tokens: tokens, checked: checked,
		hashing: newHashing(),
		leases:  map[model.SessionID]map[*Lease]struct{}{}, removals: make(chan struct{}, 1),
	}
	if opts.RateLimits {
		s.limits = newLimitStore(db)
	}
	s.decoy, err = argon2id.CreateHash("nobody's password", opts.Argon2)
	return s, err
}

// newLimitStore shares the count of attempts where there may be several nodes.
func newLimitStore(db *store.DB) limitStore {
	if db.Postgres() {
		return inDatabase{db}
	}
	return inMemory{ratelimit.NewMemory[string, attempts]()}
}

// Package auth has every rule about identity: accounts, passwords, sessions, tokens.
//
// # Concurrency
//
// A Service may be used by any number of goroutines. It starts goroutines in three places. Run has
// three, which poll revocations, finish the removal of accounts and delete expired rows; they end
// with Run's context, and Run returns after them. Each lease has a timer, which ends with it. Lease
// starts a goroutine to end a lease whose session has ended already.
//
// The functions that leases call when they end run on the goroutine that ended the session or
// noticed its end (Run's, or that of a caller of AwaitWatch), on a timer's, or on one of their own.
// mu is not held then, but pollMu may be: they must not block, and must not call AwaitWatch.
//
// At most a few passwords are hashed at once, because each takes memory: a semaphore has a slot for
// each core. The other callers wait on their own goroutines. Client addresses take turns, and
// beyond a bound callers are refused (package fair).
//
// Operations block while they wait for the database, and end with their context. AwaitWatch also
// blocks for as long as revocations cannot be polled. It returns at most 5 seconds after the end of
// its context, because it waits for a poll that another caller has begun.
//
// # Lock order
//
// Service.pollMu → Service.mu: pollMu may be locked before mu, never after it. No statement runs
// with mu held.
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
	"parley/wake"
)

// Registration decides which people may make an account.
type Registration string

const (
	Open   Registration = "open"
	Invite Registration = "invite" // people who have the invitation code
	Closed Registration = "closed"
)

// Options are the settings of a Service.
type Options struct {
	Keys []Key // the first signs access tokens, all of them verify
	// Issuer is the claims iss and aud of access tokens: the server, or cluster, that they are for.
	Issuer     string
	AccessTTL  time.Duration // how long an access token is valid
	RefreshTTL time.Duration // how long a session lasts without being refreshed
	// Argon2 is the cost of hashing a password; nil means 19 MiB, 2 passes, 1 lane, the least that
	// OWASP's Password Storage Cheat Sheet recommends. A hash contains its parameters, so they may
	// be changed at any time.
	Argon2 *argon2id.Params

	Registration   Registration // empty means Open
	InvitationCode string       // with Invite
	// ConcealEmails makes the answer of Register the same whether an address has an account or not:
	// it signs no one in, and the mail that follows explains how to go on.
	ConcealEmails bool
	RateLimits    bool // of signing in, registering, refreshing, mails and links
	// Accounts limits how fast accounts may write and search; nil limits nothing.
	Accounts *ratelimit.Accounts

	Mail *mail.Outbox
	// Link returns the address of the page that a mail leads to; action is "verify-email" or
	// "reset-password".
	Link func(action, token string) string
	// OnDelete runs in the transaction that marks an account as removed, which should be short; nil
	// does nothing.
	OnDelete func(ctx context.Context, tx *store.Tx, id model.UserID) error
	// CleanUp removes rows that a marked account has outside of this package, as many as fit into a
	// short transaction, and reports whether there may be more. Run calls it until it reports
	// false. It must be idempotent. nil means that accounts have no rows there.
	CleanUp func(ctx context.Context, tx *store.Tx, id model.UserID) (more bool, err error)
	// OnSettings runs in the transaction in which a user changes their privacy settings; nil does
	// nothing.
	OnSettings func(tx *store.Tx, id model.UserID)
	Log        *slog.Logger // nil means slog.Default
}

// Service has the operations on the accounts of one database.
type Service struct {
	db     *store.DB
	opts   Options
	tokens tokens
	limits limitStore // nil without rate limits
	// hashing has a slot for each password that may be hashed at once; its keys are addresses.
	hashing *fair.Semaphore[string]
	// decoy is the hash that a password is compared with if there is no such account, so that the
	// answer takes as long.
	decoy string

	removals wake.Notifier // wakes runRemovals

	pollMu   sync.Mutex           // held while AwaitWatch polls, so that its callers share one poll
	lastPoll atomic.Pointer[poll] // nil before the first

	// mu guards leases and the session of each lease. It is also held while sessionCache is
	// changed, which has a lock of its own, so that:
	//   - a check that began before a session ended does not store it as alive again;
	//   - a lease of a session that ends is found by endLeases, or finds the end in the cache.
	mu           sync.Mutex
	leases       map[model.SessionID]map[*Lease]struct{} // those that have not ended
	sessionCache *lru.Cache[model.SessionID, cachedSession]
}

// sessionCacheSize is how many sessions are remembered, each for sessionCacheTTL.
const sessionCacheSize = 1 << 16

// New returns a service. Its caller also calls Run, which does the work in the background.
func New(db *store.DB, opts Options) (*Service, error) {
	if opts.Argon2 == nil {
		opts.Argon2 = &argon2id.Params{
			Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32,
		}
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
	sessionCache, err := lru.New[model.SessionID, cachedSession](sessionCacheSize)
	if err != nil {
		return nil, err
	}
	s := &Service{
		db: db, opts: opts, tokens: tokens, sessionCache: sessionCache,
		hashing: newHashing(),
		leases:  map[model.SessionID]map[*Lease]struct{}{}, removals: wake.NewNotifier(),
	}
	if opts.RateLimits {
		s.limits = newLimitStore(db)
	}
	s.decoy, err = argon2id.CreateHash(decoyPassword, opts.Argon2)
	return s, err
}

// decoyPassword is the password of the decoy. It opens no account.
const decoyPassword = "the password of no account"

// newLimitStore returns a store that nodes share if there may be several.
func newLimitStore(db *store.DB) limitStore {
	if db.Postgres() {
		return databaseLimits{db}
	}
	return memoryLimits{ratelimit.NewMemory[string, attempts]()}
}

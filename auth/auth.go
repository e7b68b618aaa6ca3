// Package auth has every rule about who somebody is: accounts, passwords, sessions, tokens.
//
// # Concurrency
//
// A Service may be used by any number of goroutines. At most a few passwords are hashed at once, because each takes
// memory; the others wait their turn. The functions that leases call when a session ends run on the goroutine that ended it
// or on a timer's, and must not block.
package auth

import (
	"runtime"
	"sync"
	"time"

	"github.com/alexedwards/argon2id"
	lru "github.com/hashicorp/golang-lru/v2"

	"parley/model"
	"parley/store"
)

// Options are the settings of a Service.
type Options struct {
	Key        []byte // signs access tokens (HS256); at least MinKeyLen bytes
	Issuer     string // the claims iss and aud of access tokens: which server, or cluster, they are for
	AccessTTL  time.Duration
	RefreshTTL time.Duration
	// Argon2 is the cost of hashing a password; nil means 19 MiB, 2 passes, 1 lane, the least that OWASP's Password
	// Storage Cheat Sheet recommends. Hashes say what they were made with, so it may be changed at any time.
	Argon2 *argon2id.Params
}

// Service is the accounts of one database.
type Service struct {
	db      *store.DB
	opts    Options
	tokens  tokens
	hashing chan struct{} // one place for each password that may be hashed at once
	// decoy is compared with where there is no such account, so that its answer takes the time of any other.
	decoy func() string

	checked *lru.Cache[model.SessionID, sessionCheck]

	mu     sync.Mutex // guards leases
	leases map[model.SessionID]map[*Lease]struct{}
}

// checkedSessions is how many sessions are remembered as alive, each for a second.
const checkedSessions = 1 << 16

// New makes the service. It starts nothing.
func New(db *store.DB, opts Options) (*Service, error) {
	if opts.Argon2 == nil {
		opts.Argon2 = &argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}
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
		hashing: make(chan struct{}, runtime.GOMAXPROCS(0)),
		leases:  map[model.SessionID]map[*Lease]struct{}{},
	}
	s.decoy = sync.OnceValue(func() string {
		hash, err := argon2id.CreateHash("nobody's password", opts.Argon2)
		if err != nil {
			panic(err) // the system has no randomness
		}
		return hash
	})
	return s, nil
}

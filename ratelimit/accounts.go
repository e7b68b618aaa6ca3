package ratelimit

import (
	"context"
	"time"

	"parley/model"
)

// Bucket is a kind of operation. Each account has one token bucket for each kind.
type Bucket uint8

// The buckets of an account. The header field RateLimit has their names.
const (
	Messages      Bucket = iota // sendMessage
	Conversations               // new conversations, direct ones included
	Members                     // members that are added to a group, at its start or later
	Edits                       // edits and deletions of messages
	Reactions                   // reactions that are added or removed
	// other changes of a conversation: title, settings, roles, members who leave
	Changes
	// the account's own state: drafts, read positions, muted, pinned, archived, typing
	State
	Searches // for messages and for users
	Profile  // changes of profile and settings
	buckets
)

// String returns the name of the bucket in the API. Its setting has the prefix PARLEY_RATE_.
func (b Bucket) String() string {
	return [...]string{
		"messages", "conversations", "members", "edits", "reactions", "changes", "state",
		"searches", "profile",
	}[b]
}

// Buckets returns all buckets.
func Buckets() []Bucket {
	all := make([]Bucket, buckets)
	for i := range all {
		all[i] = Bucket(i)
	}
	return all
}

func (b Bucket) refusal() string {
	return "Too many " + [...]string{
		"messages", "new conversations", "added members", "edits and deletions", "reactions",
		"changes of conversations",
		"changes of drafts, read positions and the like", "searches", "changes of the profile",
	}[b] + " in a short time. Try again later."
}

// Rates are the rates of the buckets, by Bucket. The zero Rate limits nothing.
type Rates [buckets]Rate

// Cost is how many tokens an operation takes out of a bucket.
type Cost struct {
	Bucket Bucket
	Tokens int
}

// Times returns the cost of n operations of this kind.
func (b Bucket) Times(n int) Cost { return Cost{b, n} }

// Accounts limits the operations of accounts on one node. Its state is in memory: each of several
// nodes counts for itself, so that together they allow as many times as much, and a restart resets
// it. A nil *Accounts limits nothing.
type Accounts struct {
	rates  Rates
	exempt map[model.UserID]bool
	now    func() time.Time
	full   *Memory[model.UserID, [buckets]time.Time]
}

// AccountsOptions are the settings of Accounts.
type AccountsOptions struct {
	Rates  Rates
	Exempt []model.UserID // accounts that are not limited
	Now    func() time.Time
}

// NewAccounts returns an Accounts with full buckets.
func NewAccounts(opts AccountsOptions) *Accounts {
	a := &Accounts{
		rates: opts.Rates, now: opts.Now, exempt: map[model.UserID]bool{},
		full: NewMemory[model.UserID, [buckets]time.Time](),
	}
	for _, id := range opts.Exempt {
		a.exempt[id] = true
	}
	return a
}

// Take takes the cost of an operation out of the account's buckets. If one has too few tokens, it
// takes nothing and returns RATE_LIMITED. It is called once for each operation, before anything
// expensive. Each bucket may be in costs only once.
func (a *Accounts) Take(ctx context.Context, account model.UserID, costs ...Cost) error {
	if a == nil || a.exempt[account] {
		return nil
	}
	var wait time.Duration // the longest of all buckets
	var slowest Bucket
	var after [buckets]time.Time
	now := a.now()
	a.full.Update(account, func(full *[buckets]time.Time) {
		for _, c := range costs {
			if w := a.rates[c.Bucket].wait(full[c.Bucket], now, c.Tokens); w > wait {
				wait, slowest = w, c.Bucket
			}
		}
		if wait <= 0 {
			for _, c := range costs {
				a.rates[c.Bucket].Take(&full[c.Bucket], now, c.Tokens)
			}
		}
		after = *full
	})
	for _, c := range costs {
		var refused time.Duration
		if wait > 0 && c.Bucket == slowest {
			refused = wait
		}
		Report(ctx, c.Bucket.String(), a.rates[c.Bucket], after[c.Bucket], now, refused)
	}
	if wait > 0 {
		return TooFast(wait, "%s", slowest.refusal())
	}
	return nil
}

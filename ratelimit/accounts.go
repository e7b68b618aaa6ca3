package ratelimit

import (
	"context"
	"time"

	"parley/model"
)

// Bucket is a kind of operation that is counted for each account by itself.
type Bucket uint8

// The buckets of an account. The API names them in the header field RateLimit.
const (
	Messages      Bucket = iota // sendMessage
	Conversations               // conversations that are started, direct ones included
	Members                     // people who are added to a group, at its start or later
	Edits                       // edits and deletions of messages
	Reactions                   // put to a message, or taken back
	// other changes of a conversation: title, settings, roles, members who go
	Changes
	// what is the account's own: drafts, read up to, muted, pinned, archived, typing
	State
	Searches // for messages and for people
	Profile  // profile and settings
	buckets
)

// String is the bucket's name in the API and, with PARLEY_RATE_ before it, of its setting.
func (b Bucket) String() string {
	return [...]string{
		"messages", "conversations", "members", "edits", "reactions", "changes", "state", "searches", "profile",
	}[b]
}

// Buckets are all there are.
func Buckets() []Bucket {
	all := make([]Bucket, buckets)
	for i := range all {
		all[i] = Bucket(i)
	}
	return all
}

func (b Bucket) refusal() string {
	return "Too many " + [...]string{
		"messages", "new conversations", "added members", "edits and deletions", "reactions", "changes of conversations",
		"changes of drafts, of what is read and the like", "searches", "changes of the profile",
	}[b] + " in a short time. Try again later."
}

// Rates are those of the buckets, by Bucket. The zero Rate limits nothing.
type Rates [buckets]Rate

// Cost is what an operation takes out of a bucket.
type Cost struct {
	Bucket Bucket
	Tokens int
}

// Times is the cost of n operations of this kind.
func (b Bucket) Times(n int) Cost { return Cost{b, n} }

// Accounts limits what accounts do on one node. Its state is in memory: several nodes count each
// for itself, and so allow an account as many times as much, and a restart forgets it. A nil
// *Accounts limits nothing.
type Accounts struct {
	rates  Rates
	exempt map[model.UserID]bool
	now    func() time.Time
	full   *Memory[model.UserID, [buckets]time.Time]
}

// AccountsOptions are the settings of Accounts.
type AccountsOptions struct {
	Rates  Rates
	Exempt []model.UserID // who are not limited
	Now    func() time.Time
}

// NewAccounts makes buckets that are full.
func NewAccounts(opts AccountsOptions) *Accounts {
	a := &Accounts{
		rates: opts.Rates, now: opts.Now, exempt: map[model.UserID]bool{}, full: NewMemory[model.UserID, [buckets]time.Time](),
	}
	for _, id := range opts.Exempt {
		a.exempt[id] = true
	}
	return a
}

// Take takes what an operation costs out of the account's buckets: all of it or, where a bucket has
// too little, nothing, and returns RATE_LIMITED. It has to come before what is expensive, and once
// for each operation. No bucket is named twice.
func (a *Accounts) Take(ctx context.Context, account model.UserID, costs ...Cost) error {
	if a == nil || a.exempt[account] {
		return nil
	}
	var wait time.Duration // for the slowest
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

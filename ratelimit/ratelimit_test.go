package ratelimit_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"parley/errs"
	"parley/model"
	"parley/ratelimit"
	"parley/store/storetest"
)

func TestUnmarshalText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]ratelimit.Rate{
		"off":     {},
		"600/1m":  {Burst: 600, Every: 100 * time.Millisecond},
		"1/24h":   {Burst: 1, Every: 24 * time.Hour},
		"100/1ms": {Burst: 100, Every: 10 * time.Microsecond},
	} {
		var r ratelimit.Rate
		if err := r.UnmarshalText([]byte(text)); err != nil || r != want {
			t.Errorf("%s: %v, %v", text, r, err)
		}
	}
	for _, text := range []string{
		"", "600", "600/", "/1m", "x/1m", "600/x", "600/1", "0/1m", "-1/1m", "600/0s", "600/-1m",
		"600/1m/1m", "600/24h1s",
		"1001/1us", "OFF", "99999999999999999999/1m",
	} {
		r := ratelimit.Rate{Burst: 7}
		if err := r.UnmarshalText([]byte(text)); err == nil ||
			!strings.Contains(err.Error(), `"`+text+`"`) || r.Burst != 7 {
			t.Errorf("%s: %v, %v", text, r, err)
		}
	}
}

// After exactly the returned wait, the operation is let through, whatever it costs and whatever was
// taken before.
func TestTheReturnedWaitIsEnough(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := ratelimit.Rate{
			Burst: rapid.IntRange(1, 50).Draw(t, "burst"),
			Every: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "every")),
		}
		start := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
		now, taken := start, 0
		var full time.Time
		for range rapid.IntRange(1, 30).Draw(t, "operations") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(2*r.Every)).Draw(t, "pause")))
			tokens := rapid.IntRange(1, 2*r.Burst).Draw(t, "tokens")
			before := full
			wait := r.Take(&full, now, tokens)
			if wait > 0 {
				if !full.Equal(before) {
					t.Fatal("a refusal took tokens")
				}
				if early := full; wait > 1 && r.Take(&early, now.Add(wait-1), tokens) == 0 {
					t.Fatal("a shorter wait is enough")
				}
				now = now.Add(wait)
				if wait = r.Take(&full, now, tokens); wait > 0 {
					t.Fatalf("after the wait, it has to wait %v more", wait)
				}
			}
			// Except for the debt of the last operation, no more tokens are taken than the burst
			// and those that were refilled.
			if most := r.Burst + int(now.Sub(start)/r.Every); taken+min(tokens, r.Burst) > most {
				t.Fatalf("%d tokens were taken, and then %d, of %d", taken, tokens, most)
			}
			taken += tokens
		}
	})
}

func TestOffLimitsNothing(t *testing.T) {
	t.Parallel()
	var full time.Time
	for range 1000 {
		if wait := (ratelimit.Rate{}).Take(&full, time.Unix(0, 0), 1_000_000); wait != 0 {
			t.Fatal(wait)
		}
	}
}

// wait returns the wait of a refusal, and 0 for nil.
func wait(t *testing.T, err error) time.Duration {
	t.Helper()
	if err == nil {
		return 0
	}
	e, ok := err.(*errs.Error) //nolint:errorlint // as it is returned
	if !ok || e.Code != errs.RateLimited || e.Path != nil || e.RetryAfter <= 0 {
		t.Fatalf("got %v", err)
	}
	return e.RetryAfter
}

func accounts(clock *storetest.Clock, exempt ...model.UserID) *ratelimit.Accounts {
	return ratelimit.NewAccounts(ratelimit.AccountsOptions{
		Now: clock.Now, Exempt: exempt, Rates: ratelimit.Rates{
			ratelimit.Messages:      {Burst: 2, Every: time.Second},
			ratelimit.Conversations: {Burst: 3, Every: time.Minute},
			ratelimit.Members:       {Burst: 10, Every: time.Second},
		},
	})
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	clock := storetest.NewClock()
	ann, ben, bot := model.NewUserID(), model.NewUserID(), model.NewUserID()
	a := accounts(clock, bot)
	take := func(id model.UserID, costs ...ratelimit.Cost) time.Duration {
		t.Helper()
		return wait(t, a.Take(t.Context(), id, costs...))
	}
	want := func(what string, got, want time.Duration) {
		t.Helper()
		if got != want {
			t.Errorf("%s: has to wait %v, want %v", what, got, want)
		}
	}
	one := ratelimit.Messages.Times(1)
	want("the first", take(ann, one), 0)
	want("the second", take(ann, one), 0)
	want("one more", take(ann, one), time.Second)
	want("another account", take(ben, one), 0)
	want("another bucket", take(ann, ratelimit.Members.Times(1)), 0)
	want("a bucket that is off", take(ann, ratelimit.Searches.Times(1_000)), 0)
	for range 100 {
		want("an exempt account", take(bot, one), 0)
	}
	clock.Forward(time.Second - 1500*time.Microsecond)
	want("a little early, rounded up", take(ann, one), 2*time.Millisecond)
	clock.Forward(2 * time.Millisecond)
	want("after the wait", take(ann, one), 0)

	// Tokens are taken from both buckets or from neither.
	group := []ratelimit.Cost{ratelimit.Conversations.Times(1), ratelimit.Members.Times(8)}
	want("a group", take(ben, group...), 0)
	for range 5 {
		want("too many members", take(ben, group...), 6*time.Second)
	}
	want("two conversations are left", take(ben, ratelimit.Conversations.Times(2)), 0)
	want("the slower counts", take(ben, group...), time.Minute)

	// An operation that costs more than the bucket holds waits until it is full, and leaves a debt.
	cara := model.NewUserID()
	want("a large one", take(cara, ratelimit.Members.Times(25)), 0)
	want("with debt", take(cara, ratelimit.Members.Times(1)), 16*time.Second)
	want("another large one", take(cara, ratelimit.Members.Times(25)), 25*time.Second)

	if err := (*ratelimit.Accounts)(nil).
		Take(t.Context(), ann, ratelimit.Messages.Times(1_000)); err != nil {
		t.Errorf("without limits: %v", err)
	}
}

func TestManyAtOnceGetNoMoreThanTheBurst(t *testing.T) {
	t.Parallel()
	a := accounts(storetest.NewClock())
	ann := model.NewUserID()
	var passed atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if a.Take(t.Context(), ann, ratelimit.Members.Times(1)) == nil {
				passed.Add(1)
			}
		})
	}
	all.Wait()
	if passed.Load() != 10 {
		t.Errorf("%d were let through, want 10", passed.Load())
	}
}

func TestWriteHeader(t *testing.T) {
	t.Parallel()
	member, conversation, message := ratelimit.Members, ratelimit.Conversations, ratelimit.Messages
	for name, test := range map[string]struct {
		takes [][]ratelimit.Cost
		want  http.Header
	}{
		"nothing": {nil, http.Header{}},
		"one": {[][]ratelimit.Cost{{message.Times(1)}}, http.Header{
			"Ratelimit-Policy": {`"messages";q=2;w=2`}, "Ratelimit": {`"messages";r=1;t=1`},
		}},
		"all": {[][]ratelimit.Cost{{message.Times(1)}, {message.Times(1)}}, http.Header{
			"Ratelimit-Policy": {`"messages";q=2;w=2`}, "Ratelimit": {`"messages";r=0;t=1`},
		}},
		"nearest to its end": {
			[][]ratelimit.Cost{{conversation.Times(1), member.Times(1)}},
			http.Header{
				"Ratelimit-Policy": {`"conversations";q=3;w=180`},
				"Ratelimit":        {`"conversations";r=2;t=60`},
			},
		},
		"refused, with some left": {[][]ratelimit.Cost{
			{message.Times(2)},
			{conversation.Times(1), member.Times(4)},
			{member.Times(8)},
		}, http.Header{
			"Ratelimit-Policy": {`"members";q=10;w=10`}, "Ratelimit": {`"members";r=6;t=2`},
			"Retry-After": {"2"},
		}},
		"with debt": {[][]ratelimit.Cost{{member.Times(12)}}, http.Header{
			"Ratelimit-Policy": {`"members";q=10;w=10`}, "Ratelimit": {`"members";r=0;t=3`},
		}},
		"off": {[][]ratelimit.Cost{{ratelimit.Searches.Times(1)}}, http.Header{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, ann := accounts(storetest.NewClock()), model.NewUserID()
			ctx := ratelimit.WithUsage(t.Context())
			for _, costs := range test.takes {
				if after := wait(t, a.Take(ctx, ann, costs...)); after > 0 {
					ratelimit.ReportRefusal(ctx, after)
				}
			}
			got := http.Header{}
			ratelimit.WriteHeader(ctx, got)
			ratelimit.WriteHeader(context.Background(), got) // which writes nothing
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func BenchmarkTake(b *testing.B) {
	ids := make([]model.UserID, 1000)
	for i := range ids {
		ids[i] = model.NewUserID()
	}
	a := ratelimit.NewAccounts(ratelimit.AccountsOptions{
		Now: time.Now, Rates: ratelimit.Rates{ratelimit.Messages: {
			Burst: 1 << 40,
			Every: time.Nanosecond,
		}},
	})
	for name, ctx := range map[string]context.Context{
		"socket": b.Context(),
		"HTTP":   ratelimit.WithUsage(b.Context()),
	} {
		b.Run(name, func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				if err := a.Take(ctx, ids[i%len(ids)], ratelimit.Messages.Times(1)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+", in parallel", func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if err := a.Take(ctx, ids[i%len(ids)],
						ratelimit.Messages.Times(1)); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

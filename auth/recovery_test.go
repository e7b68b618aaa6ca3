package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/mail"
	"parley/model"
)

const (
	newPassword = "a horse of another colour"
	weak        = "password1" // long enough, and too common
)

// post is a mail in the outbox.
type post struct {
	Kind      mail.Kind
	Recipient string
	Nickname  string
	Link      string
}

// takeMails returns the mails that wait, the oldest first, and removes them, so that a test sees
// each once.
func (f *fixture) takeMails() (waiting []post) {
	f.t.Helper()
	err := f.db.NewSelect().Table("mails").Column("kind", "recipient", "nickname", "link").
		OrderExpr("id").Scan(f.t.Context(), &waiting)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.db.NewDelete().Table("mails").Where("1 = 1").Exec(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return waiting
}

// wantMails takes the mails, and checks that they are these, each as "kind recipient".
func (f *fixture) wantMails(name string, want ...string) []post {
	f.t.Helper()
	taken := f.takeMails()
	var got []string
	for _, m := range taken {
		got = append(got, string(m.Kind)+" "+m.Recipient)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		f.t.Errorf("%s: mails (-want +got):\n%s", name, diff)
	}
	return taken
}

// token takes the mails, and returns the token of the only one of this kind.
func (f *fixture) token(kind mail.Kind) string {
	f.t.Helper()
	var found []string
	for _, m := range f.takeMails() {
		if m.Kind == kind {
			_, token, _ := strings.Cut(m.Link, "#token=")
			found = append(found, token)
		}
	}
	if len(found) != 1 || found[0] == "" {
		f.t.Fatalf("%d mails of kind %s, want one with a link", len(found), kind)
	}
	return found[0]
}

// askForReset requests a reset, and returns the token of its mail.
func (f *fixture) askForReset(email string) string {
	f.t.Helper()
	f.takeMails()
	f.do("ask for a reset", f.RequestPasswordReset(f.t.Context(), email, Client{}))
	return f.token(mail.PasswordReset)
}

// do fails the test if there is an error.
func (f *fixture) do(name string, err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatalf("%s: %v", name, err)
	}
}

// wantProblem checks the errors in the input, each as "CODE path".
func (f *fixture) wantProblem(name string, err error, want string) {
	f.t.Helper()
	if got := problems(err); got != want {
		f.t.Errorf("%s: got %q (%v), want %q", name, got, err, want)
	}
}

const tokenExpired = "TOKEN_EXPIRED token"

// user returns the row of a user.
func (f *fixture) user(id model.UserID) *model.User {
	f.t.Helper()
	u := new(model.User)
	if err := f.db.NewSelect().Model(u).Where("u.id = ?", id).Scan(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return u
}

// signsIn checks whether signing in works with an address and a password.
func (f *fixture) signsIn(name, email, password string, want bool) {
	f.t.Helper()
	_, err := f.Login(f.t.Context(), Login{Email: email, Password: password}, Client{})
	if want && err != nil || !want && problems(err) != "INVALID_CREDENTIALS password" {
		f.t.Errorf("%s: signing in: %v, want success: %t", name, err, want)
	}
}

// meanwhile runs fn, and runs between after fn has read the stored hash of a password and before it
// compares it.
func (f *fixture) meanwhile(fn, between func()) {
	f.t.Helper()
	release := f.takeSlots()
	var running sync.WaitGroup
	running.Go(fn)
	f.waitForWaiters(1)
	between()
	release()
	running.Wait()
}

func TestAResetEndsEverySession(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann, laptop, bob := f.register("ann"), f.login("ann"), f.register("bob")
		phoneEnds, laptopEnds, bobStays := newEnding(t), newEnding(t), newEnding(t)
		f.Lease(f.grant(ann), phoneEnds.end)
		f.Lease(f.grant(laptop), laptopEnds.end)
		defer f.Lease(f.grant(bob), bobStays.end).Release()
		f.takeMails()

		f.do("request", f.RequestPasswordReset(t.Context(), " ANN@example.org ", Client{}))
		sent := f.wantMails("request", "password_reset ann@example.org")
		if !strings.HasPrefix(sent[0].Link, issuer+"/reset-password#token=") ||
			sent[0].Nickname != "ann" {
			t.Errorf("the mail is %+v", sent[0])
		}
		_, token, _ := strings.Cut(sent[0].Link, "#token=")
		f.grant(ann) // a request alone changes nothing: any client can make it
		f.signsIn("before", "ann@example.org", password, true)

		f.do("reset", f.ResetPassword(t.Context(), token, newPassword, Client{}))
		f.wantMails("reset", "password_changed ann@example.org")
		f.wantEnded("phone", ann)
		f.wantEnded("laptop", laptop)
		phoneEnds.want("phone", 1)
		laptopEnds.want("laptop", 1)
		f.grant(bob)
		bobStays.want("another account", 0)
		f.signsIn("another account", "bob@example.org", password, true)
		f.signsIn("the old password", "ann@example.org", password, false)
		f.signsIn("the new password", "ann@example.org", newPassword, true)
		if at := f.user(ann.User.ID).EmailVerifiedAt; at == nil || !at.Equal(f.db.Now()) {
			t.Errorf("verified at %v, though the mail has arrived", at)
		}
		if f.user(bob.User.ID).EmailVerifiedAt != nil {
			t.Error("another address is verified too")
		}

		f.wantProblem("a second time",
			f.ResetPassword(t.Context(), token, "yet another password", Client{}), tokenExpired)
		f.signsIn("after a second time", "ann@example.org", newPassword, true)
		f.wantMails("a second time")
	})
}

func TestAResetKeepsWhenTheAddressWasVerified(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		f.do("verify", f.VerifyEmail(t.Context(), f.token(mail.VerifyEmail), Client{}))
		first := f.clock.Now()
		f.clock.Forward(time.Hour)
		f.do("reset", f.ResetPassword(t.Context(), f.askForReset("ann@example.org"), newPassword,
			Client{}))
		if at := f.user(ann.User.ID).EmailVerifiedAt; at == nil || !at.Equal(first) {
			t.Errorf("verified at %v, want %v", at, first)
		}
	})
}

func TestAResetLinkWorksFor30Minutes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		token := f.askForReset("ann@example.org")
		f.clock.Forward(30 * time.Minute)
		f.wantProblem("after 30 minutes",
			f.ResetPassword(t.Context(), token, newPassword, Client{}), tokenExpired)
		token = f.askForReset("ann@example.org")
		f.clock.Forward(30*time.Minute - time.Microsecond)
		f.do("just before", f.ResetPassword(t.Context(), token, newPassword, Client{}))
	})
}

func TestANewLinkInvalidatesTheOneBefore(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		f.register("bob")
		first, others := f.askForReset("ann@example.org"), f.askForReset("bob@example.org")
		second := f.askForReset("ann@example.org")
		f.wantProblem("the first", f.ResetPassword(t.Context(), first, newPassword, Client{}),
			tokenExpired)
		f.do("the second", f.ResetPassword(t.Context(), second, newPassword, Client{}))
		f.do("another account's", f.ResetPassword(t.Context(), others, newPassword, Client{}))
	})
}

// A link in a mail is good for what the mail says. Refused for something else, it still is.
func TestLinksAreForOnePurpose(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		verify := f.token(mail.VerifyEmail)
		reset := f.askForReset("ann@example.org")
		f.do("change", f.ChangeEmail(t.Context(), ann.Actor(),
			ChangeEmail{NewEmail: "ann@example.com", Password: password}, Client{}))
		change := f.token(mail.ChangeEmail)
		for name, token := range map[string]string{
			"a link that verifies":    verify,
			"a link to a new address": change,
		} {
			f.wantProblem(name, f.ResetPassword(t.Context(), token, newPassword, Client{}),
				tokenExpired)
		}
		f.wantProblem("a reset as a proof", f.VerifyEmail(t.Context(), reset, Client{}),
			tokenExpired)
		f.signsIn("after all that", "ann@example.org", password, true)
		f.do("verify", f.VerifyEmail(t.Context(), verify, Client{}))
		f.do("reset", f.ResetPassword(t.Context(), reset, newPassword, Client{}))
	})
}

func TestAWeakPasswordDoesNotUseTheLinkUp(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		token := f.askForReset("ann@example.org")
		for input, want := range map[string]string{
			"":                          "TOO_SHORT newPassword",
			"seven77":                   "TOO_SHORT newPassword",
			weak:                        "INVALID newPassword",
			strings.ToUpper(weak):       "INVALID newPassword",
			strings.Repeat("long", 100): "TOO_LONG newPassword",
		} {
			f.wantProblem(input, f.ResetPassword(t.Context(), token, input, Client{}), want)
		}
		f.grant(ann)
		f.do("a better one", f.ResetPassword(t.Context(), token, newPassword, Client{}))
	})
}

func TestMalformedTokensOfLinks(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		token := f.askForReset("ann@example.org")
		for _, other := range []string{
			"", " ", token + " ", "\n" + token, token + "=", token[1:], token + token,
			strings.ToUpper(token), strings.Repeat("A", 43), "é",
			base64.RawURLEncoding.EncodeToString(hashOf([]byte(token))), "' OR 1=1 --", "\x00",
			strings.Repeat("A", 1<<20),
			token[:10] + "\n" + token[10:],
		} {
			f.wantProblem(other[:min(len(other), 60)],
				f.ResetPassword(t.Context(), other, newPassword, Client{}), tokenExpired)
			f.wantProblem(other[:min(len(other), 60)], f.VerifyEmail(t.Context(), other, Client{}),
				tokenExpired)
		}
		// The table has only the hash, which does not work.
		for _, value := range f.everything("one_time_tokens") {
			if len(value) == 32 {
				f.wantProblem("a stored hash",
					f.ResetPassword(t.Context(), base64.RawURLEncoding.EncodeToString(value),
						newPassword, Client{}), tokenExpired)
			}
		}
		f.do("the token", f.ResetPassword(t.Context(), token, newPassword, Client{}))
	})
}

func TestOneLinkIsUsedOnceByManyAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		token := f.askForReset("ann@example.org")
		results := make([]error, 8)
		concurrently(len(results), func(i int) {
			results[i] = f.ResetPassword(t.Context(), token, newPassword, Client{})
		})
		worked := 0
		for _, err := range results {
			if err == nil {
				worked++
			} else {
				f.wantProblem("the others", err, tokenExpired)
			}
		}
		if worked != 1 {
			t.Errorf("the link worked %d times", worked)
		}
		f.wantMails("one notice", "password_changed ann@example.org")
	})
}

// An anonymous client learns nothing from the answer. The operator finds the request in the audit
// log.
func TestAResetOfAnUnknownAddressGetsTheSameAnswer(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		f.takeMails()
		f.entries()
		for _, email := range []string{
			"unknown@example.org", "", "not an address",
			"a\x00b@example.org", strings.Repeat("a", 10_000),
		} {
			f.do("unknown", f.RequestPasswordReset(t.Context(), email,
				Client{IP: "192.0.2.1", UserAgent: "curl"}))
			f.wantMails("unknown")
			f.wantEntries("unknown", Client{IP: "192.0.2.1", UserAgent: "curl"},
				entry{Action: "password_reset_requested"})
		}
		if n, err := f.db.NewSelect().Table("one_time_tokens").
			Where("purpose = ?", "reset_password").Count(t.Context()); err != nil || n != 0 {
			t.Errorf("%d tokens (%v)", n, err)
		}
	})
}

// The rate of mails is limited for each account. That limit must not reveal the account.
func TestTooManyResetsGetNoError(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		f.takeMails()
		n := f.node(f.clock, func(o *Options) { o.RateLimits = true })
		var tokens []string
		for range 5 {
			tokens = append(tokens, n.askForReset("ann@example.org"))
		}
		f.entries()
		from := Client{IP: "192.0.2.1"}
		for range 3 {
			f.do("one too many", n.RequestPasswordReset(t.Context(), "Ann@example.org", from))
			n.wantMails("one too many")
			n.wantEntries("one too many", from,
				entry{Action: "password_reset_requested", User: ann.User.ID.String()})
		}
		n.clock.Forward(10*time.Minute - time.Microsecond)
		f.do("a little early", n.RequestPasswordReset(t.Context(), "ann@example.org", from))
		n.wantMails("a little early")
		n.clock.Forward(time.Microsecond)
		f.do("ten minutes later", n.RequestPasswordReset(t.Context(), "ann@example.org", from))
		n.wantMails("ten minutes later", "password_reset ann@example.org")

		// A request without a mail has not invalidated the link before it; the one with a mail has.
		f.wantProblem("invalidated", n.ResetPassword(t.Context(), tokens[4], newPassword, Client{}),
			tokenExpired)
	})
}

// A copy of the database has no link that works, except in mails that are not yet sent.
func TestOnlyHashesOfLinksAreStored(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		_ = f.token(mail.VerifyEmail)
		f.do("request", f.RequestPasswordReset(t.Context(), "ann@example.org", Client{}))
		var link string
		if err := f.db.NewSelect().Table("mails").Column("link").
			Scan(t.Context(), &link); err != nil {
			t.Fatal(err)
		}
		f.sendMails()
		_, token, _ := strings.Cut(link, "#token=")
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			t.Fatal(err)
		}
		forms := map[string][]byte{
			"as mailed": []byte(token), "raw": raw,
			"hex": []byte(hex.EncodeToString(raw)),
		}
		stored := false
		for table, values := range f.all() {
			for place, value := range values {
				for form, needle := range forms {
					if bytes.Contains(value, needle) {
						t.Errorf("%s, %s has the token, %s", table, place, form)
					}
				}
				stored = stored || table == "one_time_tokens" && bytes.Equal(value, hashOf(raw))
			}
		}
		if !stored {
			t.Error("the hash was not found either: the search does not work")
		}
		f.do("and it works", f.ResetPassword(t.Context(), token, newPassword, Client{}))
	})
}

// sendMails runs the outbox until all mails are sent.
func (f *fixture) sendMails() {
	f.t.Helper()
	outbox := f.opts.Mail
	ctx, stop := context.WithCancel(f.t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { outbox.Run(ctx) })
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		n, err := f.db.NewSelect().Table("mails").Where("sent_at IS NULL").Count(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("%d mails still wait", n)
		}
	}
}

// A thief with an open session and the password has requested a change of address. The notice asks
// the owner to change the password, which has to be enough to keep the account.
func TestANewPasswordInvalidatesAPendingChangeOfAddress(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]func(t *testing.T, f *fixture, ann *SignedIn){
		"change": func(t *testing.T, f *fixture, ann *SignedIn) {
			t.Helper()
			in := ChangePassword{OldPassword: password, NewPassword: newPassword}
			f.do("change", f.ChangePassword(t.Context(), ann.Actor(), in, Client{}))
		},
		"reset": func(t *testing.T, f *fixture, _ *SignedIn) {
			t.Helper()
			f.do("reset", f.ResetPassword(t.Context(), f.askForReset("ann@example.org"),
				newPassword, Client{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, f *fixture) {
				ann, thief := f.register("ann"), f.login("ann")
				f.takeMails()
				in := ChangeEmail{NewEmail: "thief@example.com", Password: password}
				f.do("ask", f.ChangeEmail(t.Context(), thief.Actor(), in, Client{}))
				token := f.token(mail.ChangeEmail)
				secure(t, f, ann)
				f.wantProblem("the thief's link", f.VerifyEmail(t.Context(), token, Client{}),
					tokenExpired)
				if email := f.user(ann.User.ID).Email; email != "ann@example.org" {
					t.Errorf("the account's mails go to %s now", email)
				}
			})
		})
	}
}

// After a change of address, the old mailbox must not give access to the account.
func TestAChangeOfAddressInvalidatesResetsMailedToTheOld(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		f.takeMails()
		in := ChangeEmail{NewEmail: "ann@example.com", Password: password}
		f.do("ask", f.ChangeEmail(t.Context(), ann.Actor(), in, Client{}))
		change := f.token(mail.ChangeEmail)
		reset := f.askForReset("ann@example.org")
		f.do("confirm", f.VerifyEmail(t.Context(), change, Client{}))
		f.wantProblem("mailed to the old",
			f.ResetPassword(t.Context(), reset, newPassword, Client{}), tokenExpired)
		f.signsIn("after it", "ann@example.com", password, true)
	})
}

// A sign-in with the old password that was checked just before the reset must not outlive it.
func TestAResetEndsASignInThatIsUnderWay(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		token := f.askForReset("ann@example.org")
		other := f.node(f.clock)
		var thief *SignedIn
		var err error
		f.meanwhile(func() {
			thief, err = f.Login(t.Context(), Login{Email: "ann@example.org", Password: password},
				Client{})
		}, func() {
			other.do("reset", other.ResetPassword(t.Context(), token, newPassword, Client{}))
		})
		if err == nil {
			if _, err := other.Refresh(t.Context(), thief.Tokens.RefreshToken, nil,
				Client{}); err == nil {
				t.Error("the session that the old password started has survived the reset")
			}
		} else {
			f.wantProblem("the old password", err, "INVALID_CREDENTIALS password")
		}
		f.clock.Forward(2 * sessionCacheTTL)
		f.wantEnded("the session before", ann)
	})
}

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
	weak        = "password1" // long enough, and one of those that are tried first
)

// post is a mail that waits to be sent.
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
	err := f.db.NewSelect().Table("mails").Column("kind", "recipient", "nickname", "link").OrderExpr("id").Scan(f.t.Context(), &waiting)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.db.NewDelete().Table("mails").Where("1 = 1").Exec(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return waiting
}

// wantMails takes the mails, each as "kind recipient", and makes sure that they are these.
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

// token takes the mails, and returns what the link of the one of this kind carries.
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

// askForReset returns the token of the mail that follows.
func (f *fixture) askForReset(email string) string {
	f.t.Helper()
	f.takeMails()
	f.do("ask for a reset", f.RequestPasswordReset(f.t.Context(), email, Client{}))
	return f.token(mail.PasswordReset)
}

// do ends the test where what has to work does not.
func (f *fixture) do(name string, err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatalf("%s: %v", name, err)
	}
}

// wantProblem makes sure that this, as "CODE path", is what a person is told to correct.
func (f *fixture) wantProblem(name string, err error, want string) {
	f.t.Helper()
	if got := problems(err); got != want {
		f.t.Errorf("%s: got %q (%v), want %q", name, got, err, want)
	}
}

const tokenExpired = "TOKEN_EXPIRED token"

// user is the row of a person.
func (f *fixture) user(id model.UserID) *model.User {
	f.t.Helper()
	u := new(model.User)
	if err := f.db.NewSelect().Model(u).Where("u.id = ?", id).Scan(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return u
}

// signsIn makes sure whether an address and a password belong together.
func (f *fixture) signsIn(name, email, password string, want bool) {
	f.t.Helper()
	_, err := f.Login(f.t.Context(), Login{Email: email, Password: password}, Client{})
	if want && err != nil || !want && problems(err) != "INVALID_CREDENTIALS password" {
		f.t.Errorf("%s: signing in: %v, want success: %t", name, err, want)
	}
}

// meanwhile runs fn, and between where fn has read the stored hash of a password and where it
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
		if !strings.HasPrefix(sent[0].Link, issuer+"/reset-password#token=") || sent[0].Nickname != "ann" {
			t.Errorf("the mail is %+v", sent[0])
		}
		_, token, _ := strings.Cut(sent[0].Link, "#token=")
		f.grant(ann) // asking alone changes nothing: anybody can
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

		f.wantProblem("a second time", f.ResetPassword(t.Context(), token, "yet another password", Client{}), tokenExpired)
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
		f.do("reset", f.ResetPassword(t.Context(), f.askForReset("ann@example.org"), newPassword, Client{}))
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
		f.wantProblem("after 30 minutes", f.ResetPassword(t.Context(), token, newPassword, Client{}), tokenExpired)
		token = f.askForReset("ann@example.org")
		f.clock.Forward(30*time.Minute - time.Microsecond)
		f.do("just before", f.ResetPassword(t.Context(), token, newPassword, Client{}))
	})
}

func TestANewLinkVoidsTheOneBefore(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		f.register("bob")
		first, others := f.askForReset("ann@example.org"), f.askForReset("bob@example.org")
		second := f.askForReset("ann@example.org")
		f.wantProblem("the first", f.ResetPassword(t.Context(), first, newPassword, Client{}), tokenExpired)
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
		f.do("change", f.ChangeEmail(t.Context(), ann.Actor(), ChangeEmail{NewEmail: "ann@example.com", Password: password}, Client{}))
		change := f.token(mail.ChangeEmail)
		for name, token := range map[string]string{"a link that verifies": verify, "a link to a new address": change} {
			f.wantProblem(name, f.ResetPassword(t.Context(), token, newPassword, Client{}), tokenExpired)
		}
		f.wantProblem("a reset as a proof", f.VerifyEmail(t.Context(), reset, Client{}), tokenExpired)
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

func TestWhatIsNoLinksToken(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		token := f.askForReset("ann@example.org")
		for _, other := range []string{
			"", " ", token + " ", "\n" + token, token + "=", token[1:], token + token, strings.ToUpper(token), strings.Repeat("A", 43), "é",
			base64.RawURLEncoding.EncodeToString(hashOf([]byte(token))), "' OR 1=1 --", "\x00", strings.Repeat("A", 1<<20),
			token[:10] + "\n" + token[10:],
		} {
			f.wantProblem(other[:min(len(other), 60)], f.ResetPassword(t.Context(), other, newPassword, Client{}), tokenExpired)
			f.wantProblem(other[:min(len(other), 60)], f.VerifyEmail(t.Context(), other, Client{}), tokenExpired)
		}
		// Who reads the table has the hash, and nothing that works.
		for _, value := range f.everything("one_time_tokens") {
			if len(value) == 32 {
				f.wantProblem("a stored hash", f.ResetPassword(t.Context(), base64.RawURLEncoding.EncodeToString(value), newPassword, Client{}), tokenExpired)
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
		together(len(results), func(i int) {
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

// A stranger learns nothing from the answer, and the operator sees that somebody asked.
func TestAResetForNobodyIsAnsweredAlike(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		f.takeMails()
		f.entries()
		for _, email := range []string{"nobody@example.org", "", "not an address", "a\x00b@example.org", strings.Repeat("a", 10_000)} {
			f.do("unknown", f.RequestPasswordReset(t.Context(), email, Client{IP: "192.0.2.1", UserAgent: "curl"}))
			f.wantMails("unknown")
			f.wantEntries("unknown", Client{IP: "192.0.2.1", UserAgent: "curl"}, entry{Action: "password_reset_requested"})
		}
		if n, err := f.db.NewSelect().Table("one_time_tokens").Where("purpose = ?", "reset_password").Count(t.Context()); err != nil || n != 0 {
			t.Errorf("%d tokens (%v)", n, err)
		}
	})
}

// How often mails go out is limited for each account, and that shows no more than whether there is
// an account at all.
func TestTooManyResetsAreSilent(t *testing.T) {
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
			n.wantEntries("one too many", from, entry{Action: "password_reset_requested", User: ann.User.ID.String()})
		}
		n.clock.Forward(10*time.Minute - time.Microsecond)
		f.do("a little early", n.RequestPasswordReset(t.Context(), "ann@example.org", from))
		n.wantMails("a little early")
		n.clock.Forward(time.Microsecond)
		f.do("ten minutes later", n.RequestPasswordReset(t.Context(), "ann@example.org", from))
		n.wantMails("ten minutes later", "password_reset ann@example.org")

		// What was refused in silence has not voided the last link either; the one that was sent
		// has.
		f.wantProblem("voided", n.ResetPassword(t.Context(), tokens[4], newPassword, Client{}), tokenExpired)
	})
}

// Who reads the database, or a backup of it, cannot use a link. A mail has it until it is sent, and
// not a moment longer.
func TestOnlyHashesOfLinksAreStored(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		_ = f.token(mail.VerifyEmail)
		f.do("request", f.RequestPasswordReset(t.Context(), "ann@example.org", Client{}))
		var link string
		if err := f.db.NewSelect().Table("mails").Column("link").Scan(t.Context(), &link); err != nil {
			t.Fatal(err)
		}
		f.sendMails()
		_, token, _ := strings.Cut(link, "#token=")
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			t.Fatal(err)
		}
		forms := map[string][]byte{"as mailed": []byte(token), "raw": raw, "hex": []byte(hex.EncodeToString(raw))}
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
			// the search is worth something only if it finds what is there
			t.Error("not even the hash was found")
		}
		f.do("and it works", f.ResetPassword(t.Context(), token, newPassword, Client{}))
	})
}

// sendMails has the outbox do its work, and waits until nothing waits.
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

// Somebody with an open session and the password has asked for the address to become theirs. The
// notice tells the owner to change the password; that has to be enough to keep the account.
func TestANewPasswordVoidsAPendingChangeOfAddress(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]func(t *testing.T, f *fixture, ann *SignedIn){
		"change": func(t *testing.T, f *fixture, ann *SignedIn) {
			t.Helper()
			in := ChangePassword{OldPassword: password, NewPassword: newPassword}
			f.do("change", f.ChangePassword(t.Context(), ann.Actor(), in, Client{}))
		},
		"reset": func(t *testing.T, f *fixture, _ *SignedIn) {
			t.Helper()
			f.do("reset", f.ResetPassword(t.Context(), f.askForReset("ann@example.org"), newPassword, Client{}))
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
				f.wantProblem("the thief's link", f.VerifyEmail(t.Context(), token, Client{}), tokenExpired)
				if email := f.user(ann.User.ID).Email; email != "ann@example.org" {
					t.Errorf("the account's mails go to %s now", email)
				}
			})
		})
	}
}

// Who can read the old mailbox is nobody to the account once the address has changed.
func TestAChangeOfAddressVoidsResetsMailedToTheOld(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		f.takeMails()
		in := ChangeEmail{NewEmail: "ann@example.com", Password: password}
		f.do("ask", f.ChangeEmail(t.Context(), ann.Actor(), in, Client{}))
		change := f.token(mail.ChangeEmail)
		reset := f.askForReset("ann@example.org")
		f.do("confirm", f.VerifyEmail(t.Context(), change, Client{}))
		f.wantProblem("mailed to the old", f.ResetPassword(t.Context(), reset, newPassword, Client{}), tokenExpired)
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
			thief, err = f.Login(t.Context(), Login{Email: "ann@example.org", Password: password}, Client{})
		}, func() {
			other.do("reset", other.ResetPassword(t.Context(), token, newPassword, Client{}))
		})
		if err == nil {
			if _, err := other.Refresh(t.Context(), thief.Tokens.RefreshToken, nil, Client{}); err == nil {
				t.Error("who signed in with the old password still is after the reset")
			}
		} else {
			f.wantProblem("the old password", err, "INVALID_CREDENTIALS password")
		}
		f.clock.Forward(2 * sessionCacheTTL)
		f.wantEnded("the session before", ann)
	})
}

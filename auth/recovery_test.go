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
func (w *world) takeMails() (waiting []post) {
	w.t.Helper()
	err := w.db.NewSelect().Table("mails").Column("kind", "recipient", "nickname", "link").OrderExpr("id").Scan(w.t.Context(), &waiting)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.db.NewDelete().Table("mails").Where("1 = 1").Exec(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return waiting
}

// wantMails takes the mails, each as "kind recipient", and makes sure that they are these.
func (w *world) wantMails(name string, want ...string) []post {
	w.t.Helper()
	taken := w.takeMails()
	var got []string
	for _, m := range taken {
		got = append(got, string(m.Kind)+" "+m.Recipient)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("%s: mails (-want +got):\n%s", name, diff)
	}
	return taken
}

// token takes the mails, and returns what the link of the one of this kind carries.
func (w *world) token(kind mail.Kind) string {
	w.t.Helper()
	var found []string
	for _, m := range w.takeMails() {
		if m.Kind == kind {
			_, token, _ := strings.Cut(m.Link, "#token=")
			found = append(found, token)
		}
	}
	if len(found) != 1 || found[0] == "" {
		w.t.Fatalf("%d mails of kind %s, want one with a link", len(found), kind)
	}
	return found[0]
}

// askForReset returns the token of the mail that follows.
func (w *world) askForReset(email string) string {
	w.t.Helper()
	w.takeMails()
	w.do("ask for a reset", w.RequestPasswordReset(w.t.Context(), email, Client{}))
	return w.token(mail.PasswordReset)
}

// do ends the test where what has to work does not.
func (w *world) do(name string, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
}

// wantProblem makes sure that this, as "CODE path", is what a person is told to correct.
func (w *world) wantProblem(name string, err error, want string) {
	w.t.Helper()
	if got := problems(err); got != want {
		w.t.Errorf("%s: got %q (%v), want %q", name, got, err, want)
	}
}

const tokenExpired = "TOKEN_EXPIRED token"

// user is the row of a person.
func (w *world) user(id model.UserID) *model.User {
	w.t.Helper()
	u := new(model.User)
	if err := w.db.NewSelect().Model(u).Where("u.id = ?", id).Scan(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return u
}

// signsIn makes sure whether an address and a password belong together.
func (w *world) signsIn(name, email, password string, want bool) {
	w.t.Helper()
	_, err := w.Login(w.t.Context(), Login{Email: email, Password: password}, Client{})
	if want && err != nil || !want && problems(err) != "INVALID_CREDENTIALS password" {
		w.t.Errorf("%s: signing in: %v, want success: %t", name, err, want)
	}
}

// meanwhile runs fn, and between where fn has read the stored hash of a password and where it
// compares it.
func (w *world) meanwhile(fn, between func()) {
	w.t.Helper()
	release := w.takeSlots()
	var running sync.WaitGroup
	running.Go(fn)
	w.waitForWaiters(1)
	between()
	release()
	running.Wait()
}

func TestAResetEndsEverySession(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann, laptop, bob := w.register("ann"), w.login("ann"), w.register("bob")
		phoneEnds, laptopEnds, bobStays := newEnding(t), newEnding(t), newEnding(t)
		w.Lease(w.grant(ann), phoneEnds.end)
		w.Lease(w.grant(laptop), laptopEnds.end)
		defer w.Lease(w.grant(bob), bobStays.end).Release()
		w.takeMails()

		w.do("request", w.RequestPasswordReset(t.Context(), " ANN@example.org ", Client{}))
		sent := w.wantMails("request", "password_reset ann@example.org")
		if !strings.HasPrefix(sent[0].Link, issuer+"/reset-password#token=") || sent[0].Nickname != "ann" {
			t.Errorf("the mail is %+v", sent[0])
		}
		_, token, _ := strings.Cut(sent[0].Link, "#token=")
		w.grant(ann) // asking alone changes nothing: anybody can
		w.signsIn("before", "ann@example.org", password, true)

		w.do("reset", w.ResetPassword(t.Context(), token, newPassword, Client{}))
		w.wantMails("reset", "password_changed ann@example.org")
		w.wantEnded("phone", ann)
		w.wantEnded("laptop", laptop)
		phoneEnds.want("phone", 1)
		laptopEnds.want("laptop", 1)
		w.grant(bob)
		bobStays.want("another account", 0)
		w.signsIn("another account", "bob@example.org", password, true)
		w.signsIn("the old password", "ann@example.org", password, false)
		w.signsIn("the new password", "ann@example.org", newPassword, true)
		if at := w.user(ann.User.ID).EmailVerifiedAt; at == nil || !at.Equal(w.db.Now()) {
			t.Errorf("verified at %v, though the mail has arrived", at)
		}
		if w.user(bob.User.ID).EmailVerifiedAt != nil {
			t.Error("another address is verified too")
		}

		w.wantProblem("a second time", w.ResetPassword(t.Context(), token, "yet another password", Client{}), tokenExpired)
		w.signsIn("after a second time", "ann@example.org", newPassword, true)
		w.wantMails("a second time")
	})
}

func TestAResetKeepsWhenTheAddressWasVerified(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann")
		w.do("verify", w.VerifyEmail(t.Context(), w.token(mail.VerifyEmail), Client{}))
		first := w.clock.Now()
		w.clock.Forward(time.Hour)
		w.do("reset", w.ResetPassword(t.Context(), w.askForReset("ann@example.org"), newPassword, Client{}))
		if at := w.user(ann.User.ID).EmailVerifiedAt; at == nil || !at.Equal(first) {
			t.Errorf("verified at %v, want %v", at, first)
		}
	})
}

func TestAResetLinkWorksFor30Minutes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.register("ann")
		token := w.askForReset("ann@example.org")
		w.clock.Forward(30 * time.Minute)
		w.wantProblem("after 30 minutes", w.ResetPassword(t.Context(), token, newPassword, Client{}), tokenExpired)
		token = w.askForReset("ann@example.org")
		w.clock.Forward(30*time.Minute - time.Microsecond)
		w.do("just before", w.ResetPassword(t.Context(), token, newPassword, Client{}))
	})
}

func TestANewLinkVoidsTheOneBefore(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.register("ann")
		w.register("bob")
		first, others := w.askForReset("ann@example.org"), w.askForReset("bob@example.org")
		second := w.askForReset("ann@example.org")
		w.wantProblem("the first", w.ResetPassword(t.Context(), first, newPassword, Client{}), tokenExpired)
		w.do("the second", w.ResetPassword(t.Context(), second, newPassword, Client{}))
		w.do("another account's", w.ResetPassword(t.Context(), others, newPassword, Client{}))
	})
}

// A link in a mail is good for what the mail says. Refused for something else, it still is.
func TestLinksAreForOnePurpose(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann")
		verify := w.token(mail.VerifyEmail)
		reset := w.askForReset("ann@example.org")
		w.do("change", w.ChangeEmail(t.Context(), ann.Actor(), ChangeEmail{NewEmail: "ann@example.com", Password: password}, Client{}))
		change := w.token(mail.ChangeEmail)
		for name, token := range map[string]string{"a link that verifies": verify, "a link to a new address": change} {
			w.wantProblem(name, w.ResetPassword(t.Context(), token, newPassword, Client{}), tokenExpired)
		}
		w.wantProblem("a reset as a proof", w.VerifyEmail(t.Context(), reset, Client{}), tokenExpired)
		w.signsIn("after all that", "ann@example.org", password, true)
		w.do("verify", w.VerifyEmail(t.Context(), verify, Client{}))
		w.do("reset", w.ResetPassword(t.Context(), reset, newPassword, Client{}))
	})
}

func TestAWeakPasswordDoesNotUseTheLinkUp(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann")
		token := w.askForReset("ann@example.org")
		for input, want := range map[string]string{
			"":                          "TOO_SHORT newPassword",
			"seven77":                   "TOO_SHORT newPassword",
			weak:                        "INVALID newPassword",
			strings.ToUpper(weak):       "INVALID newPassword",
			strings.Repeat("long", 100): "TOO_LONG newPassword",
		} {
			w.wantProblem(input, w.ResetPassword(t.Context(), token, input, Client{}), want)
		}
		w.grant(ann)
		w.do("a better one", w.ResetPassword(t.Context(), token, newPassword, Client{}))
	})
}

func TestWhatIsNoLinksToken(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.register("ann")
		token := w.askForReset("ann@example.org")
		for _, other := range []string{
			"", " ", token + " ", "\n" + token, token + "=", token[1:], token + token, strings.ToUpper(token), strings.Repeat("A", 43), "é",
			base64.RawURLEncoding.EncodeToString(hashOf([]byte(token))), "' OR 1=1 --", "\x00", strings.Repeat("A", 1<<20),
			token[:10] + "\n" + token[10:],
		} {
			w.wantProblem(other[:min(len(other), 60)], w.ResetPassword(t.Context(), other, newPassword, Client{}), tokenExpired)
			w.wantProblem(other[:min(len(other), 60)], w.VerifyEmail(t.Context(), other, Client{}), tokenExpired)
		}
		// Who reads the table has the hash, and nothing that works.
		for _, value := range w.everything("one_time_tokens") {
			if len(value) == 32 {
				w.wantProblem("a stored hash", w.ResetPassword(t.Context(), base64.RawURLEncoding.EncodeToString(value), newPassword, Client{}), tokenExpired)
			}
		}
		w.do("the token", w.ResetPassword(t.Context(), token, newPassword, Client{}))
	})
}

func TestOneLinkIsUsedOnceByManyAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.register("ann")
		token := w.askForReset("ann@example.org")
		results := make([]error, 8)
		together(len(results), func(i int) {
			results[i] = w.ResetPassword(t.Context(), token, newPassword, Client{})
		})
		worked := 0
		for _, err := range results {
			if err == nil {
				worked++
			} else {
				w.wantProblem("the others", err, tokenExpired)
			}
		}
		if worked != 1 {
			t.Errorf("the link worked %d times", worked)
		}
		w.wantMails("one notice", "password_changed ann@example.org")
	})
}

// A stranger learns nothing from the answer, and the operator sees that somebody asked.
func TestAResetForNobodyIsAnsweredAlike(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.register("ann")
		w.takeMails()
		w.entries()
		for _, email := range []string{"nobody@example.org", "", "not an address", "a\x00b@example.org", strings.Repeat("a", 10_000)} {
			w.do("unknown", w.RequestPasswordReset(t.Context(), email, Client{IP: "192.0.2.1", UserAgent: "curl"}))
			w.wantMails("unknown")
			w.wantEntries("unknown", Client{IP: "192.0.2.1", UserAgent: "curl"}, entry{Action: "password_reset_requested"})
		}
		if n, err := w.db.NewSelect().Table("one_time_tokens").Where("purpose = ?", "reset_password").Count(t.Context()); err != nil || n != 0 {
			t.Errorf("%d tokens (%v)", n, err)
		}
	})
}

// How often mails go out is limited for each account, and that shows no more than whether there is
// an account at all.
func TestTooManyResetsAreSilent(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann")
		w.takeMails()
		n := w.node(w.clock, func(o *Options) { o.RateLimits = true })
		var tokens []string
		for range 5 {
			tokens = append(tokens, n.askForReset("ann@example.org"))
		}
		w.entries()
		from := Client{IP: "192.0.2.1"}
		for range 3 {
			w.do("one too many", n.RequestPasswordReset(t.Context(), "Ann@example.org", from))
			n.wantMails("one too many")
			n.wantEntries("one too many", from, entry{Action: "password_reset_requested", User: ann.User.ID.String()})
		}
		n.clock.Forward(10*time.Minute - time.Microsecond)
		w.do("a little early", n.RequestPasswordReset(t.Context(), "ann@example.org", from))
		n.wantMails("a little early")
		n.clock.Forward(time.Microsecond)
		w.do("ten minutes later", n.RequestPasswordReset(t.Context(), "ann@example.org", from))
		n.wantMails("ten minutes later", "password_reset ann@example.org")

		// What was refused in silence has not voided the last link either; the one that was sent
		// has.
		w.wantProblem("voided", n.ResetPassword(t.Context(), tokens[4], newPassword, Client{}), tokenExpired)
	})
}

// Who reads the database, or a backup of it, cannot use a link. A mail has it until it is sent, and
// not a moment longer.
func TestOnlyHashesOfLinksAreStored(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.register("ann")
		_ = w.token(mail.VerifyEmail)
		w.do("request", w.RequestPasswordReset(t.Context(), "ann@example.org", Client{}))
		var link string
		if err := w.db.NewSelect().Table("mails").Column("link").Scan(t.Context(), &link); err != nil {
			t.Fatal(err)
		}
		w.sendMails()
		_, token, _ := strings.Cut(link, "#token=")
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			t.Fatal(err)
		}
		forms := map[string][]byte{"as mailed": []byte(token), "raw": raw, "hex": []byte(hex.EncodeToString(raw))}
		stored := false
		for table, values := range w.all() {
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
		w.do("and it works", w.ResetPassword(t.Context(), token, newPassword, Client{}))
	})
}

// sendMails has the outbox do its work, and waits until nothing waits.
func (w *world) sendMails() {
	w.t.Helper()
	outbox := w.opts.Mail
	ctx, stop := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { outbox.Run(ctx) })
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		n, err := w.db.NewSelect().Table("mails").Where("sent_at IS NULL").Count(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d mails still wait", n)
		}
	}
}

// Somebody with an open session and the password has asked for the address to become theirs. The
// notice tells the owner to change the password; that has to be enough to keep the account.
func TestANewPasswordVoidsAPendingChangeOfAddress(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]func(t *testing.T, w *world, ann *SignedIn){
		"change": func(t *testing.T, w *world, ann *SignedIn) {
			t.Helper()
			in := ChangePassword{OldPassword: password, NewPassword: newPassword}
			w.do("change", w.ChangePassword(t.Context(), ann.Actor(), in, Client{}))
		},
		"reset": func(t *testing.T, w *world, _ *SignedIn) {
			t.Helper()
			w.do("reset", w.ResetPassword(t.Context(), w.askForReset("ann@example.org"), newPassword, Client{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				ann, thief := w.register("ann"), w.login("ann")
				w.takeMails()
				in := ChangeEmail{NewEmail: "thief@example.com", Password: password}
				w.do("ask", w.ChangeEmail(t.Context(), thief.Actor(), in, Client{}))
				token := w.token(mail.ChangeEmail)
				secure(t, w, ann)
				w.wantProblem("the thief's link", w.VerifyEmail(t.Context(), token, Client{}), tokenExpired)
				if email := w.user(ann.User.ID).Email; email != "ann@example.org" {
					t.Errorf("the account's mails go to %s now", email)
				}
			})
		})
	}
}

// Who can read the old mailbox is nobody to the account once the address has changed.
func TestAChangeOfAddressVoidsResetsMailedToTheOld(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann")
		w.takeMails()
		in := ChangeEmail{NewEmail: "ann@example.com", Password: password}
		w.do("ask", w.ChangeEmail(t.Context(), ann.Actor(), in, Client{}))
		change := w.token(mail.ChangeEmail)
		reset := w.askForReset("ann@example.org")
		w.do("confirm", w.VerifyEmail(t.Context(), change, Client{}))
		w.wantProblem("mailed to the old", w.ResetPassword(t.Context(), reset, newPassword, Client{}), tokenExpired)
		w.signsIn("after it", "ann@example.com", password, true)
	})
}

// A sign-in with the old password that was checked just before the reset must not outlive it.
func TestAResetEndsASignInThatIsUnderWay(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann")
		token := w.askForReset("ann@example.org")
		other := w.node(w.clock)
		var thief *SignedIn
		var err error
		w.meanwhile(func() {
			thief, err = w.Login(t.Context(), Login{Email: "ann@example.org", Password: password}, Client{})
		}, func() {
			other.do("reset", other.ResetPassword(t.Context(), token, newPassword, Client{}))
		})
		if err == nil {
			if _, err := other.Refresh(t.Context(), thief.Tokens.RefreshToken, nil, Client{}); err == nil {
				t.Error("who signed in with the old password still is after the reset")
			}
		} else {
			w.wantProblem("the old password", err, "INVALID_CREDENTIALS password")
		}
		w.clock.Forward(2 * checkFor)
		w.wantEnded("the session before", ann)
	})
}

package auth

import (
	"testing"
	"time"

	"parley/mail"
)

func (f *fixture) askForAddress(s *SignedIn, email string) error {
	f.t.Helper()
	return f.ChangeEmail(f.t.Context(), s.Actor(), ChangeEmail{NewEmail: email, Password: password},
		Client{})
}

// concealing returns a node that conceals addresses.
func (f *fixture) concealing() *fixture {
	f.t.Helper()
	return f.node(f.clock, func(o *Options) { o.ConcealEmails = true })
}

func TestVerifyEmail(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann, bob := f.register("ann"), f.register("bob")
		sent := f.wantMails("register", "verify_email ann@example.org",
			"verify_email bob@example.org")
		if want := issuer + "/verify-email#token="; len(sent[0].Link) != len(want)+43 ||
			sent[0].Link[:len(want)] != want {
			t.Errorf("the link is %s", sent[0].Link)
		}
		if f.user(ann.User.ID).EmailVerifiedAt != nil {
			t.Error("verified before")
		}
		f.do("ask", f.RequestEmailVerification(t.Context(), ann.Actor()))
		second := f.token(mail.VerifyEmail)
		first := sent[0].Link[len(issuer+"/verify-email#token="):]
		f.wantProblem("the first", f.VerifyEmail(t.Context(), first, Client{}), tokenExpired)
		f.clock.Forward(48*time.Hour - time.Microsecond)
		f.do("the second", f.VerifyEmail(t.Context(), second, Client{}))
		if at := f.user(ann.User.ID).EmailVerifiedAt; at == nil || !at.Equal(f.db.Now()) {
			t.Errorf("verified at %v", at)
		}
		f.wantProblem("again", f.VerifyEmail(t.Context(), second, Client{}), tokenExpired)
		f.do("ask once more", f.RequestEmailVerification(t.Context(), ann.Actor()))
		f.wantMails("verified")
		if f.user(bob.User.ID).EmailVerifiedAt != nil {
			t.Error("another address is verified too")
		}
		f.clock.Forward(time.Microsecond)
		others := sent[1].Link[len(issuer+"/verify-email#token="):]
		f.wantProblem("after 48 hours", f.VerifyEmail(t.Context(), others, Client{}), tokenExpired)
	})
}

func TestChangeEmail(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		f.register("bob")
		f.takeMails()
		err := f.ChangeEmail(t.Context(), ann.Actor(),
			ChangeEmail{NewEmail: "ann@example.com", Password: "wrong password"}, Client{})
		f.wantProblem("wrong", err, "INVALID_CREDENTIALS password")
		f.wantProblem("taken", f.askForAddress(ann, "BOB@example.org"), "TAKEN newEmail")
		f.wantProblem("blank", f.askForAddress(ann, " "), "REQUIRED newEmail")
		f.wantProblem("none", f.askForAddress(ann, "ann"), "INVALID newEmail")
		f.wantMails("refused")

		f.do("ask", f.askForAddress(ann, "Ann.New@Example.com"))
		sent := f.wantMails("ask", "email_changing ann@example.org",
			"change_email Ann.New@Example.com")
		if sent[0].Link != "" {
			t.Errorf("the old address got a link: %s", sent[0].Link)
		}
		token := sent[1].Link[len(issuer+"/verify-email#token="):]
		before := f.user(ann.User.ID)
		if before.Email != "ann@example.org" || before.EmailVerifiedAt != nil {
			t.Errorf("changed before the link was followed: %+v", before)
		}
		f.signsIn("before", "ann@example.org", password, true)
		f.signsIn("before", "ann.new@example.com", password, false)
		f.do("confirm", f.VerifyEmail(t.Context(), token, Client{}))
		u := f.user(ann.User.ID)
		if u.Email != "Ann.New@Example.com" || u.EmailKey != "ann.new@example.com" ||
			u.EmailVerifiedAt == nil {
			t.Errorf("got %+v", u)
		}
		f.grant(ann)
		f.signsIn("after", "ann@example.org", password, false)
		f.signsIn("after", "ann.new@example.com", password, true)
		f.wantProblem("again", f.VerifyEmail(t.Context(), token, Client{}), tokenExpired)
		if _, err := f.Register(t.Context(),
			Register{Email: "ann@example.org", Nickname: "other", Password: password},
			Client{}); err != nil {
			t.Errorf("the old address is free, and: %v", err)
		}
	})
}

func TestALaterChangeOfAddressInvalidatesTheOneBefore(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		f.takeMails()
		f.do("one", f.askForAddress(ann, "one@example.com"))
		one := f.token(mail.ChangeEmail)
		f.do("two", f.askForAddress(ann, "two@example.com"))
		two := f.token(mail.ChangeEmail)
		f.wantProblem("one", f.VerifyEmail(t.Context(), one, Client{}), tokenExpired)
		f.clock.Forward(48*time.Hour - time.Microsecond)
		f.do("two", f.VerifyEmail(t.Context(), two, Client{}))
		if email := f.user(ann.User.ID).Email; email != "two@example.com" {
			t.Errorf("the address is %s", email)
		}
	})
}

// Users may change to another spelling of their own address.
func TestChangeEmailToTheSame(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		f.takeMails()
		f.do("ask", f.askForAddress(ann, "Ann@Example.org"))
		f.do("confirm", f.VerifyEmail(t.Context(), f.token(mail.ChangeEmail), Client{}))
		if u := f.user(ann.User.ID); u.Email != "Ann@Example.org" ||
			u.EmailKey != "ann@example.org" || u.EmailVerifiedAt == nil {
			t.Errorf("got %+v", u)
		}
	})
}

// The link is refused and not used up: it works once the other account has been deleted.
func TestChangeEmailToAnAddressTakenMeanwhile(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann := f.register("ann")
		f.takeMails()
		f.do("ask", f.askForAddress(ann, "new@example.org"))
		token := f.token(mail.ChangeEmail)
		other := f.register("new")
		f.wantProblem("taken", f.VerifyEmail(t.Context(), token, Client{}), "TAKEN token")
		f.wantProblem("still taken", f.VerifyEmail(t.Context(), token, Client{}), "TAKEN token")
		if u := f.user(ann.User.ID); u.Email != "ann@example.org" || u.EmailVerifiedAt != nil {
			t.Errorf("got %+v", u)
		}
		removing := f.removing(nothingElse)
		f.do("delete", removing.DeleteAccount(t.Context(), other.Actor(), password, Client{}))
		f.do("free again", f.VerifyEmail(t.Context(), token, Client{}))
		f.signsIn("the new address", "new@example.org", password, true)
	})
}

func TestTwoLinksRaceForOneAddress(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		var tokens []string
		for _, name := range []string{"ann", "bob", "cat"} {
			s := f.register(name)
			f.takeMails()
			f.do("ask", f.askForAddress(s, "wanted@example.com"))
			tokens = append(tokens, f.token(mail.ChangeEmail))
		}
		results := make([]error, len(tokens))
		concurrently(len(tokens), func(i int) {
			results[i] = f.VerifyEmail(t.Context(), tokens[i], Client{})
		})
		got := 0
		for _, err := range results {
			if err == nil {
				got++
			} else {
				f.wantProblem("too late", err, "TAKEN token")
			}
		}
		if got != 1 {
			t.Errorf("%d accounts got the address", got)
		}
	})
}

// If addresses are concealed, neither the answer nor the mails to the actor's own address reveal
// whether the new address has an account.
func TestChangeEmailConceals(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		f := base.concealing()
		ann := base.register("ann")
		base.register("bob")
		f.takeMails()
		change := func(email string) (own int, others []string) {
			t.Helper()
			f.do(email, f.askForAddress(ann, email))
			for _, m := range f.takeMails() {
				if m.Recipient == "ann@example.org" {
					own++
				} else {
					others = append(others, string(m.Kind)+" "+m.Recipient)
				}
			}
			return own, others
		}
		freeOwn, free := change("free@example.com")
		takenOwn, taken := change("bob@example.org")
		if len(free) != 1 || free[0] != "change_email free@example.com" {
			t.Errorf("a free address: %v", free)
		}
		if len(taken) != 1 || taken[0] != "registration_attempt bob@example.org" {
			t.Errorf("a taken address: %v", taken)
		}
		if freeOwn != takenOwn {
			t.Errorf(
				"the actor gets %d mails if the new address is free, and %d if it has an account",
				freeOwn, takenOwn)
		}
	})
}

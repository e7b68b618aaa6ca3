package auth

import (
	"testing"
	"time"

	"parley/mail"
)

func (w *world) askForAddress(who *SignedIn, email string) error {
	w.t.Helper()
	return w.ChangeEmail(w.t.Context(), who.Actor(), ChangeEmail{NewEmail: email, Password: password}, Client{})
}

func (w *world) concealing() *world {
	w.t.Helper()
	return w.node(w.clock, func(o *Options) { o.ConcealEmails = true })
}

func TestVerifyEmail(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann, bob := w.register("ann"), w.register("bob")
		sent := w.wantMails("register", "verify_email ann@example.org", "verify_email bob@example.org")
		if want := issuer + "/verify-email#token="; len(sent[0].Link) != len(want)+43 || sent[0].Link[:len(want)] != want {
			t.Errorf("the link is %s", sent[0].Link)
		}
		if w.user(ann.User.ID).EmailVerifiedAt != nil {
			t.Error("verified before")
		}
		w.do("ask", w.RequestEmailVerification(t.Context(), ann.Actor()))
		second := w.token(mail.VerifyEmail)
		first := sent[0].Link[len(issuer+"/verify-email#token="):]
		w.wantProblem("the first", w.VerifyEmail(t.Context(), first, Client{}), tokenExpired)
		w.clock.Forward(48*time.Hour - time.Microsecond)
		w.do("the second", w.VerifyEmail(t.Context(), second, Client{}))
		if at := w.user(ann.User.ID).EmailVerifiedAt; at == nil || !at.Equal(w.db.Now()) {
			t.Errorf("verified at %v", at)
		}
		w.wantProblem("again", w.VerifyEmail(t.Context(), second, Client{}), tokenExpired)
		w.do("ask once more", w.RequestEmailVerification(t.Context(), ann.Actor()))
		w.wantMails("verified")
		if w.user(bob.User.ID).EmailVerifiedAt != nil {
			t.Error("another address is verified too")
		}
		w.clock.Forward(time.Microsecond)
		others := sent[1].Link[len(issuer+"/verify-email#token="):]
		w.wantProblem("after 48 hours", w.VerifyEmail(t.Context(), others, Client{}), tokenExpired)
	})
}

func TestChangeEmail(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann")
		w.register("bob")
		w.takeMails()
		err := w.ChangeEmail(t.Context(), ann.Actor(), ChangeEmail{NewEmail: "ann@example.com", Password: "wrong password"}, Client{})
		w.wantProblem("wrong", err, "INVALID_CREDENTIALS password")
		w.wantProblem("taken", w.askForAddress(ann, "BOB@example.org"), "TAKEN newEmail")
		w.wantProblem("blank", w.askForAddress(ann, " "), "REQUIRED newEmail")
		w.wantProblem("none", w.askForAddress(ann, "ann"), "INVALID newEmail")
		w.wantMails("refused")

		w.do("ask", w.askForAddress(ann, "Ann.New@Example.com"))
		sent := w.wantMails("ask", "email_changing ann@example.org", "change_email Ann.New@Example.com")
		if sent[0].Link != "" {
			t.Errorf("the old address got a link: %s", sent[0].Link)
		}
		token := sent[1].Link[len(issuer+"/verify-email#token="):]
		before := w.user(ann.User.ID)
		if before.Email != "ann@example.org" || before.EmailVerifiedAt != nil {
			t.Errorf("changed before the link was followed: %+v", before)
		}
		w.signsIn("before", "ann@example.org", password, true)
		w.signsIn("before", "ann.new@example.com", password, false)
		w.do("confirm", w.VerifyEmail(t.Context(), token, Client{}))
		u := w.user(ann.User.ID)
		if u.Email != "Ann.New@Example.com" || u.EmailKey != "ann.new@example.com" || u.EmailVerifiedAt == nil {
			t.Errorf("got %+v", u)
		}
		w.grant(ann)
		w.signsIn("after", "ann@example.org", password, false)
		w.signsIn("after", "ann.new@example.com", password, true)
		w.wantProblem("again", w.VerifyEmail(t.Context(), token, Client{}), tokenExpired)
		if _, err := w.Register(t.Context(), Register{Email: "ann@example.org", Nickname: "other", Password: password}, Client{}); err != nil {
			t.Errorf("the old address is free, and: %v", err)
		}
	})
}

func TestALaterChangeOfAddressVoidsTheOneBefore(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann")
		w.takeMails()
		w.do("one", w.askForAddress(ann, "one@example.com"))
		one := w.token(mail.ChangeEmail)
		w.do("two", w.askForAddress(ann, "two@example.com"))
		two := w.token(mail.ChangeEmail)
		w.wantProblem("one", w.VerifyEmail(t.Context(), one, Client{}), tokenExpired)
		w.clock.Forward(48*time.Hour - time.Microsecond)
		w.do("two", w.VerifyEmail(t.Context(), two, Client{}))
		if email := w.user(ann.User.ID).Email; email != "two@example.com" {
			t.Errorf("the address is %s", email)
		}
	})
}

// The address that somebody has is as good as any: another spelling of it may be wanted, and a link
// verifies it.
func TestChangeEmailToTheSame(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann")
		w.takeMails()
		w.do("ask", w.askForAddress(ann, "Ann@Example.org"))
		w.do("confirm", w.VerifyEmail(t.Context(), w.token(mail.ChangeEmail), Client{}))
		if u := w.user(ann.User.ID); u.Email != "Ann@Example.org" || u.EmailKey != "ann@example.org" || u.EmailVerifiedAt == nil {
			t.Errorf("got %+v", u)
		}
	})
}

// The link does not work for now, and is not used up: the other account may go.
func TestChangeEmailToWhatIsTakenMeanwhile(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann")
		w.takeMails()
		w.do("ask", w.askForAddress(ann, "new@example.org"))
		token := w.token(mail.ChangeEmail)
		other := w.register("new")
		w.wantProblem("taken", w.VerifyEmail(t.Context(), token, Client{}), "TAKEN token")
		w.wantProblem("still taken", w.VerifyEmail(t.Context(), token, Client{}), "TAKEN token")
		if u := w.user(ann.User.ID); u.Email != "ann@example.org" || u.EmailVerifiedAt != nil {
			t.Errorf("got %+v", u)
		}
		removing := w.removing(nothingElse)
		w.do("delete", removing.DeleteAccount(t.Context(), other.Actor(), password, Client{}))
		w.do("free again", w.VerifyEmail(t.Context(), token, Client{}))
		w.signsIn("the new address", "new@example.org", password, true)
	})
}

func TestTwoLinksRaceForOneAddress(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		var tokens []string
		for _, name := range []string{"ann", "bob", "cat"} {
			who := w.register(name)
			w.takeMails()
			w.do("ask", w.askForAddress(who, "wanted@example.com"))
			tokens = append(tokens, w.token(mail.ChangeEmail))
		}
		results := make([]error, len(tokens))
		together(len(tokens), func(i int) { results[i] = w.VerifyEmail(t.Context(), tokens[i], Client{}) })
		got := 0
		for _, err := range results {
			if err == nil {
				got++
			} else {
				w.wantProblem("too late", err, "TAKEN token")
			}
		}
		if got != 1 {
			t.Errorf("%d accounts got the address", got)
		}
	})
}

// Where addresses are concealed, neither the answer nor what reaches the actor's own mailbox tells
// about another's address.
func TestChangeEmailConceals(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *world) {
		w := base.concealing()
		ann := base.register("ann")
		base.register("bob")
		w.takeMails()
		tell := func(email string) (own int, others []string) {
			t.Helper()
			w.do(email, w.askForAddress(ann, email))
			for _, m := range w.takeMails() {
				if m.Recipient == "ann@example.org" {
					own++
				} else {
					others = append(others, string(m.Kind)+" "+m.Recipient)
				}
			}
			return own, others
		}
		freeOwn, free := tell("free@example.com")
		takenOwn, taken := tell("bob@example.org")
		if len(free) != 1 || free[0] != "change_email free@example.com" {
			t.Errorf("a free address: %v", free)
		}
		if len(taken) != 1 || taken[0] != "registration_attempt bob@example.org" {
			t.Errorf("a taken address: %v", taken)
		}
		if freeOwn != takenOwn {
			t.Errorf("the actor gets %d mails where the new address is free, and %d where it has an account", freeOwn, takenOwn)
		}
	})
}

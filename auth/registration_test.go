package auth

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"parley/errs"
)

func TestRegistrationMayBeClosed(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		base.register("ann")
		f := base.node(base.clock, func(o *Options) {
			o.Registration, o.InvitationCode = Closed, "the code"
		})
		for _, code := range []*string{nil, new(""), new("the code")} {
			before := f.rows()
			signedIn, err := f.Register(t.Context(),
				Register{
					Email: "b@example.org", Nickname: "bob", Password: password,
					InvitationCode: code,
				}, Client{})
			if signedIn != nil || !errs.Is(err, errs.Forbidden) {
				t.Errorf("got %v (%v), want FORBIDDEN", signedIn, err)
			}
			for table, n := range f.rows() {
				if n != before[table] {
					t.Errorf("%d rows of %s, before %d", n, table, before[table])
				}
			}
		}
		f.login("ann") // existing accounts stay
	})
}

func TestRegistrationMayNeedAnInvitation(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		f := base.node(base.clock, func(o *Options) {
			o.Registration, o.InvitationCode = Invite, "the code"
		})
		for code, want := range map[string]string{
			"nil": "REQUIRED invitationCode", "": "INVALID invitationCode",
			"The Code": "INVALID invitationCode",
			"the cod":  "INVALID invitationCode", "the code ": "INVALID invitationCode",
			strings.Repeat("x", 1<<16): "INVALID invitationCode",
		} {
			in := Register{
				Email: "b@example.org", Nickname: "bob", Password: password,
				InvitationCode: &code,
			}
			if code == "nil" {
				in.InvitationCode = nil
			}
			_, err := f.Register(t.Context(), in, Client{})
			f.wantProblem(code[:min(len(code), 20)], err, want)
		}
		// A client without an invitation does not learn which addresses have accounts.
		base.register("ann")
		_, err := f.Register(t.Context(),
			Register{Email: "ann@example.org", Nickname: "ann", Password: password}, Client{})
		f.wantProblem("uninvited", err, "REQUIRED invitationCode")
		_, err = f.Register(t.Context(),
			Register{
				Email: "b@example.org", Nickname: "bob", Password: password,
				InvitationCode: new("the code"),
			}, Client{})
		f.do("invited", err)
	})
}

func TestRegisterConceals(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		f := base.concealing()
		base.register("ann")
		f.takeMails()
		before := f.rows()
		register := func(name, email, nickname, want string) {
			t.Helper()
			signedIn, err := f.Register(t.Context(),
				Register{Email: email, Nickname: nickname, Password: newPassword}, Client{})
			if signedIn != nil || problems(err) != want || want == "" && err != nil {
				t.Errorf("%s: got %+v (%v), want %q", name, signedIn, err, want)
			}
		}
		register("taken", "ANN@example.org", "other", "")
		f.wantMails("taken", "registration_attempt ann@example.org")
		if after := f.rows(); after["users"] != before["users"] ||
			after["sessions"] != before["sessions"] ||
			after["one_time_tokens"] != before["one_time_tokens"] {
			t.Errorf("before %v, after %v", before, after)
		}
		register("new", "new@example.org", "other", "")
		f.wantMails("new", "verify_email new@example.org")
		if after := f.rows(); after["users"] != before["users"]+1 ||
			after["sessions"] != before["sessions"] {
			t.Errorf("before %v, after %v", before, after)
		}
		// Nicknames are not secret: every user can search them.
		register("nickname taken, address new", "new2@example.org", "ANN", "TAKEN nickname")
		register("nickname and address taken", "ann@example.org", "Other", "TAKEN nickname")
		register("weak", "ann@example.org", "other3", "")
		base.signsIn("the taken one's password", "ann@example.org", password, true)
		base.signsIn("the password of the second registration", "ann@example.org", newPassword,
			false)
	})
}

// Registering conceals whether an address was new, so signing in with the password just chosen must
// not reveal it.
func TestSigningInConcealsToo(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		base.register("ann")
		f := base.concealing()
		outcome := map[string]string{}
		for _, email := range []string{"ann@example.org", "free@example.org"} {
			in := Register{Email: email, Nickname: "of " + email[:3], Password: newPassword}
			if _, err := f.Register(t.Context(), in, Client{}); err != nil {
				t.Fatal(err)
			}
			_, err := f.Login(t.Context(), Login{Email: email, Password: newPassword}, Client{})
			outcome[email] = problems(err)
		}
		if outcome["ann@example.org"] != outcome["free@example.org"] {
			t.Errorf(
				"signing in with the password just chosen reveals which address had an account: %q",
				outcome)
		}
	})
}

func TestManyRegisterOneConcealedAddress(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		f := base.concealing()
		results := make([]error, 6)
		concurrently(len(results), func(i int) {
			in := Register{
				Email: "ann@example.org", Nickname: "ann" + string(rune('a'+i)),
				Password: password,
			}
			var signedIn *SignedIn
			if signedIn, results[i] = f.Register(t.Context(), in, Client{}); signedIn != nil {
				t.Error("signed in")
			}
		})
		for _, err := range results {
			if err != nil {
				t.Error(err)
			}
		}
		if n := f.rows()["users"]; n != 1 {
			t.Errorf("%d accounts", n)
		}
	})
}

// There are more clients than connections to the database. If a request held a connection while it
// waited for another one, all of them would deadlock.
func TestManyTryAConcealedAddress(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		base.register("ann")
		f := base.limited(func(o *Options) { o.ConcealEmails = true })
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		concurrently(40, func(i int) {
			in := Register{
				Email: "ann@example.org", Nickname: fmt.Sprint("other", i),
				Password: password,
			}
			if _, err := f.Register(ctx, in, Client{}); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestCommonPasswordsAreRefused(t *testing.T) {
	t.Parallel()
	if n := len(isCommon()); n != 10_000 {
		t.Errorf("%d passwords are called common, want 10,000", n)
	}
	for p := range isCommon() {
		if len([]rune(p)) < minPassword || p != strings.ToLower(p) || p != strings.TrimSpace(p) {
			t.Errorf("%q can never be met", p)
		}
	}
	for input, common := range map[string]bool{
		"password": true, "PASSWORD": true, "PassWord": true, "12345678": true, "Password1": true,
		"qwertyuiop": true, "iloveyou": true,
		password: false, newPassword: false, "password password": false, " password": false,
		"passw0rd-and-more": false,
	} {
		var problems errs.List
		checkPassword(&problems, "password", input)
		if refused := len(problems) > 0; refused != common {
			t.Errorf("%q: refused: %t (%v), want %t", input, refused, problems.Err(), common)
		}
	}
}

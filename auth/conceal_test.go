package auth

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/uptrace/bun"

	"parley/mail"
)

// statements collects the statements of a service, without their values.
type statements struct {
	mu   sync.Mutex
	list []string
}

var literal = regexp.MustCompile(`[Xx]?'(?:[^']|'')*'|\b(?:NULL|TRUE|FALSE|\d+)\b`)

func (s *statements) BeforeQuery(ctx context.Context, event *bun.QueryEvent) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, literal.ReplaceAllString(event.Query, "?"))
	return ctx
}

func (*statements) AfterQuery(context.Context, *bun.QueryEvent) {}

func (s *statements) take() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, s.list = s.list, nil
	return list
}

// The time of an answer must not reveal which addresses have accounts, so the same statements run
// in the same order whether an address has one or not.
func TestStatementsDoNotRevealAccounts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		base.register("old") // with a verified address, so that the account can be signed in to
		base.do("confirm", base.VerifyEmail(t.Context(), base.token(mail.VerifyEmail), Client{}))
		base.register("unconfirmed")
		var signedIn [2]*SignedIn
		for i := range signedIn {
			signedIn[i] = base.register(fmt.Sprint("asks", i))
		}
		f := base.limited(func(o *Options) { o.ConcealEmails = true })
		asked := &statements{}
		f.db.Watch(asked)
		from := func(i int) Client {
			return Client{IP: fmt.Sprint("192.0.2.", i), UserAgent: "a browser"}
		}

		n := 0
		cases := map[string]struct {
			tries int
			// try makes an attempt on an address. Its outcome must not depend on i.
			try    func(email string, i int) error
			emails []string
		}{
			"requestPasswordReset": {
				7, // the last ones beyond the limit of mails to one account
				func(email string, i int) error {
					return f.RequestPasswordReset(t.Context(), email, from(i))
				},
				[]string{"old@example.org", "unknown@example.org", "unconfirmed@example.org"},
			},
			"requestPasswordReset for what is no address": {
				1,
				func(email string, i int) error {
					return f.RequestPasswordReset(t.Context(), email, from(i))
				},
				[]string{"old@example.org", "unknown", ""},
			},
			"login with a wrong password": {
				2,
				func(email string, i int) error {
					_, err := f.Login(t.Context(), Login{Email: email, Password: "wrong password"},
						from(10+i))
					return err
				},
				[]string{"old@example.org", "unknown@example.org", "unconfirmed@example.org"},
			},
			"login with the password of an unconfirmed account": {
				2,
				func(email string, i int) error {
					_, err := f.Login(t.Context(), Login{Email: email, Password: password},
						from(20+i))
					return err
				},
				[]string{"unconfirmed@example.org", "unknown@example.org"},
			},
			"register": {
				1,
				func(email string, i int) error {
					n++
					_, err := f.Register(t.Context(),
						Register{
							Email: email, Nickname: fmt.Sprint("other", n),
							Password: password,
						}, from(30+i))
					return err
				},
				[]string{"old@example.org", "new@example.org", "unconfirmed@example.org"},
			},
			"register, when the owner of the address had enough mails": {
				7,
				func(email string, i int) error {
					n++
					if email == "" {
						email = fmt.Sprintf("new%d@example.com", n)
					}
					_, err := f.Register(t.Context(),
						Register{
							Email: email, Nickname: fmt.Sprint("other", n),
							Password: password,
						}, from(40+i))
					return err
				},
				[]string{"old@example.org", ""},
			},
			"register with a nickname that is taken": {
				1,
				func(email string, i int) error {
					_, err := f.Register(t.Context(),
						Register{Email: email, Nickname: "old", Password: password}, from(50+i))
					return err
				},
				[]string{"unconfirmed@example.org", "free@example.org"},
			},
			"changeEmail": {
				2,
				func(email string, i int) error {
					s := signedIn[i]
					return f.ChangeEmail(t.Context(), s.Actor(),
						ChangeEmail{NewEmail: email, Password: password}, from(60+i))
				},
				[]string{"unconfirmed@example.org", "free@example.com"},
			},
		}
		for name, test := range cases {
			f.clock.Forward(24 * time.Hour) // all limits are full again
			var want [][]string
			var outcome string
			for i, email := range test.emails {
				var got [][]string
				asked.take()
				for range test.tries {
					err := test.try(email, i)
					if i == 0 && len(got) == 0 {
						outcome = fmt.Sprint(err)
					}
					if fmt.Sprint(err) != outcome {
						t.Errorf("%s, %q: %v, for another address %s", name, email, err, outcome)
					}
					got = append(got, asked.take())
				}
				if i == 0 {
					want = got
					if slices.ContainsFunc(want,
						func(list []string) bool { return len(list) < 2 }) {
						t.Errorf("%s: saw only %q", name, want)
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s: statements for %q (-) and %q (+):\n%s", name, test.emails[0],
						email, diff)
				}
			}
		}
	})
}

// If a pending link still worked, that would reveal that the address requested next is taken.
func TestARequestForATakenAddressInvalidatesTheLinkBefore(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		base.register("bob")
		for i, next := range []string{"bob@example.org", "free@example.org"} {
			ann := base.register(fmt.Sprint("ann", i))
			f := base.concealing()
			base.takeMails()
			f.do("ask", f.askForAddress(ann, fmt.Sprintf("ann%d@example.com", i)))
			link := f.token(mail.ChangeEmail)
			f.do("ask again", f.askForAddress(ann, next))
			f.wantProblem(next, f.VerifyEmail(t.Context(), link, Client{}), tokenExpired)
		}
	})
}

// Forging a link costs nothing, so it is refused before a password is hashed.
func TestAForgedLinkIsRefusedBeforeHashing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		used := f.askForReset("ann@example.org")
		f.do("reset", f.ResetPassword(t.Context(), used, newPassword, Client{}))
		verify := f.askForReset("ann@example.org")
		f.do("invalidate it", f.RequestPasswordReset(t.Context(), "ann@example.org", Client{}))
		defer f.refuseHashing()()
		for _, token := range []string{
			"", "x", used, verify,
			"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		} {
			f.wantProblem(token, f.ResetPassword(t.Context(), token, newPassword, Client{}),
				tokenExpired)
		}
	})
}

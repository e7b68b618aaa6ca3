package auth

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/mail"
	"parley/model"
)

// entry is an entry of the audit log without its time and client.
type entry struct {
	Action  string
	User    string
	Session string
}

// entries returns the entries of the audit log, and deletes them.
func (f *fixture) entries() []*model.AuditEntry {
	f.t.Helper()
	var found []*model.AuditEntry
	if err := f.db.NewSelect().Model(&found).Scan(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.db.NewDelete().Model((*model.AuditEntry)(nil)).Where("1 = 1").
		Exec(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return found
}

// wantEntries takes the entries of the audit log, and checks that they are these, all from the
// client and of this moment. It compares them sorted, because entries of one moment have no order.
func (f *fixture) wantEntries(name string, from Client, want ...entry) {
	f.t.Helper()
	var got []entry
	for _, e := range f.entries() {
		found := entry{Action: e.Action}
		if e.UserID != nil {
			found.User = e.UserID.String()
		}
		if e.SessionID != nil {
			found.Session = e.SessionID.String()
		}
		got = append(got, found)
		if diff := cmp.Diff(Client{IP: deref(e.IP), UserAgent: deref(e.UserAgent)},
			from); diff != "" {
			f.t.Errorf("%s: %s is from (-got +want):\n%s", name, e.Action, diff)
		}
		if !e.At.Equal(f.db.Now()) {
			f.t.Errorf("%s: %s was at %v, want %v", name, e.Action, e.At, f.db.Now())
		}
	}
	for _, list := range [][]entry{got, want} {
		sort.Slice(list, func(i, j int) bool {
			return list[i].Action+list[i].Session < list[j].Action+list[j].Session
		})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		f.t.Errorf("%s: audit log (-want +got):\n%s", name, diff)
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// record is a log that a test reads.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(b)
}

func (r *record) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.text.String()
	r.text.Reset()
	return s
}

func TestAuditLogEntries(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *fixture) {
		var log record
		f := base.node(base.clock, func(o *Options) {
			o.Log = slog.New(slog.NewJSONHandler(&log,
				&slog.HandlerOptions{Level: slog.LevelDebug}))
			o.OnDelete = nothingElse
		})
		from := Client{IP: "192.0.2.77", UserAgent: "Mozilla/5.0 (X11; probe-77)"}
		secrets := []string{
			password, newPassword, "wrong-and-secret", from.IP, from.UserAgent,
			"probe-77", "ann@example", "$argon2id$",
		}
		// check compares the audit log and the log with the entries that are expected.
		check := func(name string, want ...entry) {
			t.Helper()
			stored := f.all()["audit_log"]
			for place, value := range stored {
				for _, secret := range secrets {
					if secret != from.IP && secret != from.UserAgent && secret != "probe-77" &&
						bytes.Contains(value, []byte(secret)) {
						t.Errorf("%s: %s of the audit log has %q", name, place, secret)
					}
				}
			}
			text := log.take()
			for _, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("%s: the log has %q:\n%s", name, secret, text)
				}
			}
			var logged []entry
			for line := range strings.Lines(text) {
				var e struct{ Msg, Action, User, Session string }
				if err := json.Unmarshal([]byte(line), &e); err != nil || e.Msg != "audit" {
					t.Errorf("%s: the log says %s (%v)", name, line, err)
				}
				logged = append(logged, entry{e.Action, e.User, e.Session})
			}
			sort.Slice(logged, func(i, j int) bool {
				return logged[i].Action+logged[i].Session < logged[j].Action+logged[j].Session
			})
			f.wantEntries(name, from, want...) // sorts want
			if diff := cmp.Diff(want, logged); diff != "" {
				t.Errorf("%s: the log (-want +got):\n%s", name, diff)
			}
		}
		keep := func(s *SignedIn, err error) *SignedIn {
			t.Helper()
			f.do("sign in", err)
			secrets = append(secrets, s.Tokens.AccessToken, s.Tokens.RefreshToken)
			return s
		}
		ctx := t.Context()
		credentials := Login{Email: "ann@example.org", Password: password}

		ann := keep(f.Register(ctx, Register{
			Email: "ann@example.org", Nickname: "ann",
			Password: password,
		}, from))
		id, session := ann.User.ID.String(), ann.Session.ID.String()
		check("register", entry{"registered", id, ""}, entry{"logged_in", id, session})
		verify := f.token(mail.VerifyEmail)
		secrets = append(secrets, verify)
		if _, err := f.Register(ctx, Register{
			Email: "ann@example.org", Nickname: "ann2",
			Password: password,
		}, from); err == nil {
			t.Error("registered twice")
		}
		check("register, refused")

		laptop := keep(f.Login(ctx, credentials, from))
		check("login", entry{"logged_in", id, laptop.Session.ID.String()})
		_, err := f.Login(ctx, Login{Email: "ann@example.org", Password: "wrong-and-secret"}, from)
		f.wantProblem("login", err, "INVALID_CREDENTIALS password")
		check("login, wrong", entry{"login_failed", id, ""})
		_, err = f.Login(ctx, Login{Email: "bob@example.org", Password: "wrong-and-secret"}, from)
		f.wantProblem("login", err, "INVALID_CREDENTIALS password")
		check("login, unknown", entry{"login_failed", "", ""})

		next := keep(f.Refresh(ctx, laptop.Tokens.RefreshToken, nil, from))
		check("refresh")
		f.clock.Forward(refreshGrace + time.Microsecond)
		_, err = f.Refresh(ctx, laptop.Tokens.RefreshToken, nil, from)
		f.wantProblem("reuse", err, "TOKEN_EXPIRED refreshToken")
		check("reuse", entry{"refresh_token_reused", id, next.Session.ID.String()})

		tablet := keep(f.Login(ctx, credentials, from))
		check("login", entry{"logged_in", id, tablet.Session.ID.String()})
		f.do("logout", f.Logout(ctx, tablet.Actor(), from))
		check("logout", entry{"logged_out", id, tablet.Session.ID.String()})

		others := []*SignedIn{
			keep(f.Login(ctx, credentials, from)),
			keep(f.Login(ctx, credentials, from)), keep(f.Login(ctx, credentials, from)),
		}
		f.entries()
		log.take()
		f.do("revoke", f.RevokeSession(ctx, ann.Actor(), others[0].Session.ID, from))
		check("revoke", entry{"session_revoked", id, others[0].Session.ID.String()})
		f.wantProblem("revoke again", f.RevokeSession(ctx, ann.Actor(), others[0].Session.ID, from),
			"NOT_FOUND sessionId")
		check("revoke again")
		_, err = f.RevokeOtherSessions(ctx, ann.Actor(), from)
		f.do("revoke others", err)
		check("revoke others", entry{"session_revoked", id, others[1].Session.ID.String()},
			entry{"session_revoked", id, others[2].Session.ID.String()})

		_, err = f.UpdateProfile(ctx, ann.Actor(), UpdateProfile{About: new("hello")})
		f.do("profile", err)
		_, err = f.UpdateSettings(ctx, ann.Actor(), UpdateSettings{ShowPresence: new(false)})
		f.do("settings", err)
		check("profile and settings")

		in := ChangePassword{OldPassword: "wrong-and-secret", NewPassword: newPassword}
		f.wantProblem("wrong", f.ChangePassword(ctx, ann.Actor(), in, from),
			"INVALID_CREDENTIALS oldPassword")
		check("change of password, wrong", entry{"password_wrong", id, session})
		in.OldPassword = password
		f.do("change", f.ChangePassword(ctx, ann.Actor(), in, from))
		check("change of password", entry{"password_changed", id, session})

		f.do("verify", f.VerifyEmail(ctx, verify, from))
		check("verify", entry{"email_verified", id, ""})
		f.takeMails()
		change := ChangeEmail{NewEmail: "ann@example.com", Password: newPassword}
		f.do("change of address", f.ChangeEmail(ctx, ann.Actor(), change, from))
		check("change of address", entry{"email_change_requested", id, session})
		token := f.token(mail.ChangeEmail)
		secrets = append(secrets, token)
		f.do("confirm", f.VerifyEmail(ctx, token, from))
		check("confirm", entry{"email_changed", id, ""})
		f.wantProblem("confirm again", f.VerifyEmail(ctx, token, from), tokenExpired)
		check("confirm again")

		f.takeMails()
		f.do("ask for a reset", f.RequestPasswordReset(ctx, "ann@example.com", from))
		check("ask for a reset", entry{"password_reset_requested", id, ""})
		token = f.token(mail.PasswordReset)
		secrets = append(secrets, token)
		f.do("reset", f.ResetPassword(ctx, token, password, from))
		check("reset", entry{"password_reset", id, ""}, entry{"session_revoked", id, session})

		// After an account is deleted, its entries no longer identify it, nor does that of the
		// removal.
		ann = keep(f.Login(ctx, Login{Email: "ann@example.com", Password: password}, from))
		log.take()
		f.wantProblem("delete", f.DeleteAccount(ctx, ann.Actor(), "wrong-and-secret", from),
			"INVALID_CREDENTIALS password")
		log.take()
		f.do("delete", f.DeleteAccount(ctx, ann.Actor(), password, from))
		if text := log.take(); !strings.Contains(text, `"action":"account_deleted"`) {
			t.Errorf("delete: the log says %s", text)
		}
		f.finish()
		f.wantEntries("delete", Client{},
			entry{Action: "logged_in"}, entry{Action: "password_wrong"},
			entry{Action: "session_revoked"}, entry{Action: "account_deleted"})
	})
}

// An entry is committed with the change that it records, or not at all.
func TestARollbackLeavesNoAuditEntry(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		bob := f.register("bob")
		f.takeMails()
		f.do("ask", f.ChangeEmail(t.Context(), bob.Actor(),
			ChangeEmail{NewEmail: "new@example.org", Password: password}, Client{}))
		token := f.token(mail.ChangeEmail)
		f.register("new")
		f.entries()
		f.wantProblem("taken by now", f.VerifyEmail(t.Context(), token, Client{}), "TAKEN token")
		f.wantEntries("taken by now", Client{})
	})
}

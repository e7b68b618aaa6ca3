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

// entry is what the audit log says, but for when and from where.
type entry struct {
	Action  string
	User    string
	Session string
}

// entries takes what the audit log has, sorted, because what happens at one moment has no order,
// and empties it.
func (w *world) entries() []*model.AuditEntry {
	w.t.Helper()
	var found []*model.AuditEntry
	if err := w.db.NewSelect().Model(&found).Scan(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.db.NewDelete().Model((*model.AuditEntry)(nil)).Where("1 = 1").Exec(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return found
}

// wantEntries takes what the audit log has, and makes sure that it is this, all of it from the
// client and of this moment.
func (w *world) wantEntries(name string, from Client, want ...entry) {
	w.t.Helper()
	var got []entry
	for _, e := range w.entries() {
		is := entry{Action: e.Action}
		if e.UserID != nil {
			is.User = e.UserID.String()
		}
		if e.SessionID != nil {
			is.Session = e.SessionID.String()
		}
		got = append(got, is)
		if diff := cmp.Diff(Client{IP: deref(e.IP), UserAgent: deref(e.UserAgent)}, from); diff != "" {
			w.t.Errorf("%s: %s is from (-got +want):\n%s", name, e.Action, diff)
		}
		if !e.At.Equal(w.db.Now()) {
			w.t.Errorf("%s: %s was at %v, want %v", name, e.Action, e.At, w.db.Now())
		}
	}
	for _, list := range [][]entry{got, want} {
		sort.Slice(list, func(i, j int) bool { return list[i].Action+list[i].Session < list[j].Action+list[j].Session })
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("%s: audit log (-want +got):\n%s", name, diff)
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

func TestTheAuditLogSaysWhatHappened(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, base *world) {
		var log record
		w := base.node(base.clock, func(o *Options) {
			o.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			o.OnDelete = nothingElse
		})
		from := Client{IP: "192.0.2.77", UserAgent: "Mozilla/5.0 (X11; probe-77)"}
		secrets := []string{password, newPassword, "wrong-and-secret", from.IP, from.UserAgent, "probe-77", "ann@example", "$argon2id$"}
		// check holds both logs against what just happened.
		check := func(name string, want ...entry) {
			t.Helper()
			stored := w.all()["audit_log"]
			for place, value := range stored {
				for _, secret := range secrets {
					if secret != from.IP && secret != from.UserAgent && secret != "probe-77" && bytes.Contains(value, []byte(secret)) {
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
				if err := json.Unmarshal([]byte(line), &e); err != nil || e.Msg != "account" {
					t.Errorf("%s: the log says %s (%v)", name, line, err)
				}
				logged = append(logged, entry{e.Action, e.User, e.Session})
			}
			sort.Slice(logged, func(i, j int) bool {
				return logged[i].Action+logged[i].Session < logged[j].Action+logged[j].Session
			})
			w.wantEntries(name, from, want...) // sorts want
			if diff := cmp.Diff(want, logged); diff != "" {
				t.Errorf("%s: the log (-want +got):\n%s", name, diff)
			}
		}
		keep := func(s *SignedIn, err error) *SignedIn {
			t.Helper()
			w.do("sign in", err)
			secrets = append(secrets, s.Tokens.AccessToken, s.Tokens.RefreshToken)
			return s
		}
		ctx := t.Context()
		credentials := Login{Email: "ann@example.org", Password: password}

		ann := keep(w.Register(ctx, Register{Email: "ann@example.org", Nickname: "ann", Password: password}, from))
		id, session := ann.User.ID.String(), ann.Session.ID.String()
		check("register", entry{"registered", id, ""}, entry{"logged_in", id, session})
		verify := w.token(mail.VerifyEmail)
		secrets = append(secrets, verify)
		if _, err := w.Register(ctx, Register{Email: "ann@example.org", Nickname: "ann2", Password: password}, from); err == nil {
			t.Error("registered twice")
		}
		check("register, refused")

		laptop := keep(w.Login(ctx, credentials, from))
		check("login", entry{"logged_in", id, laptop.Session.ID.String()})
		_, err := w.Login(ctx, Login{Email: "ann@example.org", Password: "wrong-and-secret"}, from)
		w.wantProblem("login", err, "INVALID_CREDENTIALS password")
		check("login, wrong", entry{"login_failed", id, ""})
		_, err = w.Login(ctx, Login{Email: "bob@example.org", Password: "wrong-and-secret"}, from)
		w.wantProblem("login", err, "INVALID_CREDENTIALS password")
		check("login, unknown", entry{"login_failed", "", ""})

		next := keep(w.Refresh(ctx, laptop.Tokens.RefreshToken, nil, from))
		check("refresh")
		w.clock.Forward(refreshGrace + time.Microsecond)
		_, err = w.Refresh(ctx, laptop.Tokens.RefreshToken, nil, from)
		w.wantProblem("reuse", err, "TOKEN_EXPIRED refreshToken")
		check("reuse", entry{"refresh_token_reused", id, next.Session.ID.String()})

		tablet := keep(w.Login(ctx, credentials, from))
		check("login", entry{"logged_in", id, tablet.Session.ID.String()})
		w.do("logout", w.Logout(ctx, tablet.Actor(), from))
		check("logout", entry{"logged_out", id, tablet.Session.ID.String()})

		others := []*SignedIn{keep(w.Login(ctx, credentials, from)), keep(w.Login(ctx, credentials, from)), keep(w.Login(ctx, credentials, from))}
		w.entries()
		log.take()
		w.do("revoke", w.RevokeSession(ctx, ann.Actor(), others[0].Session.ID, from))
		check("revoke", entry{"session_revoked", id, others[0].Session.ID.String()})
		w.wantProblem("revoke again", w.RevokeSession(ctx, ann.Actor(), others[0].Session.ID, from), "NOT_FOUND sessionId")
		check("revoke again")
		_, err = w.RevokeOtherSessions(ctx, ann.Actor(), from)
		w.do("revoke others", err)
		check("revoke others", entry{"session_revoked", id, others[1].Session.ID.String()}, entry{"session_revoked", id, others[2].Session.ID.String()})

		_, err = w.UpdateProfile(ctx, ann.Actor(), UpdateProfile{About: new("hello")})
		w.do("profile", err)
		_, err = w.UpdateSettings(ctx, ann.Actor(), UpdateSettings{ShowPresence: new(false)})
		w.do("settings", err)
		check("profile and settings")

		in := ChangePassword{OldPassword: "wrong-and-secret", NewPassword: newPassword}
		w.wantProblem("wrong", w.ChangePassword(ctx, ann.Actor(), in, from), "INVALID_CREDENTIALS oldPassword")
		check("change of password, wrong", entry{"password_wrong", id, session})
		in.OldPassword = password
		w.do("change", w.ChangePassword(ctx, ann.Actor(), in, from))
		check("change of password", entry{"password_changed", id, session})

		w.do("verify", w.VerifyEmail(ctx, verify, from))
		check("verify", entry{"email_verified", id, ""})
		w.takeMails()
		change := ChangeEmail{NewEmail: "ann@example.com", Password: newPassword}
		w.do("change of address", w.ChangeEmail(ctx, ann.Actor(), change, from))
		check("change of address", entry{"email_change_requested", id, session})
		token := w.token(mail.ChangeEmail)
		secrets = append(secrets, token)
		w.do("confirm", w.VerifyEmail(ctx, token, from))
		check("confirm", entry{"email_changed", id, ""})
		w.wantProblem("confirm again", w.VerifyEmail(ctx, token, from), tokenExpired)
		check("confirm again")

		w.takeMails()
		w.do("ask for a reset", w.RequestPasswordReset(ctx, "ann@example.com", from))
		check("ask for a reset", entry{"password_reset_requested", id, ""})
		token = w.token(mail.PasswordReset)
		secrets = append(secrets, token)
		w.do("reset", w.ResetPassword(ctx, token, password, from))
		check("reset", entry{"password_reset", id, ""}, entry{"session_revoked", id, session})

		// What an account has left in the log says nothing of it any more once it is deleted, nor
		// does the removal.
		ann = keep(w.Login(ctx, Login{Email: "ann@example.com", Password: password}, from))
		log.take()
		w.wantProblem("delete", w.DeleteAccount(ctx, ann.Actor(), "wrong-and-secret", from), "INVALID_CREDENTIALS password")
		log.take()
		w.do("delete", w.DeleteAccount(ctx, ann.Actor(), password, from))
		if text := log.take(); !strings.Contains(text, `"action":"account_deleted"`) {
			t.Errorf("delete: the log says %s", text)
		}
		w.finish()
		w.wantEntries("delete", Client{},
			entry{Action: "logged_in"}, entry{Action: "password_wrong"}, entry{Action: "session_revoked"}, entry{Action: "account_deleted"})
	})
}

// What an attempt recorded is recorded with what it did, or not at all.
func TestTheAuditLogKeepsNothingOfWhatWasRolledBack(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.register("ann")
		bob := w.register("bob")
		w.takeMails()
		w.do("ask", w.ChangeEmail(t.Context(), bob.Actor(), ChangeEmail{NewEmail: "new@example.org", Password: password}, Client{}))
		token := w.token(mail.ChangeEmail)
		w.register("new")
		w.entries()
		w.wantProblem("taken by now", w.VerifyEmail(t.Context(), token, Client{}), "TAKEN token")
		w.wantEntries("taken by now", Client{})
	})
}

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
)

const registerOnly = `mutation ($input: RegisterInput!) { register(input: $input) {
	tokens { accessToken } viewer { email } userErrors { code path }
} }`

func newcomer(nickname string) variables {
	return variables{
		"email": nickname + "@example.org", "nickname": nickname,
		"password": "the password of " + nickname,
	}
}

// with returns a copy of the input with one more or another value.
func (v variables) with(name string, value any) variables {
	more := variables{name: value}
	for name, value := range v {
		if _, ok := more[name]; !ok {
			more[name] = value
		}
	}
	return more
}

// TestRegistration checks who may register.
func TestRegistration(t *testing.T) {
	t.Parallel()
	closed := mustServe(t, "PARLEY_REGISTRATION=closed").anonymous()
	closed.wantRefused("FORBIDDEN", registerOnly, variables{"input": newcomer("ada")})

	invite := mustServe(t, "PARLEY_REGISTRATION=invite", "PARLEY_INVITATION_CODE=come in").
		anonymous()
	refused := func(code string) string {
		return fmt.Sprintf(
			`{"register": {"tokens": null, "viewer": null, "userErrors": [{"code": %q, "path": ["input", "invitationCode"]}]}}`, code)
	}
	invite.wants(refused("REQUIRED"), registerOnly, variables{"input": newcomer("ada")})
	invite.wants(refused("INVALID"), registerOnly,
		variables{"input": newcomer("ada").with("invitationCode", "COME IN")})
	invite.wants(`{"register": {"viewer": {"email": "ada@example.org"}, "userErrors": []}}`,
		`mutation ($input: RegisterInput!) { register(input: $input) { viewer { email } userErrors { code path } } }`,
		variables{"input": newcomer("ada").with("invitationCode", "come in")})
}

// TestConcealedEmails checks that registering looks the same for addresses with and without an
// account. Only the mails differ.
func TestConcealedEmails(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		mails := mustMail(t)
		srv := mustServe(t, on(databaseURL), mails.setting, "PARLEY_CONCEAL_EMAILS=true")
		const same = `{"register": {"tokens": null, "viewer": null, "userErrors": []}}`
		anonymous := srv.anonymous()
		anonymous.wants(same, registerOnly, variables{"input": newcomer("ada")})
		confirm := mails.next("ada@example.org", pleaseConfirm).link(t)
		anonymous.wants(same, registerOnly,
			variables{"input": newcomer("grace").with("email", "ADA@example.org")})
		mails.next("ada@example.org", haveOneAlready)

		ada := &person{server: srv, Email: "ada@example.org", Password: "the password of ada"}
		// Signing in would reveal the account too, so it needs the link first.
		anonymous.wants(
			`{"login": {"tokens": null, "userErrors": [{"code": "INVALID_CREDENTIALS"}]}}`,
			`mutation ($input: LoginInput!) { login(input: $input) { tokens { accessToken } userErrors { code } } }`,
			variables{"input": variables{"email": ada.Email, "password": ada.Password}})
		anonymous.wants(verified, verifyEmail, variables{"token": tokenOf(t, confirm)})
		ada = ada.loginAgain()
		ada.wantEmail("ada@example.org", true)
		// The second registration has created no account.
		ada.wants(`{"user": null}`, `{ user(nickname: "grace") { id } }`, nil)
	})
}

// TestVerifiedOnly checks that a user has to verify their address before they create a
// conversation, but not before they write in one.
func TestVerifiedOnly(t *testing.T) {
	t.Parallel()
	srv := mustServe(t, "PARLEY_REQUIRE_VERIFIED_EMAIL=true")
	ada := srv.register("ada")
	token := tokenOf(t, srv.nextLink())
	grace := srv.register("grace")
	const create = `mutation ($id: ID!) { createConversation(input: {members: [{userId: $id}]}) { conversation { id } userErrors { code } } }`
	ada.wantRefused("FORBIDDEN", create, variables{"id": grace.ID})
	ada.anonymous().wants(verified, verifyEmail, variables{"token": token})
	conversation := ada.converse(grace)
	grace.send(conversation, "I may answer.")
	grace.wantRefused("FORBIDDEN", create, variables{"id": ada.ID})
}

// forwarding adds the header of a proxy to requests.
type forwarding struct {
	http.RoundTripper
	forwardedFor string
}

func (p *forwarding) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", p.forwardedFor)
	return p.RoundTripper.RoundTrip(r)
}

// TestTrustedProxies checks which proxies the server trusts for the address of a client.
func TestTrustedProxies(t *testing.T) {
	t.Parallel()
	// The client has forged the first address.
	const header = "192.0.2.66, 203.0.113.9, 198.51.100.7"
	for setting, want := range map[string]string{
		"":                            "127.0.0.1",
		"198.51.100.0/24":             "127.0.0.1",
		"127.0.0.1":                   "198.51.100.7",
		"127.0.0.0/8,198.51.100.0/24": "203.0.113.9",
	} {
		var env []string
		if setting != "" {
			env = append(env, "PARLEY_TRUSTED_PROXIES="+setting)
		}
		srv := mustServe(t, env...)
		direct := srv.http.Transport
		srv.http.Transport = &forwarding{direct, header}
		ada := srv.register("ada")
		srv.http.Transport = direct
		var data struct {
			Viewer struct{ Sessions []struct{ IP string } }
		}
		if a := ada.ask(`{ viewer { sessions { ip } } }`, nil); json.Unmarshal(a.Data,
			&data) != nil || len(data.Viewer.Sessions) != 1 {
			t.Fatalf("the sessions are %s", a.Data)
		}
		if got := data.Viewer.Sessions[0].IP; got != want {
			t.Errorf("trusting %q, the address is %s, want %s", setting, got, want)
		}
	}
}

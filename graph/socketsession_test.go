package graph_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/auth"
	"parley/graph"
	"parley/store/storetest"
)

const refreshSession = `mutation($t: String!) { refreshSession(input: {refreshToken: $t}) {
	tokens { accessToken refreshToken expiresAt } userErrors { code message path } } }`

// result is the answer to a query or mutation over a socket.
func (o operation) result(t testing.TB) (a answer) {
	t.Helper()
	f := o.frame()
	if err := json.Unmarshal(f.Payload, &a); err != nil || f.Type != "next" {
		t.Fatalf("%+v (%v)", f, err)
	}
	if f := o.frame(); f.Type != "complete" {
		t.Fatalf("%+v", f)
	}
	return a
}

func TestRefreshingOverASocketKeepsItOpen(t *testing.T) {
	t.Parallel()
	const ttl = 10 * time.Second // long enough for a slow machine to dial, and to send a request
	s := mustServe(t, storetest.MustSQLite(t),
		func(_ *graph.Options, o *auth.Options) { o.AccessTTL = ttl })
	ann := s.mustRegister("ann")
	first := time.Now().Add(ttl)
	c := s.mustDial(ann.token, nil)

	var a answer
	var expires time.Time
	refresh := ann.refresh
	for !expires.After(first.Add(time.Second)) { // refreshed until it outlives the first token
		a = c.subscribe(refreshSession, map[string]any{"t": refresh}).result(t)
		refresh = a.str(t, "refreshSession.tokens.refreshToken")
		var err error
		if expires, err = time.Parse(time.RFC3339Nano,
			a.str(t, "refreshSession.tokens.expiresAt")); err != nil {
			t.Fatal(err)
		}
		if !expires.After(first.Add(time.Second)) {
			// tokens expire at full seconds: a later expiry needs a second to pass
			<-time.After(200 * time.Millisecond)
		}
	}
	code, reason := c.closed()
	if time.Now().Before(expires) || code != 4403 || !strings.Contains(reason, "expired") {
		t.Errorf("closed at %v with %d %q; the newest token expires at %v", time.Now(), code,
			reason, expires)
	}
}

// A token of another account changes nothing: neither the socket nor the token.
func TestRefreshingAnotherAccountOverASocket(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
	c := s.mustDial(ann.token, nil)
	a := c.subscribe(refreshSession, map[string]any{"t": bob.refresh}).result(t)
	if diff := cmp.Diff([]string{"FORBIDDEN"}, a.codes()); diff != "" {
		t.Error(diff)
	}
	if a := c.subscribe(`{ viewer { user { nickname } } }`, nil).
		result(t); a.str(t, "viewer.user.nickname") != "ann" {
		t.Errorf("the socket is %v's", a)
	}
	if a := s.do("", refreshSession, map[string]any{"t": bob.refresh}); len(a.codes()) > 0 {
		t.Errorf("the token was used up: %v", a)
	}
}

// A socket may move to another session of its account. Then it ends with that one.
func TestASocketMovesToTheSessionThatWasRefreshed(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	ann := s.mustRegister("ann")
	a := s.do("",
		`mutation { login(input: {email: "ann@example.org", password: "a password of ann"}) {
		tokens { accessToken refreshToken } userErrors { code } } }`, nil)
	second := person{
		token:   a.str(t, "login.tokens.accessToken"),
		refresh: a.str(t, "login.tokens.refreshToken"),
	}

	c := s.mustDial(ann.token, nil)
	c.subscribe(refreshSession, map[string]any{"t": second.refresh}).result(t)
	s.do(ann.token, `mutation { logout { userErrors { code } } }`, nil)
	if a := c.subscribe(`{ viewer { user { nickname } sessions { current } } }`, nil).
		result(t); len(a.at(t, "viewer.sessions").([]any)) != 1 {
		t.Errorf("after the first session ended: %v", a)
	}
	s.do(second.token, `mutation { logout { userErrors { code } } }`, nil)
	if code, _ := c.closed(); code != 4403 {
		t.Errorf("closed with %d", code)
	}
}

package graph_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"parley/auth"
	"parley/graph"
	"parley/store/storetest"
)

// way is a request.
type way struct {
	method, query string
	header        http.Header
	body          string
	status        int // if it is allowed
}

// ways are requests over each transport.
func ways() map[string]way {
	jsonBody := http.Header{"Content-Type": {"application/json"}}
	const asks = "?query=%7B__typename%7D"
	return map[string]way{
		"POST": {http.MethodPost, "", jsonBody, `{"query":"{__typename}"}`, 200},
		"GET":  {http.MethodGet, asks, nil, "", 200},
		"POST for events": {
			http.MethodPost, "",
			http.Header{"Content-Type": {"application/json"}, "Accept": {"text/event-stream"}},
			`{"query":"{__typename}"}`, 200,
		},
		"GET for events": {
			http.MethodGet, asks,
			http.Header{"Accept": {"text/event-stream"}},
			"",
			200,
		},
		"GET of a stream": {
			http.MethodGet, "?token=x",
			http.Header{"Accept": {"text/event-stream"}},
			"", 404,
		},
		"PUT":              {http.MethodPut, "", nil, "", 201},
		"DELETE":           {http.MethodDelete, "?operationId=1", http.Header{}, "", 404},
		"a WebSocket":      {http.MethodGet, "", handshake(), "", 101},
		"a half WebSocket": {http.MethodGet, asks, http.Header{"Upgrade": {"websocket"}}, "", 400},
	}
}

func handshake() http.Header {
	return http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-WebSocket-Version": {"13"},
		"Sec-WebSocket-Key":      {"dGhlIHNhbXBsZSBub25jZQ=="},
		"Sec-WebSocket-Protocol": {"graphql-transport-ws"},
	}
}

// ask sends a request with additional headers, and to a host; an empty one is the server's.
func (s *api) ask(c way, host string, header http.Header) (status int, cache string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), c.method, s.url+c.query,
		strings.NewReader(c.body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Host = host
	for _, from := range []http.Header{c.header, header} {
		maps.Copy(req.Header, from)
	}
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode, res.Header.Get("Cache-Control")
}

// TestPagesOfOtherOrigins has what a browser sends about the page that makes a request, and whether
// the request is answered, over every transport.
func TestPagesOfOtherOrigins(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t), func(o *graph.Options, _ *auth.Options) {
		o.AllowedOrigins = []string{
			"https://app.example.org", "https://Other.example.org:443", "http://localhost:*",
			"http://[::1]:*", "http://plain.example.org:80",
			"capacitor://localhost",
		}
		o.PublicURL = "https://chat.example.org:8443/"
	})
	for name, c := range map[string]struct {
		origin, site, host string
		allowed            bool
	}{
		"no browser": {"", "", "", true},
		"a listed page": {
			"https://app.example.org", "cross-site", "",
			true,
		},
		"with the default port": {
			"https://app.example.org:443", "cross-site",
			"", true,
		},
		"in capitals": {"HTTPS://APP.Example.ORG", "", "", true},
		"listed with the default port": {
			"https://other.example.org", "same-site", "",
			true,
		},
		"listed with the default port, of http": {"http://plain.example.org", "", "", true},
		"another port": {
			"https://app.example.org:8443", "same-site",
			"", false,
		},
		"another scheme": {
			"http://app.example.org", "cross-site", "",
			false,
		},
		"the default port of another scheme": {
			"https://app.example.org:80", "cross-site",
			"", false,
		},
		"a longer name": {
			"https://app.example.org.evil.net",
			"cross-site", "", false,
		},
		"a name and a password": {
			"https://app.example.org@evil.net",
			"cross-site", "", false,
		},
		"any port": {
			"http://localhost:5173", "same-site", "",
			true,
		},
		"any port, none":      {"http://localhost", "same-site", "", true},
		"any port, over IPv6": {"http://[::1]:5173", "cross-site", "", true},
		"any port of another scheme": {
			"https://localhost:5173", "same-site", "",
			false,
		},
		"a page in an app": {
			"capacitor://localhost", "cross-site", "",
			true,
		},
		"the public address": {
			"https://chat.example.org:8443",
			"same-origin", "10.0.0.7:8080", true,
		},
		"the public address with another port": {
			"https://chat.example.org", "same-origin",
			"10.0.0.7:8080", false,
		},
		"the host": {
			"https://parley.example.org", "same-origin",
			"Parley.example.org", true,
		},
		"the host, with the port of a proxy": {
			"https://parley.example.org", "same-origin",
			"parley.example.org:443", true,
		},
		"the host, with the port in the page's URL": {
			"http://parley.example.org:80", "same-origin",
			"parley.example.org", true,
		},
		"the host at another port": {
			"https://parley.example.org", "same-site",
			"parley.example.org:8080", false,
		},
		"a page without an origin": {"null", "cross-site", "", false},
		"nonsense":                 {"nonsense", "", "", false},

		"a page that hides where it is":            {"", "cross-site", "", false},
		"a page of the same site that hides":       {"", "same-site", "", false},
		"the own page, without Origin":             {"", "same-origin", "", true},
		"an address that was typed":                {"", "none", "", true},
		"a word that Fetch Metadata does not have": {"", "near-site", "", true},
		"an origin that is not allowed, and hidden": {
			"https://evil.example.org", "same-origin", "",
			false,
		},
	} {
		for transport, way := range ways() {
			header := http.Header{}
			for field, value := range map[string]string{
				"Origin":         c.origin,
				"Sec-Fetch-Site": c.site,
			} {
				if value != "" {
					header.Set(field, value)
				}
			}
			want := way.status
			// A page cannot send a body of JSON without a preflight.
			if !c.allowed && (c.origin != "" || way.header.Get("Content-Type") == "") {
				want = http.StatusForbidden
			}
			status, cache := s.ask(way, c.host, header)
			if status != want {
				t.Errorf("%s: %s: %d, want %d", name, transport, status, want)
			}
			if status != http.StatusSwitchingProtocols && status != http.StatusForbidden &&
				cache != "no-store" {
				t.Errorf("%s: %s: %d may be kept: %q", name, transport, status, cache)
			}
		}
	}
}

// A request that an image of a foreign page can make is refused. One that needs a preflight is
// answered.
func TestPreflightedHeaders(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t))
	for name, want := range map[string]int{
		"": 403, "Accept: image/avif,*/*": 403, "Accept-Language: en": 403,
		"Sec-Fetch-Dest: image": 403, "Sec-Fetch-Mode: navigate": 403,
		"Content-Type: text/plain": 403, "Apollo-Require-Preflight:": 403,
		"Apollo-Require-Preflight: true": 200, "X-Apollo-Operation-Name: Q": 200,
		"GraphQL-Require-Preflight: 1": 200,
		"GraphQL-Preflight: 1":         200, "X-Requested-With: XMLHttpRequest": 200,
		"Content-Type: application/json": 200,
	} {
		field, value, _ := strings.Cut(name, ":")
		header := http.Header{"Sec-Fetch-Site": {"cross-site"}}
		if field != "" {
			header.Set(field, strings.TrimSpace(value))
		}
		if status, _ := s.ask(ways()["GET"], "", header); status != want {
			t.Errorf("%s: %d, want %d", name, status, want)
		}
	}
	ann := s.mustRegister("ann")
	header := http.Header{"Sec-Fetch-Site": {"cross-site"}, "Authorization": bearer(ann.token)}
	if status, _ := s.ask(ways()["GET"], "", header); status != 200 {
		t.Errorf("with a token: %d", status)
	}
}

// "*" is every origin.
func TestEveryOrigin(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t), withOrigins("*"))
	for _, origin := range []string{"https://anything.example", "null", "chrome-extension://x"} {
		for transport, way := range ways() {
			if status, _ := s.ask(way, "", http.Header{"Origin": {origin}}); status != way.status {
				t.Errorf("%s: %s: %d", origin, transport, status)
			}
		}
	}
}

// A refused origin is in the log once, with the setting that would allow it, and cannot fill the
// log.
func TestRefusedOriginsAreLogged(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t),
		withOrigins("http://localhost:*", "https://app.example.org"))
	ask := func(origin string) {
		t.Helper()
		if status, _ := s.ask(ways()["GET"], "", http.Header{"Origin": {origin}}); status != 403 {
			t.Errorf("%s: %d", origin, status)
		}
	}
	for range 3 {
		ask("https://new.example.org")
		ask("HTTPS://New.example.org")
		ask("null")
	}
	const setting = `allow="PARLEY_ALLOWED_ORIGINS=` +
		`http://localhost:*,https://app.example.org,https://new.example.org"`
	if log := s.log.String(); strings.Count(log, setting) != 1 ||
		strings.Count(log, "origin=null") != 1 || strings.Count(log, "refused a page") != 2 {
		t.Error(log)
	}
	for i := range 200 {
		ask(fmt.Sprintf("https://%d.example.org", i))
	}
	ask("https://" + url.PathEscape(strings.Repeat("x", 10_000)))
	log := s.log.String()
	if n := strings.Count(log, "refused a page"); n != 100 {
		t.Errorf("%d refused origins are in the log", n)
	}
	if strings.Count(log, "no more refused origins are logged") != 1 || len(log) > 100_000 {
		t.Errorf("a log of %d bytes", len(log))
	}
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t), withOrigins("https://app.example.org",
		"http://localhost:*"))
	for origin, allowed := range map[string]bool{
		"": true, "https://app.example.org": true, "http://localhost:5173": true,
		"http://localhost": true, s.url: true,
		"http://app.example.org": false, "https://app.example.org.evil.net": false,
		"https://localhost:5173":    false,
		"http://localhost.evil.net": false, "null": false, "https://app.example.org:8443": false,
		"nonsense": false,
	} {
		header := http.Header{"Content-Type": {"application/json"}}
		if origin != "" {
			header.Set("Origin", origin)
		}
		status, body := s.post([]byte(`{"query":"{ __typename }"}`), header)
		if (status == 200) != allowed || !allowed && status != 403 {
			t.Errorf("%q: %d %s", origin, status, body)
		}
	}
	// The preflight.
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodOptions, s.url, nil)
	req.Header = http.Header{
		"Origin": {"https://app.example.org"}, "Access-Control-Request-Method": {"POST"},
		"Access-Control-Request-Headers": {"authorization,content-type"},
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got := res.Header.Get("Access-Control-Allow-Origin"); got != "https://app.example.org" {
		t.Errorf("allowed %q: %v", got, res.Header)
	}
	if got := res.Header.Get("Access-Control-Allow-Credentials"); got != "" {
		t.Errorf("cookies are not used, and nothing should be sent on their account: %v",
			res.Header)
	}
}

package graph

import (
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/rs/cors"

	"parley/errs"
	"parley/ratelimit"
	"parley/wire"
)

// origin is where a web page comes from (RFC 6454, section 4). The port is never empty: it may be
// the scheme's default.
type origin struct{ scheme, host, port string }

// parseOrigin reports false for "null", and for any other text that is not an origin with a host.
func parseOrigin(text string) (o origin, ok bool) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" ||
		u.Fragment != "" {
		return o, false
	}
	o = origin{strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()}
	if o.port == "" {
		o.port = map[string]string{"http": "80", "https": "443"}[o.scheme]
	}
	return o, true
}

const (
	everyOrigin = "*"
	everyPort   = "*"
)

// origins decides which web pages may use this server: its own, and those that the operator lists.
// A client that is not a browser sends no Origin, and is not checked.
type origins struct {
	settings []string // as in the setting
	every    bool
	allowed  []origin
	log      *slog.Logger

	mu      sync.Mutex // guards refused
	refused map[string]struct{}
}

// maxRefusedOrigins is how many refused origins are remembered, and so logged.
const maxRefusedOrigins = 100

// newOrigins allows the listed origins and that of the public address. A listed origin is exact,
// "https://app.example.org", or has any port, "http://localhost:*"; "*" is every origin.
func newOrigins(listed []string, publicURL string, log *slog.Logger) *origins {
	o := &origins{
		settings: listed, every: slices.Contains(listed, everyOrigin),
		log: log, refused: map[string]struct{}{},
	}
	for _, text := range listed {
		exact, anyPort := strings.CutSuffix(text, ":"+everyPort)
		if parsed, ok := parseOrigin(exact); ok {
			if anyPort {
				parsed.port = everyPort
			}
			o.allowed = append(o.allowed, parsed)
		}
	}
	if own, ok := parseOrigin(strings.TrimSuffix(publicURL, "/")); ok {
		o.allowed = append(o.allowed, own)
	}
	return o
}

// allow reports whether a page with this header Origin may send a request. The server's own pages
// are those of the public address, and those of the host that the request names, over http or
// https: a proxy may terminate TLS.
func (o *origins) allow(r *http.Request, text string) bool {
	if text == "" || o.every {
		return true
	}
	page, ok := parseOrigin(text)
	if ok {
		if own, ok := parseOrigin(page.scheme + "://" + r.Host); ok && own == page {
			return true
		}
		for _, allowed := range o.allowed {
			if allowed == page || allowed.port == everyPort && allowed.scheme == page.scheme &&
				allowed.host == page.host {
				return true
			}
		}
	}
	o.logRefused(strings.ToLower(text), ok)
	return false
}

// logRefused logs an origin once, with the setting that would allow it, unless only "*" would.
func (o *origins) logRefused(text string, listable bool) {
	const longest = 200
	if len(text) > longest {
		text, listable = text[:longest], false
	}
	o.mu.Lock()
	_, known := o.refused[text]
	full := len(o.refused) >= maxRefusedOrigins
	if !known && !full {
		o.refused[text] = struct{}{}
	}
	last := len(o.refused) == maxRefusedOrigins
	o.mu.Unlock()
	if known || full {
		return
	}
	setting := "no origin that could be listed"
	if listable {
		setting = "PARLEY_ALLOWED_ORIGINS=" +
			strings.Join(append(slices.Clone(o.settings), text), ",")
	}
	o.log.Warn("refused a page of an origin that is not allowed", "origin", text, "allow", setting)
	if last {
		o.log.Warn("no more refused origins are logged", "logged", maxRefusedOrigins)
	}
}

// preflighted are headers that a page of another origin can send only after a preflight (Fetch,
// "CORS non-safelisted request-header name"): those of this server, and those that GraphQL clients
// send for this purpose.
//
//nolint:gochecknoglobals // a constant table
var preflighted = []string{
	"Authorization", "X-GraphQL-Event-Stream-Token",
	"GraphQL-Require-Preflight", "GraphQL-Preflight", "Apollo-Require-Preflight",
	"X-Apollo-Operation-Name", "X-Requested-With",
}

// embedded reports whether a page of another origin made the browser send this request without a
// preflight, by an image, a script or a link (Fetch Metadata Request Headers, W3C). An origin of
// the same site counts as another one: it may belong to someone else.
func embedded(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	if site != "cross-site" && site != "same-site" || r.Header.Get("Origin") != "" {
		return false
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && media == "application/json" {
		return false // it needs a preflight, too
	}
	return !slices.ContainsFunc(preflighted,
		func(name string) bool { return r.Header.Get(name) != "" })
}

// guard refuses requests of pages of other origins, and answers the preflights of allowed ones
// (CORS).
func (o *origins) guard(next http.Handler) http.Handler {
	answers := cors.New(cors.Options{
		AllowOriginVaryRequestFunc: func(r *http.Request, origin string) (bool, []string) {
			return o.allow(r, origin), nil
		},
		AllowedMethods: []string{
			http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete,
		},
		AllowedHeaders: []string{"*"}, // clients name themselves in headers of their own
		ExposedHeaders: []string{
			ratelimit.HeaderLimit, ratelimit.HeaderPolicy, ratelimit.HeaderRetryAfter,
		},
		MaxAge: 600,
	})
	return answers.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !o.allow(r, r.Header.Get("Origin")):
			wire.WriteError(w, r, http.StatusForbidden, errs.New(errs.Forbidden,
				"Pages of this origin may not use this server. "+
					"Its operator can allow them with PARLEY_ALLOWED_ORIGINS."))
		case embedded(r):
			wire.WriteError(w, r, http.StatusForbidden, errs.New(errs.Forbidden,
				"A link, an image or a script of another page cannot use this server. "+
					"Send the header GraphQL-Require-Preflight."))
		default:
			next.ServeHTTP(w, r)
		}
	}))
}

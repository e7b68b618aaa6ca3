package graph

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/rs/cors"

	"parley/errs"
	"parley/ratelimit"
	"parley/wire"
)

// proxies are the networks whose word is taken for where a request came from.
type proxies []netip.Prefix

func (p proxies) trusted(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(network netip.Prefix) bool { return network.Contains(addr) })
}

// clientIP is the address that a request came from: the peer's or, where the peer is a trusted proxy, the last one in
// X-Forwarded-For that is not. What anybody else writes there is ignored.
func (p proxies) clientIP(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	addr := peer.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && p.trusted(addr); i-- {
		text := strings.TrimSpace(hops[i])
		hop, err := netip.ParseAddr(text)
		if withPort, errPort := netip.ParseAddrPort(text); errPort == nil {
			hop, err = withPort.Addr(), nil
		}
		if err != nil {
			break
		}
		addr = hop.Unmap()
	}
	return addr.String()
}

// origins decides which web pages may talk to this server: its own, and those that the operator lists. What is no browser
// sends no Origin, and is not asked.
type origins []string

// allow checks the header Origin. A listed origin is exact, "https://app.example.org", or has any port,
// "http://localhost:*"; "*" is everybody.
func (o origins) allow(r *http.Request, origin string) bool {
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	if strings.EqualFold(u.Host, r.Host) {
		return true
	}
	for _, listed := range o {
		if listed == "*" || strings.EqualFold(listed, origin) {
			return true
		}
		if anyPort, ok := strings.CutSuffix(listed, ":*"); ok && strings.EqualFold(anyPort, u.Scheme+"://"+u.Hostname()) {
			return true
		}
	}
	return false
}

// guard refuses pages of other origins, and answers the browsers' questions before requests of the allowed ones (CORS).
func (o origins) guard(next http.Handler) http.Handler {
	answers := cors.New(cors.Options{
		AllowOriginVaryRequestFunc: func(r *http.Request, origin string) (bool, []string) { return o.allow(r, origin), nil },
		AllowedMethods:             []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete},
		AllowedHeaders:             []string{"*"}, // clients name themselves in headers of their own
		ExposedHeaders:             []string{ratelimit.HeaderLimit, ratelimit.HeaderPolicy, ratelimit.HeaderRetryAfter},
		MaxAge:                     600,
	})
	return answers.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !o.allow(r, r.Header.Get("Origin")) {
			wire.WriteError(w, http.StatusForbidden, errs.New(errs.Forbidden, "Pages of this origin may not use this server."))
			return
		}
		next.ServeHTTP(w, r)
	}))
}

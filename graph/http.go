package graph

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/rs/cors"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/errs"
)

// bodyTimeout is for a request to arrive whole.
const bodyTimeout = 15 * time.Second

// writeError answers a request that does not get as far as GraphQL.
func writeError(w http.ResponseWriter, status int, e *errs.Error) {
	body, err := json.Marshal(&graphql.Response{
		Errors: gqlerror.List{{Message: e.Message, Extensions: withCode(string(e.Code), nil)}},
	})
	if err != nil {
		panic(err) // two strings always marshal
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// readWhole takes in the body of a POST, up to the limit and within the time, and refuses what is not a GraphQL request in
// JSON, with words of our own instead of the decoder's.
func readWhole(limit int64, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet: // also the beginning of a WebSocket
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), queriesOnlyKey{}, true)))
			return
		case http.MethodPost:
		default:
			w.Header().Set("Allow", "GET, POST")
			writeError(w, http.StatusMethodNotAllowed, errs.New(errs.BadUserInput, "Use POST, GET, or a WebSocket."))
			return
		}
		if !isJSON(r) {
			writeError(w, http.StatusUnsupportedMediaType, errs.New(errs.BadUserInput, "The Content-Type has to be application/json."))
			return
		}
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Now().Add(bodyTimeout))
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
		_ = control.SetReadDeadline(time.Time{}) // it would end a server-sent stream
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			writeError(w, http.StatusRequestEntityTooLarge, errs.New(errs.BadUserInput, "The request is larger than %d bytes.", limit))
			return
		}
		if err != nil {
			writeError(w, http.StatusRequestTimeout, errs.New(errs.BadUserInput, "The request did not arrive whole."))
			return
		}
		if problem := checkRequest(body); problem != nil {
			writeError(w, http.StatusBadRequest, problem)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// queriesOnlyKey marks what came with a GET.
type queriesOnlyKey struct{}

func checkRequest(body []byte) *errs.Error {
	var request struct {
		Query         string         `json:"query"`
		OperationName *string        `json:"operationName"`
		Variables     map[string]any `json:"variables"`
		Extensions    map[string]any `json:"extensions"`
	}
	err := json.Unmarshal(body, &request)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		switch wrong.Field {
		case "":
			return errs.New(errs.BadUserInput, "The request has to be one JSON object, not %s: operations are not batched.", wrong.Value)
		case "query", "operationName":
			return errs.New(errs.BadUserInput, "%q has to be a JSON string, not %s.", wrong.Field, wrong.Value)
		}
		return errs.New(errs.BadUserInput, "%q has to be a JSON object, not %s.", wrong.Field, wrong.Value)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return errs.New(errs.BadUserInput, "The request is not valid JSON, from byte %d on.", syntax.Offset)
	}
	if err != nil {
		return errs.New(errs.BadUserInput, "The request is not valid JSON.")
	}
	if request.Query == "" {
		return errs.New(errs.BadUserInput, "The request has no query.")
	}
	return nil
}

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
		AllowedMethods:             []string{http.MethodGet, http.MethodPost},
		AllowedHeaders:             []string{"*"}, // clients name themselves in headers of their own
		MaxAge:                     600,
	})
	return answers.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !o.allow(r, r.Header.Get("Origin")) {
			writeError(w, http.StatusForbidden, errs.New(errs.Forbidden, "Pages of this origin may not use this server."))
			return
		}
		next.ServeHTTP(w, r)
	}))
}

package wire

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/errs"
)

// Media types of answers (GraphQL over HTTP, section 4.2).
const (
	graphqlJSON = "application/graphql-response+json"
	legacyJSON  = "application/json" // whose status is 200 for every request that is well formed
	eventStream = "text/event-stream"
)

// negotiate chooses the media type of the answer; empty when there is none that the client takes. Server-sent events have to
// be asked for, without JSON beside them: some clients list every type they know with ordinary requests.
func negotiate(h http.Header) string {
	type weight struct {
		q        float64
		specific int // 3 the type itself, 2 its family, 1 anything
	}
	best := map[string]weight{}
	ranges := listed(h, "Accept")
	for _, text := range ranges {
		media, parameters, err := mime.ParseMediaType(text)
		if err != nil || !isUTF8(parameters) {
			continue
		}
		q := 1.0
		if given, ok := parameters["q"]; ok {
			if q, err = strconv.ParseFloat(given, 64); err != nil {
				continue
			}
		}
		specific := 3
		var types []string
		switch media {
		case graphqlJSON, legacyJSON, eventStream:
			types = []string{media}
		case "application/*":
			specific, types = 2, []string{graphqlJSON, legacyJSON}
		case "*/*":
			specific, types = 1, []string{graphqlJSON, legacyJSON}
		}
		for _, t := range types {
			if specific > best[t].specific {
				best[t] = weight{q, specific}
			}
		}
	}
	modern, legacy, events := best[graphqlJSON], best[legacyJSON], best[eventStream]
	switch {
	case len(ranges) == 0:
		return legacyJSON
	case events.q > 0 && modern.specific < 3 && legacy.specific < 3:
		return eventStream
	case modern.q > legacy.q || modern.q == legacy.q && modern.specific == 3 && modern.q > 0:
		return graphqlJSON
	case legacy.q > 0:
		return legacyJSON
	}
	return ""
}

func isUTF8(parameters map[string]string) bool {
	charset, given := parameters["charset"]
	return !given || strings.EqualFold(charset, "utf-8")
}

// problem is a request that does not get as far as GraphQL.
type problem struct {
	status int
	err    *errs.Error
}

func (p *problem) write(w http.ResponseWriter) { WriteError(w, p.status, p.err) }

func badRequest(format string, args ...any) *problem {
	return &problem{http.StatusBadRequest, errs.New(errs.BadUserInput, format, args...)}
}

// readParams reads the operation of a request, whose body has to be JSON: a form on a foreign page can send anything else
// without being asked.
func (s *Server) readParams(w http.ResponseWriter, r *http.Request) (*params, *problem) {
	if r.Method == http.MethodGet {
		return readQuery(r.URL.RawQuery)
	}
	media, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != legacyJSON || !isUTF8(parameters) {
		return nil, &problem{
			http.StatusUnsupportedMediaType,
			errs.New(errs.BadUserInput, "The Content-Type has to be application/json, in UTF-8."),
		}
	}
	body, unread := s.readBody(w, r)
	if unread != nil {
		return nil, unread
	}
	if !utf8.Valid(body) {
		return nil, badRequest("The request is not UTF-8.")
	}
	p, err := parseParams(body)
	if err != nil {
		return nil, badRequest("%s", why(err))
	}
	return p, nil
}

// boundBody has what comes with a request be there in time, also where nobody reads it: before net/http answers, it takes in
// what is left.
func (s *Server) boundBody(w http.ResponseWriter, r *http.Request) {
	if r.Body != http.NoBody {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.opts.MessageTimeout))
	}
}

// readBody takes in a body, up to the limit. Where it does not come whole, its time stays over: nothing more is waited for.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *problem) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(s.opts.MaxMessage)))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, &problem{
			http.StatusRequestEntityTooLarge,
			errs.New(errs.BadUserInput, "The request is larger than %d bytes.", s.opts.MaxMessage),
		}
	}
	if err != nil {
		return nil, &problem{http.StatusRequestTimeout, errs.New(errs.BadUserInput, "The request did not arrive whole.")}
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // it would end a server-sent stream
	return body, nil
}

// readQuery reads the operation of a GET, in which objects are JSON too.
func readQuery(raw string) (*params, *problem) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, badRequest("The URL's query is not valid.")
	}
	p := new(params)
	p.Query, p.OperationName, p.documentID = values.Get("query"), values.Get("operationName"), values.Get("documentId")
	for name, to := range map[string]*map[string]any{"variables": &p.Variables, "extensions": &p.Extensions} {
		v := []byte(strings.TrimSpace(values.Get(name)))
		if !isNull(v) && (!json.Valid(v) || !isObject(v, to)) {
			return nil, badRequest("%q has to be a JSON object.", name)
		}
	}
	if p.empty() {
		return nil, badRequest("The request has no query.")
	}
	return p, nil
}

func isInternal(e *gqlerror.Error) bool { return e.Extensions["code"] == string(errs.Internal) }

// refuse answers an operation that did not begin. Of the legacy type clients expect 200 for whatever was well formed.
func refuse(w http.ResponseWriter, media string, list gqlerror.List) {
	status := http.StatusBadRequest
	switch {
	case slices.ContainsFunc(list, isInternal):
		status = http.StatusInternalServerError
	case media == legacyJSON:
		status = http.StatusOK
	}
	write(w, status, media, encodeErrors(list))
}

func write(w http.ResponseWriter, status int, media string, body []byte) {
	w.Header().Set("Content-Type", media+"; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// WriteError answers a request with an error in the form of GraphQL.
func WriteError(w http.ResponseWriter, status int, e *errs.Error) {
	write(w, status, legacyJSON, encodeErrors(gqlerror.List{errorOf(e)}))
}

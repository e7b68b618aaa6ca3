package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
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

// negotiate chooses the media type of the answer; empty when there is none that the client takes.
// Server-sent events have to be asked for, without JSON beside them: some clients list every type
// they know with ordinary requests.
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
	status  int
	err     *errs.Error
	accepts [2]string // a header that says what would be accepted, and its value; empty without one
}

func (p *problem) write(w http.ResponseWriter, r *http.Request) {
	if name := p.accepts[0]; name != "" {
		w.Header().Set(name, p.accepts[1])
	}
	WriteError(w, r, p.status, p.err)
}

func badRequest(format string, args ...any) *problem {
	return &problem{status: http.StatusBadRequest, err: errs.New(errs.BadUserInput, format, args...)}
}

// unsupported is 415, with the header by which RFC 9110 (section 15.5.16) has the answer say what
// is supported.
func unsupported(header, value, format string, args ...any) *problem {
	return &problem{http.StatusUnsupportedMediaType, errs.New(errs.BadUserInput, format, args...), [2]string{header, value}}
}

// readParams reads the operation of a request, whose body has to be JSON: a form on a foreign page
// can send anything else without being asked.
func (s *Server) readParams(w http.ResponseWriter, r *http.Request, query url.Values) (*params, *problem) {
	if r.Method == http.MethodGet {
		return readQuery(query)
	}
	media, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != legacyJSON || !isUTF8(parameters) {
		return nil, unsupported("Accept", legacyJSON, "The Content-Type has to be application/json, in UTF-8.")
	}
	for _, coding := range listed(r.Header, "Content-Encoding") {
		if coding != "" && !strings.EqualFold(coding, "identity") {
			return nil, unsupported("Accept-Encoding", "identity", "The body has to come as it is, not in the coding %.40q.", coding)
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

// boundBody has what comes with a request be there in time, also where nobody reads it: before
// net/http answers, it takes in what is left.
func (s *Server) boundBody(w http.ResponseWriter, r *http.Request) {
	if r.Body != http.NoBody {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.opts.MessageTimeout))
	}
}

// readBody takes in a body, up to the limit. Where it does not come whole, its time stays over:
// nothing more is waited for.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *problem) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(s.opts.MaxMessage)))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, &problem{
			status: http.StatusRequestEntityTooLarge,
			err:    errs.New(errs.BadUserInput, "The request is larger than %d bytes.", s.opts.MaxMessage),
		}
	}
	if err != nil {
		return nil, &problem{
			status: http.StatusRequestTimeout, err: errs.New(errs.BadUserInput, "The request did not arrive whole."),
		}
	}
	// it would end a server-sent stream
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	return body, nil
}

// parameters reads the query of the URL. Those that have a meaning here stand there once.
func parameters(raw string) (url.Values, *problem) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, badRequest("The URL's query is not valid.")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !utf8.ValidString(name) {
			return nil, badRequest("The URL has a parameter whose name is not UTF-8.")
		}
		if slices.ContainsFunc(values[name], func(v string) bool { return !utf8.ValidString(v) }) {
			return nil, badRequest("The parameter %.40q in the URL is not UTF-8.", name)
		}
		switch name {
		case "query", "operationName", "variables", "extensions", "documentId", "operationId", "token":
			if len(values[name]) > 1 {
				return nil, badRequest("The parameter %q is in the URL more than once.", name)
			}
		}
	}
	return values, nil
}

// readQuery reads the operation of a GET, in which objects are JSON too.
func readQuery(values url.Values) (*params, *problem) {
	p := new(params)
	p.Query, p.OperationName, p.documentID = values.Get("query"), values.Get("operationName"), values.Get("documentId")
	for _, object := range []struct {
		name string
		to   *map[string]any
	}{{"variables", &p.Variables}, {"extensions", &p.Extensions}} {
		v := []byte(strings.TrimSpace(values.Get(object.name)))
		if bytes.HasPrefix(v, []byte(byteOrderMark)) {
			return nil, badRequest("%q is not valid: %s", object.name, why(errByteOrderMark()))
		}
		if isNull(v) {
			continue
		}
		if err := checkDepth(v); err != nil {
			return nil, badRequest("%q is not valid: %s", object.name, why(err))
		}
		if !json.Valid(v) || !isObject(v, object.to) {
			return nil, badRequest("%q has to be a JSON object.", object.name)
		}
		if err := checkJSON(v, object.name); err != nil {
			return nil, badRequest("%q is not valid: %s", object.name, why(err))
		}
	}
	if p.empty() {
		return nil, badRequest("The request has no query.")
	}
	return p, nil
}

func isInternal(e *gqlerror.Error) bool { return e.Extensions["code"] == string(errs.Internal) }

// refuse answers an operation that did not begin. Of the legacy type clients expect 200 for
// whatever was well formed.
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

// WriteError answers a request with an error in the form of GraphQL. Its media type is graphqlJSON
// if the request accepts that, and legacyJSON otherwise, even if the request accepts neither: RFC
// 9110 (section 15.5.7) leaves to the server how it says so.
func WriteError(w http.ResponseWriter, r *http.Request, status int, e *errs.Error) {
	media := legacyJSON
	if negotiate(r.Header) == graphqlJSON {
		media = graphqlJSON
	}
	write(w, status, media, encodeErrors(gqlerror.List{errorOf(e)}))
}

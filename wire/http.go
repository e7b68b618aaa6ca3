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
	legacyJSON  = "application/json" // the status is 200 for every well-formed request
	eventStream = "text/event-stream"
)

// specificity says how precisely a media range names a type. The most specific range decides (RFC
// 9110, section 12.5.1).
type specificity int

const (
	anyType    specificity = iota + 1 // */*
	anySubtype                        // application/*
	exactType                         // application/json
)

// negotiate chooses the media type of the answer; "" if the client accepts none of ours.
// Server-sent events are chosen only if the client accepts no JSON type by name, because some
// clients list every type that they know.
func negotiate(h http.Header) string {
	type weight struct {
		q        float64
		specific specificity
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
		specific := exactType
		var types []string
		switch media {
		case graphqlJSON, legacyJSON, eventStream:
			types = []string{media}
		case "application/*":
			specific, types = anySubtype, []string{graphqlJSON, legacyJSON}
		case "*/*":
			specific, types = anyType, []string{graphqlJSON, legacyJSON}
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
	case events.q > 0 && modern.specific < exactType && legacy.specific < exactType:
		return eventStream
	case modern.q > legacy.q || modern.q == legacy.q && modern.specific == exactType &&
		modern.q > 0:
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

// problem is the answer to a request that is refused before its operation is read.
type problem struct {
	status int
	err    *errs.Error

	header, value string // a header of the answer, if any
}

func (p *problem) write(w http.ResponseWriter, r *http.Request) {
	if p.header != "" {
		w.Header().Set(p.header, p.value)
	}
	WriteError(w, r, p.status, p.err)
}

func badRequest(format string, args ...any) *problem {
	err := errs.New(errs.BadUserInput, format, args...)
	return &problem{status: http.StatusBadRequest, err: err}
}

// unsupported returns a problem with the status 415, and with the header that names the supported
// value (RFC 9110, section 15.5.16).
func unsupported(header, value, format string, args ...any) *problem {
	err := errs.New(errs.BadUserInput, format, args...)
	return &problem{http.StatusUnsupportedMediaType, err, header, value}
}

// readParams reads the operation of a request. The body has to be JSON, because a form on another
// site can send other types without a preflight request.
func (s *Server) readParams(
	w http.ResponseWriter, r *http.Request, query url.Values,
) (*params, *problem) {
	if r.Method == http.MethodGet {
		return readQuery(query)
	}
	media, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != legacyJSON || !isUTF8(parameters) {
		return nil, unsupported("Accept", legacyJSON,
			"The Content-Type has to be application/json, in UTF-8.")
	}
	for _, coding := range listed(r.Header, "Content-Encoding") {
		if coding != "" && !strings.EqualFold(coding, "identity") {
			return nil, unsupported("Accept-Encoding", "identity",
				"The body has to come as it is, not in the coding %.40q.", coding)
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
		return nil, badRequest("%s", clientMessage(err))
	}
	return p, nil
}

// limitBodyTime sets the time for the body of a request. This includes bodies that no handler
// reads, because net/http reads the rest before it answers.
func (s *Server) limitBodyTime(w http.ResponseWriter, r *http.Request) {
	if r.Body != http.NoBody {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.opts.MessageTimeout))
	}
}

// readBody reads a body, up to Options.MaxMessage. If the body is late, the read deadline stays in
// the past, so that nothing waits for the rest.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *problem) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(s.opts.MaxMessage)))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, &problem{
			status: http.StatusRequestEntityTooLarge,
			err: errs.New(errs.BadUserInput, "The request is larger than %d bytes.",
				s.opts.MaxMessage),
		}
	}
	if err != nil {
		return nil, &problem{
			status: http.StatusRequestTimeout,
			err:    errs.New(errs.BadUserInput, "The request did not arrive whole."),
		}
	}
	// The deadline would end a server-sent stream.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	return body, nil
}

// parameters parses the query of the URL. It refuses parameters of ours that occur twice.
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
		case "query", "operationName", "variables", "extensions", "documentId", "operationId",
			"token":
			if len(values[name]) > 1 {
				return nil, badRequest("The parameter %q is in the URL more than once.", name)
			}
		}
	}
	return values, nil
}

// readQuery reads the operation of a GET. Objects in the query of the URL are JSON.
func readQuery(values url.Values) (*params, *problem) {
	p := new(params)
	p.Query, p.documentID = values.Get("query"), values.Get("documentId")
	p.OperationName = values.Get("operationName")
	for _, object := range []struct {
		name string
		to   *map[string]any
	}{{"variables", &p.Variables}, {"extensions", &p.Extensions}} {
		v := []byte(strings.TrimSpace(values.Get(object.name)))
		if bytes.HasPrefix(v, []byte(byteOrderMark)) {
			return nil, badRequest("%q is not valid: %s", object.name,
				clientMessage(errByteOrderMark()))
		}
		if isNull(v) {
			continue
		}
		if err := checkDepth(v); err != nil {
			return nil, badRequest("%q is not valid: %s", object.name, clientMessage(err))
		}
		if !json.Valid(v) || !isObject(v, object.to) {
			return nil, badRequest("%q has to be a JSON object.", object.name)
		}
		if err := checkJSON(v, object.name); err != nil {
			return nil, badRequest("%q is not valid: %s", object.name, clientMessage(err))
		}
	}
	if p.empty() {
		return nil, badRequest("The request has no query.")
	}
	return p, nil
}

func isInternal(e *gqlerror.Error) bool { return e.Extensions["code"] == string(errs.Internal) }

// refuse answers an operation that did not start. With the legacy type, clients expect 200 for
// every well-formed request.
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
// 9110 (section 15.5.7) allows that.
func WriteError(w http.ResponseWriter, r *http.Request, status int, e *errs.Error) {
	media := legacyJSON
	if negotiate(r.Header) == graphqlJSON {
		media = graphqlJSON
	}
	write(w, status, media, encodeErrors(gqlerror.List{errorOf(e)}))
}

package wire

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestHTTP has a rule of GraphQL over HTTP in each row. The audits of npm's graphql-http are in
// e2e.
func TestHTTP(t *testing.T) {
	t.Parallel()
	f := mustServe(t, func(o *Options) { o.MaxMessage = 1000 })
	const (
		ok     = `{"data":{"name":"parley"}}`
		query  = `{"query":"{ name }"}`
		post   = http.MethodPost
		get    = http.MethodGet
		modern = graphqlJSON
	)
	in := func(s string) string { return "?query=" + url.QueryEscape(s) }
	for name, c := range map[string]struct {
		method, url, contentType, accept, body string
		status                                 int
		media, says                            string
	}{
		"no accept":    {post, "", legacyJSON, "", query, 200, legacyJSON, ok},
		"anything":     {post, "", legacyJSON, "*/*", query, 200, legacyJSON, ok},
		"the new type": {post, "", legacyJSON, modern, query, 200, modern, ok},
		"the legacy type": {
			post, "", legacyJSON, legacyJSON, query, 200, legacyJSON,
			ok,
		},
		"both": {
			post, "", legacyJSON, modern + ", " + legacyJSON, query,
			200, modern, ok,
		},
		"both, legacy rather": {
			post, "", legacyJSON, modern + ";q=0.5, " + legacyJSON,
			query, 200, legacyJSON, ok,
		},
		"the new one is not wanted": {
			post, "", legacyJSON, modern + ";q=0, */*", query, 200,
			legacyJSON, ok,
		},
		"JSON and events": {
			post, "", legacyJSON, "text/event-stream, " + legacyJSON,
			query, 200, legacyJSON, ok,
		},
		"in UTF-8": {
			post, "", legacyJSON + "; charset=UTF-8",
			modern + "; charset=utf-8", query, 200, modern, ok,
		},
		"in Latin-1": {
			post, "", legacyJSON + "; charset=iso-8859-1", "", query,
			415, legacyJSON, "UTF-8",
		},
		"asked for in Latin-1": {
			post, "", legacyJSON, legacyJSON + "; charset=iso-8859-1",
			query, 406, legacyJSON, "can be",
		},
		"HTML": {
			post, "", legacyJSON, "text/html", query, 406, legacyJSON,
			"can be",
		},
		"nothing is wanted": {
			post, "", legacyJSON, "*/*;q=0", query, 406, legacyJSON,
			"can be",
		},
		"PATCH": {
			"PATCH", "", legacyJSON, "", query, 405, legacyJSON,
			"Use POST",
		},
		"a form": {
			post, "", "application/x-www-form-urlencoded", "",
			"query={name}", 415, legacyJSON, "application/json",
		},
		"a file": {
			post, "", "multipart/form-data; boundary=x", "", "--x--",
			415, legacyJSON, "application/json",
		},
		"plain text": {
			post, "", "text/plain", "", query, 415, legacyJSON,
			"application/json",
		},
		"no type": {
			post, "", "", "", query, 415, legacyJSON,
			"application/json",
		},
		"invalid UTF-8": {
			post, "", legacyJSON, "",
			"{\"query\":\"{ name }\",\"x\":\"\xff\"}", 400, legacyJSON, "not UTF-8",
		},
		"too large": {
			post, "", legacyJSON, "", strings.Repeat(" ", 1001), 413,
			legacyJSON, "larger than 1000",
		},
		"names in other case": {
			post, "", legacyJSON, "", `{"Query":"{ name }"}`, 400,
			legacyJSON, "no query",
		},
		"does not parse": {
			post, "", legacyJSON, modern, `{"query":"{"}`, 400, modern,
			`"errors"`,
		},
		"does not parse, legacy": {
			post, "", legacyJSON, legacyJSON, `{"query":"{"}`, 200,
			legacyJSON, `"errors"`,
		},
		"does not validate": {
			post, "", legacyJSON, modern, `{"query":"{ x }"}`, 400,
			modern, `"errors"`,
		},
		"no such operation": {
			post, "", legacyJSON, modern,
			`{"query":"query A { name }","operationName":"B"}`, 400, modern, `"errors"`,
		},
		"a missing variable": {
			post, "", legacyJSON, modern,
			`{"query":"mutation($t: String!) { rename(to: $t) }"}`, 400, modern, `"errors"`,
		},
		"a field that fails": {
			post, "", legacyJSON, modern, `{"query":"{ broken }"}`,
			200, modern, `"data":{"broken":null}`,
		},
		"GET": {get, in("{ name }"), "", modern, "", 200, modern, ok},
		"GET with variables": {get, in("query($x: Boolean!) { name @include(if: $x) }") +
			"&variables=" + url.QueryEscape(`{"x": true}`), "", "", "", 200, legacyJSON, ok},
		"GET with bad variables": {
			get, in("{ name }") + "&variables=x", "", "", "", 400,
			legacyJSON, `\"variables\"`,
		},
		"GET with blank variables": {
			get, in("{ name }") + "&variables=%20&extensions=%20null",
			"", "", "", 200, legacyJSON, ok,
		},
		"GET with two variables": {get, in("{ name }") + "&variables=" +
			url.QueryEscape(`{} {}`), "", "", "", 400, legacyJSON, `\"variables\"`},
		"GET with bad extensions": {
			get, in("{ name }") + "&extensions=[]", "", "", "", 400,
			legacyJSON, `\"extensions\"`,
		},
		"GET with nothing": {get, "", "", "", "", 400, legacyJSON, "no query"},
		"GET with bytes for a query": {
			get, "?query=%7Bname%7D%23%ff", "", "", "", 400,
			legacyJSON, `\"query\" in the URL is not UTF-8`,
		},
		"GET with bytes for a name": {
			get, "?query=%7Bname%7D&%ff=1", "", "", "", 400,
			legacyJSON, "whose name is not UTF-8",
		},
		"GET with other bytes": {
			get, in("{ name }") + "&lang=%ff", "", "", "", 400,
			legacyJSON, `\"lang\" in the URL is not UTF-8`,
		},
		"GET with two queries": {
			get, in("{ name }") + "&query=%7Bbroken%7D", "", "", "",
			400, legacyJSON, `\"query\" is in the URL more than once`,
		},
		"GET with another twice": {
			get, in("{ name }") + "&lang=en&lang=de", "", "", "", 200,
			legacyJSON, ok,
		},
		"POST with a broken URL": {
			post, "?token=%ff", legacyJSON, "", query, 400, legacyJSON,
			"not UTF-8",
		},
		"gzip": {
			post, "", legacyJSON + "|gzip", "", query, 415, legacyJSON,
			`not in the coding \"gzip\"`,
		},
		"gzip and more": {
			post, "", legacyJSON + "|identity, br", "", query, 415,
			legacyJSON, `not in the coding \"br\"`,
		},
		"no coding": {
			post, "", legacyJSON + "|identity", "", query, 200,
			legacyJSON, ok,
		},
		"GET with a broken URL": {get, "?query=%zz", "", "", "", 400, legacyJSON, "URL"},
		"a mutation with GET": {
			get, in("mutation { rename }"), "", modern, "", 405,
			modern, "POST",
		},
		"a mutation with GET, legacy": {
			get, in("mutation { rename }"), "", "", "", 405,
			legacyJSON, "POST",
		},
		"a mutation with POST": {
			post, "", legacyJSON, modern,
			`{"query":"mutation { rename }"}`, 200, modern, `"rename"`,
		},
		"a subscription": {
			post, "", legacyJSON, modern,
			`{"query":"subscription { silence }"}`, 400, modern, "WebSocket",
		},
		"a subscription, legacy": {
			post, "", legacyJSON, legacyJSON,
			`{"query":"subscription { silence }"}`, 200, legacyJSON, "WebSocket",
		},
		"a panic before it begins": {
			post, "", legacyJSON, "",
			`{"query":"query unprepared { name }","operationName":"unprepared"}`, 500, legacyJSON,
			"INTERNAL_SERVER_ERROR",
		},
		"a subscription that panics": {
			post, "", legacyJSON, modern,
			`{"query":"subscription { panics }"}`, 400, modern, "WebSocket",
		},
		"the body of another language": {
			post, "", legacyJSON, "", `<query/>`, 400, legacyJSON,
			"not valid JSON, from byte 1",
		},

		"PATCH, the new type": {
			"PATCH", "", legacyJSON, modern, query, 405, modern,
			"Use POST",
		},
		"a form, the new type": {
			post, "", "application/x-www-form-urlencoded", modern,
			"query={name}", 415, modern, "application/json",
		},
		"gzip, the new type": {
			post, "", legacyJSON + "|gzip", modern, query, 415, modern,
			`not in the coding`,
		},
		"too large, the new type": {
			post, "", legacyJSON, modern, strings.Repeat(" ", 1001),
			413, modern, "larger than 1000",
		},
		"not JSON, the new type": {
			post, "", legacyJSON, modern, "x", 400, modern,
			"not valid JSON",
		},
		"a batch, the new type": {
			post, "", legacyJSON, modern, "[]", 400, modern,
			"not batched",
		},
		"a number, the new type": {
			post, "", legacyJSON, modern, `{"query":5}`, 400, modern,
			`\"query\" has to be`,
		},
		"a byte order mark": {
			post, "", legacyJSON, modern, byteOrderMark + query, 400,
			modern, "byte order mark",
		},
		"half a pair": {
			post, "", legacyJSON, modern, `{"query":"\ud800"}`, 400,
			modern, "half of a surrogate pair",
		},
		"a name twice": {
			post, "", legacyJSON, modern, `{"query":"","query":""}`,
			400, modern, "there twice",
		},
		"not JSON, both": {
			post, "", legacyJSON, modern + ", " + legacyJSON, "x", 400,
			modern, "not valid JSON",
		},
		"not JSON, legacy rather": {
			post, "", legacyJSON, modern + ";q=0.5, " + legacyJSON,
			"x", 400, legacyJSON, "not valid JSON",
		},
		"not JSON, events": {
			post, "", legacyJSON, eventStream, "x", 400, legacyJSON,
			"not valid JSON",
		},
		"a broken URL, the new type": {get, "?query=%zz", "", modern, "", 400, modern, "URL"},
		"no such stream, the new type": {
			post, "?token=x", legacyJSON, modern, query, 404, modern,
			"errors",
		},
		"not as events, the new type": {
			get, "?token=x", "", modern, "", 406, modern,
			"text/event-stream",
		},
	} {
		header := http.Header{}
		media, coding, _ := strings.Cut(c.contentType, "|")
		for key, value := range map[string]string{
			"Content-Type": media, "Content-Encoding": coding,
			"Accept": c.accept,
		} {
			if value != "" {
				header.Set(key, value)
			}
		}
		res := f.do(c.method, c.url, c.body, header)
		body := make([]byte, 10_000)
		n, _ := res.Body.Read(body)
		_ = res.Body.Close()
		text := string(body[:n])
		if res.StatusCode != c.status || !strings.Contains(text, c.says) ||
			res.Header.Get("Content-Type") != c.media+"; charset=utf-8" {
			t.Errorf("%s: %d %s %s", name, res.StatusCode, res.Header.Get("Content-Type"), text)
		}
		if got := res.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control %q", name, got)
		}
		accepts := res.Header.Get("Accept-Encoding") + res.Header.Get("Accept")
		if want := map[bool]string{
			false: legacyJSON,
			true:  "identity",
		}[coding != ""]; (c.status == 415) != (accepts == want) {
			t.Errorf("%s: %d, and accepted is %q", name, c.status, accepts)
		}
		if begun := strings.Contains(text, `"data"`); begun != (c.status == 200 &&
			!strings.HasPrefix(text, `{"errors"`) || strings.Contains(c.says, `"data"`)) {
			t.Errorf("%s: data has to be there exactly when the operation has begun: %s", name,
				text)
		}
	}
}

// A client can send only the hash of a document, once a valid document was sent with this hash.
func TestPersistedQueries(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	ask := func(query, hash string, version any) string {
		fields := map[string]any{"extensions": map[string]any{
			"persistedQuery": map[string]any{"version": version, "sha256Hash": hash},
		}}
		if query != "" {
			fields["query"] = query
		}
		_, body := f.request(http.MethodPost, "", string(mustMarshal(fields)),
			http.Header{"Content-Type": {legacyJSON}})
		return body
	}
	const query, invalid, unparsed, ok = "{ name }", "{ nonsense }", "{",
		`{"data":{"name":"parley"}}`
	long := "{ name } #" + strings.Repeat("x", maxPersistedSize)
	for _, step := range []struct {
		what, query, hash string
		version           any
		says              string
	}{
		{"not sent before", "", Hash(query), 1, `"code":"PERSISTED_QUERY_NOT_FOUND"`},
		{"sent under another's hash", query, Hash(invalid), 1, "not that of the query"},
		{"and so not kept", "", Hash(invalid), 1, "PERSISTED_QUERY_NOT_FOUND"},
		{"sent", query, Hash(query), 1, ok},
		{"known", "", Hash(query), 1, ok},
		{"known in capitals too", "", strings.ToUpper(Hash(query)), 1, ok},
		{"not valid", invalid, Hash(invalid), 1, "nonsense"},
		{"and so not kept", "", Hash(invalid), 1, "PERSISTED_QUERY_NOT_FOUND"},
		{"does not parse", unparsed, Hash(unparsed), 1, "errors"},
		{"and so not kept", "", Hash(unparsed), 1, "PERSISTED_QUERY_NOT_FOUND"},
		{"very long", long, Hash(long), 1, ok},
		{"and so not kept", "", Hash(long), 1, "PERSISTED_QUERY_NOT_FOUND"},
		{"another version", "", Hash(query), 2, "version 1"},
		{"a version that is a text", "", Hash(query), "1", "version 1"},
		{"no hash", "", "", 1, "64 hexadecimal digits"},
		{"half a hash", "", Hash(query)[:32], 1, "64 hexadecimal digits"},
	} {
		if body := ask(step.query, step.hash, step.version); !strings.Contains(body, step.says) {
			t.Errorf("%s: %s", step.what, body)
		}
	}
	for i := range maxPersisted { // the oldest go
		q := "{ a" + itoa(i) + ": name }"
		ask(q, Hash(q), 1)
	}
	if body := ask("", Hash(query), 1); !strings.Contains(body, "PERSISTED_QUERY_NOT_FOUND") {
		t.Errorf("the oldest of %d: %s", maxPersisted+1, body)
	}
	c := f.open() // over a socket, the same
	c.send(
		`{"id":"1","type":"subscribe","payload":{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"` + Hash("{ a5: name }") + `"}}}}`)
	// the schema of the tests has no aliases
	c.want(`{"id":"1","type":"next","payload":{"data":{"name":"parley"}}}`)
	c.want(complete("1"))
}

func TestTrustedDocuments(t *testing.T) {
	t.Parallel()
	const query, ticks, other, ok = "{ name }", "subscription { ticks(to: 1) }", "{ broken }",
		`{"data":{"name":"parley"}}`
	f := mustServe(t, func(o *Options) { o.Documents = []string{query, ticks} })
	header := http.Header{"Content-Type": {legacyJSON}}
	persisted := func(hash string) string {
		return `"extensions":{"persistedQuery":{"version":1,"sha256Hash":"` + hash + `"}}`
	}
	for name, c := range map[string]struct{ body, says string }{
		"by its id":        {`{"documentId":"sha256:` + Hash(query) + `"}`, ok},
		"by its bare id":   {`{"documentId":"` + Hash(query) + `"}`, ok},
		"by the extension": {`{` + persisted(Hash(query)) + `}`, ok},
		"whole":            {`{"query":"` + query + `"}`, ok},
		"whole, with its id": {
			`{"query":"` + query + `","documentId":"` + Hash(query) + `"}`,
			ok,
		},
		"another's id": {
			`{"documentId":"sha256:` + Hash(other) + `"}`,
			"PERSISTED_QUERY_NOT_SUPPORTED",
		},
		"another": {`{"query":"` + other + `"}`, "PERSISTED_QUERY_NOT_SUPPORTED"},
		"another, with its hash": {
			`{"query":"` + other + `",` + persisted(Hash(other)) + `}`,
			"PERSISTED_QUERY_NOT_SUPPORTED",
		},
		"another, with this hash": {
			`{"query":"` + other + `",` + persisted(Hash(query)) + `}`,
			"not that of the query",
		},
		"an id that is none": {`{"documentId":"md5:x"}`, "64 hexadecimal digits"},
		"with a space more":  {`{"query":"{  name }"}`, "PERSISTED_QUERY_NOT_SUPPORTED"},
	} {
		if _, body := f.request(http.MethodPost, "", c.body, header); !strings.Contains(body,
			c.says) {
			t.Errorf("%s: %s", name, body)
		}
	}
	if _, body := f.request(http.MethodGet, "?documentId=sha256:"+Hash(query), "",
		nil); body != ok {
		t.Errorf("GET: %s", body)
	}
	c := f.open()
	c.send(`{"id":"1","type":"subscribe","payload":{"documentId":"sha256:` + Hash(ticks) + `"}}`)
	c.want(tick("1", 1))
	c.want(complete("1"))
}

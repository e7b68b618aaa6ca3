package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

func TestCheckJSON(t *testing.T) {
	t.Parallel()
	many := strings.Repeat("x", 100)
	var wide strings.Builder
	for i := range 3 * fewNames {
		wide.WriteString(`"` + itoa(i) + `":0,`)
	}
	for in, says := range map[string]string{
		`{}`: "", `[]`: "", `"x"`: "", `1`: "", `null`: "",
		`"\ud83d\udc4b"`: "", `"\uD83D\uDC4B\u0041"`: "", `"👋"`: "", `"\\ud800"`: "",
		`"\\\\ud800"`: "", `"\ufffd"`: "", `"\u0000"`: "",
		`{"a":{"a":1},"b":[{"a":1},{"a":2}]}`: "", `{"a":"a","b":"a"}`: "", `["a","a"]`: "",
		`{"":0," ":0}`: "", `{` + wide.String() + `"x":0}`: "",

		`"\ud800"`:                       `\ud800 at byte 2 is half of a surrogate pair.`,
		`"\uDFFF"`:                       `\uDFFF at byte 2 is`,
		`"x\ud83d"`:                      `\ud83d at byte 3 is`,
		`"\ud83d\u0041"`:                 `\ud83d at byte 2 is`,
		`"\ud83dx\udc4b"`:                `\ud83d at byte 2 is`,
		`"\udc4b\ud83d"`:                 `\udc4b at byte 2 is`,
		`"\ud83d\udc4b\ud83d"`:           `\ud83d at byte 14 is`,
		`"\\\ud800"`:                     `\ud800 at byte 4 is`,
		`"\ud83d\n\udc4b"`:               `\ud83d at byte 2 is`,
		`["👋","\ud800"]`:                 ` (in [1]) is`,
		`{"a":[0,{"b":1,"c":"\ud800"}]}`: ` (in a[1].c) is`,
		`{"\ud800":1}`:                   `\ud800 at byte 3 is`,
		`{"a":{"\ud800":1}}`:             ` (in a) is`,
		`{"a b":{"":"\ud800"}}`:          ` (in "a b"."") is`,
		`{"` + many + `":"\ud800"}`:      `in ` + many[:maxShownName] + `…)`,
		`{"` + strings.Repeat("é", maxShownName+1) + `":"\ud800"}`: `in ` +
			strings.Repeat("é", maxShownName) + `…)`,
		strings.Repeat("[", 30) + `"\ud800"` + strings.Repeat("]", 30): `in ` +
			strings.Repeat("[0]", maxShownSteps) + `…)`,

		`{"a":1,"a":1}`:                     `a is there twice, the second time at byte 8.`,
		`{"a":1,"\u0061":1}`:                `a is there twice, the second time at byte 8.`,
		`{"a":{"b":[0,{"c":1,"c":2}]}}`:     `a.b[1].c is there twice, the second time at byte 21.`,
		`{"a":{},"b":{"a":1},"a":{}}`:       `a is there twice, the second time at byte 21.`,
		`{"":1,"":2}`:                       `"" is there twice`,
		`{` + wide.String() + `"7":0}`:      `7 is there twice`,
		`{` + wide.String() + `"47":0}`:     `47 is there twice`,
		`{` + wide.String() + `"\u0037":0}`: `7 is there twice`,
	} {
		if !json.Valid([]byte(in)) {
			t.Fatalf("%s is not JSON", in)
		}
		if err := checkJSON([]byte(in), ""); (err == nil) != (says == "") || err != nil &&
			!strings.Contains(clientMessage(err), says) {
			t.Errorf("%s: %v, want %q", in, err, says)
		}
	}
	if err := checkJSON([]byte(`{"a":"\ud800"}`), "variables"); err == nil ||
		!strings.Contains(clientMessage(err), "in variables.a)") {
		t.Errorf("with a root: %v", err)
	}
}

func TestCheckDepth(t *testing.T) {
	t.Parallel()
	nested := func(n int, open, end string) string {
		return strings.Repeat(open,
			n) + strings.Repeat(end, n)
	}
	for name, c := range map[string]struct {
		in   string
		says string
	}{
		"as deep as may be": {nested(maxJSONDepth, "[", "]"), ""},
		"one deeper": {
			nested(maxJSONDepth+1, "[", "]"),
			"nested more than 100 deep, at byte 101.",
		},
		"objects": {
			strings.Repeat(`{"a":`, maxJSONDepth+1),
			"nested more than 100 deep, at byte 501.",
		},
		"too deep for a library": {
			nested(50_000, "[", "]"),
			"nested more than 100 deep, at byte 101.",
		},
		"wide":        {`[` + strings.Repeat(`[],{},`, 1000) + `0]`, ""},
		"in a string": {`["\"` + strings.Repeat("[{", 1000) + `\\",[]]`, ""},
		"after a string": {
			`["\\",` + strings.Repeat("[", maxJSONDepth),
			"nested more than 100 deep, at byte 106.",
		},
		"only ends": {strings.Repeat("]", 1000) + strings.Repeat("[", maxJSONDepth), ""},
	} {
		err := checkDepth([]byte(c.in))
		if (err == nil) != (c.says == "") || err != nil &&
			!strings.Contains(clientMessage(err), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// badTexts are JSON objects that encoding/json would change, with a part of the error message.
func badTexts() map[string]struct{ object, says string } {
	return map[string]struct{ object, says string }{
		"half a pair":           {`{"key":"\ud800"}`, `\ud800 at byte`},
		"the other half":        {`{"key":["x\udfff"]}`, `key[0])`},
		"half a pair in a name": {`{"\ud800":1}`, `half of a surrogate pair`},
		"a name twice":          {`{"key":1,"key":2}`, `key is there twice`},
	}
}

// TestTextAtTheEdge checks that JSON that encoding/json would silently change is refused on all
// transports.
func TestTextAtTheEdge(t *testing.T) {
	t.Parallel()
	f := mustServe(t)
	_, token := f.request(http.MethodPut, "", "", nil)
	f.stream(http.MethodGet, "?token="+token, "", nil)
	posted := func(header ...string) func(string) (int, string) {
		return func(body string) (int, string) {
			h := http.Header{"Content-Type": {legacyJSON}}
			for i := 0; i < len(header); i += 2 {
				h.Set(header[i], header[i+1])
			}
			return f.request(http.MethodPost, "", body, h)
		}
	}
	over := func(messages ...string) (int, string) {
		c := f.dial()
		for _, m := range messages {
			c.send(m)
			if m == `{"type":"connection_init"}` {
				c.want(`{"type":"connection_ack"}`)
			}
		}
		return c.closed()
	}
	const init = `{"type":"connection_init"}`
	for transport, c := range map[string]struct {
		status int
		send   func(object string) (int, string)
		says   string // where
	}{
		"variables of a POST": {400, func(o string) (int, string) {
			return posted()(`{"query":"{ name }","variables":{"in":` + o + `}}`)
		}, "variables.in"},
		"extensions of a POST": {400, func(o string) (int, string) {
			return posted("Accept",
				graphqlJSON)(`{"query":"{ name }","extensions":{"persistedQuery":` + o + `}}`)
		}, "extensions.persistedQuery"},
		"the rest of a POST": {400, func(o string) (int,
			string,
		) {
			return posted()(`{"query":"{ name }","more":` + o + `}`)
		}, "more"},
		"a POST for events": {400, func(o string) (int, string) {
			return posted("Accept", eventStream)(`{"query":"{ name }","variables":` + o + `}`)
		}, "variables"},
		"a POST for a stream": {400, func(o string) (int, string) {
			return posted(streamHeader,
				token)(`{"query":"{ name }","extensions":{"operationId":"1"},"variables":` + o +
				`}`)
		}, "variables"},
		"variables of a GET": {400, func(o string) (int, string) {
			return f.request(http.MethodGet, "?query={name}&variables="+url.QueryEscape(o), "", nil)
		}, "variables"},
		"extensions of a GET": {400, func(o string) (int, string) {
			return f.request(http.MethodGet,
				"?query={name}&extensions="+url.QueryEscape(`{"persistedQuery":`+o+`}`), "", nil)
		}, "extensions.persistedQuery"},
		"a GET for events": {400, func(o string) (int, string) {
			return f.request(http.MethodGet, "?query={name}&variables="+url.QueryEscape(o), "",
				http.Header{"Accept": {eventStream}})
		}, "variables"},
		"connection parameters": {
			4400,
			func(o string) (int, string) {
				return over(`{"type":"connection_init","payload":` + o +
					`}`)
			}, "payload",
		},
		"a ping": {4400, func(o string) (int,
			string,
		) {
			return over(init, `{"type":"ping","payload":`+o+`}`)
		}, "payload"},
		"a subscribe": {4400, func(o string) (int, string) {
			return over(init,
				`{"id":"1","type":"subscribe","payload":{"query":"{ name }","variables":`+o+`}}`)
		}, "payload.variables"},
		"the rest of a message": {
			4400,
			func(o string) (int, string) { return over(init, `{"type":"ping","more":`+o+`}`) },
			"more",
		},
	} {
		for name, bad := range badTexts() {
			status, answer := c.send(bad.object)
			answer = strings.ReplaceAll(answer, `\\`, `\`)
			if status != c.status || !strings.Contains(answer, bad.says) ||
				!strings.Contains(answer, c.says) {
				t.Errorf("%s in %s: %d %s", name, transport, status, answer)
			}
		}
	}
	// The message itself, and byte order marks before it.
	deep := `{"a":` + strings.Repeat("[", 12_000) + strings.Repeat("]", 12_000) + `}`
	for name, c := range map[string]struct{ body, says string }{
		"a query twice": {
			`{"query":"{ name }","query":"{ broken }"}`,
			`query is there twice, the second time at byte 21`,
		},
		"half a pair":       {`{"query":"{ name } #\ud800"}`, `in query)`},
		"a byte order mark": {byteOrderMark + `{"query":"{ name }"}`, `byte order mark (U+FEFF)`},
		"too deep": {
			`{"query":"{ name }","variables":` + deep + `}`,
			"nested more than 100 deep, at byte 136.",
		},
	} {
		if status, body := posted()(c.body); status != 400 || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	for name, c := range map[string]struct{ message, says string }{
		"an id twice": {
			`{"id":"1","type":"subscribe","id":"2","payload":{"query":"{ name }"}}`,
			"id is there twice",
		},
		"a type twice": {`{"type":"ping","type":"pong"}`, "type is there twice"},
		"half a pair": {
			`{"id":"\udc00","type":"subscribe","payload":{"query":"{ name }"}}`,
			"in id)",
		},
		"a byte order mark": {byteOrderMark + `{"type":"ping"}`, "byte order mark (U+FEFF)"},
		"too deep": {
			`{"type":"ping","payload":` + deep + `}`,
			"nested more than 100 deep, at byte 129.",
		},
	} {
		if code, reason := over(init, c.message); code != CloseBadRequest ||
			!strings.Contains(reason, c.says) {
			t.Errorf("%s: %d %s", name, code, reason)
		}
	}
	if status, body := f.request(http.MethodGet,
		"?query={name}&variables="+url.QueryEscape(byteOrderMark+"{}"), "", nil); status != 400 ||
		!strings.Contains(body, "byte order mark") {
		t.Errorf("a byte order mark in a GET: %d %s", status, body)
	}
	if status, body := f.request(http.MethodGet,
		"?query={name}&variables="+url.QueryEscape(deep[:6000]), "", nil); status != 400 ||
		!strings.Contains(body,
			`\"variables\" is not valid: Its objects and arrays are nested more than 100 deep, at byte 105.`) {
		t.Errorf("too deep in a GET: %d %s", status, body)
	}
	// Whole surrogate pairs are accepted.
	const pair = `{"query":"query($x: Boolean!) { name @include(if: $x) }","variables":{"x":true,"y":"\ud83d\udc4b"}}`
	if status, body := posted()(pair); status != 200 || body != `{"data":{"name":"parley"}}` {
		t.Errorf("a pair: %d %s", status, body)
	}
}

// FuzzCheckJSON checks that encoding/json does not change what is accepted.
func FuzzCheckJSON(f *testing.F) {
	f.Add([]byte(`{"a":[{"b":"\ud83d\udc4b"},"\\ud800"],"c":"\ud83dx"}`))
	f.Add([]byte(`{"a":1,"b":{"a":1,"\u0061":2}}`))
	replacement := regexp.MustCompile(`(?i)\\ufffd`)
	f.Fuzz(func(t *testing.T, b []byte) {
		if !json.Valid(b) || bytes.ContainsRune(b, unicode.ReplacementChar) ||
			replacement.Match(b) {
			return
		}
		err := checkJSON(b, "")
		if changed := changesIn(t, b); changed != (err != nil) {
			t.Fatalf("%s: %v, and encoding/json changes it: %v", b, err, changed)
		}
	})
}

// changesIn reports whether encoding/json replaces characters of a text, or an object has a name
// twice. It parses JSON in another way than checkJSON.
func changesIn(t *testing.T, b []byte) bool {
	type object map[any]bool
	var in []object // nil for an array
	name := false
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(string); ok && strings.ContainsRune(text, unicode.ReplacementChar) {
			return true
		}
		switch {
		case token == json.Delim('{'):
			in, name = append(in, object{}), true
			continue
		case token == json.Delim('['):
			in, name = append(in, nil), false
			continue
		case token == json.Delim('}') || token == json.Delim(']'):
			in = in[:len(in)-1]
			name = len(in) > 0 && in[len(in)-1] != nil
			continue
		case name:
			if in[len(in)-1][token] {
				return true
			}
			in[len(in)-1][token] = true
		}
		name = !name && len(in) > 0 && in[len(in)-1] != nil
	}
}

package client

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPost(t *testing.T) {
	t.Parallel()
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = []string{
			r.Method, r.Header.Get("Content-Type"), r.Header.Get("Authorization"),
			string(body),
		}
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "an answer")
	}))
	defer server.Close()
	body, err := json.Marshal(Operation{Query: "{ a }", Variables: map[string]any{"b": 1}})
	if err != nil {
		t.Fatal(err)
	}
	for token, authorization := range map[string]string{"": "", "abc": "Bearer abc"} {
		status, answer, err := Post(t.Context(), server.Client(), server.URL, token, body)
		if err != nil || status != http.StatusTeapot || string(answer) != "an answer" {
			t.Errorf("%d %q %v", status, answer, err)
		}
		want := []string{
			"POST", "application/json", authorization,
			`{"query":"{ a }","variables":{"b":1}}`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
	}
}

func TestPostReportsALostAnswer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
	}))
	defer server.Close()
	if _, answer, err := Post(t.Context(), server.Client(), server.URL, "", nil); err == nil {
		t.Errorf("got %q without an error", answer)
	}
}

func TestMessages(t *testing.T) {
	t.Parallel()
	for want, build := range map[string]func() (Message, error){
		`{"type":"connection_init","payload":{}}`: func() (Message, error) { return Init("") },
		`{"type":"connection_init","payload":{"Authorization":"Bearer abc"}}`: func() (Message,
			error,
		) {
			return Init("abc")
		},
		`{"id":"1","type":"subscribe","payload":{"query":"{ a }","variables":null}}`: func() (Message, error) {
			return Subscribe("1", Operation{Query: "{ a }"})
		},
	} {
		m, err := build()
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(m)
		if err != nil || string(got) != want {
			t.Errorf("%s %v, want %s", got, err, want)
		}
	}
	if _, err := Subscribe("1", Operation{Variables: make(chan int)}); err == nil {
		t.Error("variables that are not JSON are accepted")
	}
}

func TestAnswer(t *testing.T) {
	t.Parallel()
	var got Answer
	err := json.Unmarshal([]byte(`{"errors":[{"message":"no","path":["a",0],
		"extensions":{"code":"RATE_LIMITED","retryAfterMs":1500,"errorId":"e1"}}]}`), &got)
	want := Answer{Errors: []Error{{
		Message: "no", Path: []any{"a", 0.0},
		Extensions: Extensions{Code: RateLimited, RetryAfterMs: 1500, ErrorID: "e1"},
	}}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

package graph_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/auth"
	"parley/graph"
	"parley/store"
	"parley/store/storetest"
)

func withOrigins(list ...string) func(*graph.Options, *auth.Options) {
	return func(o *graph.Options, _ *auth.Options) { o.AllowedOrigins = list }
}

// sent is one server-sent event: its name and its data, the empty string for a stream that was cut.
type sent struct{ event, data string }

// mustStream starts an operation over server-sent events.
func (s *api) mustStream(token, query string, variables map[string]any) <-chan sent {
	s.t.Helper()
	body := mustJSON(s.t, map[string]any{"query": query, "variables": variables})
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url,
		strings.NewReader(string(body)))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"text/event-stream"},
		"Authorization": bearer(token),
	}
	transport := new(http.Transport)
	res, err := transport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = res.Body.Close()
		transport.CloseIdleConnections()
	})
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
		s.t.Fatalf("%d %s", res.StatusCode, got)
	}
	return readSent(res.Body)
}

func readSent(body io.Reader) <-chan sent {
	events := make(chan sent, 100)
	go func() {
		defer close(events)
		var e sent
		for lines := bufio.NewScanner(body); lines.Scan(); {
			line := lines.Text()
			switch name, value, _ := strings.Cut(line, ": "); {
			case name == "event":
				e.event = value
			case name == "data":
				e.data = value
			case line == "" && e.event != "":
				events <- e
				e = sent{}
			}
		}
	}()
	return events
}

func next(t testing.TB, events <-chan sent) sent {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came")
		return sent{}
	}
}

func (e sent) codes(t *testing.T) []string {
	t.Helper()
	var a answer
	if err := json.Unmarshal([]byte(e.data), &a); err != nil {
		t.Fatalf("%+v: %v", e, err)
	}
	return a.codes()
}

func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, eve := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("eve")
		id := s.mustConversation(ann, bob)
		s.mustSend(ann, id, "before")
		all := map[string]any{"id": id, "after": 0}

		anns, bobs := s.mustStream(ann.token, messageAdded, all),
			s.mustStream(bob.token, messageAdded, all)
		for _, events := range []<-chan sent{anns, bobs} {
			if e := next(t, events); e.event != "next" || !strings.Contains(e.data, "before") {
				t.Errorf("replayed %+v", e)
			}
		}
		s.mustSend(bob, id, "live")
		for _, events := range []<-chan sent{anns, bobs} {
			if e := next(t, events); e.event != "next" || !strings.Contains(e.data, "live") {
				t.Errorf("live came %+v", e)
			}
		}

		events := s.mustStream(eve.token, messageAdded, all)
		if e := next(t, events); !cmp.Equal(e.codes(t), []string{"NOT_FOUND"}) {
			t.Errorf("an anonymous client got %+v", e)
		}
		if e := next(t, events); e.event != "complete" {
			t.Errorf("and then %+v", e)
		}

		// The session ends: for good, as long as this token is used, so the stream says why and
		// completes.
		s.do(ann.token, `mutation { logout { userErrors { code } } }`, nil)
		if e := next(t, anns); !cmp.Equal(e.codes(t), []string{"UNAUTHENTICATED"}) {
			t.Errorf("signed out: %+v", e)
		}
		if e := next(t, anns); e.event != "complete" {
			t.Errorf("and then %+v", e)
		}
		// The server stops: the stream is cut, so that the client comes back.
		s.graph.Drain(t.Context())
		if e, more := <-bobs; more {
			t.Errorf("the server stops: %+v", e)
		}
	})
}

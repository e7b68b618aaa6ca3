package verify

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "parley/internal/client"
)

// mustDialEvents connects to a server, and subscribes.
func mustDialEvents(t *testing.T, url string, budget int64) (*eventStream, error) {
	t.Helper()
	s, err := dialEvents(t.Context(), url, false, budget)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	if err := s.open(t.Context(), "a token"); err != nil {
		t.Fatal(err)
	}
	return s, s.subscribe(t.Context(), onlyID,
		api.Operation{Query: "subscription", Variables: map[string]any{"a": 1}})
}

// all returns all messages except pongs.
func (s *eventStream) all() (found []string) {
	for m := range s.messages {
		if m.Type != api.TypePong {
			found = append(found, fmt.Sprint(m.ID, " ", m.Type, " ", string(m.Payload)))
		}
	}
	return found
}

// A stream that is cut after any number of bytes delivers its complete events, and no other.
func TestEventsAreCutAtAnyByte(t *testing.T) {
	t.Parallel()
	events := []string{
		":\n\n", "event: next\ndata: {\"a\":1}\n\n", "event: next\ndata: {\"a\":22}\n\n", ":\n\n",
		"event: complete\ndata:\n\n",
	}
	want := []string{"", "1 next {\"a\":1}", "1 next {\"a\":22}", "", "1 complete "}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		asked := string(body) + r.Header.Get("Authorization") + r.Header.Get("Accept")
		if err != nil ||
			asked != `{"query":"subscription","variables":{"a":1}}Bearer a tokentext/event-stream` {
			t.Errorf("asked for %q (%v)", asked, err)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header()["Date"] = nil
		for _, e := range events {
			_, _ = io.WriteString(w, e)
			_ = http.NewResponseController(w).Flush()
		}
	}))
	defer server.Close()
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: " +
		"chunked\r\n\r\n"
	stream := head
	var ends []int // of each event, after its chunk
	for _, e := range events {
		stream += fmt.Sprintf("%x\r\n%s", len(e), e)
		ends = append(ends, len(stream))
		stream += "\r\n"
	}
	for budget := 1; budget <= len(stream); budget++ {
		s, err := mustDialEvents(t, server.URL, int64(budget))
		if budget < len(head) {
			if !errors.Is(s.cause(err), errCut) {
				t.Fatalf("cut after %d bytes, in the head: %v", budget, err)
			}
			s.close()
			continue
		}
		if err != nil {
			t.Fatalf("cut after %d bytes: %v", budget, err)
		}
		var whole []string
		for i, end := range ends {
			if end <= budget && want[i] != "" {
				whole = append(whole, want[i])
			}
		}
		if diff := cmp.Diff(whole, s.all()); diff != "" || !errors.Is(s.failure(), errCut) {
			t.Fatalf("cut after %d bytes: %v (-want +got):\n%s", budget, s.failure(), diff)
		}
		s.close()
	}
}

func TestAnAnswerThatIsNotAStream(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ kind, body, want, err string }{
		"refused": {
			"application/json", `{"errors":[{"message":"no"}]}`,
			`1 error [{"message":"no"}]`, "EOF",
		},
		"no JSON":  {"text/html", `<h1>no</h1>`, "", "neither events nor GraphQL"},
		"no error": {"application/json", `{"data":null}`, "", "neither events nor GraphQL"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", test.kind)
			_, _ = io.WriteString(w, test.body)
		}))
		s, err := mustDialEvents(t, server.URL, unlimited)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(s.all(), ", ")
		if got != test.want || s.failure() == nil ||
			!strings.Contains(s.failure().Error(), test.err) {
			t.Errorf("%s: %q, %v", name, got, s.failure())
		}
		s.close()
		server.Close()
	}
}

// The server of a stream that is not read has to wait. Closing ends the stream all the same.
func TestAnEventStreamThatIsNotRead(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, "event: next\ndata: {}\n\n")
			_ = http.NewResponseController(w).Flush()
		}
		close(ended)
	}))
	defer server.Close()
	s, err := mustDialEvents(t, server.URL, unlimited)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.next(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	s.close()
	<-ended
}

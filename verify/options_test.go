package verify

import (
	"io"
	"strings"
	"testing"
	"time"
)

func TestOptionsThatCannotWork(t *testing.T) {
	t.Parallel()
	good := Options{
		URLs: []string{"http://localhost:1"}, For: time.Second, Conversations: 1, People: 4,
		Followers: 1, Rate: 1,
		Grace: time.Second, Patience: time.Second,
	}
	for want, change := range map[string]func(o *Options){
		"the addresses of the": func(o *Options) { o.URLs = nil },
		"give it no address":   func(o *Options) { o.Chaos = true },
		"at least a second":    func(o *Options) { o.For = 0 },
		"greater than 0":       func(o *Options) { o.Rate = 0 },
		"at least 4":           func(o *Options) { o.People = 3 },
		"not the address of":   func(o *Options) { o.URLs = []string{"localhost:8080"} },
		"needs nats-server (": func(o *Options) {
			o.URLs, o.Chaos, o.NATSServer = nil, true,
				"/there/is/none"
		},
	} {
		o := good
		change(&o)
		if err := Run(t.Context(), o, io.Discard); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	n, err := newNodes([]string{
		"http://localhost:8080", "https://chat.example.org/",
		"http://proxy/chat/graphql",
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"http://localhost:8080/graphql",
		"https://chat.example.org/graphql", "http://proxy/chat/graphql",
	} {
		if got := n.url(i); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestBrief(t *testing.T) {
	t.Parallel()
	a, b := brief("m1-1 "+strings.Repeat("x", 100)), brief("m1-1 "+strings.Repeat("x", 99)+"y")
	if a == b || !strings.HasPrefix(a, "m1-1 105 ") {
		t.Errorf("%q, %q", a, b)
	}
}

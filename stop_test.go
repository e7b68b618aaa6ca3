package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"parley/config"
)

// mustStartServer starts a server for tests that look inside it. The test has to call stop.
func mustStartServer(t *testing.T, args ...string) *server {
	t.Helper()
	var cli commandLine
	parser, err := kong.New(&cli, config.Defaults())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(append([]string{"--addr=127.0.0.1:0", "--data-dir=" + t.TempDir()},
		args...)); err != nil {
		t.Fatal(err)
	}
	srv, err := start(t.Context(), &cli.Settings, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

// While the stop delay lasts, the server is not ready, and still serves everything.
func TestStopDelay(t *testing.T) {
	t.Parallel()
	srv := mustStartServer(t, "--stop-delay=7m")
	delayed, goOn := make(chan time.Duration), make(chan time.Time)
	srv.after = func(d time.Duration) <-chan time.Time {
		delayed <- d
		return goOn
	}
	token, _ := mustRegister(t, srv.url, "ann")
	follow := func() *bufio.Scanner {
		s := bufio.NewScanner(ask(t, srv.url, token, "text/event-stream",
			`subscription { conversationAdded { id } }`))
		if !s.Scan() { // a comment
			t.Fatal(s.Err())
		}
		return s
	}
	streams := []*bufio.Scanner{follow()}
	if status, body := get(t, srv.url+"/readyz"); status != 200 {
		t.Fatalf("/readyz: %d %s", status, body)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- srv.stop() }()
	if d := <-delayed; d != 7*time.Minute {
		t.Errorf("it waits for %v", d)
	}
	if status, body := get(t, srv.url+"/readyz"); status != 503 || body != "stopping\n" {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if status, _ := get(t, srv.url+"/livez"); status != 200 {
		t.Errorf("/livez: %d", status)
	}
	if got := answerOf(t, ask(t, srv.url, token, "application/json",
		`{ viewer { user { nickname } } }`), "viewer.user.nickname"); got != "ann" {
		t.Errorf("it answers %q", got)
	}
	streams = append(streams, follow()) // new ones, too
	close(goOn)
	for i, s := range streams {
		for s.Scan() {
			if strings.Contains(s.Text(), "complete") {
				t.Errorf("stream %d: %s", i, s.Text())
			}
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestNoStopDelay(t *testing.T) {
	t.Parallel()
	srv := mustStartServer(t)
	srv.after = func(d time.Duration) <-chan time.Time {
		t.Errorf("it waits for %v", d)
		return time.After(0)
	}
	body := ask(t, srv.url, "", "application/json", "{ __typename }")
	if b, err := io.ReadAll(body); err != nil || !strings.Contains(string(b), "Query") {
		t.Errorf("%s (%v)", b, err)
	}
	if err := srv.stop(); err != nil {
		t.Error(fmt.Errorf("stop: %w", err))
	}
}

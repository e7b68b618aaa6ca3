package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"parley/internal/process"
	"parley/store/storetest"
)

// server is the running program, with a data folder of its own. It may be ended and started again
// on the same data, with another port.
type server struct {
	t      *testing.T
	binary string
	env    []string
	http   *http.Client

	api   string // the address of the API since the last start
	page  string
	links chan string // of mails, if there is no SMTP server
	*process.Process

	mu  sync.Mutex // guards the fields below
	log []string
	bad []string // log lines that no test may cause
}

// mustServe starts a server; env are settings in the form NAME=value. It is stopped when the test
// ends.
func mustServe(t *testing.T, env ...string) *server {
	t.Helper()
	return mustServeWith(t, os.Getenv(binaryEnv), env...)
}

// mustServeWith is mustServe for another binary.
func mustServeWith(t *testing.T, binary string, env ...string) *server {
	t.Helper()
	s := &server{
		t: t, binary: binary, links: make(chan string, 1000),
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
	}
	s.env = process.Environment(append([]string{
		"PARLEY_ADDR=127.0.0.1:0", "PARLEY_LOG_FORMAT=json", "PARLEY_DATA_DIR=" + t.TempDir(),
		"PARLEY_RATE_MESSAGES=off", // senders send as fast as the server answers
		"GORACE=atexit_sleep_ms=0", // without it the race detector waits a second at the end
	}, env...)...)
	t.Cleanup(func() {
		s.http.CloseIdleConnections()
		if s.Process != nil && s.Running() {
			s.stop()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.bad) > 0 {
			t.Errorf("in the server's log:\n%s", strings.Join(s.bad, "\n"))
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", strings.Join(s.log, "\n"))
		}
	})
	s.start()
	return s
}

// onBoth runs fn for a server on SQLite and for one on PostgreSQL, as parallel subtests.
func onBoth(t *testing.T, fn func(t *testing.T, databaseURL string)) {
	t.Helper()
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		fn(t, storetest.SQLiteURL(t))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		fn(t, storetest.PostgresURL(t))
	})
}

func on(databaseURL string) (setting string) { return "PARLEY_DATABASE_URL=" + databaseURL }

// start starts the program, and waits until it serves.
func (s *server) start() {
	s.t.Helper()
	up := make(chan logLine, 1)
	cmd := exec.Command(s.binary)
	cmd.Env = s.env
	cmd.Stderr = &process.Lines{Each: func(text []byte) {
		line := s.read(string(text))
		if line.Msg == process.ParleyIsUp {
			up <- line
		}
		if line.Link != "" {
			s.links <- line.Link
		}
	}}
	var err error
	if s.Process, err = process.Start(cmd); err != nil {
		s.t.Fatal(err)
	}
	select {
	case line := <-up:
		s.api, s.page = line.API, line.Playground
	case <-s.Ended():
		s.t.Fatalf("the server did not start: %v", s.Err())
	case <-time.After(patience):
		s.t.Fatal("the server did not report that it serves")
	}
}

type logLine struct {
	Level      string `json:"level"`
	Msg        string `json:"msg"`
	API        string `json:"api"`
	Playground string `json:"playground"`
	Link       string `json:"link"`
}

// read keeps a line of the log. A line that is not JSON comes from the runtime: a panic or a data
// race.
func (s *server) read(text string) (line logLine) {
	err := json.Unmarshal([]byte(text), &line)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, text)
	if err != nil || line.Level == "ERROR" {
		s.bad = append(s.bad, text)
	}
	return line
}

// stop ends the server as a supervisor does.
func (s *server) stop() {
	s.t.Helper()
	if !s.Running() {
		s.t.Errorf("the server has ended by itself: %v", s.Err())
		return
	}
	if !s.Stop(syscall.SIGTERM, patience) {
		s.t.Error("the server did not stop")
	} else if s.Err() != nil {
		s.t.Errorf("the server did not stop cleanly: %v", s.Err())
	}
}

// kill kills the server.
func (s *server) kill() {
	s.t.Helper()
	if !s.Running() {
		s.t.Errorf("the server has ended by itself: %v", s.Err())
	}
	s.Stop(syscall.SIGKILL, patience)
}

// nextLink returns the link of the next mail in the log. Without SMTP the server logs links.
func (s *server) nextLink() string {
	s.t.Helper()
	select {
	case link := <-s.links:
		return link
	case <-time.After(patience):
		s.t.Fatal("there is no link in the log")
		return ""
	}
}

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"parley/internal/process"
	"parley/store/storetest"
)

// verify runs `parley verify`, and returns its output and exit code. If the test ends first, verify
// gets SIGTERM.
func verify(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.Command(os.Getenv(binaryEnv), append([]string{"verify"}, args...)...)
	cmd.Env = process.Environment("GORACE=atexit_sleep_ms=0")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Ended():
	case <-t.Context().Done():
		_ = p.Signal(syscall.SIGTERM)
		<-p.Ended()
	}
	return output.String(), p.ExitCode()
}

// TestVerifyChaos verifies a cluster with faults of all kinds for a minute. The output has the
// seed.
func TestVerifyChaos(t *testing.T) {
	t.Parallel()
	if storetest.Skipped("postgres") {
		t.Skipf("%s names postgres", storetest.Skip)
	}
	nats := filepath.Join(t.TempDir(), "nats-server")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", nats,
		"github.com/nats-io/nats-server/v2")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build nats-server: %v\n%s", err, out)
	}
	// The load is lower than the default, because the nodes have the race detector, and other tests
	// run at the same time.
	out, code := verify(t, "--chaos", "--for=60s", "--nats-server="+nats,
		"--conversations=10", "--people=20", "--followers=30", "--rate=30")
	if code != 0 {
		t.Errorf("verify ended with %d:\n%s", code, out)
	}
}

// TestVerifyRestores verifies a single node on SQLite that is restored from older copies.
func TestVerifyRestores(t *testing.T) {
	t.Parallel()
	out, code := verify(t, "--chaos", "--sqlite", "--for=30s", "--seed=22", "--conversations=4",
		"--people=10", "--followers=24", "--rate=25")
	if code != 0 || none(out, "acknowledged messages undone") ||
		none(out, "streams of one conversation that were told") {
		t.Errorf("verify ended with %d:\n%s", code, out)
	}
}

// TestVerifyRefused checks the reason that verify prints if a server cannot be verified.
func TestVerifyRefused(t *testing.T) {
	t.Parallel()
	srv := mustServe(t, "PARLEY_REGISTRATION=closed")
	out, code := verify(t, srv.page)
	if code != 1 || !strings.Contains(out, "registration has to be open") ||
		!strings.Contains(out, "FORBIDDEN") {
		t.Errorf("verify has ended with %d:\n%s", code, out)
	}
}

// TestVerifyFindsFaults runs verify through a proxy that injects a fault into some items of one
// kind of stream. A stream that starts over and reports it violates nothing.
func TestVerifyFindsFaults(t *testing.T) {
	t.Parallel()
	srv := mustServe(t, "PARLEY_RATE_LIMITS=false")
	for name, f := range map[string]*fault{
		"nothing": nil,
		"lost in messageAdded": {
			of: "messageAdded", over: overWebSocket,
			item: lose,
		},
		"doubled in messageAdded, over SSE": {of: "messageAdded", over: overSSE, item: double},
		"reordered in messageAdded": {
			of: "messageAdded", over: overWebSocket,
			item: delay,
		},
		"lost in conversationEvents, over SSE": {
			of: "conversationEvents", over: overSSE,
			item: lose,
		},
		"doubled in conversationEvents": {
			of: "conversationEvents", over: overWebSocket,
			item: double,
		},
		"reordered in conversationEvents": {
			of: "conversationEvents", over: overWebSocket,
			item: delay,
		},
		"lost in events":                {of: "events", over: overWebSocket, item: lose},
		"doubled in events, over SSE":   {of: "events", over: overSSE, item: double},
		"reordered in events, over SSE": {of: "events", over: overSSE, item: delay},
		"restarted, over SSE": {
			of: "events", over: overSSE, item: cut,
			restart: reportedRestart,
		},
		"restarted silently": {
			of: "events", over: overWebSocket, item: cut,
			restart: silentRestart,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := mustFaultProxy(t, srv.api, f)
			history := filepath.Join(t.TempDir(), "history.jsonl")
			out, code := verify(t, p.url, "--for=3s", "--seed=1", "--conversations=2", "--people=6",
				"--followers=8", "--rate=40", "--history="+history)
			judged, judgedCode := verify(t, "--judge", history)
			if judgedCode != code {
				t.Errorf("verify ended with %d, and the judges of its history with %d:\n%s", code,
					judgedCode, judged)
			}
			if f == nil || f.restart == reportedRestart {
				counted := f == nil || !none(out, "streams of everything that started over")
				if code != 0 || !counted || !strings.Contains(out,
					"The promise was kept (seed 1).") {
					t.Errorf("verify ended with %d without a fault:\n%s", code, out)
				}
				return
			}
			what, _, _ := strings.Cut(name, " ")
			found := strings.Contains(out, "The first violation: "+what)
			switch {
			case what == "reordered": // the delayed item is missing first
				found = strings.Contains(out, "The first violation: lost") &&
					!none(out, "reordered")
				// The first violation may be a CaughtUp that comes too early.
			case f.restart == silentRestart:
				found = !none(out, "lost")
			}
			if code != 1 || !found || !strings.Contains(out, "--seed 1") {
				t.Errorf("%s, and verify ended with %d:\n%s", name, code, out)
			}
			anomaly := map[string]string{
				"lost": "skipped poll", "doubled": "nonmonotonic poll",
				"reordered": "nonmonotonic poll", "restarted": "skipped poll",
			}[what]
			if !strings.Contains(judged, anomaly) {
				t.Errorf("%s, and the judges do not find a %s:\n%s", name, anomaly, judged)
			}
		})
	}
}

// none reports whether the output of verify counts none of a kind.
func none(out, what string) bool {
	return regexp.MustCompile(`(?m)^ +0  ` + what).MatchString(out)
}

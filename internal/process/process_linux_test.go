package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is long enough for any machine.
const patience = time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shell returns a server that is a script.
func shell(script string, log *strings.Builder) Server {
	s := Server{
		Cmd: exec.Command("sh", "-c", script), Patience: patience,
		URL: func(line string) string {
			url, ok := strings.CutPrefix(line, "serving at ")
			if !ok {
				return ""
			}
			return url
		},
	}
	if log != nil {
		s.Log = log
	}
	return s
}

func TestServe(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	p, url, err := Serve(t.Context(),
		shell("echo starting; echo serving at here >&2; echo more; exec sleep 1000", &log))
	if err != nil {
		t.Fatal(err)
	}
	if url != "here" || !p.Running() || p.PID() == 0 {
		t.Errorf("serves at %q, running %v, process %d", url, p.Running(), p.PID())
	}
	if !p.Stop(syscall.SIGTERM, patience) || p.Running() || p.Err() == nil || p.ExitCode() != -1 {
		t.Errorf("after SIGTERM: running %v, %v", p.Running(), p.Err())
	}
	if !strings.HasPrefix(log.String(), "starting\nserving at here\n") {
		t.Errorf("the log is %q", log.String())
	}
	if !p.Stop(syscall.SIGTERM, patience) {
		t.Error("a program that has ended did not stop in time")
	}
}

func TestAProgramThatDoesNotServe(t *testing.T) {
	t.Parallel()
	_, _, err := Serve(t.Context(), shell("echo cannot start; exit 3", nil))
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 3 ||
		!strings.Contains(err.Error(), "cannot start") {
		t.Errorf("a program that ends: %v", err)
	}

	late := shell("exec sleep 1000", nil)
	late.Patience = 10 * time.Millisecond
	if _, _, err := Serve(t.Context(), late); err == nil ||
		!strings.Contains(err.Error(), "within 10ms") {
		t.Errorf("a program that takes too long: %v", err)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	errOver := errors.New("over")
	cancel(errOver)
	if _, _, err := Serve(ctx, shell("exec sleep 1000", nil)); !errors.Is(err, errOver) {
		t.Errorf("a context that has ended: %v", err)
	}

	if _, err := Start(exec.Command("/there/is/none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a program that does not exist: %v", err)
	}
}

func TestStopKills(t *testing.T) {
	t.Parallel()
	p, _, err := Serve(t.Context(),
		shell("trap '' TERM; echo serving at here; exec sleep 1000", nil))
	if err != nil {
		t.Fatal(err)
	}
	if p.Stop(syscall.SIGTERM, 10*time.Millisecond) {
		t.Error("a program that ignores SIGTERM ended in time")
	}
	if p.Running() {
		t.Error("it is still running")
	}
}

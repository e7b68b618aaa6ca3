package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a program that a test has started. It does not outlive the process of the tests.
type process struct {
	*exec.Cmd
	ended chan struct{}
	err   error // how it ended, once ended is closed
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second // for a grandchild that keeps the pipes open
	p := &process{Cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the starting thread ends, so this one has to live as long
		// as the process.
		runtime.LockOSThread()
		started <- cmd.Start()
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, <-started
}

// endsWithin waits for the end, and forces it when the time is up.
func (p *process) endsWithin(d time.Duration) (inTime bool) {
	select {
	case <-p.ended:
		return true
	case <-time.After(d):
		_ = p.Process.Kill()
		<-p.ended
		return false
	}
}

func (p *process) isRunning() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// eventually does something again and again until it is so, where nothing tells when that is.
func eventually(t *testing.T, what string, isSo func() bool) {
	t.Helper()
	for begin := time.Now(); !isSo(); {
		if time.Since(begin) > patience {
			t.Fatalf("it is still not so that %s", what)
		}
	}
}

// lines is a Writer that calls a function with each line.
type lines struct {
	part []byte
	each func(line []byte)
}

func (l *lines) Write(b []byte) (int, error) {
	l.part = append(l.part, b...)
	for {
		line, rest, ok := bytes.Cut(l.part, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.each(line)
		l.part = bytes.Clone(rest)
	}
}

// environment is that of the tests, without the settings of a Parley that somebody runs from the
// same shell.
func environment(extra ...string) []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "PARLEY_") {
			env = append(env, e)
		}
	}
	return append(env, extra...)
}

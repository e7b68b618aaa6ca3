package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Process is a program that was started. The kernel kills it when this process ends.
type Process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // set when ended is closed
}

// pipeDelay is how long a program's output may stay open after its end, by a child of its own.
const pipeDelay = 5 * time.Second

// Start starts a program.
func Start(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = pipeDelay
	p := &Process{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the program ends, so this one has
		// to live as long as the program.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Server describes a program that serves at an address.
type Server struct {
	Cmd *exec.Cmd
	// URL returns the address that the program serves at from a line of its output, and "" from any
	// other line.
	URL func(line string) string
	Log io.Writer // gets all output; nil for none
	// Patience is how long the program may take until it serves, or ends after a signal.
	Patience time.Duration
}

// Serve starts a server, and waits until it serves.
func Serve(ctx context.Context, s Server) (p *Process, url string, err error) {
	up := make(chan string, 1)
	serves := false
	var before strings.Builder // the output until the program serves
	var output io.Writer = &Lines{Each: func(line []byte) {
		if serves {
			return
		}
		if found := s.URL(string(line)); found != "" {
			serves = true
			up <- found
			return
		}
		fmt.Fprintf(&before, "%s\n", line)
	}}
	if s.Log != nil {
		output = io.MultiWriter(s.Log, output)
	}
	s.Cmd.Stdout, s.Cmd.Stderr = output, output
	if p, err = Start(s.Cmd); err != nil {
		return nil, "", err
	}
	timeout := time.NewTimer(s.Patience)
	defer timeout.Stop()
	select {
	case url = <-up:
		return p, url, nil
	case <-p.ended:
		return nil, "", fmt.Errorf("%s ended before it served: %w: %s", s.Cmd.Path, p.err,
			before.String())
	case <-timeout.C:
		err = fmt.Errorf("%s did not serve within %v", s.Cmd.Path, s.Patience)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.Stop(syscall.SIGKILL, s.Patience)
	return nil, "", err
}

// PID returns the id of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended is closed when the program has ended and its output was read.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Err returns how the program ended: nil with exit code 0. It must not be called before Ended is
// closed.
func (p *Process) Err() error { return p.err }

// ExitCode returns the program's exit code, or -1 if a signal ended it. It must not be called
// before Ended is closed.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Running reports whether the program has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Signal sends a signal. It returns os.ErrProcessDone if the program has ended.
func (p *Process) Signal(signal os.Signal) error { return p.cmd.Process.Signal(signal) }

// Stop sends a signal that ends the program, and returns when it has ended. After patience it kills
// the program, and reports false.
func (p *Process) Stop(signal os.Signal, patience time.Duration) (inTime bool) {
	if err := p.Signal(signal); errors.Is(err, os.ErrProcessDone) {
		patience = pipeDelay + time.Second // for the output
	}
	return p.EndsWithin(patience)
}

// EndsWithin returns when the program has ended. After patience it kills the program, and reports
// false.
func (p *Process) EndsWithin(patience time.Duration) (inTime bool) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-p.ended:
		return true
	case <-timeout.C:
		_ = p.cmd.Process.Kill()
		<-p.ended
		return false
	}
}

package verify

import (
	"bufio"
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

// child is a program that serves until it is ended, and never longer than this process.
type child struct {
	process *os.Process
	url     string
	ended   chan struct{}
}

// childPatience is how long a child may take to serve, or to end.
const childPatience = time.Minute

// startChild starts a program, and waits for the line of its output in which url finds where it
// serves. All of the output is added to a file.
func startChild(ctx context.Context, cmd *exec.Cmd, logFile string, url func(line string) string) (*child, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	output, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c := &child{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the starting thread ends, so this one has to live as long
		// as the child.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		_ = write.Close()
		close(c.ended)
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, log.Close())
	}
	c.process = cmd.Process

	up := make(chan string, 1)
	said := make(chan string, 1)
	go func() {
		defer func() { _ = log.Close() }()
		var before strings.Builder
		serves := false
		for lines := bufio.NewReader(output); ; {
			line, err := lines.ReadString('\n')
			_, _ = log.WriteString(line)
			if found := url(line); found != "" && !serves {
				serves = true
				up <- found
			} else if !serves {
				before.WriteString(line)
			}
			if err != nil {
				said <- before.String()
				return
			}
		}
	}()
	tooLate := time.NewTimer(childPatience)
	defer tooLate.Stop()
	select {
	case c.url = <-up:
		return c, nil
	case text := <-said:
		c.end(syscall.SIGKILL)
		return nil, fmt.Errorf("%s ended instead of serving: %s", cmd.Path, text)
	case <-tooLate.C:
		err = fmt.Errorf("%s did not serve within %v", cmd.Path, childPatience)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	c.end(syscall.SIGKILL)
	return nil, err
}

// end sends a signal that ends the child, and waits until it has.
func (c *child) end(signal os.Signal) {
	if err := c.process.Signal(signal); err == nil {
		tooLate := time.NewTimer(childPatience)
		defer tooLate.Stop()
		select {
		case <-c.ended:
		case <-tooLate.C:
			_ = c.process.Kill()
		}
	}
	<-c.ended
}

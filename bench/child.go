package main

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

// child is a program that serves until it is stopped.
type child struct {
	process *os.Process
	url     string
	socket  string // of package debug, in what bench has built
	ended   chan struct{}
}

// startChild starts a program and waits for the line of its output in which url finds where it
// serves.
func startChild(ctx context.Context, cmd *exec.Cmd, url func(line string) string) (*child, error) {
	output, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	// when this process is killed before it can call stop
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
		close(c.ended)
		_ = write.Close()
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	c.process = cmd.Process

	up := make(chan string, 1)
	var said strings.Builder
	go func() {
		defer close(up)
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			if found := url(lines.Text()); found != "" {
				up <- found
				break
			}
			fmt.Fprintln(&said, lines.Text())
		}
		// so that the child never waits for its output to be taken
		go func() { _, _ = io.Copy(io.Discard, output) }()
	}()
	tooLate := time.NewTimer(patience)
	defer tooLate.Stop()
	var ok bool
	select {
	case c.url, ok = <-up:
		if ok {
			return c, nil
		}
		c.stop()
		return nil, fmt.Errorf("%s ended instead of serving: %s", cmd.Path, said.String())
	case <-tooLate.C:
		c.stop()
		return nil, fmt.Errorf("%s did not serve within %v", cmd.Path, patience)
	case <-ctx.Done():
		c.stop()
		return nil, context.Cause(ctx)
	}
}

// stop asks the child to end, and makes it when it takes too long.
func (c *child) stop() {
	if err := c.process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		return
	}
	tooLate := time.NewTimer(patience)
	defer tooLate.Stop()
	select {
	case <-c.ended:
	case <-tooLate.C:
		_ = c.process.Kill()
		<-c.ended
	}
}

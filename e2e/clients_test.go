package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"parley/internal/process"
	"parley/store/storetest"
)

// clients installs the npm packages of the scripts, unless that was done since the lock file
// changed.
var clients = sync.OnceValue(func() (err error) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf(
				"%s is not installed: the client libraries need Node.js 20 or newer, with npm "+
					"(Debian: apt-get install nodejs npm)", program)
		}
	}
	// Two processes of tests may do this at the same time.
	folder, err := os.Open("clients")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.Close()) }() // unlocks it too
	if err := syscall.Flock(int(folder.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock the folder clients: %w", err)
	}
	lockFile, err := os.Stat(filepath.Join("clients", "package-lock.json"))
	if err != nil {
		return err
	}
	// npm writes this file last.
	installed, err := os.Stat(filepath.Join("clients", "node_modules", ".package-lock.json"))
	if err == nil && !installed.ModTime().Before(lockFile.ModTime()) {
		return nil
	}
	npm := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund",
		"--no-update-notifier")
	npm.Dir = "clients"
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci in e2e/clients: %w\n%s", err, out)
	}
	return nil
})

// script is a running Node.js script of clients/.
type script struct {
	t      *testing.T
	name   string
	events chan []byte // closed when the script has ended
	stdin  io.WriteCloser
	*process.Process
}

// mustRun starts a script. When the test ends, the script is ended, and must end without an error.
func mustRun(t *testing.T, name string, params any, env ...string) *script {
	t.Helper()
	if storetest.Skipped("npm") {
		t.Skipf("%s names npm", storetest.Skip)
	}
	if err := clients(); err != nil {
		t.Fatalf("%v; to do without, set %s=npm", err, storetest.Skip)
	}
	arg, err := json.Marshal(params)
	if err != nil {
		t.Fatal(err)
	}
	// The buffer keeps the script from waiting for the test: the server would see a slow client.
	s := &script{t: t, name: name, events: make(chan []byte, 1<<16)}
	var stderr bytes.Buffer
	cmd := exec.Command("node", name, string(arg))
	cmd.Dir = "clients"
	cmd.Env = process.Environment(env...)
	cmd.Stdout = &process.Lines{Each: func(line []byte) { s.events <- bytes.Clone(line) }}
	cmd.Stderr = &stderr
	if s.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if s.Process, err = process.Start(cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		<-s.Ended()
		close(s.events)
	}()
	t.Cleanup(func() {
		_ = s.stdin.Close()
		if !s.EndsWithin(patience) {
			t.Errorf("%s did not end", name)
		} else if s.Err() != nil {
			t.Errorf("%s has failed: %v", name, s.Err())
		}
		if t.Failed() {
			t.Logf("%s wrote to its standard error: %s", name, stderr.String())
		}
	})
	return s
}

// instruct sends an instruction to the script.
func (s *script) instruct(instruction any) {
	s.t.Helper()
	line, err := json.Marshal(instruction)
	if err == nil {
		_, err = s.stdin.Write(append(line, '\n'))
	}
	if err != nil {
		s.t.Fatalf("%s: %v", s.name, err)
	}
}

// next waits for the script's next event.
func (s *script) next(event any) (line []byte) {
	s.t.Helper()
	select {
	case line, ok := <-s.events:
		if !ok {
			s.t.Fatalf("%s has ended: %v", s.name, s.Err())
		}
		if err := json.Unmarshal(line, event); err != nil {
			s.t.Fatalf("%s: %v: %s", s.name, err, line)
		}
		return line
	case <-time.After(patience):
		s.t.Fatalf("%s sends no more events", s.name)
	}
	return nil
}

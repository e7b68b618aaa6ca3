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

	"parley/store/storetest"
)

// clients installs the npm packages of the scripts, unless that was done since the lock file
// changed.
var clients = sync.OnceValue(func() (err error) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is not installed: the client libraries need Node.js 20 or newer, with npm (Debian: apt-get install nodejs npm)", program)
		}
	}
	// Two processes of tests may come here at the same time.
	folder, err := os.Open("clients")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.Close()) }() // which gives the lock back
	if err := syscall.Flock(int(folder.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock the folder clients: %w", err)
	}
	lockFile, err := os.Stat(filepath.Join("clients", "package-lock.json"))
	if err != nil {
		return err
	}
	// npm writes this file when all the rest is there.
	installed, err := os.Stat(filepath.Join("clients", "node_modules", ".package-lock.json"))
	if err == nil && !installed.ModTime().Before(lockFile.ModTime()) {
		return nil
	}
	npm := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
	npm.Dir = "clients"
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci in e2e/clients: %w\n%s", err, out)
	}
	return nil
})

// script is one of the Node.js scripts in clients/, while it runs.
type script struct {
	t      *testing.T
	name   string
	events chan []byte // closed when the script has ended
	stdin  io.WriteCloser
	*process
}

// mustRun starts a script. It is ended, and has to end without an error, when the test ends.
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
	// A script never waits for its test: a client that does would be a slow one for the server too.
	s := &script{t: t, name: name, events: make(chan []byte, 1<<16)}
	var stderr bytes.Buffer
	cmd := exec.Command("node", name, string(arg))
	cmd.Dir = "clients"
	cmd.Env = environment(env...)
	cmd.Stdout = &lines{each: func(line []byte) { s.events <- bytes.Clone(line) }}
	cmd.Stderr = &stderr
	if s.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if s.process, err = startProcess(cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		<-s.ended
		close(s.events)
	}()
	t.Cleanup(func() {
		_ = s.stdin.Close()
		if !s.endsWithin(patience) {
			t.Errorf("%s did not end", name)
		} else if s.err != nil {
			t.Errorf("%s has failed: %v", name, s.err)
		}
		if t.Failed() {
			t.Logf("%s wrote to its standard error: %s", name, stderr.String())
		}
	})
	return s
}

// tell hands the script an instruction.
func (s *script) tell(instruction any) {
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
			s.t.Fatalf("%s has ended: %v", s.name, s.err)
		}
		if err := json.Unmarshal(line, event); err != nil {
			s.t.Fatalf("%s: %v: %s", s.name, err, line)
		}
		return line
	case <-time.After(patience):
		s.t.Fatalf("nothing more came from %s", s.name)
	}
	return nil
}

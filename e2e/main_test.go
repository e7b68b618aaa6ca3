// Package e2e tests the program from outside: the built binary, the client libraries that people
// use, and a browser.
//
// It needs Go, gcc (the binary is built with the race detector), Node.js with npm, Chromium and
// PostgreSQL. If one is missing, its tests fail, unless PARLEY_TEST_SKIP names it (npm, browser,
// postgres). The libraries are pinned in clients/.
package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"parley/store/storetest"
)

// patience is how long a test waits for something before it fails. It measures nothing.
const patience = 60 * time.Second

// binaryEnv is the variable with the path of the built binary, for the process that runs the tests.
const binaryEnv = "PARLEY_E2E_BINARY"

// TestMain runs the tests in a child of this process. So this process can find and end the
// processes that tests leave behind when they crash or reach a deadline.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(binaryEnv) != "" || flag.Lookup("test.list").Value.String() != "" {
		storetest.Main(m)
	}
	code, err := guard()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func guard() (code int, err error) {
	// An orphan below this process becomes its child instead of init's, so leaked can find it.
	const setChildSubreaper = 36 // PR_SET_CHILD_SUBREAPER, see prctl(2)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0); errno != 0 {
		return 1, fmt.Errorf("become the parent of orphans: %w", errno)
	}
	dir, err := os.MkdirTemp("", "parley-e2e-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// PostgreSQL may run as another user, which has to reach its files.
	if err := os.Chmod(dir, 0o711); err != nil {
		return 1, err
	}
	binary := filepath.Join(dir, "parley")
	build := exec.Command("go", "build", "-race", "-buildvcs=false", "-o", binary, "parley")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the program (the race detector needs gcc): %w\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	tests := exec.Command(self, os.Args[1:]...)
	tests.Env = append(os.Environ(), binaryEnv+"="+binary, "TMPDIR="+dir)
	tests.Stdin, tests.Stdout, tests.Stderr = os.Stdin, os.Stdout, os.Stderr
	tests.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the kernel sends Pdeathsig when the thread that started the child ends
	if err := tests.Start(); err != nil {
		return 1, err
	}
	forwarded := make(chan os.Signal, 1)
	// "go test" sends SIGQUIT to see the stacks
	signal.Notify(forwarded, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for s := range forwarded {
			_ = tests.Process.Signal(s)
		}
	}()
	var exit *exec.ExitError
	if err := tests.Wait(); err != nil && !errors.As(err, &exit) {
		return 1, err
	}
	code = tests.ProcessState.ExitCode()
	if code < 0 { // ended by a signal
		code = 1
	}
	return code, leaked()
}

// leaked ends the processes that the tests have left behind, and reports them. A process that is
// about to end gets a moment.
func leaked() error {
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		left := children(os.Getpid())
		if len(left) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline:
			var names []string
			for pid, command := range left {
				names = append(names, fmt.Sprintf("%d: %s", pid, command))
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return fmt.Errorf("the tests have left processes behind:\n%s",
				strings.Join(names, "\n"))
		}
	}
}

// children finds the living children of a process, and their command lines.
func children(parent int) map[int]string {
	found := map[int]string{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		// pid (name) state ppid ..., where the name may contain anything; see proc_pid_stat(5).
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 2 || fields[0] == "Z" || fields[1] != strconv.Itoa(parent) {
			continue
		}
		dir := filepath.Dir(path)
		pid, _ := strconv.Atoi(filepath.Base(dir))
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		found[pid] = strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
	}
	return found
}

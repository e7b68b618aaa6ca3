// Mutants injects named faults into the code, one after another, and runs the tests that must fail.
// It works on a copy of the newest commit, in a git worktree in the temporary folder. It exits with
// 1 if a fault survives, or no longer applies because the code has changed.
//
// Run it by hand, with `make mutants`, after a change of a rule or of its tests. `make mutants
// ARGS=-list` runs no tests: it lists the mutants that no longer apply to the working tree.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// mutant is one fault.
type mutant struct {
	name string
	file string
	old  string // occurs once in the file
	new  string
	pkg  string // of the tests
	run  string // the tests that must fail: beginnings of their names, separated by |
}

func (m mutant) String() string { return m.name + " (" + m.file + ")" }

func main() {
	only := flag.String("only", "", "use only mutants that match this `regexp`, by name and (file)")
	unbroken := flag.Bool("baseline", true, "run the tests without a fault first")
	list := flag.Bool("list", false,
		"run no tests, and list the mutants that do not apply to the working tree")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ok, err := run(ctx, os.Stdout, *only, *list, *unbroken)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
	}
	if err != nil || !ok {
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

// run reports whether every mutant applies and is killed. With list it reports whether every mutant
// applies to the working tree.
func run(
	ctx context.Context, out io.Writer, only string, list, unbroken bool,
) (ok bool, err error) {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return false, err
	}
	chosen := slices.DeleteFunc(slices.Clone(table()),
		func(m mutant) bool { return !wanted.MatchString(m.String()) })
	root, err := git(ctx, ".", "rev-parse", "--show-toplevel")
	if err != nil {
		return false, err
	}
	if list {
		return listStale(out, root, chosen), nil
	}
	// The folder is the same each time, because the cache of go build depends on the folder.
	tree := filepath.Join(os.TempDir(),
		fmt.Sprintf("parley-mutants-%08x", crc32.ChecksumIEEE([]byte(root))))
	if _, err := git(ctx, root, "worktree", "add", "--detach", tree, "HEAD"); err != nil {
		return false, err
	}
	defer func() { // also after an interrupt
		_, gone := git(context.WithoutCancel(ctx), root, "worktree", "remove", "--force", tree)
		err = errors.Join(err, gone)
	}()
	if unbroken {
		if err := baseline(ctx, out, tree, chosen); err != nil {
			return false, err
		}
	}
	ok = report(out, chosen, func(m mutant) string { return m.survives(ctx, tree) })
	return ok, context.Cause(ctx)
}

// listStale prints the mutants that do not apply to a tree, with the problem. It reports whether
// there are none.
func listStale(out io.Writer, tree string, chosen []mutant) bool {
	stale := 0
	for _, m := range chosen {
		if problem := m.stale(tree); problem != "" {
			stale++
			_, _ = fmt.Fprintf(out, "%s: %s\n", m, problem)
		}
	}
	_, _ = fmt.Fprintf(out, "%d mutants, %d of them do not apply\n", len(chosen), stale)
	return stale == 0
}

// stale says why a mutant does not apply to a tree: "" if it does.
func (m mutant) stale(tree string) string {
	if _, err := m.mutate(tree); err != nil {
		return fmt.Sprintf("%v: %q", err, m.old)
	}
	files, err := filepath.Glob(filepath.Join(tree, m.pkg, "*_test.go"))
	if err != nil {
		return err.Error()
	}
	var tests strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // of this repository
		if err != nil {
			return err.Error()
		}
		tests.Write(text)
	}
	for name := range strings.SplitSeq(m.run, "|") {
		if !strings.Contains(tests.String(), "\nfunc "+name) {
			return fmt.Sprintf("%s has no test %s", m.pkg, name)
		}
	}
	return ""
}

// report prints a line for each mutant, with its problem. It reports whether there are none.
func report(out io.Writer, chosen []mutant, problem func(mutant) string) bool {
	wrong := 0
	for _, m := range chosen {
		begin := time.Now()
		word := "ok"
		if p := problem(m); p != "" {
			wrong++
			word = strings.ToUpper(p)
		}
		_, _ = fmt.Fprintf(out, "%-28s %5.0fs  %s\n", word, time.Since(begin).Seconds(), m)
	}
	_, _ = fmt.Fprintf(out, "%d mutants, %d of them need a look\n", len(chosen), wrong)
	return wrong == 0
}

// baseline checks that the tests pass without a fault. Otherwise they would kill every mutant.
func baseline(ctx context.Context, out io.Writer, tree string, chosen []mutant) error {
	runs := map[string]map[string]bool{}
	for _, m := range chosen {
		if runs[m.pkg] == nil {
			runs[m.pkg] = map[string]bool{}
		}
		runs[m.pkg][m.run] = true
	}
	for _, pkg := range slices.Sorted(maps.Keys(runs)) {
		begin := time.Now()
		tests := strings.Join(slices.Sorted(maps.Keys(runs[pkg])), "|")
		if failed, output := test(ctx, tree, pkg, tests); failed {
			return fmt.Errorf("the tests of %s fail as they are:\n%.2000s", pkg, output)
		}
		_, _ = fmt.Fprintf(out, "%-28s %5.0fs  no fault (%s)\n", "ok", time.Since(begin).Seconds(),
			pkg)
	}
	return nil
}

var errStale = errors.New("no longer applies")

// mutate returns the file with the fault in it.
func (m mutant) mutate(tree string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(tree, m.file)) //nolint:gosec // of this table
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(text, []byte(m.old)); n != 1 {
		return nil, fmt.Errorf("%w: its text occurs %d times", errStale, n)
	}
	return bytes.Replace(text, []byte(m.old), []byte(m.new), 1), nil
}

// survives returns the problem of a mutant: "" if a test fails.
func (m mutant) survives(ctx context.Context, tree string) (problem string) {
	broken, err := m.mutate(tree)
	if err != nil {
		return err.Error()
	}
	path := filepath.Join(tree, m.file)
	whole, err := os.ReadFile(path) //nolint:gosec // of this table
	if err != nil {
		return err.Error()
	}
	if err := os.WriteFile(path, broken, 0o600); err != nil {
		return err.Error()
	}
	defer func() {
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			problem = err.Error()
		}
	}()
	failed, output := test(ctx, tree, m.pkg, m.run)
	switch {
	case ctx.Err() != nil:
		return "not finished"
	case strings.Contains(output, "[build failed]") || strings.Contains(output, "[setup failed]"):
		return "does not compile"
	case strings.Contains(output, "[no tests to run]"):
		return "names no test"
	case strings.Contains(output,
		// which on a busy machine does not show that they notice the fault
		"panic: test timed out"):
		return "timed out"
	case !failed:
		return "survived"
	}
	return ""
}

// test runs tests without the race detector, vet and debugging information, to save time.
func test(ctx context.Context, tree, pkg, run string) (failed bool, output string) {
	cmd := exec.CommandContext(ctx, "go", "test", "-ldflags=-s -w", "-vet=off", "-count=1",
		"-failfast",
		"-timeout=10m", "-run", "^("+run+")", pkg)
	cmd.Dir = tree
	text, err := cmd.CombinedOutput()
	return err != nil, string(text)
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	text, err := cmd.Output()
	if err != nil {
		if failed, is := errors.AsType[*exec.ExitError](err); is {
			err = fmt.Errorf("git %s: %w: %s", args[0], err, failed.Stderr)
		}
	}
	return strings.TrimSpace(string(text)), err
}

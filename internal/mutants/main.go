// Mutants breaks the code in named ways, one after the other, and runs the tests that have to
// notice. It works on a copy of the newest commit, in a git worktree among the temporary files, and
// exits with 1 where a fault survives, or no longer applies because the code has changed.
//
// It is run by hand, with `make mutants`: a change of a rule, or of a test of one, is a reason to.
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
	pkg  string
	run  string // the tests that notice, as for go test -run
}

func (m mutant) String() string { return m.name + " (" + m.file + ")" }

func main() {
	only := flag.String("only", "", "mutants whose name, with the file behind it in brackets, matches this `regexp`")
	unbroken := flag.Bool("baseline", true, "run the tests without a fault first")
	list := flag.Bool("list", false, "list the mutants, and whether they apply to the working tree; runs nothing")
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

// run reports whether every mutant applies and is killed.
func run(ctx context.Context, out io.Writer, only string, list, unbroken bool) (ok bool, err error) {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return false, err
	}
	chosen := slices.DeleteFunc(slices.Clone(table()), func(m mutant) bool { return !wanted.MatchString(m.String()) })
	root, err := git(ctx, ".", "rev-parse", "--show-toplevel")
	if err != nil {
		return false, err
	}
	if list {
		return report(out, chosen, func(m mutant) string {
			if _, err := m.mutate(root); err != nil {
				return err.Error()
			}
			return ""
		}), nil
	}
	// The same folder each time, because Go keeps what it has built by the folder of its source.
	tree := filepath.Join(os.TempDir(), fmt.Sprintf("parley-mutants-%08x", crc32.ChecksumIEEE([]byte(root))))
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

// report prints a line for each mutant, with what is wrong about it.
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

// baseline makes sure that the tests pass as long as nothing is broken: else they would kill
// everything.
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
		_, _ = fmt.Fprintf(out, "%-28s %5.0fs  nothing broken (%s)\n", "ok", time.Since(begin).Seconds(), pkg)
	}
	return nil
}

var errChanged = errors.New("no longer applies")

// mutate returns the file with the fault in it.
func (m mutant) mutate(tree string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(tree, m.file)) //nolint:gosec // of this table
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(text, []byte(m.old)); n != 1 {
		return nil, fmt.Errorf("%w: found %d times", errChanged, n)
	}
	return bytes.Replace(text, []byte(m.old), []byte(m.new), 1), nil
}

// survives says what is wrong: nothing where a test fails.
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
	case strings.Contains(output, "panic: test timed out"): // on a busy machine that says nothing
		return "timed out"
	case !failed:
		return "survived"
	}
	return ""
}

// test runs tests without the race detector, vet and debugging information, which would only take
// time.
func test(ctx context.Context, tree, pkg, run string) (failed bool, output string) {
	cmd := exec.CommandContext(ctx, "go", "test", "-ldflags=-s -w", "-vet=off", "-count=1", "-failfast", "-timeout=10m", "-run", "^("+run+")", pkg)
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

// Bench measures what Parley costs, next to the least that the same work can cost, and prints
// Markdown tables:
//
//	go run ./bench [-short] [-only PART] [-profiles DIR]
//	go run ./bench -search 60s
//
// PART is send, follow, wire, read, abuse, followers, burst, topics, memory or stall.
// The second form searches for requests that are more expensive than those of the part abuse. It
// fails if an answer is larger than its bound.
//
// Each figure is next to that of a yardstick, measured in the same run, in turns. A slow or busy
// machine changes times, but hardly their ratio. Bench never passes or fails on a time. It exits
// with 1 if an event was lost, doubled or reordered, or if it could not measure.
//
// It needs Linux, for the clocks of other processes, and uses the loopback interface only.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"parley/store/privatepg"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// scale is how much is measured. More makes the figures steadier, not different.
type scale struct {
	rounds int // of each side of a pair

	sendTime time.Duration // of one round

	followMessages int // of one round, one after the other
	followBursts   int // of one round

	wireRounds    int           // of each of the three servers
	wireTime      time.Duration // of one round
	wireFollowers []int         // of one topic
	wireBurst     int           // messages of one round
	wireTopics    int
	idleConns     int
	stallMessages int

	readMessages []int         // in the database, one size after another
	readTime     time.Duration // of one round
}

//nolint:gochecknoglobals // constants
var (
	full = scale{
		rounds: 7, sendTime: 500 * time.Millisecond, followMessages: 100, followBursts: 2,
		wireRounds: 5, wireTime: 3 * time.Second, wireFollowers: []int{1000, 5000}, wireBurst: 100,
		wireTopics: 2000,
		idleConns:  10_000, stallMessages: 100_000,
		readMessages: []int{10_000, 100_000, 1_000_000}, readTime: 200 * time.Millisecond,
	}
	short = scale{
		rounds: 3, sendTime: 100 * time.Millisecond, followMessages: 25, followBursts: 1,
		wireRounds: 3, wireTime: time.Second, wireFollowers: []int{1000, 2000}, wireBurst: 20,
		wireTopics: 200,
		idleConns:  2000, stallMessages: 5000,
		readMessages: []int{10_000, 100_000}, readTime: 50 * time.Millisecond,
	}
)

// bench is one run.
type bench struct {
	scale
	out      io.Writer
	progress io.Writer
	profiles string            // a folder for profiles; empty for none
	dir      string            // a temporary folder
	postgres *privatepg.Server // nil if it is not installed or not needed
}

// run runs the program, and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == yardstickArgument {
		return exitCode(serveYardstick(ctx, stdout), stderr)
	}
	if len(args) == 1 && args[0] == stockArgument {
		return exitCode(serveStock(ctx, stdout), stderr)
	}
	if len(args) == 1 && args[0] == aloneArgument {
		return exitCode(serveAlone(ctx, stdout), stderr)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	isShort := flags.Bool("short", false,
		"finish in about two minutes, with figures that vary more")
	only := flags.String("only", "",
		"measure one part: send, follow, wire, read or abuse; or one part of wire: "+
			strings.Join(wireParts(), ", "))
	search := flags.Duration("search", 0,
		"search for requests that are more expensive than those of abuse, for this long")
	profiles := flags.String("profiles", "",
		"write profiles (pprof) of the servers of wire into this folder")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *only == "" && flags.NArg() == 1 {
		*only = flags.Arg(0)
		flags = flag.NewFlagSet("bench", flag.ContinueOnError)
	}
	parts, ofWire := []string{"send", "follow", "wire", "read", "abuse"}, wireParts()
	switch {
	case slices.Contains(parts, *only):
		parts = []string{*only}
	case slices.Contains(ofWire, *only):
		parts, ofWire = []string{"wire"}, []string{*only}
	case *only != "" || flags.NArg() > 0:
		fmt.Fprintln(stderr, "bench: -only takes one of",
			strings.Join(append(parts, ofWire...), ", "))
		return 2
	}
	b := &bench{scale: full, out: stdout, progress: stderr, profiles: *profiles}
	if *isShort {
		b.scale = short
	}
	if *search > 0 {
		return exitCode(b.inFolder(func() error { return b.search(ctx, *search) }), stderr)
	}
	return exitCode(b.inFolder(func() error { return b.measure(ctx, parts, ofWire) }), stderr)
}

// inFolder calls run with b.dir set to a new folder, which it removes afterwards.
func (b *bench) inFolder(run func() error) (err error) {
	if b.dir, err = os.MkdirTemp("", "parley-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	return run()
}

func exitCode(err error, stderr io.Writer) int {
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	return 0
}

func (b *bench) measure(ctx context.Context, parts, ofWire []string) (err error) {
	if slices.Contains(parts, "send") || slices.Contains(parts, "read") {
		if err := b.startPostgres(ctx); err != nil {
			return err
		}
	}
	if b.postgres != nil {
		defer func() { err = errors.Join(err, b.postgres.Stop()) }()
	}
	if err := b.describeMachine(ctx); err != nil {
		return err
	}
	for _, part := range parts {
		switch part {
		case "send":
			err = b.sending(ctx)
		case "follow":
			err = b.following(ctx)
		case "wire":
			err = b.overTheWire(ctx, ofWire)
		case "read":
			err = b.reading(ctx)
		case "abuse":
			err = b.abusing(ctx)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
	}
	return nil
}

// startPostgres starts a server that flushes commits to disk, as in production. Without fsync a
// commit would cost nothing, and the ratios would show only the overhead around it.
func (b *bench) startPostgres(ctx context.Context) (err error) {
	b.postgres, err = privatepg.Start(ctx, "fsync = on", "synchronous_commit = on",
		"full_page_writes = on")
	if errors.Is(err, privatepg.ErrNotInstalled) {
		return nil
	}
	return err
}

// describeMachine prints the machine that the figures were measured on.
func (b *bench) describeMachine(ctx context.Context) error {
	flushed, err := timeToFlush(b.dir)
	if err != nil {
		return err
	}
	b.printf("# Parley's benchmarks\n\n")
	b.printf("- %s, %s\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"), b.howMuch())
	b.printf("- %d cores%s, %s/%s, %s\n", runtime.NumCPU(), cpuModel(), runtime.GOOS,
		runtime.GOARCH, runtime.Version())
	if b.postgres != nil {
		version, err := b.postgresVersion(ctx)
		if err != nil {
			return err
		}
		b.printf("- PostgreSQL %s, with fsync\n", version)
	} else {
		b.printf("- without PostgreSQL: not installed, or not needed for this part\n")
	}
	b.printf("- flushing 8 KiB to disk takes %s; load average at the start: %s\n",
		duration(flushed), loadAverage())
	b.printf(
		"- every ratio is Parley divided by its yardstick, the median of %d rounds in turns "+
			"(lowest–highest)\n", b.rounds)
	return nil
}

func (b *bench) howMuch() string {
	if b.rounds == short.rounds {
		return "short run"
	}
	return "full run"
}

func (b *bench) postgresVersion(ctx context.Context) (version string, err error) {
	db, err := sql.Open("pgx", b.postgres.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.QueryRowContext(ctx, "SHOW server_version").Scan(&version)
	return version, err
}

func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok &&
			strings.TrimSpace(name) == "model name" {
			return " (" + strings.TrimSpace(value) + ")"
		}
	}
	return ""
}

func loadAverage() string {
	load, err := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(load))
	if err != nil || len(fields) == 0 {
		return "unknown"
	}
	return fields[0]
}

// timeToFlush returns how long the disk takes to flush 8 KiB: the least time of a commit.
func timeToFlush(dir string) (_ time.Duration, err error) {
	f, err := os.Create(filepath.Join(dir, "flush"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	block := make([]byte, 8<<10)
	var times []float64
	for range 30 {
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start).Seconds())
	}
	return seconds(median(times)), nil
}

func (b *bench) printf(format string, args ...any) { fmt.Fprintf(b.out, format, args...) }

// note prints progress.
func (b *bench) note(format string, args ...any) { fmt.Fprintf(b.progress, format+"\n", args...) }

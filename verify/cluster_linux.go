package verify

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"parley/store/privatepg"
)

// cluster is three nodes of this program, a PostgreSQL and a NATS server, all of it in a temporary
// folder. Each node reaches NATS through a relay of its own, which can be cut. Everything ends with
// this process.
type cluster struct {
	nodes    *nodes
	dir      string
	keep     bool
	out      io.Writer
	binary   string
	nats     string // the program
	env      []string
	postgres *privatepg.Server
	broker   *child
	relays   []*relay
	running  []*child // the nodes
}

// postgresSettings flush nothing to disk, because only the processes are ended, not the machine;
// but what is acknowledged has left the process.
func postgresSettings() []string {
	return []string{"fsync = off", "synchronous_commit = on", "full_page_writes = off"}
}

func startCluster(ctx context.Context, o Options, out io.Writer) (_ *cluster, err error) {
	c := &cluster{out: out, keep: o.Keep, running: make([]*child, clusterNodes)}
	if c.binary, err = os.Executable(); err != nil {
		return nil, err
	}
	if c.nats, err = natsProgram(o.NATSServer, c.binary); err != nil {
		return nil, err
	}
	if c.dir, err = os.MkdirTemp("", "parley-verify-"); err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// natsProgram finds nats-server. It is a program of its own and no part of this one, which it would
// make half as large again.
func natsProgram(named, binary string) (string, error) {
	if named == "" {
		named = filepath.Join(filepath.Dir(binary), "nats-server")
		if _, err := os.Stat(named); err != nil {
			named = "nats-server"
		}
	}
	found, err := exec.LookPath(named)
	if err != nil {
		return "", fmt.Errorf("--chaos needs nats-server (Debian: apt-get install nats-server; from the source of Parley: "+
			"make verify), in the PATH, beside this program, or named with --nats-server: %w", err)
	}
	return filepath.Abs(found)
}

func (c *cluster) start(ctx context.Context) (err error) {
	if c.postgres, err = privatepg.Start(ctx, postgresSettings()...); err != nil {
		return fmt.Errorf("--chaos needs PostgreSQL: %w", err)
	}
	if err := c.startNATS(ctx); err != nil {
		return err
	}
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "PARLEY_") {
			c.env = append(c.env, setting)
		}
	}
	c.env = append(c.env,
		"PARLEY_ADDR=127.0.0.1:0", "PARLEY_DATABASE_URL="+c.postgres.URL("postgres"), "PARLEY_JWT_SECRET="+rand.Text()+rand.Text(),
		"PARLEY_RATE_LIMITS=false", "PARLEY_LOG_FORMAT=json",
		"PARLEY_ACCESS_TTL=20s", // so that tokens expire while it runs
		"GORACE=atexit_sleep_ms=0")
	c.nodes = &nodes{urls: make([]string, clusterNodes)}
	for i := range clusterNodes {
		r, err := listenRelay(c.broker.url)
		if err != nil {
			return err
		}
		c.relays = append(c.relays, r)
		if err := c.startNode(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// startNode starts a node, on the data folder that it had before. Its log goes on in the same file.
func (c *cluster) startNode(ctx context.Context, i int) error {
	dir := filepath.Join(c.dir, fmt.Sprintf("node%d", i+1))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	cmd := exec.Command(c.binary, "serve") //nolint:noctx // ended by stop
	cmd.Dir = dir
	cmd.Env = append(slices.Clip(c.env), "PARLEY_DATA_DIR="+dir, "PARLEY_NATS_URL=nats://"+c.relays[i].address())
	node, err := startChild(ctx, cmd, filepath.Join(dir, "log"), func(line string) string {
		var entry struct{ Msg, API string }
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "parley is up" {
			return ""
		}
		return entry.API
	})
	if err != nil {
		return err
	}
	c.running[i] = node
	c.nodes.set(i, node.url)
	return nil
}

func (c *cluster) startNATS(ctx context.Context) (err error) {
	listening := regexp.MustCompile(`Listening for client connections on (\S+)`)
	cmd := exec.Command(c.nats, "-a", "127.0.0.1", "-p", "-1") //nolint:noctx // ended by stop
	cmd.Dir = c.dir
	c.broker, err = startChild(ctx, cmd, filepath.Join(c.dir, "nats.log"), func(line string) string {
		if found := listening.FindStringSubmatch(line); found != nil {
			return found[1]
		}
		return ""
	})
	if err != nil {
		return err
	}
	for _, r := range c.relays {
		r.lead(c.broker.url)
	}
	return nil
}

// stop ends everything, and removes the folder.
func (c *cluster) stop() (err error) {
	for _, node := range c.running {
		if node != nil {
			node.end(syscall.SIGKILL)
		}
	}
	for _, r := range c.relays {
		r.close()
	}
	if c.broker != nil {
		c.broker.end(syscall.SIGKILL)
	}
	if c.postgres != nil {
		err = c.postgres.Stop()
	}
	if c.keep {
		fmt.Fprintf(c.out, "\nThe logs are in %s.\n", c.dir)
		return err
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}

// play has the faults of the plan happen, one after the other, and everything whole in the end. A
// node that does not come back ends the run.
func (c *cluster) play(ctx context.Context, w *world) error {
	for _, f := range w.plan.faults {
		if !wait(ctx, time.Until(w.began.Add(f.at))) {
			return nil
		}
		what := fmt.Sprintf("%s (%v)", f.kind, f.length.Round(time.Millisecond))
		switch f.kind {
		case killNode, stopNode, freezeNode, cutNATS:
			what = fmt.Sprintf("node %d: %s", f.node+1, what)
		default:
		}
		fmt.Fprintf(c.out, "%8.3fs  %s\n", time.Since(w.began).Seconds(), what)
		ends := w.report.begins(f, what)
		if err := c.do(ctx, f); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		ends()
	}
	return nil
}

// do does one fault, from its beginning to its end.
func (c *cluster) do(ctx context.Context, f fault) error {
	switch f.kind {
	case killNode:
		c.running[f.node].end(syscall.SIGKILL)
		wait(ctx, f.length)
		return c.startNode(ctx, f.node)
	case stopNode:
		c.running[f.node].end(syscall.SIGTERM)
		wait(ctx, f.length)
		return c.startNode(ctx, f.node)
	case freezeNode:
		if err := c.running[f.node].process.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		wait(ctx, f.length)
		return c.running[f.node].process.Signal(syscall.SIGCONT)
	case cutNATS:
		c.relays[f.node].lead("")
		wait(ctx, f.length)
		c.relays[f.node].lead(c.broker.url)
	case restartNATS:
		c.broker.end(syscall.SIGKILL)
		wait(ctx, f.length)
		return c.startNATS(ctx)
	case restartPostgres:
		return c.postgres.Restart(ctx, f.length)
	default:
		return fmt.Errorf("no fault of a cluster: %s", f.kind)
	}
	return nil
}

// logged has the last warnings and errors of each node.
func (c *cluster) logged(last int) (found []string) {
	for i := range clusterNodes {
		of := c.grep(i, func(level string) bool { return level == "WARN" || level == "ERROR" })
		found = append(found, of[max(0, len(of)-last):]...)
	}
	return found
}

// crashed has what the nodes have written that is no line of their logs: a panic, or a data race.
func (c *cluster) crashed() (found []string) {
	for i := range clusterNodes {
		found = append(found, c.grep(i, func(level string) bool { return level == "" })...)
	}
	return found
}

// grep finds the lines of a node's log that have such a level; what is no line of it has none.
func (c *cluster) grep(i int, such func(level string) bool) (found []string) {
	data, err := os.ReadFile(filepath.Join(c.dir, fmt.Sprintf("node%d", i+1), "log"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		var entry struct{ Level string }
		_ = json.Unmarshal([]byte(line), &entry)
		// A node that is killed may leave half a line.
		if such(entry.Level) && (entry.Level != "" || !strings.HasPrefix(line, "{")) {
			found = append(found, fmt.Sprintf("node %d: %s", i+1, strings.TrimSpace(line)))
		}
	}
	return found
}

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

	"parley/internal/process"
	"parley/verify/judge"
)

// cluster is three nodes of this program, two PostgreSQL servers and a NATS server, or one node on
// SQLite, with their files in a temporary folder. Each node reaches NATS through a relay of its
// own, which can be cut. All processes end with this one.
type cluster struct {
	nodes     *nodes
	dir       string
	keep      bool // the folder
	out       io.Writer
	binary    string // of this program
	nats      string // the program
	env       []string
	databases *databases     // nil with SQLite
	file      *sqlite        // nil with PostgreSQL
	broker    *serverProcess // NATS; nil with SQLite
	relays    []*relay
	running   []*serverProcess // the nodes
}

// serverProcess is a running server, with its log.
type serverProcess struct {
	*process.Process
	url string
	log *os.File
}

// processTimeout is how long a process may take until it serves, or ends after a signal.
const processTimeout = time.Minute

// startProcess starts a server. url returns its address from a line of its output. All output is
// added to a file.
func startProcess(
	ctx context.Context, cmd *exec.Cmd, logFile string, url func(line string) string,
) (*serverProcess, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &serverProcess{log: log}
	server := process.Server{Cmd: cmd, URL: url, Log: log, Patience: processTimeout}
	if p.Process, p.url, err = process.Serve(ctx, server); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return p, nil
}

// end sends a signal that ends the process, and waits until it has ended.
func (p *serverProcess) end(signal os.Signal) {
	p.Stop(signal, processTimeout)
	_ = p.log.Close()
}

func startCluster(ctx context.Context, o Options, out io.Writer) (_ *cluster, err error) {
	c := &cluster{out: out, keep: o.Keep, running: make([]*serverProcess, o.nodes())}
	if c.binary, err = os.Executable(); err != nil {
		return nil, err
	}
	if !o.SQLite {
		if c.nats, err = natsProgram(o.NATSServer, c.binary); err != nil {
			return nil, err
		}
	}
	if c.dir, err = os.MkdirTemp("", "parley-verify-"); err != nil {
		return nil, err
	}
	if err := c.start(ctx, o.SQLite); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// natsProgram finds nats-server. It is a separate program, because linking it would make this one
// half as large again.
func natsProgram(named, binary string) (string, error) {
	if named == "" {
		named = filepath.Join(filepath.Dir(binary), "nats-server")
		if _, err := os.Stat(named); err != nil {
			named = "nats-server"
		}
	}
	found, err := exec.LookPath(named)
	if err != nil {
		return "",
			fmt.Errorf(
				"--chaos needs nats-server (Debian: apt-get install nats-server; from the source "+
					"of Parley: "+
					"make verify): in the PATH, next to this program, or named with "+
					"--nats-server: %w", err)
	}
	return filepath.Abs(found)
}

func (c *cluster) start(ctx context.Context, onSQLite bool) (err error) {
	var url string
	if onSQLite {
		c.file = &sqlite{filepath.Join(c.dir, "parley.db")}
		url = c.file.url()
	} else {
		if c.databases, err = startDatabases(ctx); err != nil {
			return fmt.Errorf("--chaos needs PostgreSQL: %w", err)
		}
		if err := c.startNATS(ctx); err != nil {
			return err
		}
		url = c.databases.url()
	}
	c.env = process.Environment(
		"PARLEY_ADDR=127.0.0.1:0", "PARLEY_DATABASE_URL="+url,
		"PARLEY_JWT_SECRET="+rand.Text()+rand.Text(), "PARLEY_RATE_LIMITS=false",
		"PARLEY_LOG_FORMAT=json",
		"PARLEY_ACCESS_TTL=20s", // so that tokens expire during the run
		"GORACE=atexit_sleep_ms=0")
	c.nodes = &nodes{urls: make([]string, len(c.running))}
	for i := range c.running {
		if c.broker != nil {
			r, err := listenRelay(c.broker.url)
			if err != nil {
				return err
			}
			c.relays = append(c.relays, r)
		}
		if err := c.startNode(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) nodeDir(i int) string { return filepath.Join(c.dir, fmt.Sprintf("node%d", i+1)) }

func (c *cluster) nodeLog(i int) string { return filepath.Join(c.nodeDir(i), "log") }

// startNode starts a node. If it ran before, it has the same data folder, and adds to the same log.
func (c *cluster) startNode(ctx context.Context, i int) error {
	return c.startNodeWithLog(ctx, i, c.nodeLog(i))
}

func (c *cluster) startNodeWithLog(ctx context.Context, i int, log string) error {
	dir := c.nodeDir(i)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	cmd := exec.Command(c.binary, "serve") //nolint:noctx // stop ends it
	cmd.Dir = dir
	cmd.Env = append(slices.Clip(c.env), "PARLEY_DATA_DIR="+dir)
	if c.broker != nil {
		cmd.Env = append(cmd.Env, "PARLEY_NATS_URL=nats://"+c.relays[i].address())
	}
	node, err := startProcess(ctx, cmd, log, process.ParleyAPI)
	if err != nil {
		return err
	}
	c.running[i] = node
	c.nodes.set(i, node.url)
	return nil
}

func (c *cluster) startNATS(ctx context.Context) (err error) {
	listening := regexp.MustCompile(`Listening for client connections on (\S+)`)
	cmd := exec.Command(c.nats, "-a", "127.0.0.1", "-p", "-1") //nolint:noctx // stop ends it
	cmd.Dir = c.dir
	c.broker, err = startProcess(ctx, cmd, filepath.Join(c.dir, "nats.log"),
		func(line string) string {
			if found := listening.FindStringSubmatch(line); found != nil {
				return found[1]
			}
			return ""
		})
	if err != nil {
		return err
	}
	for _, r := range c.relays {
		r.redirect(c.broker.url)
	}
	return nil
}

// stop ends all processes, and removes the folder.
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
	if c.databases != nil {
		err = c.databases.stop()
	}
	if c.keep {
		fmt.Fprintf(c.out, "\nThe logs are in %s.\n", c.dir)
		return err
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}

// injectFaults injects the faults of the plan, one after another. At its end everything runs again.
// It returns an error if a part of the cluster does not come back.
func (c *cluster) injectFaults(ctx context.Context, v *verification) error {
	for _, f := range v.plan.faults {
		if !wait(ctx, time.Until(v.began.Add(f.at))) {
			return nil
		}
		var undo *undoing
		if f.kind.undoes() {
			var err error
			if undo, err = c.prepareToUndo(ctx, v, f.kind); err != nil {
				return fmt.Errorf("before %s: %w", f.kind, err)
			}
			if !wait(ctx, f.length) { // what is done now will be undone
				return nil
			}
		}
		what := fmt.Sprintf("%s (%v)", f.kind, f.length.Round(time.Millisecond))
		switch f.kind {
		case killNode, stopNode, freezeNode, cutNATS, refuseOlder:
			what = fmt.Sprintf("node %d: %s", f.node+1, what)
		default:
		}
		if f.leavesOut {
			what += ", then parley restored"
		}
		fmt.Fprintf(c.out, "%8.3fs  %s\n", time.Since(v.began).Seconds(), what)
		end := v.report.startFault(f, what)
		v.records.Write(judge.Record{Type: judge.Begin, Fault: what})
		var err error
		if undo != nil {
			err = c.undo(ctx, v, undo, f.leavesOut)
		} else {
			err = c.inject(ctx, f)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		v.records.Write(judge.Record{Type: judge.End, Fault: what})
		end()
	}
	return nil
}

// inject injects one fault, from its beginning to its end.
func (c *cluster) inject(ctx context.Context, f fault) error {
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
		if err := c.running[f.node].Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		wait(ctx, f.length)
		return c.running[f.node].Signal(syscall.SIGCONT)
	case cutNATS:
		c.relays[f.node].redirect("")
		wait(ctx, f.length)
		c.relays[f.node].redirect(c.broker.url)
	case restartNATS:
		c.broker.end(syscall.SIGKILL)
		wait(ctx, f.length)
		return c.startNATS(ctx)
	case restartPostgres:
		return c.databases.current().Restart(ctx, f.length)
	case refuseOlder:
		return c.refuseOlder(ctx, f.node)
	case switchOver:
		return c.databases.switchOver(ctx, f.length)
	default:
		return fmt.Errorf("%q is not a fault of a cluster", f.kind)
	}
	return nil
}

// warnings returns the last warnings and errors of each node.
func (c *cluster) warnings(last int) (found []string) {
	for i := range c.running {
		lines := c.grep(i, func(level string) bool { return level == "WARN" || level == "ERROR" })
		found = append(found, lines[max(0, len(lines)-last):]...)
	}
	return found
}

// crashes returns the output of the nodes outside their logs: panics and data races.
func (c *cluster) crashes() (found []string) {
	for i := range c.running {
		found = append(found, c.grep(i, func(level string) bool { return level == "" })...)
	}
	return found
}

// grep returns the lines of a node's output whose level matches. The level is empty outside the
// log.
func (c *cluster) grep(i int, match func(level string) bool) (found []string) {
	data, err := os.ReadFile(c.nodeLog(i))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		var entry struct{ Level string }
		_ = json.Unmarshal([]byte(line), &entry)
		isHalf := entry.Level == "" &&
			strings.HasPrefix(line, "{") // a killed node may leave half a line
		if match(entry.Level) && !isHalf {
			found = append(found, fmt.Sprintf("node %d: %s", i+1, strings.TrimSpace(line)))
		}
	}
	return found
}

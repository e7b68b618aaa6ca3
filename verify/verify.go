// Package verify checks Parley's promise on running servers. Many senders and followers use them
// from outside, through the public API alone, while connections and nodes are broken.
//
// A run has these parts:
//
//   - The plan is drawn from a seed (plan.go).
//   - People register and create conversations (person.go, conversation.go).
//   - Senders send (sender.go) and change messages (change.go, pool.go).
//   - Followers follow (follower.go, connection.go) over links that are cut, put to sleep and moved
//     to other nodes (link.go, socket.go, sse.go, tcp.go).
//   - Members are removed and sessions ended (rights.go).
//   - With --chaos nodes are killed, frozen and cut off (cluster_linux.go, relay.go).
//   - The history records what clients do and what they receive, and checks the invariants
//     (history.go, actions.go, members.go, event.go, recorder.go, stream.go, everything.go). It
//     knows nothing about servers.
//   - All of it is written to a history file too (records.go), which package judge judges.
//   - The report has all other figures (report.go).
//
// # Concurrency
//
// Every sender, follower and fault is a goroutine. All of them end before Run returns. They share
// the history and the report. Each has one lock, which is never held while a goroutine waits.
package verify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"parley/internal/parallel"
	"parley/verify/judge"
)

// Options configure a run.
type Options struct {
	URLs          []string // of the servers; none with Chaos
	Chaos         bool     // start a cluster, and break it
	SQLite        bool     // with Chaos: a single node on SQLite instead of a cluster
	NATSServer    string   // the program, for Chaos; empty means to look for it
	Keep          bool     // keep the cluster's folder
	History       string   // the history file; empty means a temporary one
	Judge         string   // a history file to judge, instead of a run
	For           time.Duration
	Seed          uint64
	Conversations int
	People        int
	Followers     int
	Rate          int           // messages a second, of all senders together
	Grace         time.Duration // how long a node may take to notice that a session has ended
	Patience      time.Duration // how long a client waits for a silent node
}

// ErrViolated means that the promise was broken.
var ErrViolated = errors.New("the promise was broken")

const (
	// clusterNodes is how many nodes --chaos starts.
	clusterNodes = 3

	// settleTimeout is how long all deliveries and answers may take after the last fault.
	settleTimeout = time.Minute

	// settleTimeoutViolated is settleTimeout if a violation is known already.
	settleTimeoutViolated = 2 * time.Second

	// prepareTimeout bounds the time for creating accounts and conversations.
	prepareTimeout = 10 * time.Minute

	// judgeTimeout is how long Porcupine may take to judge a history file.
	judgeTimeout = time.Minute
)

// verification is one run.
type verification struct {
	plan     *plan
	nodes    *nodes
	client   *client
	history  *history
	report   *report
	records  *judge.Writer // the history file
	patience time.Duration
	out      io.Writer
	began    time.Time        // the plan's times count from here
	closing  chan struct{}    // closed when everything was sent
	finished map[string]int64 // set when closing is closed: the last seq of each conversation

	people        []*person
	conversations []string
	pool          *messagePool
	followers     []*follower
	background    sync.WaitGroup

	// steady is locked while the database is copied and restored, and read-locked while members and
	// sessions change: a copy has both as they are before or after a change.
	steady sync.RWMutex
}

// Run verifies, and writes its findings. It returns ErrViolated if the promise was broken, and
// other errors if it could not verify.
func Run(ctx context.Context, o Options, out io.Writer) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	if o.Judge != "" {
		return judgeFile(o.Judge, out)
	}
	count := o.nodes()
	p := draw(o.Seed, o.For, sizes{
		conversations: o.Conversations, people: o.People, followers: o.Followers, rate: o.Rate,
		nodes: count, chaos: o.Chaos, sqlite: o.SQLite,
	})
	v := &verification{
		plan: p, history: newHistory(o.Grace), report: newReport(), patience: o.Patience, out: out,
		closing: make(chan struct{}),
	}
	file, err := createHistoryFile(o)
	if err != nil {
		return fmt.Errorf("the history file: %w", err)
	}
	defer func() { err = errors.Join(err, file.end(errors.Is(err, ErrViolated), out)) }()
	v.records = file.Writer
	fmt.Fprintf(out, "seed %d: %d people, %d conversations, %d followers, %d messages a second "+
		"for %v, on %d nodes\n",
		o.Seed, o.People, o.Conversations, o.Followers, o.Rate, o.For, count)

	var c *cluster
	if o.Chaos {
		if c, err = startCluster(ctx, o, out); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.stop()) }()
		v.nodes = c.nodes
	} else if v.nodes, err = newNodes(o.URLs); err != nil {
		return err
	}
	v.client = newClient(v.nodes)
	defer v.client.close()
	if err := v.prepare(ctx); err != nil {
		return err
	}
	if err := v.play(ctx, c); err != nil {
		return err
	}
	err = v.conclude(o, file)
	if c == nil {
		return err
	}
	if errors.Is(err, ErrViolated) {
		printLines(out, "The last warnings of the nodes", c.warnings(20))
	}
	if lines := c.crashes(); len(lines) > 0 {
		printLines(out, "The output of the nodes outside their logs", lines[:min(len(lines), 200)])
		err = errors.Join(err, errors.New("a node has crashed, or reported a data race"))
	}
	return err
}

func printLines(w io.Writer, title string, lines []string) {
	fmt.Fprintf(w, "\n%s:\n", title)
	for _, line := range lines {
		fmt.Fprintln(w, " ", line)
	}
}

// nodes returns how many nodes are verified.
func (o *Options) nodes() int {
	switch {
	case o.Chaos && o.SQLite:
		return 1
	case o.Chaos:
		return clusterNodes
	}
	return len(o.URLs)
}

func (o *Options) check() error {
	atLeastOne := o.Conversations > 0 && o.Followers > 0 && o.Rate > 0 && o.Grace > 0 &&
		o.Patience > 0
	switch {
	case o.Judge != "" && (o.Chaos || len(o.URLs) > 0):
		return errors.New("--judge reads a file: give it no addresses, and no --chaos")
	case o.Judge != "":
		return nil
	case o.Chaos && len(o.URLs) > 0:
		return errors.New("--chaos starts its own servers: give it no addresses")
	case !o.Chaos && len(o.URLs) == 0:
		return errors.New(
			"give the addresses of the servers to verify, or use --chaos, which starts its own")
	case o.SQLite && !o.Chaos:
		return errors.New("--sqlite goes with --chaos")
	case o.For < time.Second:
		return errors.New("--for has to be at least a second")
	case !atLeastOne:
		return errors.New(
			"--conversations, --followers, --rate, --grace and --patience have to be " +
				"greater than 0")
	case o.People < 4:
		return errors.New("--people has to be at least 4")
	}
	return nil
}

// conclude prints the figures and the verdict.
func (v *verification) conclude(o Options, file *historyFile) error {
	counts, first := v.history.result()
	fmt.Fprintln(v.out)
	v.report.print(v.out, counts, v.client.internal.Load())
	if id := v.client.errorID.Load(); id != nil {
		fmt.Fprintf(v.out, "\nThe errorId of the first INTERNAL_SERVER_ERROR is %s.\n", *id)
	}
	fmt.Fprintln(v.out)
	judged := file.judge(v.out)
	if first == nil && judged == nil {
		fmt.Fprintf(v.out, "\nThe promise was kept (seed %d).\n", o.Seed)
		return nil
	}
	if first == nil {
		fmt.Fprintf(v.out, "\nThe judges of the history file do not confirm that the promise was "+
			"kept: %v\n", judged)
		return judged
	}
	v.report.printViolation(v.out, first, v.began)
	fmt.Fprintf(v.out, "\nThe promise was broken. To run the same plan again: %s\n", o.command())
	return fmt.Errorf("%w: %s, seq %d of %s", ErrViolated, first.kind, first.seq,
		first.conversation)
}

// command returns the command that runs the same plan again.
func (o Options) command() string {
	servers := strings.Join(o.URLs, " ")
	if o.Chaos {
		servers = "--chaos"
		if o.SQLite {
			servers += " --sqlite"
		}
	}
	return fmt.Sprintf("parley verify %s --seed %d --for %v --conversations %d --people %d "+
		"--followers %d --rate %d --grace %v --patience %v", servers, o.Seed, o.For,
		o.Conversations,
		o.People, o.Followers, o.Rate, o.Grace, o.Patience)
}

// prepare registers the people, creates the conversations and makes the followers.
func (v *verification) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	run := strings.ToLower(rand.Text()[:8]) // makes the names unique
	v.people = make([]*person, v.plan.people)
	v.conversations = make([]string, len(v.plan.conversations))
	v.pool = newMessagePool(len(v.plan.conversations))
	err := inParallel(ctx, v.plan.people, func(ctx context.Context, i int) error {
		p := &person{
			client: v.client, name: fmt.Sprintf("verify-%s-%d", run, i+1),
			password: rand.Text(),
		}
		p.email = p.name + "@example.invalid" // where no mail can go (RFC 6761)
		p.main = &device{person: p}
		v.people[i] = p
		return p.register(ctx, i)
	})
	if err != nil {
		return err
	}
	if err := inParallel(ctx, len(v.conversations), v.createConversation); err != nil {
		return err
	}
	v.followers = make([]*follower, len(v.plan.followers))
	return inParallel(ctx, len(v.followers), v.newFollower)
}

// inParallel calls fn with every number below n, a few calls at a time.
func inParallel(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	return parallel.Each(ctx, n, 4, fn)
}

// play runs the plan, and returns when everything was received or is lost.
func (v *verification) play(parent context.Context, c *cluster) error {
	v.began = time.Now()
	ctx, cancel := context.WithTimeout(parent, v.plan.length+2*settleTimeout)
	defer cancel()
	load, stopLoad := context.WithTimeout(ctx, v.plan.length)
	defer stopLoad()

	followed, stopFollowing := context.WithCancel(ctx)
	defer stopFollowing()

	var following, sending, breaking sync.WaitGroup
	var broken error // the cluster is
	for _, f := range v.followers {
		following.Go(func() { f.run(followed) })
	}
	for i := range senders {
		s := &sender{verification: v, number: i, rand: v.plan.rand(fmt.Sprint("sender", i))}
		sending.Go(func() { s.run(ctx, load) })
	}
	r := rights{v}
	for _, list := range v.plan.churnsByConversation() {
		sending.Go(func() { r.churnAll(ctx, load, list) })
	}
	sending.Go(func() { r.revokeAll(ctx, load) })
	for _, p := range v.people[v.plan.people-v.plan.nonMembers:] {
		v.background.Go(func() { r.tryAsNonMember(load, p) })
	}
	if c != nil {
		breaking.Go(func() {
			if broken = c.injectFaults(ctx, v); broken != nil {
				cancel()
			}
		})
	}
	breaking.Wait()
	sending.Wait()
	v.finish(ctx)
	timeout := settleTimeout
	if _, first := v.history.result(); first != nil {
		timeout = settleTimeoutViolated
	}
	late := time.AfterFunc(timeout, stopFollowing)
	following.Wait()
	late.Stop()
	v.background.Wait()
	if err := errors.Join(broken, context.Cause(parent)); err != nil {
		return err
	}
	return v.checkStored(parent)
}

// finish sends two last messages to each conversation. A stream that has delivered both has
// delivered everything: the second shows that no event is missing before the first.
func (v *verification) finish(ctx context.Context) {
	s := &sender{verification: v, number: senders, rand: v.plan.rand("last")}
	v.finished = map[string]int64{}
	for range 2 {
		for i, c := range v.plan.conversations {
			s.send(ctx, i, c.members[0], sendOnce)
		}
	}
	for _, id := range v.conversations {
		v.finished[id] = v.history.confirmedSeq(id)
	}
	close(v.closing)
}

// checkStored reads all messages and events again, and checks them and all streams.
func (v *verification) checkStored(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for i, id := range v.conversations {
		messages, err := v.listMessages(ctx, i)
		if err != nil {
			return fmt.Errorf("read %s to the end: %w", id, err)
		}
		v.history.checkList(id, messages)
		events, err := v.listEvents(ctx, i)
		if err != nil {
			return fmt.Errorf("follow the events of %s to the end: %w", id, err)
		}
		v.history.checkLog(id, events)
	}
	v.history.checkComplete()
	return nil
}

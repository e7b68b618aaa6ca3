// Package verify is the proof of the promise that anyone can run: many senders and followers
// against running servers, from outside, through the public API alone, and with everything broken
// that breaks in life.
//
// A run is a story in this order: the plan is drawn from a seed (plan.go); people register and
// start conversations; senders send (sender.go) and change what was sent (change.go), followers
// follow (follower.go) over connections that are cut, put to sleep and moved (link.go, socket.go,
// sse.go), members are removed and sessions ended (rights.go), and with chaos the servers
// themselves are killed, frozen and cut off (cluster_linux.go). Whatever is done and whatever comes
// is told to the ledger (ledger.go, deeds.go, members.go, and stream.go and everything.go for what
// is followed), which is the law: it knows nothing of servers, and says what must not be. The
// report (report.go) tells the rest.
//
// # Concurrency
//
// Every sender, follower and fault is a goroutine of its own; all of them end before Run returns.
// They meet in the ledger and the report, each with one lock, which is never held while anything is
// waited for.
package verify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options are what a run is made of.
type Options struct {
	URLs          []string // of the servers; none with Chaos
	Chaos         bool     // start a cluster, and break it
	NATSServer    string   // the program, for Chaos; empty means to look for it
	Keep          bool     // leave the folder of the cluster
	For           time.Duration
	Seed          uint64
	Conversations int
	People        int
	Followers     int
	Rate          int           // messages a second, of all senders together
	Grace         time.Duration // how long a node may take to notice that a session has ended
	// how long a client waits for a silent node before it looks for another
	Patience time.Duration
}

// ErrViolated says that the promise was broken.
var ErrViolated = errors.New("the promise was broken")

// clusterNodes is how many nodes --chaos starts.
const clusterNodes = 3

// settling is how long everything may take to come, and every outcome to be known, once nothing is
// broken any more.
const settling = time.Minute

// settlingBroken is enough where the promise is known to be broken.
const settlingBroken = 2 * time.Second

// world is a run.
type world struct {
	plan     *plan
	nodes    *nodes
	client   *client
	ledger   *ledger
	report   *report
	patience time.Duration
	out      io.Writer
	began    time.Time // the plan's times count from here
	closing  chan struct{}
	finished map[string]int64 // once closing is closed: the last seq of each conversation

	people        []*person
	conversations []string
	posted        *posted
	followers     []*follower
	background    sync.WaitGroup
}

// Run verifies, and writes what it finds. It returns ErrViolated where the promise was broken, and
// other errors where it could not be verified.
func Run(ctx context.Context, o Options, out io.Writer) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	count := len(o.URLs)
	if o.Chaos {
		count = clusterNodes
	}
	p := draw(o.Seed, o.For, sizes{
		conversations: o.Conversations, people: o.People, followers: o.Followers, rate: o.Rate, nodes: count, chaos: o.Chaos,
	})
	w := &world{plan: p, ledger: newLedger(o.Grace), report: newReport(), patience: o.Patience, out: out, closing: make(chan struct{})}
	fmt.Fprintf(out, "seed %d: %d people, %d conversations, %d followers, %d messages a second for %v, on %d nodes\n",
		o.Seed, o.People, o.Conversations, o.Followers, o.Rate, o.For, count)

	var c *cluster
	if o.Chaos {
		if c, err = startCluster(ctx, o, out); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.stop()) }()
		w.nodes = c.nodes
	} else if w.nodes, err = newNodes(o.URLs); err != nil {
		return err
	}
	w.client = newClient(w.nodes)
	defer w.client.close()
	if err := w.populate(ctx); err != nil {
		return err
	}
	if err := w.play(ctx, c); err != nil {
		return err
	}
	err = w.conclude(o)
	if c == nil {
		return err
	}
	if errors.Is(err, ErrViolated) {
		printLines(out, "The last warnings of the nodes", c.logged(20))
	}
	if lines := c.crashed(); len(lines) > 0 {
		printLines(out, "What the nodes have said outside their logs", lines[:min(len(lines), 200)])
		err = errors.Join(err, errors.New("a node has crashed, or found a data race"))
	}
	return err
}

func printLines(w io.Writer, title string, lines []string) {
	fmt.Fprintf(w, "\n%s:\n", title)
	for _, line := range lines {
		fmt.Fprintln(w, " ", line)
	}
}

func (o *Options) check() error {
	switch {
	case o.Chaos && len(o.URLs) > 0:
		return errors.New("--chaos starts servers of its own, and leaves others alone: give it no addresses")
	case !o.Chaos && len(o.URLs) == 0:
		return errors.New("say which servers to verify, by their addresses, or have --chaos start some")
	case o.For < time.Second || o.Conversations < 1 || o.Followers < 1 || o.Rate < 1 || o.Grace <= 0 || o.Patience <= 0:
		return errors.New("the time is at least a second, and there is at least one of everything")
	case o.People < 4:
		return errors.New("it takes at least 4 people")
	}
	return nil
}

// conclude prints the figures and the verdict.
func (w *world) conclude(o Options) error {
	counts, first := w.ledger.result()
	fmt.Fprintln(w.out)
	w.report.print(w.out, counts, w.client.internal.Load())
	if id := w.client.errorID.Load(); id != nil {
		fmt.Fprintf(w.out, "\nThe errorId of the first INTERNAL_SERVER_ERROR is %s.\n", *id)
	}
	if first == nil {
		fmt.Fprintf(w.out, "\nThe promise was kept (seed %d).\n", o.Seed)
		return nil
	}
	w.report.tell(w.out, first, w.began)
	fmt.Fprintf(w.out, "\nThe promise was broken. To play the same plan again: %s\n", o.command())
	return fmt.Errorf("%w: %s, seq %d of %s", ErrViolated, first.what, first.seq, first.conversation)
}

// command plays the same plan again.
func (o Options) command() string {
	where := strings.Join(o.URLs, " ")
	if o.Chaos {
		where = "--chaos"
	}
	return fmt.Sprintf("parley verify %s --seed %d --for %v --conversations %d --people %d --followers %d --rate %d --grace %v --patience %v",
		where, o.Seed, o.For, o.Conversations, o.People, o.Followers, o.Rate, o.Grace, o.Patience)
}

// populate registers the people, and starts the conversations.
func (w *world) populate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	run := strings.ToLower(rand.Text()[:8])
	w.people = make([]*person, w.plan.people)
	w.conversations = make([]string, len(w.plan.conversations))
	w.posted = newPosted(len(w.plan.conversations))
	err := atOnce(ctx, w.plan.people, func(ctx context.Context, i int) error {
		p := &person{client: w.client, name: fmt.Sprintf("verify-%s-%d", run, i+1), password: rand.Text()}
		p.email = p.name + "@example.invalid" // no mail goes there (RFC 6761)
		p.main = &device{person: p}
		w.people[i] = p
		return p.register(ctx, i)
	})
	if err != nil {
		return err
	}
	if err := atOnce(ctx, len(w.conversations), w.converse); err != nil {
		return err
	}
	w.followers = make([]*follower, len(w.plan.followers))
	return atOnce(ctx, len(w.followers), w.prepare)
}

// prepare makes a follower, which signs in by itself where that is its plan.
func (w *world) prepare(ctx context.Context, i int) error {
	p := w.plan.followers[i]
	who, id := w.people[p.person], w.conversations[p.conversation]
	f := &follower{
		world: w, plan: p, conversation: id, device: who.main, node: p.node, breaks: slices.Clone(p.breaks),
		name: fmt.Sprintf("follower %d, %s, %s over %s", i+1, who.name, p.source, p.transport),
	}
	label := fmt.Sprintf("%s over %s", p.source, p.transport)
	if p.source == ofEverything {
		f.everything = w.ledger.everything(f.name, who.id)
		f.everything.label, f.stream = label, f.everything
	} else {
		of := w.ledger.stream(f.name, id, who.id, p.source == ofConversation)
		of.label, f.stream = label, of
	}
	w.followers[i] = f
	if !p.own {
		return nil
	}
	f.device = &device{person: who}
	_, _, err := f.device.signIn(ctx, i)
	return err
}

// play has everything happen, and returns when it has come to rest.
func (w *world) play(parent context.Context, c *cluster) error {
	w.began = time.Now()
	ctx, cancel := context.WithTimeout(parent, w.plan.length+2*settling)
	defer cancel()
	load, stopLoad := context.WithTimeout(ctx, w.plan.length)
	defer stopLoad()

	followed, stopFollowing := context.WithCancel(ctx)
	defer stopFollowing()

	var following, sending, breaking sync.WaitGroup
	var broken error
	for _, f := range w.followers {
		following.Go(func() { f.run(followed) })
	}
	for i := range senders {
		s := &sender{world: w, number: i, rand: w.plan.rand(fmt.Sprint("sender", i))}
		sending.Go(func() { s.run(ctx, load) })
	}
	r := rights{w}
	for _, list := range w.plan.churnsByConversation() {
		sending.Go(func() { r.churnAll(ctx, load, list) })
	}
	sending.Go(func() { r.revokeAll(ctx, load) })
	for _, p := range w.people[w.plan.people-w.plan.strangers:] {
		w.background.Go(func() { r.stranger(load, p) })
	}
	if c != nil {
		breaking.Go(func() {
			if broken = c.play(ctx, w); broken != nil {
				cancel() // a cluster that does not come back
			}
		})
	}
	breaking.Wait()
	sending.Wait()
	w.close(ctx)
	patience := settling // what has not come by then is lost
	if _, first := w.ledger.result(); first != nil {
		patience = settlingBroken
	}
	late := time.AfterFunc(patience, stopFollowing)
	following.Wait()
	late.Stop()
	w.background.Wait()
	if err := errors.Join(broken, context.Cause(parent)); err != nil {
		return err
	}
	return w.compare(parent)
}

// close sends the last messages of each conversation: two, because the second proves that nothing
// comes between the first and it. Whoever has both has everything.
func (w *world) close(ctx context.Context) {
	s := &sender{world: w, number: senders, rand: w.plan.rand("last")}
	w.finished = map[string]int64{}
	for range 2 {
		for i, c := range w.plan.conversations {
			s.send(ctx, i, c.members[0], 2)
		}
	}
	for _, id := range w.conversations {
		w.finished[id] = w.ledger.floorOf(id)
	}
	close(w.closing)
}

// complete reports whether there is nothing more to come.
func (f *follower) complete() bool {
	select {
	case <-f.closing:
		return f.stream.complete(f.finished)
	default:
		return false
	}
}

// compare reads everything again, from the database as the API shows it.
func (w *world) compare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	for i, id := range w.conversations {
		list, err := w.list(ctx, i)
		if err != nil {
			return fmt.Errorf("read %s to the end: %w", id, err)
		}
		w.ledger.listed(id, list)
		events, err := w.log(ctx, i)
		if err != nil {
			return fmt.Errorf("follow the events of %s to the end: %w", id, err)
		}
		w.ledger.logged(id, events)
	}
	w.ledger.settle()
	return nil
}

// atOnce calls fn with every number below n, a few at a time, and stops at the first error.
func atOnce(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for i := range numbers {
				if ctx.Err() != nil {
					continue
				}
				if err := fn(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		numbers <- i
	}
	close(numbers)
	workers.Wait()
	return context.Cause(ctx)
}

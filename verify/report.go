package verify

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"
)

// report gathers the figures that are no matter of law: how often what happened, and how long it
// took.
type report struct {
	mu      sync.Mutex // guards what follows
	repairs map[kind]*repairs
	windows []window
	steps   []step // what was done to the cluster
}

// repairs of one kind of break.
type repairs struct {
	n       int
	longest time.Duration
}

// window is a fault of the cluster: from its beginning to its end, and a while beyond.
type window struct {
	kind     kind
	from, to time.Time // to is zero while it lasts
}

// aftermath is how long after its end a fault is still held responsible for what is late.
const aftermath = 2 * time.Second

func newReport() *report { return &report{repairs: map[kind]*repairs{}} }

// repaired tells that a break was repaired.
func (r *report) repaired(k kind, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(k, 1, took)
}

func (r *report) add(k kind, n int, took time.Duration) {
	if r.repairs[k] == nil {
		r.repairs[k] = &repairs{}
	}
	r.repairs[k].n += n
	r.repairs[k].longest = max(r.repairs[k].longest, took)
}

// delivered tells how long a message took from being confirmed to somebody who listens. It is the
// time to repair of a fault that fell into it, or the other way round.
func (r *report) delivered(acked, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := kind("no fault of the cluster")
	for _, w := range r.windows {
		if at.After(w.from) && (w.to.IsZero() || acked.Before(w.to.Add(aftermath))) {
			found = w.kind
		}
	}
	r.add(found, 0, at.Sub(acked))
}

// begins tells of a fault, and returns what tells of its end.
func (r *report) begins(f fault, what string) (ends func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := len(r.windows)
	r.windows = append(r.windows, window{kind: f.kind, from: time.Now()})
	r.add(f.kind, 1, 0)
	r.steps = append(r.steps, step{at: time.Now(), what: what})
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.windows[i].to = time.Now()
		r.steps = append(r.steps, step{at: time.Now(), what: what + ": over"})
	}
}

// during are the steps of the cluster around a time.
func (r *report) during(from, to time.Time) (found []step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.steps {
		if s.at.After(from.Add(-10*time.Second)) && s.at.Before(to) {
			found = append(found, s)
		}
	}
	return found
}

// faultKinds, and after them those of the followers, in the order of the table.
var faultKinds = []kind{killNode, stopNode, freezeNode, cutNATS, restartNATS, restartPostgres, "no fault of the cluster"} //nolint:gochecknoglobals // a constant table

func (r *report) print(w io.Writer, c counts, internal int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(n int, what string) { fmt.Fprintf(t, "%d\t  %s\n", n, what) }
	row(c.Acknowledged, "sends acknowledged")
	row(c.Changed, "edits, deletions and reactions acknowledged")
	row(c.Retried, "tries whose outcome was unknown, and that were repeated")
	row(c.Repeated, "acknowledged sends that were repeated all the same")
	for _, label := range slices.Sorted(maps.Keys(c.Deliveries)) {
		row(c.Deliveries[label], "deliveries of "+label)
	}
	row(c.Resets, "streams of everything that began anew, because their cursor was too old")
	row(c.Lost, "lost")
	row(c.Doubled, "doubled")
	row(c.Reordered, "reordered")
	row(c.Leaked, "leaked")
	row(c.OtherBreach, "other breaches: altered, invented, refused")
	row(int(internal), "answers INTERNAL_SERVER_ERROR, which count as unknown outcomes")
	_ = t.Flush()

	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "what happened\ttimes\tlongest repair\t\n")
	shown := map[kind]bool{}
	line := func(k kind) {
		if found := r.repairs[k]; found != nil {
			times := strconv.Itoa(found.n)
			if found.n == 0 {
				times = "–"
			}
			fmt.Fprintf(t, "%s\t%s\t%v\t\n", k, times, found.longest.Round(time.Millisecond))
		}
		shown[k] = true
	}
	for _, k := range faultKinds {
		line(k)
	}
	var others []kind
	for k := range r.repairs {
		if !shown[k] {
			others = append(others, k)
		}
	}
	slices.Sort(others)
	for _, k := range others {
		line(k)
	}
	_ = t.Flush()
	if c.LateAfterEnd > 0 {
		fmt.Fprintf(w, "\nA session that had ended received what was begun up to %v later.\n", c.LateAfterEnd.Round(time.Millisecond))
	}
}

// tell writes what is known about a violation.
func (r *report) tell(w io.Writer, v *violation, began time.Time) {
	fmt.Fprintf(w, "\nThe first violation: %s\n  conversation  %s\n  seq           %d\n  stream        %s\n  expected      %s\n  came          %s\n",
		v.what, v.conversation, v.seq, v.stream, v.expected, v.came)
	steps := slices.Clone(v.steps)
	if len(steps) > 0 {
		for _, s := range r.during(steps[0].at, steps[len(steps)-1].at.Add(time.Second)) {
			s.what = "cluster: " + s.what
			steps = append(steps, s)
		}
		slices.SortStableFunc(steps, func(a, b step) int { return a.at.Compare(b.at) })
		fmt.Fprintln(w, "  the steps until then:")
	}
	for _, s := range steps {
		fmt.Fprintf(w, "    %8.3fs  %s\n", s.at.Sub(began).Seconds(), s)
	}
}

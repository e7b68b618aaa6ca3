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

// report collects the figures that are not about invariants: how often each break and fault
// happened, and how long the repair took.
type report struct {
	mu      sync.Mutex // guards the fields below
	repairs map[kind]*repairs
	windows []window
	steps   []step // the faults of the cluster
}

// repairs are those of one kind of break or fault.
type repairs struct {
	n       int
	longest time.Duration
}

// window is the time of a fault of the cluster.
type window struct {
	kind     kind
	from, to time.Time // to is zero while it lasts
}

// aftermath is how long after its end a fault still explains a late delivery.
const aftermath = 2 * time.Second

func newReport() *report { return &report{repairs: map[kind]*repairs{}} }

// repaired records a repair.
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

// delivered records how long a confirmed message took to reach a client that was connected. If that
// time overlaps with a fault, it counts as the fault's repair.
func (r *report) delivered(acked, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := noFault
	for _, w := range r.windows {
		if at.After(w.from) && (w.to.IsZero() || acked.Before(w.to.Add(aftermath))) {
			found = w.kind
		}
	}
	r.add(found, 0, at.Sub(acked))
}

// startFault records a fault of the cluster. The returned function records its end.
func (r *report) startFault(f fault, what string) (end func()) {
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

// around returns the faults of the cluster shortly before and during a time.
func (r *report) around(from, to time.Time) (found []step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.steps {
		if s.at.After(from.Add(-10*time.Second)) && s.at.Before(to) {
			found = append(found, s)
		}
	}
	return found
}

// noFault is the row of the deliveries that no fault explains.
const noFault kind = "no fault of the cluster"

// faultKinds returns the kinds of faults in the order of the table. The kinds of breaks follow.
func faultKinds() []kind {
	return []kind{
		killNode, stopNode, freezeNode, cutNATS, restartNATS, restartPostgres, restoreCopy,
		promoteLagging, switchOver, refuseOlder, noFault,
	}
}

// print prints the figures as two tables.
func (r *report) print(w io.Writer, c counts, internal int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(n int, what string) { fmt.Fprintf(t, "%d\t  %s\n", n, what) }
	row(c.Acknowledged, "sends acknowledged")
	row(c.Changed, "edits, deletions and reactions acknowledged")
	row(c.Retried, "attempts with an unknown outcome, which were repeated")
	row(c.Repeated, "acknowledged sends that were repeated on purpose")
	for _, label := range slices.Sorted(maps.Keys(c.Deliveries)) {
		row(c.Deliveries[label], "deliveries of "+label)
	}
	row(c.Resets,
		"streams of everything that started over, because their cursor was too old or lost")
	row(c.Told, "streams of one conversation that were told that its history has changed")
	row(c.Undone, "acknowledged messages undone by a restore, which is no loss")
	row(c.Lost, "lost")
	row(c.Doubled, "doubled")
	row(c.Reordered, "reordered")
	row(c.Leaked, "leaked")
	row(c.OtherBreach, "other breaches: altered, invented, refused, mixed histories")
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
	for _, k := range faultKinds() {
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
		fmt.Fprintf(w, "\nAn ended session received changes that were begun up to %v later.\n",
			c.LateAfterEnd.Round(time.Millisecond))
	}
}

// printViolation prints a violation and the steps before it.
func (r *report) printViolation(w io.Writer, v *violation, began time.Time) {
	fmt.Fprintf(w,
		"\nThe first violation: %s\n  conversation  %s\n  seq           %d\n  stream        %s\n "+
			" expected      %s\n  came          %s\n",
		v.kind, v.conversation, v.seq, v.stream, v.expected, v.came)
	steps := slices.Clone(v.steps)
	if len(steps) > 0 {
		for _, s := range r.around(steps[0].at, steps[len(steps)-1].at.Add(time.Second)) {
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

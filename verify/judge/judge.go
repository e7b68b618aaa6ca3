// Package judge judges the history file of a run of `parley verify`, and knows nothing else of the
// run: it shares no code with the invariants that verify checks while it runs.
//
// There are two judges. Porcupine (github.com/anishathalye/porcupine) checks that the operations on
// each conversation are linearizable, with a model of an append-only log (linearizable.go). The
// other looks for the anomalies that Jepsen's workload for Kafka knows (anomaly.go, stream.go).
//
// A file is read twice: first what it says about the log of each conversation (log.go), then the
// streams, which need no memory for what they have delivered.
package judge

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Anomaly is the name of something that must not happen.
type Anomaly string

// Anomalies. docs/verify.md defines each.
const (
	LostWrite            Anomaly = "lost write"
	Duplicate            Anomaly = "duplicate"
	InconsistentOffsets  Anomaly = "inconsistent offsets"
	ExternalSkip         Anomaly = "skipped poll"
	InternalSkip         Anomaly = "internal skipped poll"
	ExternalNonmonotonic Anomaly = "nonmonotonic poll"
	InternalNonmonotonic Anomaly = "internal nonmonotonic poll"
	NonmonotonicSend     Anomaly = "nonmonotonic send"
	AbortedRead          Anomaly = "aborted read"
	GarbageRead          Anomaly = "garbage read"
	MixedHistories       Anomaly = "mixed histories"
	NotLinearizable      Anomaly = "not linearizable"
)

// Finding is one anomaly.
type Finding struct {
	Anomaly      Anomaly
	Conversation string
	Seq          int64
	By           string // the stream, the process, or the judge
	What         string
	Time         int64 // nanoseconds since the file was begun
}

func (f Finding) String() string {
	return fmt.Sprintf("%8.3fs  %s, seq %d of %s, %s: %s", time.Duration(f.Time).Seconds(),
		f.Anomaly, f.Seq, f.Conversation, f.By, f.What)
}

// Verdict is what the judges say.
type Verdict struct {
	Records       int
	Deliveries    int
	Operations    int // that Porcupine was given
	Conversations int
	Linearizable  int      // conversations
	Undecided     []string // conversations for which Porcupine needs more time
	Undone        int      // acknowledged messages that a restore has undone, as it does
	Counts        map[Anomaly]int
	Findings      []Finding // the first ones of each anomaly, in order of time
	Took          time.Duration
}

// maxFindings is how many findings of an anomaly a verdict keeps.
const maxFindings = 5

// Good reports whether nothing was found. Conversations may still be undecided.
func (v *Verdict) Good() bool { return len(v.Counts) == 0 }

func (v *Verdict) add(f Finding) {
	v.Counts[f.Anomaly]++
	if v.Counts[f.Anomaly] <= maxFindings {
		v.Findings = append(v.Findings, f)
	}
}

// Print writes the verdict for people.
func (v *Verdict) Print(w io.Writer) {
	fmt.Fprintf(w, "The history file, judged in %v: %d records, %d deliveries.\n",
		v.Took.Round(time.Millisecond), v.Records, v.Deliveries)
	fmt.Fprintf(w, "Porcupine: %d of %d conversations are linearizable (%d sends and pages).\n",
		v.Linearizable, v.Conversations, v.Operations)
	if len(v.Undecided) > 0 {
		fmt.Fprintf(w, "Porcupine needs more time for %s: they are undecided.\n",
			strings.Join(v.Undecided, ", "))
	}
	if v.Undone > 0 {
		fmt.Fprintf(w, "%d acknowledged messages were undone by a restore.\n", v.Undone)
	}
	if v.Good() {
		fmt.Fprintln(w, "Anomalies: none.")
		return
	}
	fmt.Fprintln(w, "Anomalies:")
	for _, a := range slices.Sorted(maps.Keys(v.Counts)) {
		fmt.Fprintf(w, "%6d  %s\n", v.Counts[a], a)
	}
	for _, f := range v.Findings {
		fmt.Fprintln(w, " ", f)
	}
}

// File judges a file. patience is how long Porcupine may take, for all conversations together.
func File(path string, patience time.Duration) (*Verdict, error) {
	start := time.Now()
	v := &Verdict{Counts: map[Anomaly]int{}}
	c := &collector{verdict: v, logs: map[string]*log{}, open: map[int]*operation{}}
	if err := read(path, c.add); err != nil {
		return nil, err
	}
	logs := c.finish()
	v.Conversations = len(logs)
	for _, l := range logs {
		l.sortHistories()
		l.findAnomalies(v)
	}
	s := &streams{verdict: v, logs: c.logs, all: map[string]*stream{}}
	if err := read(path, s.add); err != nil {
		return nil, err
	}
	checkLinearizable(logs, patience, v)
	slices.SortStableFunc(v.Findings, func(a, b Finding) int { return cmp.Compare(a.Time, b.Time) })
	v.Took = time.Since(start)
	return v, nil
}

// collector reads what a file says about logs.
type collector struct {
	verdict *Verdict
	logs    map[string]*log
	open    map[int]*operation // operations by number, until they are answered
	finals  map[string]bool    // streams that read the log after everything else
}

func (c *collector) log(id string) *log {
	l := c.logs[id]
	if l == nil {
		l = newLog(id)
		c.logs[id] = l
	}
	return l
}

func (c *collector) add(r Record) error {
	c.verdict.Records++
	switch r.Type {
	case Conversation:
		c.log(r.Conversation).fromJoining = r.FromJoining
	case Restored:
		l := c.log(r.Conversation)
		l.restores = append(l.restores, restore{r.From, r.Time, r.Seq, r.Since})
	case Subscribe:
		if r.Final {
			if c.finals == nil {
				c.finals = map[string]bool{}
			}
			c.finals[r.Stream] = true
			c.log(r.Conversation).finalRead = true
		}
	case Deliver:
		c.verdict.Deliveries++
		c.deliver(r)
	case Invoke:
		c.invoke(r)
	case OK, Fail:
		c.end(r)
	case Run, Info, Seek, Told, Begin, End:
	}
	return nil
}

// deliver adds an event that a stream has delivered.
func (c *collector) deliver(r Record) {
	if r.Seq == 0 || r.ID == "" { // not an event of a log
		return
	}
	l := c.log(r.Conversation)
	e := c.read(l, r, r.Seq, r.ID, r.Kind)
	if e == nil {
		return
	}
	e.isFinal = e.isFinal || c.finals[r.Stream]
	switch in := l.intents[r.Value]; {
	case in != nil && in.key != "":
		e.key = in.key
	case in == nil && r.Value != "":
		e.garbage = true
	}
	if _, known := l.readValues[r.Value]; !known && r.Value != "" {
		l.readValues[r.Value] = r
	}
	if r.Kind == memberAdded && !slices.Contains(l.additions[r.User], r.Seq) {
		l.additions[r.User] = append(l.additions[r.User], r.Seq)
	}
}

// read adds an entry that was read.
func (c *collector) read(l *log, r Record, seq int64, id, kind string) *entry {
	e := l.see(seq, id, kind, r.Time)
	if e == nil {
		c.verdict.add(Finding{
			Duplicate, l.id, seq, cmp.Or(r.Stream, r.Process),
			fmt.Sprintf("%s %s, which is at seq %d too", kind, id, l.entries[id].seq), r.Time,
		})
		return nil
	}
	e.read = true
	l.highest = max(l.highest, seq)
	return e
}

func (c *collector) invoke(r Record) {
	c.open[r.Op] = &operation{process: r.Process, invoked: r.Time, ended: endless, invoke: r}
	l := c.log(r.Conversation)
	if r.Function != Send && r.Function != Edit {
		return
	}
	in := l.intents[r.Value]
	if in == nil {
		in = &intent{key: r.Key, invoked: r.Time}
		l.intents[r.Value] = in
		if r.Key != "" {
			l.byKey[r.Key] = in
		}
	}
	in.open++
}

func (c *collector) end(r Record) {
	o := c.open[r.Op]
	if o == nil {
		return
	}
	delete(c.open, r.Op)
	o.ended, o.answer, o.failed = r.Time, r, r.Type == Fail
	l := c.log(o.invoke.Conversation)
	switch {
	case o.failed:
		if in := l.intents[o.invoke.Value]; in != nil {
			in.open--
		}
	case o.invoke.Function == Send:
		l.sends = append(l.sends, o)
		e := l.see(r.Seq, r.ID, messageAdded, r.Time)
		if e == nil {
			c.verdict.add(Finding{
				Duplicate, l.id, r.Seq, o.process,
				fmt.Sprintf("message %s, which is at seq %d too", r.ID, l.entries[r.ID].seq),
				r.Time,
			})
			return
		}
		e.key = o.invoke.Key
		if e.acked == 0 {
			e.acked = r.Time
		}
	case o.invoke.Function == ReadPage:
		l.pages = append(l.pages, o)
		for _, item := range r.Page {
			if e := c.read(l, r, item.Seq, item.ID, messageAdded); e != nil && o.invoke.Final {
				e.isFinal = true
			}
		}
	default:
	}
}

// finish returns the logs, in order.
func (c *collector) finish() (list []*log) {
	for _, id := range slices.Sorted(maps.Keys(c.logs)) {
		list = append(list, c.logs[id])
	}
	return list
}

package verify

import (
	"errors"
	"fmt"
	"io"
	"os"

	"parley/verify/judge"
)

// operation is an operation in the history file.
type operation struct {
	*judge.Operation
	unsure bool // an attempt had no answer
}

// invoke records that an operation begins.
func (v *verification) invoke(r judge.Record) *operation {
	return &operation{Operation: v.records.Invoke(r)}
}

// unknown records that an attempt had no answer.
func (o *operation) unknown(why error) {
	o.unsure = true
	o.Info(why)
}

// fail records the end of an operation that was not done. If an attempt had no answer, that one may
// have been executed.
func (o *operation) fail(err error) {
	if o.unsure || codeOf(err) == "" {
		o.unknown(err)
		return
	}
	o.Fail(err)
}

// follow records that a stream is requested. conversation and after are empty for a stream of
// everything.
func (v *verification) follow(
	stream string, of source, conversation, user string, after int64, final bool,
) {
	v.records.Write(judge.Record{
		Type: judge.Subscribe, Stream: stream, Source: string(of), Conversation: conversation,
		User: user, After: after, Final: final,
	})
}

// deliver records an item that a stream has delivered.
func (v *verification) deliver(stream string, it item) {
	r := judge.Record{
		Type: judge.Deliver, Stream: stream, Conversation: it.conversation, Kind: it.Kind,
		User: it.person(), ID: it.identity(),
	}
	switch it.Kind {
	case streamReset:
		r.Type = judge.Told
	case caughtUp, conversationJoined, conversationLeft:
		r.ID = ""
	default:
		r.Seq = it.Seq
		if it.covers() < it.Seq {
			r.First = it.covers()
		}
	}
	if m := it.subject(); m != nil && (it.Kind == messageAdded || it.Kind == messageEdited) {
		r.Value = m.Content
	}
	v.records.Write(r)
}

// identity returns what distinguishes an event from any other, also from one with the same seq in
// another history.
func (e event) identity() string {
	if e.Added != nil {
		return e.Added.ID
	}
	return fmt.Sprintf("%s %d %d", e.Kind, e.Seq, e.At.UnixMicro())
}

// historyFile is the history file of a run.
type historyFile struct {
	*judge.Writer
	path string
	keep bool // the caller has named the file
}

// createHistoryFile makes the file that the options name, or a temporary one.
func createHistoryFile(o Options) (*historyFile, error) {
	f := &historyFile{path: o.History, keep: o.History != ""}
	if !f.keep {
		temporary, err := os.CreateTemp("", "parley-history-*.jsonl")
		if err != nil {
			return nil, err
		}
		f.path = temporary.Name()
		if err := temporary.Close(); err != nil {
			return nil, err
		}
	}
	var err error
	f.Writer, err = judge.Create(f.path, o.command())
	return f, err
}

// judge closes the file, judges it, and prints the verdict.
func (f *historyFile) judge(out io.Writer) error {
	if err := f.Close(); err != nil {
		return fmt.Errorf("the history file is not complete: %w", err)
	}
	return judgeFile(f.path, out)
}

// end closes the file, and removes it if no one needs it.
func (f *historyFile) end(violated bool, out io.Writer) error {
	err := f.Close()
	if f.keep || violated {
		fmt.Fprintf(out, "The history is in %s; to judge it again: parley verify --judge %s\n",
			f.path, f.path)
		return err
	}
	return errors.Join(err, os.Remove(f.path))
}

// ErrUndecided means that Porcupine needs more time to judge a history file.
var ErrUndecided = errors.New("the second judge is undecided")

// judgeFile judges a history file, and prints the verdict.
func judgeFile(path string, out io.Writer) error {
	v, err := judge.File(path, judgeTimeout)
	if err != nil {
		return err
	}
	v.Print(out)
	switch {
	case !v.Good():
		return fmt.Errorf("%w: %s", ErrViolated, v.Findings[0].Anomaly)
	case len(v.Undecided) > 0:
		return ErrUndecided
	}
	return nil
}

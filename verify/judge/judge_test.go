package judge

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// history is a history file that is made by hand. Each record is one nanosecond later than the one
// before.
type history struct {
	records []Record
	ops     int
}

const conv = "conv_1"

func newHistory(fromJoining bool) *history {
	h := &history{}
	h.add(Record{Type: Run, Form: form})
	h.add(Record{Type: Conversation, Conversation: conv, FromJoining: fromJoining})
	return h
}

func (h *history) add(r Record) {
	r.Time = int64(len(h.records))
	h.records = append(h.records, r)
}

func value(key string) string { return key + " 10" }

func message(seq int64) string { return fmt.Sprint("msg_", seq) }

// invoke begins a send.
func (h *history) invoke(process, key string) (op int) {
	h.ops++
	h.add(Record{
		Type: Invoke, Op: h.ops, Process: process, Function: Send, Conversation: conv, Key: key,
		Value: value(key),
	})
	return h.ops
}

func (h *history) ok(process string, op int, seq int64, id string) {
	h.add(Record{Type: OK, Op: op, Process: process, Seq: seq, ID: id})
}

// send sends and is answered: the key of seq 2 is k2.
func (h *history) send(process string, seqs ...int64) {
	for _, seq := range seqs {
		h.ok(process, h.invoke(process, fmt.Sprint("k", seq)), seq, message(seq))
	}
}

// page reads the newest messages.
func (h *history) page(limit int, seqs ...int64) {
	var items []Item
	for _, seq := range seqs {
		items = append(items, Item{seq, message(seq)})
	}
	h.ops++
	h.add(Record{
		Type: Invoke, Op: h.ops, Process: "reader", Function: ReadPage, Conversation: conv,
		Newest: true, Limit: limit,
	})
	h.add(Record{Type: OK, Op: h.ops, Process: "reader", Page: items})
}

func (h *history) follow(stream, source string, after int64) {
	r := Record{
		Type: Subscribe, Stream: stream, Source: source, Conversation: conv, User: "ben",
		After: after,
	}
	if source == everything {
		r.Conversation = ""
	}
	h.add(r)
}

// deliver delivers messages.
func (h *history) deliver(stream string, seqs ...int64) {
	for _, seq := range seqs {
		h.event(stream, seq, messageAdded, message(seq), value(fmt.Sprint("k", seq)))
	}
}

func (h *history) event(stream string, seq int64, kind, id, value string) {
	r := Record{
		Type: Deliver, Stream: stream, Conversation: conv, Seq: seq, Kind: kind, ID: id,
		Value: value,
	}
	if kind == memberAdded || kind == memberRemoved {
		r.User = "ben"
	}
	h.add(r)
}

// final reads the log after everything else.
func (h *history) final(seqs ...int64) {
	h.add(Record{
		Type: Subscribe, Stream: "log", Source: "conversationEvents", Conversation: conv,
		Final: true,
	})
	h.event("log", 1, "ConversationCreated", "ConversationCreated 1", "")
	h.deliver("log", seqs...)
}

// restore undoes everything after a seq. Everything that was acknowledged before is in the copy.
func (h *history) restore(keeps, since int64) {
	h.add(Record{Type: Begin, Fault: "restore"})
	from := int64(len(h.records) - 1)
	h.add(Record{Type: Restored, Conversation: conv, Seq: keeps, Since: since, From: from})
	h.add(Record{Type: End, Fault: "restore"})
}

// resend sends a message that gets a seq again, and another id.
func (h *history) resend(process string, seq int64) (id string) {
	id = fmt.Sprintf("msg_%d_again", seq)
	h.ok(process, h.invoke(process, fmt.Sprintf("again%d", seq)), seq, id)
	return id
}

func (h *history) deliverAgain(stream string, seq int64) {
	h.event(stream, seq, messageAdded, fmt.Sprintf("msg_%d_again", seq),
		value(fmt.Sprintf("again%d", seq)))
}

func (h *history) write(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "history.jsonl")
	var text strings.Builder
	for _, r := range h.records {
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(append(line, '\n'))
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (h *history) judge(t *testing.T) *Verdict {
	t.Helper()
	v, err := File(h.write(t), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

const (
	messages = "messageAdded"
	events   = "conversationEvents"
)

// Each anomaly is found in a history that has it, and in no other. Porcupine finds those that show
// in sends and pages.
func TestAnomalies(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fromJoining bool
		play        func(h *history)
		want        []Anomaly
	}{
		"none": {play: func(h *history) {
			h.follow("f", messages, 0)
			h.send("p", 2, 3)
			h.deliver("f", 2)
			h.page(1, 3)
			h.page(5, 2, 3)
			h.follow("f", messages, 2)
			h.deliver("f", 3)
			h.final(2, 3)
		}},
		"none, and two processes at a time": {play: func(h *history) {
			a, b := h.invoke("p", "k3"), h.invoke("q", "k2")
			h.ok("p", a, 3, message(3))
			h.ok("q", b, 2, message(2))
			h.final(2, 3)
		}},
		"a send without an answer happens later": {play: func(h *history) {
			h.invoke("p", "k3")
			h.send("q", 2)
			h.page(5, 2)
			h.page(5, 2, 3)
			h.final(2, 3)
		}},
		"a send without an answer never happens": {play: func(h *history) {
			h.invoke("p", "k3")
			h.send("q", 2)
			h.page(5, 2)
			h.final(2)
		}},
		"a send that is repeated on purpose": {play: func(h *history) {
			h.send("p", 2, 2, 3)
			h.page(5, 2, 3)
			h.final(2, 3)
		}},

		"lost write": {play: func(h *history) {
			h.send("p", 2, 3)
			h.follow("f", events, 2)
			h.deliver("f", 3)
		}, want: []Anomaly{LostWrite}},
		"lost write, in a page too": {play: func(h *history) {
			h.send("p", 2, 3)
			h.page(5, 3)
		}, want: []Anomaly{LostWrite, NotLinearizable}},
		"lost write at the end": {play: func(h *history) {
			h.send("p", 2, 3)
			h.page(5, 2, 3)
			h.final(2)
		}, want: []Anomaly{LostWrite}},
		"a page is stale": {play: func(h *history) {
			h.send("p", 2, 3)
			h.page(5, 2)
			h.final(2, 3)
		}, want: []Anomaly{NotLinearizable}},
		"a page shows a message, and the next one does not": {play: func(h *history) {
			h.invoke("p", "k2")
			h.page(5, 2)
			h.page(5)
			h.final(2)
		}, want: []Anomaly{NotLinearizable}},
		"a stream shows a message, and then a page does not": {play: func(h *history) {
			h.invoke("p", "k2")
			h.follow("f", messages, 0)
			h.deliver("f", 2)
			h.page(5)
			h.final(2)
		}, want: []Anomaly{NotLinearizable}},
		"a seq below an acknowledged one": {play: func(h *history) {
			h.send("p", 3)
			h.send("q", 2)
			h.final(2, 3)
		}, want: []Anomaly{NotLinearizable}},
		"a send is stored twice": {play: func(h *history) {
			h.send("p", 2)
			h.ok("p", h.invoke("p", "k2"), 3, "msg_3")
			h.follow("f", messages, 0)
			h.deliver("f", 2)
			h.event("f", 3, messageAdded, "msg_3", value("k2"))
		}, want: []Anomaly{Duplicate, NotLinearizable}},
		"an attempt without an answer is stored too": {play: func(h *history) {
			h.send("p", 2)
			h.follow("f", messages, 0)
			h.deliver("f", 2)
			h.event("f", 3, messageAdded, "msg_3", value("k2"))
			h.ops++
		}, want: []Anomaly{Duplicate, NotLinearizable}},
		"a message is at two seqs": {play: func(h *history) {
			h.send("p", 2)
			h.follow("f", messages, 0)
			h.deliver("f", 2)
			h.event("f", 3, messageAdded, "msg_2", value("k2"))
		}, want: []Anomaly{Duplicate}},
		"two messages at one seq": {play: func(h *history) {
			h.send("p", 2)
			h.follow("f", messages, 0)
			h.deliver("f", 2)
			h.ok("q", h.invoke("q", "other"), 2, "msg_other")
		}, want: []Anomaly{InconsistentOffsets, NotLinearizable}},
		"nodes disagree about an event": {play: func(h *history) {
			h.follow("f", events, 1)
			h.event("f", 2, "MessageEdited", "MessageEdited 7", "")
			h.follow("g", events, 1)
			h.event("g", 2, "MessageEdited", "MessageEdited 8", "")
		}, want: []Anomaly{InconsistentOffsets}},

		"skipped by a resume": {play: func(h *history) {
			h.send("p", 2, 3)
			h.follow("f", messages, 0)
			h.follow("f", messages, 0)
			h.deliver("f", 3)
			h.final(2, 3)
		}, want: []Anomaly{ExternalSkip}},
		"skipped in a subscription": {play: func(h *history) {
			h.send("p", 2, 3, 4)
			h.follow("f", messages, 0)
			h.deliver("f", 2, 4)
			h.final(2, 3, 4)
		}, want: []Anomaly{InternalSkip}},
		"a stream of messages leaves out other events": {play: func(h *history) {
			h.send("p", 2, 4)
			h.follow("f", messages, 0)
			h.deliver("f", 2, 4)
		}},
		"a stream of events leaves out one that no one has seen": {play: func(h *history) {
			h.send("p", 2, 4)
			h.follow("f", events, 1)
			h.deliver("f", 2, 4)
		}, want: []Anomaly{InternalSkip}},
		"skipped in a page": {play: func(h *history) {
			h.send("p", 2, 3, 4)
			h.page(2, 2, 4)
			h.final(2, 3, 4)
		}, want: []Anomaly{InternalSkip, NotLinearizable}},
		"a page is out of order": {play: func(h *history) {
			h.send("p", 2, 3)
			h.page(2, 3, 2)
			h.final(2, 3)
		}, want: []Anomaly{InternalNonmonotonic, NotLinearizable}},
		"twice in a subscription": {play: func(h *history) {
			h.send("p", 2, 3)
			h.follow("f", messages, 0)
			h.deliver("f", 2, 2, 3)
		}, want: []Anomaly{InternalNonmonotonic}},
		"again after a resume": {play: func(h *history) {
			h.send("p", 2, 3)
			h.follow("f", messages, 0)
			h.deliver("f", 2, 3)
			h.follow("f", messages, 3)
			h.deliver("f", 3)
		}, want: []Anomaly{ExternalNonmonotonic}},
		"back in a subscription": {play: func(h *history) {
			h.send("p", 2, 3, 4)
			h.follow("f", messages, 1)
			h.deliver("f", 2, 3, 4)
			h.deliver("f", 2)
		}, want: []Anomaly{InternalNonmonotonic}},
		"a process gets a lower seq": {play: func(h *history) {
			h.send("p", 3, 2)
			h.final(2, 3)
		}, want: []Anomaly{NonmonotonicSend, NotLinearizable}},

		"a refused send is read": {play: func(h *history) {
			op := h.invoke("p", "k2")
			h.add(Record{Type: Fail, Op: op, Process: "p", Why: "NOT_FOUND"})
			h.final(2)
		}, want: []Anomaly{AbortedRead}},
		"a refused send is not read": {play: func(h *history) {
			op := h.invoke("p", "k2")
			h.add(Record{Type: Fail, Op: op, Process: "p", Why: "NOT_FOUND"})
			h.final()
		}},
		"a message that no one sent": {play: func(h *history) {
			h.final(2)
		}, want: []Anomaly{GarbageRead}},
		"a message that no one sent, in a page too": {play: func(h *history) {
			h.final(2)
			h.page(5, 2)
		}, want: []Anomaly{GarbageRead, NotLinearizable}},

		"removed, and the events before that are left out": {play: func(h *history) {
			h.send("p", 2, 3)
			h.follow("f", events, 1)
			h.event("f", 4, memberRemoved, "MemberRemoved 4", "")
			h.follow("f", events, 1)
			h.deliver("f", 2, 3)
			h.event("f", 4, memberRemoved, "MemberRemoved 4", "")
		}},
		"history begins with joining": {fromJoining: true, play: func(h *history) {
			h.send("p", 2, 3)
			h.follow("f", events, 1)
			h.deliver("f", 2)
			h.follow("f", events, 2)
			h.event("f", 5, memberAdded, "MemberAdded 5", "")
			h.final(2, 3)
		}},
		"history begins with joining, and a later event is missing": {
			fromJoining: true, play: func(h *history) {
				h.send("p", 2)
				h.follow("f", events, 1)
				h.deliver("f", 2)
				h.follow("f", events, 2)
				h.event("f", 5, memberAdded, "MemberAdded 5", "")
				h.send("p", 6, 7)
				h.deliver("f", 7)
			}, want: []Anomaly{InternalSkip, LostWrite},
		},
		"joined": {play: func(h *history) {
			h.send("p", 2, 3, 4)
			h.follow("f", everything, 0)
			h.deliver("f", 2)
			h.add(Record{
				Type: Deliver, Stream: "f", Conversation: conv, Kind: conversationJoined,
			})
			h.deliver("f", 4)
			h.final(2, 3, 4)
		}},
		"a client that has read further": {play: func(h *history) {
			h.send("p", 2, 3, 4)
			h.follow("f", everything, 0)
			h.deliver("f", 2)
			h.add(Record{Type: Seek, Stream: "f", Conversation: conv, Seq: 3})
			h.deliver("f", 3, 4)
			h.final(2, 3, 4)
		}},
		"a client that has read further, and then a gap": {play: func(h *history) {
			h.send("p", 2, 3, 4)
			h.follow("f", everything, 0)
			h.add(Record{Type: Seek, Stream: "f", Conversation: conv, Seq: 2})
			h.deliver("f", 4)
			h.final(2, 3, 4)
		}, want: []Anomaly{ExternalSkip}},

		"restored, and the stream was told": {play: func(h *history) {
			h.send("p", 2, 3, 4)
			h.follow("f", events, 1)
			h.deliver("f", 2, 3, 4)
			h.page(5, 2, 3, 4)
			h.restore(2, 4)
			h.add(Record{Type: Told, Stream: "f", Conversation: conv})
			h.resend("p", 3)
			h.follow("f", events, 2)
			h.deliverAgain("f", 3)
			h.final(2)
			h.deliverAgain("log", 3)
		}},
		"restored, and a send without a key is refused afterwards": {play: func(h *history) {
			h.follow("f", events, 1)
			h.event("f", 2, "MessageEdited", "MessageEdited 2", "")
			h.event("f", 3, "MessageEdited", "MessageEdited 3", "")
			h.restore(2, 3)
			op := h.invoke("p", "")
			h.add(Record{Type: Fail, Op: op, Process: "p", Why: "NOT_FOUND"})
			h.final()
			h.event("log", 2, "MessageEdited", "MessageEdited 2", "")
		}},
		"restored, and the stream was not told": {play: func(h *history) {
			h.send("p", 2, 3)
			h.follow("f", events, 1)
			h.deliver("f", 2, 3)
			h.restore(2, 4)
			h.resend("p", 3)
			h.resend("p", 4)
			h.deliverAgain("f", 4)
			h.final(2)
			h.deliverAgain("log", 3)
			h.deliverAgain("log", 4)
		}, want: []Anomaly{MixedHistories}},
		"restored, and no one reads the log afterwards": {play: func(h *history) {
			h.send("p", 2, 3)
			h.follow("f", events, 1)
			h.deliver("f", 2, 3)
			h.restore(2, 4)
			h.resend("p", 3)
			h.resend("p", 4)
			h.deliverAgain("f", 4)
		}, want: []Anomaly{LostWrite, MixedHistories}},
		"restored twice, and told once": {play: func(h *history) {
			h.send("p", 2, 3)
			h.follow("f", events, 1)
			h.deliver("f", 2, 3)
			h.restore(2, 4)
			h.add(Record{Type: Told, Stream: "f", Conversation: conv})
			h.resend("p", 3)
			h.follow("f", events, 2)
			h.deliverAgain("f", 3)
			h.restore(2, 8)
			h.ok("p", h.invoke("p", "third3"), 3, "msg_third3")
			h.ok("p", h.invoke("p", "third4"), 4, "msg_third4")
			h.event("f", 4, messageAdded, "msg_third4", value("third4"))
			h.final(2)
			h.event("log", 3, messageAdded, "msg_third3", value("third3"))
			h.event("log", 4, messageAdded, "msg_third4", value("third4"))
		}, want: []Anomaly{MixedHistories}},
		"restored, and the copy is older than it may be": {play: func(h *history) {
			h.send("p", 2, 3)
			h.send("p", 4)
			h.restore(2, 6)
			h.final(2)
		}, want: []Anomaly{LostWrite}},
		"restored, and a page still shows the lost history": {play: func(h *history) {
			h.send("p", 2, 3)
			h.restore(2, 4)
			h.page(5, 2, 3)
			h.final(2)
		}, want: []Anomaly{NotLinearizable}},
		"restored, and what was in the copy is lost": {play: func(h *history) {
			h.send("p", 2, 3)
			h.restore(3, 5)
			h.final(2)
		}, want: []Anomaly{LostWrite}},
		"restored, and a send is repeated": {play: func(h *history) {
			h.send("p", 2, 3)
			h.page(5, 2, 3)
			h.restore(2, 4)
			h.ok("p", h.invoke("p", "k3"), 3, "msg_3_again")
			h.final(2)
			h.event("log", 3, messageAdded, "msg_3_again", value("k3"))
		}},
		"restored by an operator, who leaves out seqs": {play: func(h *history) {
			h.send("p", 2, 3)
			h.follow("f", events, 1)
			h.deliver("f", 2)
			h.restore(2, 4)
			h.add(Record{
				Type: Deliver, Stream: "f", Conversation: conv, Kind: "HistoryRestored", Seq: 9,
				First: 3, ID: "HistoryRestored 9",
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHistory(test.fromJoining)
			test.play(h)
			v := h.judge(t)
			want := test.want
			if diff := cmp.Diff(want, slices.Sorted(maps.Keys(v.Counts))); diff != "" {
				t.Errorf("(-want +got):\n%s%v", diff, v.Findings)
			}
			if v.Good() != (len(want) == 0) || v.Good() && v.Linearizable != 1 {
				t.Errorf("%+v", v)
			}
		})
	}
}

// An undecided conversation is not passed as good.
func TestPorcupineNeedsMoreTime(t *testing.T) {
	t.Parallel()
	h := newHistory(false)
	// Many sends at the same time, whose answers only an exhaustive search can refute.
	var ops []int
	for i := range 40 {
		ops = append(ops, h.invoke(fmt.Sprint("p", i), fmt.Sprint("k", i+2)))
	}
	h.page(5, 99)
	for i, op := range ops {
		h.ok(fmt.Sprint("p", i), op, int64(i+2), message(int64(i+2)))
	}
	v, err := File(h.write(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(v.Undecided, []string{conv}) || v.Linearizable != 0 {
		t.Errorf("%+v", v)
	}
	var printed strings.Builder
	v.Print(&printed)
	if !strings.Contains(printed.String(), "0 of 1 conversations are linearizable") ||
		!strings.Contains(printed.String(), "undecided") {
		t.Error(printed.String())
	}
}

// What the writer writes is read again, record by record.
func TestWriter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "history.jsonl")
	w, err := Create(path, "parley verify --seed 1")
	if err != nil {
		t.Fatal(err)
	}
	op := w.Invoke(Record{Process: "p", Function: Send, Conversation: conv, Key: "k2"})
	op.Info(errors.New("no answer"))
	op.OK(Record{Seq: 2, ID: "msg_2"})
	w.Invoke(Record{Process: "q", Function: Send, Conversation: conv}).Fail(errors.New("no"))
	w.Write(Record{Type: Deliver, Stream: "f", Conversation: conv, Seq: 2, ID: "msg_2"})
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	var got []Record
	err = read(path, func(r Record) error {
		r.Time = 0
		got = append(got, r)
		return nil
	})
	want := []Record{
		{Type: Run, Form: form, Command: "parley verify --seed 1"},
		{Type: Invoke, Process: "p", Op: 1, Function: Send, Conversation: conv, Key: "k2"},
		{Type: Info, Process: "p", Op: 1, Why: "no answer"},
		{Type: OK, Process: "p", Op: 1, Seq: 2, ID: "msg_2"},
		{Type: Invoke, Process: "q", Op: 2, Function: Send, Conversation: conv},
		{Type: Fail, Process: "q", Op: 2, Why: "no"},
		{Type: Deliver, Stream: "f", Conversation: conv, Seq: 2, ID: "msg_2"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// A file that is not a history file is refused with the line and the reason. The last line may be
// cut, because a run may be killed.
func TestFilesThatAreRefused(t *testing.T) {
	t.Parallel()
	head := `{"type":"run","time":0,"form":1}` + "\n"
	for text, want := range map[string]string{
		"":                              "is empty",
		"no history\n":                  "line 1",
		`{"type":"ok","time":0}` + "\n": "line 1: not a history file",
		`{"type":"run","time":0,"form":2}` + "\n":   "form 2; this program reads form 1",
		head + `{"type":"poll","time":1}` + "\n":    `line 2: "poll" is not a type`,
		head + `{"type":"ok","time":1}` + "\n":      "line 2: a record \"ok\" without op",
		head + `{"type":"run","time":-1}` + "\n":    "line 2: the time is before",
		head + `{"type":"deliver","time":1}` + "\n": "without stream",
		head + `{"type":"deli`:                      "",
	} {
		path := filepath.Join(t.TempDir(), "history.jsonl")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := File(path, time.Second)
		if want == "" && err != nil || want != "" && (err == nil ||
			!strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

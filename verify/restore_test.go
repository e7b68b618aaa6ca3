package verify

import (
	"fmt"
	"testing"
	"time"
)

// again returns the message that has a seq after a restore.
func (f *fixture) again(seq int64) message {
	return message{
		ID: fmt.Sprintf("msg_%d_again", seq), Seq: seq, Content: fmt.Sprintf("again %d", seq),
		CreatedAt: f.now,
	}
}

// resend sends messages in the newest history.
func (f *fixture) resend(seqs ...int64) {
	for _, seq := range seqs {
		m := f.again(seq)
		f.sending(conv, m.Content, f.now)
		f.acknowledged(conv, m, m.Content, f.now)
		f.stored = append(f.stored, m)
	}
}

// restore undoes everything after a seq. What was acknowledged before a time is in the copy.
func (f *fixture) restore(keeps int64, since time.Time) {
	f.now = f.now.Add(time.Minute)
	r := restore{since: since, from: f.now}
	f.now = f.now.Add(time.Second)
	r.to = f.now
	f.restored(r, map[string]int64{conv: keeps})
	var kept []message
	for _, m := range f.stored {
		if m.Seq <= keeps {
			kept = append(kept, m)
		}
	}
	f.stored = kept
}

// sendLater sends messages, each a second after the one before. It returns when the first was sent.
func (f *fixture) sendLater(seqs ...int64) (first time.Time) {
	for _, seq := range seqs {
		f.now = f.now.Add(time.Second)
		if first.IsZero() {
			first = f.now
		}
		f.send(seq)
	}
	return first
}

func (s *subscription) getAgain(f *fixture, seqs ...int64) {
	for _, seq := range seqs {
		s.receive(item{event: arrival(f.again(seq))}, f.now)
	}
}

// A restore undoes what was acknowledged after the copy. Every stream has to be told before it gets
// an event of another history than those it got before.
func TestRestores(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		play   func(f *fixture)
		want   counts
		first  string
		undone int
	}{
		"the stream is told": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			since := f.sendLater(3, 4)
			s.get(f, 2, 3, 4)
			f.restore(2, since)
			f.resend(3, 4)
			s.told(f.now, 1, 2, "a cursor")
			s = s.resume()
			s.getAgain(f, 3, 4)
		}, undone: 2},
		"the stream has nothing of what is undone": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			since := f.sendLater(3, 4)
			s.get(f, 2)
			f.restore(2, since)
			f.resend(3, 4)
			s.getAgain(f, 3, 4)
		}, undone: 2},
		"the stream is not told, and gets the next seq": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			since := f.sendLater(3, 4)
			s.get(f, 2, 3)
			f.restore(2, since)
			f.resend(3, 4)
			s.getAgain(f, 4)
		}, want: counts{OtherBreach: 1}, first: "mixed 4", undone: 2},
		"the stream is not told, and gets nothing": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			since := f.sendLater(3)
			s.get(f, 2, 3)
			f.restore(2, since)
			f.resend(3)
		}, want: counts{OtherBreach: 1}, first: "mixed 3", undone: 1},
		"the stream is told, and gets an event of before": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			since := f.sendLater(3, 4)
			s.get(f, 2, 3)
			f.restore(2, since)
			s.told(f.now, 1, 2, "a cursor")
			s.resume().get(f, 4)
		}, want: counts{OtherBreach: 2}, first: "mixed 4", undone: 2},
		"events that the client has read come again": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			since := f.sendLater(3)
			s.get(f, 2, 3)
			f.restore(2, since)
			f.resend(3, 4)
			s.told(f.now, 1, 4, "a cursor")
			f.resend(5)
			s.resume().getAgain(f, 4, 5)
		}, undone: 1},
		"the stream is told, and an event is lost": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			since := f.sendLater(3)
			s.get(f, 2, 3)
			f.restore(2, since)
			f.resend(3, 4, 5)
			s.told(f.now, 1, 3, "a cursor")
			s.resume().getAgain(f, 5)
		}, want: counts{Lost: 1}, first: "lost 4", undone: 1},
		"told without a restore": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			s.get(f, 2)
			s.told(f.now, 0, 2, "a cursor")
		}, want: counts{OtherBreach: 1}, first: "unexpected 2"},
		"restored twice, and told once": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			since := f.sendLater(3)
			s.get(f, 2, 3)
			f.restore(2, since)
			s.told(f.now, 1, 2, "a cursor")
			f.resend(3)
			s = s.resume()
			s.getAgain(f, 3)
			f.restore(2, since)
		}, want: counts{OtherBreach: 1}, first: "mixed 3", undone: 2},
		"the copy is older than it may be": {play: func(f *fixture) {
			f.send(2)
			f.sendLater(3)
			f.restore(2, f.now.Add(time.Second))
		}, want: counts{Lost: 1}, first: "lost 3", undone: 1},
		"what is in the copy is lost": {play: func(f *fixture) {
			f.send(2)
			since := f.sendLater(3)
			f.restore(3, since)
			f.stored = f.stored[:1]
		}, want: counts{Lost: 1}, first: "lost 3"},
		"what was sent after the restore is lost": {play: func(f *fixture) {
			f.send(2)
			f.restore(2, f.now.Add(time.Second))
			f.resend(3)
			f.stored = f.stored[:1]
		}, want: counts{Lost: 1}, first: "lost 3"},
		"a send that was undone is repeated": {play: func(f *fixture) {
			f.send(2)
			since := f.sendLater(3)
			f.restore(2, since)
			m := msg(3)
			m.ID, m.CreatedAt = "msg_3_again", f.now
			f.acknowledged(conv, m, m.Content, f.now)
			f.stored = append(f.stored, m)
		}, undone: 1},
		"a send that was not undone is stored again": {play: func(f *fixture) {
			f.send(2)
			since := f.sendLater(3)
			f.restore(3, since)
			m := msg(3)
			m.ID, m.Seq, m.CreatedAt = "msg_4", 4, f.now
			f.acknowledged(conv, m, m.Content, f.now)
		}, want: counts{Doubled: 1}, first: "doubled 4"},
		"an operator leaves out seqs": {play: func(f *fixture) {
			s := f.stream("a stream of ben", conv, "ben", true).subscribe("sess_1")
			f.send(2)
			since := f.sendLater(3)
			first := happened(conversationCreated, 1)
			s.receive(item{event: first}, f.now)
			s.get(f, 2, 3)
			f.restore(2, since)
			f.leavingOut(f.now)
			left := event{Kind: historyRestored, Seq: 9, FirstSeq: 3, At: f.now}
			f.resend(10)
			s.told(f.now, 1, 2, "a cursor")
			s = s.resume()
			s.receive(item{event: left}, f.now)
			s.getAgain(f, 10)
			s.receive(item{event: happened(caughtUp, 10)}, f.now)
			f.log = []event{first, arrival(msg(2)), left, arrival(f.again(10))}
		}, undone: 1},
		"seqs are missing, and no operator has left them out": {play: func(f *fixture) {
			s := f.stream("a stream of ben", conv, "ben", true).subscribe("sess_1")
			s.receive(item{event: happened(conversationCreated, 1)}, f.now)
			f.send(2)
			s.get(f, 2)
			f.restore(2, f.now.Add(time.Second))
			s.receive(item{
				event: event{Kind: historyRestored, Seq: 4, FirstSeq: 3, At: f.now},
			}, f.now)
			s.receive(item{event: happened(caughtUp, 2)}, f.now)
		}, want: counts{OtherBreach: 1}, first: "invented 4"},
		"an end of a session is undone": {play: func(f *fixture) {
			s := f.follow("ben")
			f.ended("sess_1", f.now)
			f.restore(0, f.now)
			f.resend(2)
			s.getAgain(f, 2)
		}},
		"an event of before the restore comes after a removal": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			since := f.sendLater(3, 4)
			s.get(f, 2)
			f.restore(2, since)
			f.removing(conv, "ben")
			f.removed(conv, "ben", at(3), f.now)
			s.get(f, 3, 4)
			f.adding(conv, "ben")
			f.added(conv, "ben", at(4), f.now)
			s.told(f.now, 1, 4, "a cursor")
		}, undone: 2},
		"a removal is undone": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			since := f.now
			f.now = f.now.Add(time.Second)
			f.removeAndAdd("ben", 3, 5)
			f.restore(2, since)
			f.resend(3)
			s.resume().get(f, 2)
			s.getAgain(f, 3)
		}, undone: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(false)
			test.play(f)
			f.end()
			f.want(t, test.want, test.first)
			if got, _ := f.result(); got.Undone != test.undone {
				t.Errorf("%d undone, want %d", got.Undone, test.undone)
			}
		})
	}
}

// A stream of everything is told by StreamReset, at any time.
func TestRestoresInAStreamOfEverything(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		play  func(f *fixture, s *testStream)
		want  counts
		first string
	}{
		"told while live": {play: func(f *fixture, s *testStream) {
			s.get(happened(streamReset, 0))
			s.recorder.(*everything).starting("", map[string]int64{conv: 3, quiet: 1})
			s.get(arrival(f.again(3)))
			s.caughtUp(0)
			s.get(arrival(f.again(4)))
		}},
		"told when it comes back": {play: func(f *fixture, s *testStream) {
			s.resume()
			s.get(happened(streamReset, 0))
			s.recorder.(*everything).starting("", map[string]int64{conv: 2, quiet: 1})
			s.get(arrival(f.again(3)), arrival(f.again(4)))
			s.caughtUp(0)
		}},
		"told twice": {play: func(f *fixture, s *testStream) {
			for range 2 {
				s.get(happened(streamReset, 0))
				s.recorder.(*everything).starting("", map[string]int64{conv: 2, quiet: 1})
			}
			s.get(arrival(f.again(3)), arrival(f.again(4)))
			s.caughtUp(0)
		}},
		"told again, long after": {play: func(f *fixture, s *testStream) {
			for range 2 {
				s.get(happened(streamReset, 0))
				s.recorder.(*everything).starting("", map[string]int64{conv: 2, quiet: 1})
				f.now = f.now.Add(tellingTime)
			}
			s.get(arrival(f.again(3)), arrival(f.again(4)))
			s.caughtUp(0)
		}, want: counts{OtherBreach: 1}, first: "unexpected 0"},
		"not told": {play: func(f *fixture, s *testStream) {
			s.get(arrival(f.again(4)))
		}, want: counts{OtherBreach: 1}, first: "mixed 4"},
		"not told, and nothing follows": {
			play: func(*fixture, *testStream) {},
			want: counts{OtherBreach: 1}, first: "mixed 3",
		},
		"told, and an event is lost": {play: func(f *fixture, s *testStream) {
			s.get(happened(streamReset, 0))
			s.recorder.(*everything).starting("", map[string]int64{conv: 2, quiet: 1})
			s.get(arrival(f.again(4)))
			s.caughtUp(0)
		}, want: counts{Lost: 1}, first: "lost 3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixtureWithQuiet(false)
			s := f.listen(ofEverything, "ben")
			f.send(2)
			since := f.sendLater(3)
			s.get(happened(conversationCreated, 1), arrival(msg(2)), arrival(msg(3)))
			s.caughtUp(0)
			f.restore(2, since)
			f.resend(3, 4)
			test.play(f, s)
			f.end()
			f.want(t, test.want, test.first)
		})
	}
}

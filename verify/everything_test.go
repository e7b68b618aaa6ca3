package verify

import "testing"

// removeAndAddBen is removeAndAdd, with its events in the log.
func (f *fixture) removeAndAddBen(removed, added int64) {
	f.removeAndAdd("ben", removed, added)
	f.log = append(f.log, concerning(memberRemoved, removed, "ben"), arrival(msg(removed+1)),
		concerning(memberAdded, added, "ben"), arrival(msg(added+1)))
}

func TestRemovedAndAddedAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		of          source
		fromJoining bool
		play        func(f *fixture, s *testStream)
		want        counts
		first       string
	}{
		"all of it, where history is seen from the start": {
			of: ofConversation,
			play: func(f *fixture, s *testStream) {
				s.get(f.log[8])
				s.resume()
				s.get(f.log[9:]...)
				s.caughtUp(12)
			},
		},
		"events before the removal are left out": {
			of: ofConversation,
			play: func(f *fixture, s *testStream) {
				f.do(about(reactionAdded, 13, msg(8), "ann", "👍", 1))
				f.removing(conv, "ben")
				f.removed(conv, "ben", at(14), f.now)
				f.adding(conv, "ben")
				f.added(conv, "ben", at(15), f.now)
				f.log = append(f.log, about(reactionAdded, 13, msg(8), "ann", "👍", 1),
					concerning(memberRemoved, 14, "ben"),
					concerning(memberAdded, 15, "ben"))
				s.get(f.log[8:12]...)
				s.get(f.log[13])
				s.resume()
				s.get(f.log[12:]...) // from before the events that were left out
				s.caughtUp(15)
			},
		},
		"an event after the removal": {of: ofConversation, play: func(f *fixture, s *testStream) {
			s.get(f.log[10])
			f.removing(conv, "ben")
			f.removed(conv, "ben", at(14), f.now)
			f.log = append(f.log, about(reactionAdded, 13, msg(8), "ann", "👍", 1),
				concerning(memberRemoved, 14, "ben"))
			f.do(f.log[12])
			s.get(f.log[13], f.log[8])
		}, want: counts{Lost: 2, Leaked: 1}, first: "lost 9"},
		"hidden events are not delivered": {
			of: ofConversation, fromJoining: true,
			play: func(f *fixture, s *testStream) {
				s.get(f.log[8])
				s.resume()
				s.get(f.log[10:]...)
				s.caughtUp(12)
			},
		},
		"the event of joining is lost": {
			of: ofConversation, fromJoining: true,
			play: func(f *fixture, s *testStream) {
				s.get(f.log[8])
				s.resume()
				s.get(f.log[11])
				s.caughtUp(12)
			}, want: counts{Lost: 1}, first: "lost 11",
		},
		"a message from before joining is hidden": {
			of: ofConversation, fromJoining: true,
			play: func(f *fixture, s *testStream) {
				e := about(reactionAdded, 13, msg(8), "ann", "👍", 1)
				f.do(e)
				f.log = append(f.log, e)
				e.Message = nil
				s.get(f.log[8])
				s.resume()
				s.get(f.log[10], f.log[11], e)
				s.caughtUp(13)
			},
		},
		"a message from before joining is not hidden": {
			of: ofConversation, fromJoining: true,
			play: func(f *fixture, s *testStream) {
				e := about(reactionAdded, 13, msg(8), "ann", "👍", 1)
				f.do(e)
				f.log = append(f.log, e)
				s.resume()
				s.get(f.log[10:]...)
				s.caughtUp(12)
			}, want: counts{Leaked: 1, Lost: 1}, first: "leaked 13",
		},

		"left, and joined": {of: ofEverything, play: func(f *fixture, s *testStream) {
			s.get(f.log[8], happened(conversationLeft, 0), happened(conversationJoined, 0),
				f.log[11])
		}},
		"joined, without ConversationLeft": {
			of: ofEverything,
			play: func(f *fixture, s *testStream) {
				s.resume()
				s.get(happened(conversationJoined, 0), f.log[11])
				s.caughtUp(12)
			},
		},
		"not joined": {of: ofEverything, play: func(f *fixture, s *testStream) {
			s.get(f.log[8], happened(conversationLeft, 0))
		}, want: counts{Lost: 2}, first: "lost 12"},
		"not joined, and an event is delivered": {
			of: ofEverything,
			play: func(f *fixture, s *testStream) {
				s.get(f.log[8], happened(conversationLeft, 0), f.log[11])
			}, want: counts{Leaked: 1, Lost: 2}, first: "leaked 12",
		},
		"an event between the removal and ConversationLeft": {
			of: ofEverything,
			play: func(f *fixture, s *testStream) {
				s.get(f.log[8], f.log[9], happened(conversationLeft, 0),
					happened(conversationJoined, 0), f.log[11])
			}, want: counts{Leaked: 1}, first: "leaked 10",
		},
		"joined twice": {of: ofEverything, play: func(f *fixture, s *testStream) {
			s.get(f.log[8], happened(conversationLeft, 0), happened(conversationJoined, 0),
				happened(conversationJoined, 0), f.log[11])
		}, want: counts{Doubled: 1}, first: "doubled 9"},
		"left twice": {of: ofEverything, play: func(f *fixture, s *testStream) {
			s.get(f.log[8], happened(conversationLeft, 0), happened(conversationLeft, 0),
				happened(conversationJoined, 0), f.log[11])
		}, want: counts{Doubled: 1}, first: "doubled 9"},
		"joined, and the first event is lost": {
			of: ofEverything,
			play: func(f *fixture, s *testStream) {
				e := about(reactionAdded, 13, msg(8), "ann", "👍", 1)
				f.do(e)
				f.log = append(f.log, e)
				s.get(f.log[8], happened(conversationLeft, 0), happened(conversationJoined, 0), e)
			}, want: counts{Lost: 2}, first: "lost 13",
		},
		"caught up before it has joined": {of: ofEverything, play: func(f *fixture, s *testStream) {
			s.get(f.log[8], happened(conversationLeft, 0))
			s.resume()
			s.caughtUp(0)
			s.get(happened(conversationJoined, 0), f.log[11])
		}, want: counts{OtherBreach: 1}, first: "too early 9"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixtureWithQuiet(test.fromJoining)
			s := f.listen(test.of, "ben")
			s.get(f.confirmAll()...)
			s.caughtUp(8)
			f.removeAndAddBen(9, 11)
			test.play(f, s)
			f.end()
			f.want(t, test.want, test.first)
		})
	}
}

func TestCursors(t *testing.T) {
	t.Parallel()
	reset, caught := happened(streamReset, 0), happened(caughtUp, 0)
	for name, test := range map[string]struct {
		start func(all *everything)
		play  func(f *fixture, s *testStream, log []event)
		want  counts
		first string
	}{
		"events that the client has read come again": {
			start: func(all *everything) {
				all.starting("cursor 0",
					map[string]int64{conv: 6, quiet: 1})
			},
			play: func(_ *fixture, s *testStream, log []event) {
				s.get(log[4:]...)
				s.get(caught)
			},
		},
		"an event that the client has not read is lost": {
			start: func(all *everything) {
				all.starting("cursor 0",
					map[string]int64{conv: 6, quiet: 1})
			},
			play: func(_ *fixture, s *testStream, log []event) {
				s.get(log[7], caught)
			}, want: counts{Lost: 1}, first: "lost 7",
		},
		"from now on, and then the client reads": {play: func(_ *fixture, s *testStream,
			log []event,
		) {
			s.get(caught)
			s.recorder.(*everything).starting("", map[string]int64{conv: 6, quiet: 1})
			s.get(log[5:]...)
		}},
		"from now on, and the client never reads": {play: func(_ *fixture, s *testStream,
			log []event,
		) {
			s.get(caught)
			s.get(log[5:]...)
		}, want: counts{Lost: 5}, first: "lost 1"},
		"from now on, without CaughtUp first": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log...)
			s.get(caught)
		}, want: counts{OtherBreach: 1}, first: "unexpected 1"},
		"started over, and the client reads what it missed": {
			start: func(all *everything) {
				all.starting("cursor 0",
					map[string]int64{conv: 0, quiet: 1})
			},
			play: func(_ *fixture, s *testStream, log []event) {
				s.get(log[:2]...)
				s.resume()
				s.get(reset)
				s.recorder.(*everything).starting("", map[string]int64{conv: 6, quiet: 1})
				s.get(log[5:]...)
				s.get(caught)
			},
		},
		"started over, and then a gap": {
			start: func(all *everything) {
				all.starting("cursor 0",
					map[string]int64{conv: 0, quiet: 1})
			},
			play: func(_ *fixture, s *testStream, log []event) {
				s.get(log[:2]...)
				s.resume()
				s.get(reset)
				s.recorder.(*everything).starting("", map[string]int64{conv: 6, quiet: 1})
				s.get(log[7], caught)
			}, want: counts{Lost: 1}, first: "lost 7",
		},
		"started over without StreamReset": {
			start: func(all *everything) {
				all.starting("cursor 0",
					map[string]int64{conv: 0, quiet: 1})
			},
			play: func(_ *fixture, s *testStream, log []event) {
				s.get(log[:2]...)
				s.resume()
				s.get(log[5:]...)
				s.get(caught)
			}, want: counts{Lost: 3}, first: "lost 3",
		},
		"started over in the middle": {
			start: func(all *everything) {
				all.starting("cursor 0",
					map[string]int64{conv: 0, quiet: 1})
			},
			play: func(_ *fixture, s *testStream, log []event) {
				s.get(log...)
				s.get(caught, reset)
				s.recorder.(*everything).starting("", map[string]int64{conv: 8, quiet: 1})
			}, want: counts{OtherBreach: 1}, first: "unexpected 0",
		},
		"a conversation that does not exist": {
			start: func(all *everything) {
				all.starting("cursor 0",
					map[string]int64{conv: 0, quiet: 1})
			},
			play: func(_ *fixture, s *testStream, log []event) {
				s.get(log...)
				s.getOf("conv_9", log[0])
				s.get(caught)
			}, want: counts{OtherBreach: 1}, first: "invented 1",
		},
		"another conversation": {
			start: func(all *everything) {
				all.starting("cursor 0",
					map[string]int64{conv: 0, quiet: 1})
			},
			play: func(_ *fixture, s *testStream, log []event) {
				s.get(log[:3]...)
				s.getOf(quiet, log[3])
				s.get(log[3:]...)
				s.get(caught)
			}, want: counts{OtherBreach: 1}, first: "invented 4",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixtureWithQuiet(false)
			log := f.confirmAll()
			all := f.everything("a stream of ben", "ben")
			if test.start != nil {
				test.start(all)
			}
			s := &testStream{f: f, of: ofEverything, recorder: all}
			s.resume()
			test.play(f, s, log)
			f.end()
			f.want(t, test.want, test.first)
		})
	}
}

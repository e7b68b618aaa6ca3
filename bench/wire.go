package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// wireRate is the number of deliveries a second to all followers together, except in bursts and
// topics.
const wireRate = 10_000

// traffic is a pattern of messages and followers.
type traffic struct {
	part      string // of -only
	what      string
	fields    string // the selection of each follower
	topics    int
	followers int     // of each topic
	messages  int     // of one round, in all topics together
	alone     int     // messages of a round to topics without followers
	rate      float64 // of messages, a second; 0 means as fast as they are taken
	senders   int     // at the same time
}

func (t traffic) deliveries() int { return t.messages * t.followers }

// traffics returns the patterns that are measured.
func (b *bench) traffics() (list []traffic) {
	const plain, withAuthor = "id seq content createdAt",
		"id seq content createdAt author { id nickname }"
	steady := func(what, fields string, followers int) traffic {
		rate := float64(wireRate) / float64(followers)
		messages := max(2, int(rate*b.wireTime.Seconds()))
		return traffic{
			"followers", what, fields, 1, followers, messages, max(4, messages/3), rate,
			1,
		}
	}
	for _, n := range b.wireFollowers {
		list = append(list, steady(fmt.Sprintf("%d followers of one topic", n), plain, n))
	}
	const followers = 1000
	list = append(list, steady(fmt.Sprintf("%d, asking for the author too", followers), withAuthor,
		followers))
	list = append(list, traffic{
		"burst", fmt.Sprintf("a burst to %d, %d senders", followers, burstSenders), plain, 1,
		followers,
		b.wireBurst, b.wireBurst, 0, burstSenders,
	})
	const few = 2
	messages := int(topicRate * b.wireTime.Seconds())
	return append(list, traffic{
		"topics", fmt.Sprintf("%d topics of %d followers", b.wireTopics, few), plain, b.wireTopics,
		few,
		messages, messages, topicRate, burstSenders,
	})
}

// topicRate is the number of messages a second in many topics: a rate that all servers store
// easily.
const topicRate = 400

// spareTopics is the number of topics without followers.
const spareTopics = 20

// wireParts returns the parts of wire that can be measured by themselves.
func wireParts() []string { return []string{"followers", "burst", "topics", "memory", "stall"} }

// overTheWire measures the built server with WebSocket clients. The yardsticks are a server that
// only writes to raw WebSockets, and one with the same API and gqlgen's transport.
func (b *bench) overTheWire(ctx context.Context, parts []string) error {
	if err := raiseFileLimit(uint64(max(b.idleConns, 3*slices.Max(b.wireFollowers),
		3*2*b.wireTopics) + 500)); err != nil {
		return err
	}
	w, err := b.newWire(ctx)
	if err != nil {
		return err
	}
	t := table{head: []string{
		"traffic", "server", "deliveries", "lost", "doubled", "reordered", "CPU for a delivery",
		"in user mode",
		"for taking messages in",
		"times raw", "times raw, delivering alone", "times Parley", "half within", "99 % within",
		"times raw",
		"99 % after the first", "times raw",
	}}
	var broken error
	for _, traffic := range b.traffics() {
		if !slices.Contains(parts, traffic.part) {
			continue
		}
		b.note("over the wire: %s", traffic.what)
		if err := w.measure(ctx, traffic, &t); err != nil {
			broken = errors.Join(broken, fmt.Errorf("%s: %w", traffic.what, err))
		}
	}
	if len(t.rows) > 0 {
		b.printWire(&t)
	}
	if slices.Contains(parts, "memory") {
		broken = errors.Join(broken, w.memory(ctx))
	}
	if slices.Contains(parts, "stall") {
		broken = errors.Join(broken, w.stall(ctx))
	}
	return broken
}

const wireText = `graphql-transport-ws clients that follow conversations of the built server, on SQLite, at %d deliveries a second
in all (bursts as fast as possible, topics at %d messages a second). There are two yardsticks: a
server that receives messages
by POST, and writes frames of the same size to as many raw WebSockets with gorilla's
PreparedMessage (raw), and one with the
same schema, rules and database and gqlgen's transport.Websocket. CPU time of the server is for one
delivery, and includes
receiving and storing the messages; the cost of that alone, without followers, has its own column.
The time of a delivery is
measured from before the message is sent, so it includes storing; and from when the first follower
of the topic has read
the message. %d rounds in turns.

`

func (b *bench) printWire(t *table) {
	b.printf("\n## Following, over the wire\n\n")
	b.printf(wireText, wireRate, topicRate, b.wireRounds)
	t.print(b.out)
}

// wire has the three servers.
type wire struct {
	*bench
	parley, stock *parleyServer
	raw           *rawTarget
}

func (b *bench) newWire(ctx context.Context) (*wire, error) {
	b.note("over the wire: building the server")
	w := &wire{bench: b}
	w.parley = &parleyServer{
		binary: filepath.Join(b.dir, "parley"), dir: filepath.Join(b.dir, "wire"),
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w.stock = &parleyServer{binary: self, dir: filepath.Join(b.dir, "stock"), stock: true}
	w.raw = &rawTarget{dir: filepath.Join(b.dir, "raw")}
	return w, w.parley.build(ctx)
}

// round is the result of one round of one server.
type round struct {
	cpu, alone float64 // for a delivery, seconds
	half, most float64 // of the deliveries' delays, seconds
	behind     float64 // most of the delays after the first follower
}

// side is one server under some traffic.
type side struct {
	target
	traffic
	listeners *listeners
	sent      atomic.Int64
	rounds    []round
	user      time.Duration
}

// measure runs all three servers under some traffic, in turns.
func (w *wire) measure(ctx context.Context, traffic traffic, t *table) (err error) {
	w.parley.fields, w.stock.fields = traffic.fields, traffic.fields
	var sides []*side
	defer func() {
		for _, s := range sides {
			s.end()
		}
	}()
	for _, target := range []target{w.parley, w.raw, w.stock} {
		s := &side{target: target, traffic: traffic}
		sides = append(sides, s)
		if err := s.begin(ctx); err != nil {
			return fmt.Errorf("%s: %w", target.title(), err)
		}
		if target == w.parley { // the first one: its frames are the sample
			sample := <-s.listeners.sample
			w.raw.frame = func() []byte { return sample }
		}
	}
	if err := w.profile(ctx, sides, "/profile"); err != nil {
		return err
	}
	for range w.wireRounds {
		for _, s := range sides {
			if err := s.round(ctx); err != nil {
				return fmt.Errorf("%s: %w", s.title(), err)
			}
		}
	}
	if err := w.profile(ctx, sides, "/profile/end"); err != nil {
		return err
	}
	time.Sleep(duplicateWait)
	for i, s := range sides {
		s.listeners.close()
		found := s.totals()
		err = errors.Join(err, found.broken())
		t.add(w.row(sides, i, found)...)
	}
	return err
}

// profile requests a path of package debug from each server, if profiles were asked for.
func (w *wire) profile(ctx context.Context, sides []*side, path string) error {
	if w.profiles == "" {
		return nil
	}
	for _, s := range sides {
		fileName := strings.NewReplacer(" ", "-", "'", "", ",", "")
		name := fileName.Replace(s.what + "-" + s.title() + ".pprof")
		if err := s.debug(ctx, path, filepath.Join(w.profiles, name)); err != nil {
			return err
		}
	}
	return nil
}

// begin starts a server, connects its followers, and sends each topic a message that does not
// count. Its delivery shows that all followers receive.
func (s *side) begin(ctx context.Context) error {
	if err := s.target.begin(ctx, s.topics+spareTopics, s.followers); err != nil {
		return err
	}
	conns := make([]*conn, s.topics*s.followers)
	err := inParallel(ctx, len(conns), func(_ context.Context, i int) (err error) {
		conns[i], err = s.join(i/s.followers, i%s.followers, s.last(i/s.followers))
		return err
	})
	if err != nil {
		closeAll(conns)
		return err
	}
	after := func(i int) int64 { return s.last(i / s.followers) }
	if s.listeners, err = listen(conns, s.followers, after); err != nil {
		return err
	}
	s.listeners.arrivals.expect(len(conns))
	if err := inParallel(ctx, s.topics, s.send); err != nil {
		return err
	}
	return s.listeners.await(ctx)
}

func closeAll(conns []*conn) {
	for _, c := range conns {
		if c != nil {
			c.close()
		}
	}
}

func (s *side) send(ctx context.Context, topic int) error { return s.target.send(ctx, topic) }

func (s *side) end() {
	if s.listeners != nil {
		s.listeners.close()
	}
	s.stop()
}

// round sends messages and waits for their delivery, and then sends some to topics without
// followers.
func (s *side) round(ctx context.Context) (err error) {
	var r round
	s.listeners.takeDelays()
	user, err := userCPU(s.pid())
	if err != nil {
		return err
	}
	r.cpu, err = s.cpu(func() error {
		s.listeners.arrivals.expect(s.deliveries())
		if err := s.sendAll(ctx, s.messages, 0, s.topics); err != nil {
			return err
		}
		return s.listeners.await(ctx)
	})
	if err != nil {
		return err
	}
	userAfter, err := userCPU(s.pid())
	if err != nil {
		return err
	}
	s.user += userAfter - user
	sinceSent, sinceFirst := s.listeners.takeDelays()
	r.half, r.most = delays(sinceSent)
	_, r.behind = delays(sinceFirst)
	r.alone, err = s.cpu(func() error { return s.sendAll(ctx, s.alone, s.topics, spareTopics) })
	r.cpu /= float64(s.deliveries())
	r.alone /= float64(s.alone * s.followers)
	s.rounds = append(s.rounds, r)
	return err
}

// cpu returns the server's CPU seconds during fn.
func (s *side) cpu(fn func() error) (float64, error) {
	before, err := processCPU(s.pid())
	if err != nil {
		return 0, err
	}
	if err := fn(); err != nil {
		return 0, err
	}
	after, err := processCPU(s.pid())
	return (after - before).Seconds(), err
}

// sendAll sends messages to so many topics in turns, beginning with first, at the rate of the
// traffic.
func (s *side) sendAll(ctx context.Context, messages, first, topics int) error {
	start := time.Now()
	sending := make(chan error, s.senders)
	var next atomic.Int64
	for range s.senders {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= messages || ctx.Err() != nil {
					sending <- ctx.Err()
					return
				}
				if s.rate > 0 {
					time.Sleep(time.Until(start.Add(seconds(float64(i) / s.rate))))
				}
				if err := s.send(ctx, first+int(s.sent.Add(1))%topics); err != nil {
					sending <- err
					return
				}
			}
		}()
	}
	var err error
	for range s.senders {
		err = errors.Join(err, <-sending)
	}
	return err
}

// totals adds up what the followers of all topics have received.
func (s *side) totals() (a totals) {
	for topic := range s.topics {
		of := total(s.listeners.histories[topic*s.followers:(topic+1)*s.followers], s.last(topic))
		a.deliveries += of.deliveries
		a.lost += of.lost
		a.doubled += of.doubled
		a.reordered += of.reordered
	}
	return a
}

// row returns the row of one side. The sides are Parley, raw and gqlgen's transport.
func (w *wire) row(sides []*side, i int, found totals) []string {
	s, parley, raw := sides[i], sides[0], sides[1]
	of := func(s *side, pick func(round) float64) (values []float64) {
		for _, r := range s.rounds {
			values = append(values, pick(r))
		}
		return values
	}
	ratio := func(to *side, pick func(round) float64) string {
		if to == s {
			return "–"
		}
		return pair{of(s, pick), of(to, pick)}.ratio()
	}
	cpu := func(r round) float64 { return r.cpu }
	alone := func(r round) float64 { return r.alone }
	delivering := func(r round) float64 { return r.cpu - r.alone }
	half, most := func(r round) float64 { return r.half }, func(r round) float64 { return r.most }
	behind := func(r round) float64 { return r.behind }
	inUserMode := s.user / time.Duration(len(s.rounds)*s.deliveries())
	row := append([]string{s.what, s.title()}, found.cells()...)
	return append(row, medianDuration(of(s, cpu)), duration(inUserMode),
		medianDuration(of(s, alone)),
		ratio(raw, cpu), ratio(raw, delivering), ratio(parley, cpu),
		medianDuration(of(s, half)), medianDuration(of(s, most)), ratio(raw, most),
		medianDuration(of(s, behind)), ratio(raw, behind))
}

// delays returns the times, in seconds, within which half and 99 % of the deliveries were made.
func delays(micros []int32) (half, most float64) {
	if len(micros) == 0 {
		return 0, 0
	}
	slices.Sort(micros)
	return float64(percentile(micros, 50)) / 1e6, float64(percentile(micros, 99)) / 1e6
}

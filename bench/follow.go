package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"parley/chat"
	"parley/membership"
	"parley/model"
)

const (
	// burstSenders send at the same time, so that their hints overtake each other.
	burstSenders = 8
	// burst is how many messages all of them together send without waiting: more than a follower's
	// queue holds.
	burst = 200
)

// following measures chat.Follow beside channels that carry the same events and nothing else.
func (b *bench) following(ctx context.Context) (err error) {
	// A conversation holds fewer members than there are followers: each of them follows on more
	// than one device.
	w, err := newWorld(ctx, "sqlite:"+filepath.Join(b.dir, "follow.db"), membership.Max)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	t := table{head: []string{
		"followers", "messages", "deliveries", "lost", "doubled", "reordered",
		"CPU for a delivery, Parley", "of it for sending", "bare channels", "ratio",
	}}
	var broken error
	for _, followers := range []int{1, 10, 100, 1000} {
		for _, p := range []pattern{
			{fmt.Sprintf("%d, one by one", b.followMessages), b.followMessages, oneByOne},
			{fmt.Sprintf("%d, of %d senders at once", b.followBursts*burst, burstSenders), b.followBursts * burst, inBursts},
		} {
			b.note("following: %d followers, %s", followers, p.name)
			row, found, err := b.followPair(ctx, w, p, followers)
			if broken = errors.Join(broken, found.broken()); err != nil {
				return errors.Join(err, broken)
			}
			t.add(row...)
		}
	}
	b.printf("\n## Following, inside one process\n\n")
	b.printf("Goroutines in `chat.Follow` on one conversation, on SQLite, beside as many that receive the same events\n")
	b.printf("from a channel each. CPU time of the process for one delivery. A round is so many messages; Parley's side includes\n")
	b.printf("storing them, and what that costs by itself, for one delivery, stands beside it.\n\n")
	t.print(b.out)
	return broken
}

// pattern is how messages come.
type pattern struct {
	name     string
	messages int // of one round
	send     func(ctx context.Context, messages int, c carrier) error
}

// carrier is a way for a message to reach followers.
type carrier struct {
	followers int
	send      func(ctx context.Context) error
	arrivals  *arrivals // nil where nobody follows
}

func (b *bench) followPair(
	ctx context.Context, w *world, p pattern, followers int,
) (row []string, found account, err error) {
	ids, err := w.conversations(ctx, 2)
	if err != nil {
		return nil, found, err
	}
	followed, alone := ids[0], ids[1]
	crowd, err := gather(ctx, w, followed, followers)
	if err != nil {
		return nil, found, err
	}
	channels := openChannels(followers)
	defer channels.close()

	through := func(id model.ConversationID) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			_, err := w.chat.SendMessage(ctx, w.sender(), chat.SendMessage{ConversationID: id, Content: content})
			return err
		}
	}
	perDelivery := func(c carrier) func() (float64, error) {
		return func() (float64, error) {
			before, err := ownCPU()
			if err != nil {
				return 0, err
			}
			if err := p.send(ctx, p.messages, c); err != nil {
				return 0, err
			}
			after, err := ownCPU()
			return (after - before).Seconds() / float64(p.messages*followers), err
		}
	}
	parley := perDelivery(carrier{followers, through(followed), crowd.arrivals})
	bare := perDelivery(carrier{followers, channels.send, channels.arrivals})
	ofParley, ofBare, err := inTurns(b.rounds, parley, bare)
	last, ended := crowd.end(ctx, w, followed)
	found = settle(crowd.ledgers, last)
	if err = errors.Join(err, ended); err != nil {
		return nil, found, err
	}
	sending, err := perDelivery(carrier{followers: followers, send: through(alone)})()
	if err != nil {
		return nil, found, err
	}
	cpu := pair{ofParley, ofBare}
	return append(append([]string{strconv.Itoa(followers), p.name}, found.cells()...),
		medianDuration(cpu.parley), duration(seconds(sending)), medianDuration(cpu.yardstick), cpu.ratio()), found, nil
}

// oneByOne sends a message when everybody has the one before it.
func oneByOne(ctx context.Context, messages int, c carrier) error {
	for range messages {
		c.arrivals.expect(c.followers)
		if err := c.send(ctx); err != nil {
			return err
		}
		if err := c.arrivals.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// inBursts has some senders send as fast as they can, and waits after each burst.
func inBursts(ctx context.Context, messages int, c carrier) error {
	for range messages / burst {
		c.arrivals.expect(burst * c.followers)
		sending := make(chan error)
		for range burstSenders {
			go func() {
				var err error
				for range burst / burstSenders {
					err = errors.Join(err, c.send(ctx))
				}
				sending <- err
			}()
		}
		var err error
		for range burstSenders {
			err = errors.Join(err, <-sending)
		}
		if err != nil {
			return err
		}
		if err := c.arrivals.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// crowd is goroutines that follow one conversation.
type crowd struct {
	arrivals *arrivals
	ledgers  []*ledger
	running  sync.WaitGroup
	cancel   context.CancelFunc
	failed   chan error
}

// gather returns when everybody follows.
func gather(ctx context.Context, w *world, id model.ConversationID, followers int) (*crowd, error) {
	c := &crowd{arrivals: newArrivals(), failed: make(chan error, followers)}
	ctx, c.cancel = context.WithCancel(ctx)
	c.running.Go(func() { w.feed.Run(ctx) })
	c.running.Go(func() { w.live.Run(ctx) })
	c.running.Go(func() { w.chat.Run(ctx) })
	// Following begins with the event that is there already, so that its arrival shows that the
	// follower is listening.
	var beginning int64
	c.arrivals.expect(followers)
	for i := range followers {
		events, err := w.feed.Follow(ctx, w.people[i%len(w.people)], id, &beginning)
		if err != nil {
			_, ended := c.end(ctx, w, id)
			return nil, errors.Join(err, ended)
		}
		l := newLedger(beginning)
		c.ledgers = append(c.ledgers, l)
		c.running.Go(func() {
			for e, err := range events {
				if err != nil {
					if ctx.Err() == nil {
						c.failed <- err
					}
					return
				}
				l.add(e.Seq)
				c.arrivals.arrived()
			}
		})
	}
	if err := c.arrivals.wait(ctx); err != nil {
		_, ended := c.end(ctx, w, id)
		return nil, errors.Join(err, ended)
	}
	return c, nil
}

// afterthought is how long a second copy of a message has to show itself after the last one has
// arrived everywhere.
const afterthought = 300 * time.Millisecond

// end ends the following and says how far the conversation has come.
func (c *crowd) end(ctx context.Context, w *world, id model.ConversationID) (last int64, err error) {
	time.Sleep(afterthought)
	c.cancel()
	c.running.Wait()
	close(c.failed)
	for failed := range c.failed {
		err = errors.Join(err, failed)
	}
	now, missing := w.chat.Conversation(context.WithoutCancel(ctx), w.sender(), id)
	if missing != nil {
		return 0, errors.Join(err, missing)
	}
	return now.LastSeq, err
}

// channels is the least that tells many goroutines of one event: a channel each.
type channels struct {
	arrivals *arrivals
	each     []chan *model.Event
	running  sync.WaitGroup
}

func openChannels(followers int) *channels {
	c := &channels{arrivals: newArrivals()}
	for range followers {
		events := make(chan *model.Event, 64) // as many as a follower's queue holds
		c.each = append(c.each, events)
		c.running.Go(func() {
			l := newLedger(0) // only for its price, which is not the channel's
			for e := range events {
				l.add(e.Seq)
				c.arrivals.arrived()
			}
		})
	}
	return c
}

func (c *channels) send(context.Context) error {
	e := &model.Event{Seq: 1, Kind: model.MessageAdded}
	for _, events := range c.each {
		events <- e
	}
	return nil
}

func (c *channels) close() {
	for _, events := range c.each {
		close(events)
	}
	c.running.Wait()
}

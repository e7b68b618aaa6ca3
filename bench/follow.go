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
	"parley/feed"
	"parley/membership"
	"parley/model"
)

const (
	// burstSenders send at the same time, so that their hints overtake each other.
	burstSenders = 8
	// burst is how many messages they send together without waiting: more than a follower's queue
	// holds.
	burst = 200
)

// following measures feed.Follow. The yardstick is channels that carry the same events.
func (b *bench) following(ctx context.Context) (err error) {
	// A conversation has fewer members than followers, so each member follows on several devices.
	f, err := newFixture(ctx, "sqlite:"+filepath.Join(b.dir, "follow.db"), membership.Max)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	t := table{head: []string{
		"followers", "messages", "deliveries", "lost", "doubled", "reordered",
		"CPU for a delivery, Parley", "of it for sending", "bare channels", "ratio",
	}}
	var broken error
	for _, followers := range []int{1, 10, 100, 1000} {
		for _, p := range []pattern{
			{fmt.Sprintf("%d, one by one", b.followMessages), b.followMessages, oneByOne},
			{
				fmt.Sprintf("%d, of %d senders at once", b.followBursts*burst, burstSenders),
				b.followBursts * burst, inBursts,
			},
		} {
			b.note("following: %d followers, %s", followers, p.name)
			row, found, err := b.followPair(ctx, f, p, followers)
			if broken = errors.Join(broken, found.broken()); err != nil {
				return errors.Join(err, broken)
			}
			t.add(row...)
		}
	}
	b.printf("\n## Following, inside one process\n\n")
	b.printf(
		"Goroutines in `feed.Follow` on one conversation, on SQLite. The yardstick is as many " +
			"that receive the same events\n")
	b.printf(
		"from a channel each. CPU time of the process for one delivery. A round is so many " +
			"messages; Parley's side includes\n")
	b.printf(
		"storing them; the column after it is the cost of storing alone, for one delivery.\n\n")
	t.print(b.out)
	return broken
}

// pattern is how messages are sent.
type pattern struct {
	name     string
	messages int // of one round
	send     func(ctx context.Context, messages int, r route) error
}

// route is a way for a message to reach followers.
type route struct {
	followers int
	send      func(ctx context.Context) error
	arrivals  *arrivals // nil if there are no followers
}

func (b *bench) followPair(
	ctx context.Context, f *fixture, p pattern, followers int,
) (row []string, found totals, err error) {
	ids, err := f.conversations(ctx, 2)
	if err != nil {
		return nil, found, err
	}
	followed, alone := ids[0], ids[1]
	group, err := startFollowers(ctx, f, followed, followers)
	if err != nil {
		return nil, found, err
	}
	channels := openChannels(followers)
	defer channels.close()

	through := func(id model.ConversationID) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			_, err := f.chat.SendMessage(ctx, f.sender(),
				chat.SendMessage{ConversationID: id, Content: content})
			return err
		}
	}
	perDelivery := func(r route) func() (float64, error) {
		return func() (float64, error) {
			before, err := ownCPU()
			if err != nil {
				return 0, err
			}
			if err := p.send(ctx, p.messages, r); err != nil {
				return 0, err
			}
			after, err := ownCPU()
			return (after - before).Seconds() / float64(p.messages*followers), err
		}
	}
	parley := perDelivery(route{followers, through(followed), group.arrivals})
	bare := perDelivery(route{followers, channels.send, channels.arrivals})
	ofParley, ofBare, err := inTurns(b.rounds, parley, bare)
	last, ended := group.end(ctx, f, followed)
	found = total(group.histories, last)
	if err = errors.Join(err, ended); err != nil {
		return nil, found, err
	}
	sending, err := perDelivery(route{followers: followers, send: through(alone)})()
	if err != nil {
		return nil, found, err
	}
	cpu := pair{ofParley, ofBare}
	return append(append([]string{strconv.Itoa(followers), p.name}, found.cells()...),
		medianDuration(cpu.parley), duration(seconds(sending)), medianDuration(cpu.yardstick),
		cpu.ratio()), found, nil
}

// oneByOne sends each message after all followers have received the one before it.
func oneByOne(ctx context.Context, messages int, r route) error {
	for range messages {
		r.arrivals.expect(r.followers)
		if err := r.send(ctx); err != nil {
			return err
		}
		if err := r.arrivals.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// inBursts runs some senders that send as fast as they can, and waits after each burst.
func inBursts(ctx context.Context, messages int, r route) error {
	for range messages / burst {
		r.arrivals.expect(burst * r.followers)
		sending := make(chan error)
		for range burstSenders {
			go func() {
				var err error
				for range burst / burstSenders {
					err = errors.Join(err, r.send(ctx))
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
		if err := r.arrivals.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// followers are goroutines that follow one conversation.
type followers struct {
	arrivals  *arrivals
	histories []*history
	running   sync.WaitGroup
	cancel    context.CancelFunc
	failed    chan error
}

// startFollowers starts n followers, and returns when all of them receive.
func startFollowers(
	ctx context.Context, f *fixture, id model.ConversationID, n int,
) (*followers, error) {
	c := &followers{arrivals: newArrivals(), failed: make(chan error, n)}
	ctx, c.cancel = context.WithCancel(ctx)
	c.running.Go(func() { f.feed.Run(ctx) })
	c.running.Go(func() { f.live.Run(ctx) })
	c.running.Go(func() { f.chat.Run(ctx) })
	// The conversation has one event already. Its delivery shows that a follower receives.
	c.arrivals.expect(n)
	for i := range n {
		events, err := f.feed.Follow(ctx, f.people[i%len(f.people)], id, &feed.Place{})
		if err != nil {
			_, ended := c.end(ctx, f, id)
			return nil, errors.Join(err, ended)
		}
		l := newHistory(0)
		c.histories = append(c.histories, l)
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
		_, ended := c.end(ctx, f, id)
		return nil, errors.Join(err, ended)
	}
	return c, nil
}

// duplicateWait is how long a duplicate may take to arrive after all messages have.
const duplicateWait = 300 * time.Millisecond

// end stops the followers, and returns the last seq of the conversation.
func (c *followers) end(
	ctx context.Context, f *fixture, id model.ConversationID,
) (last int64, err error) {
	time.Sleep(duplicateWait)
	c.cancel()
	c.running.Wait()
	close(c.failed)
	for failed := range c.failed {
		err = errors.Join(err, failed)
	}
	now, missing := f.chat.Conversation(context.WithoutCancel(ctx), f.sender(), id)
	if missing != nil {
		return 0, errors.Join(err, missing)
	}
	return now.LastSeq, err
}

// channels do the least that delivers one event to many goroutines: a channel each.
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
			l := newHistory(0) // for its cost, which Parley's side has too
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

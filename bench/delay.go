package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"
)

const (
	// expensiveFollowers is how many followers select much of each event.
	expensiveFollowers = 20
	// delayMessages is how many messages are sent for one row.
	delayMessages = 60
)

// expensiveSelection has nearly 1,000 fields for each message.
const expensiveSelection = "seq conversation { messages(last: 95) { nodes { id seq content " +
	"createdAt editedAt deletedAt author { id nickname } } } }"

// delayRow measures how long messages take to one follower if others have expensive selections.
func (a *abuser) delayRow(ctx context.Context, expensive int) ([]string, error) {
	join := func(fields string) (*conn, error) {
		a.fields = fields
		return a.join(longConversations, 0, a.last(longConversations))
	}
	a.seqs[longConversations] = emojiMessages + 2 // after the messages of fill
	for range expensive {
		c, err := join(expensiveSelection)
		if err != nil {
			return nil, err
		}
		defer c.close()
		go func() {
			for {
				if _, err := c.message(); err != nil {
					return
				}
			}
		}()
		defer func() { _ = syscall.Shutdown(c.fd, syscall.SHUT_RDWR) }()
	}
	c, err := join("seq content")
	if err != nil {
		return nil, err
	}
	defer c.close()
	var took []float64
	for n := range delayMessages {
		sent := time.Now()
		if err := a.send(ctx, longConversations); err != nil {
			return nil, err
		}
		if err := awaitSeq(c, a.last(longConversations)); err != nil {
			return nil, err
		}
		if n >= delayMessages/6 { // by then all followers receive
			took = append(took, time.Since(sent).Seconds())
		}
	}
	slices.Sort(took)
	name := "alone"
	if expensive > 0 {
		name = fmt.Sprintf("next to %d expensive ones", expensive)
	}
	return []string{name, medianDuration(took), duration(seconds(percentile(took, 99)))}, nil
}

// awaitSeq waits for the message with a seq.
func awaitSeq(c *conn, seq int64) error {
	for {
		m, err := c.message()
		if err != nil {
			return err
		}
		if bytes.Contains(m, fmt.Appendf(nil, `"seq":%d,`, seq)) {
			return nil
		}
	}
}

package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	api "parley/internal/client"
	"parley/verify/judge"
)

// connection is one connection of a follower. Over a WebSocket it may carry several operations, one
// after another.
type connection struct {
	*follower
	link        link
	session     string
	token       string
	operation   int // the number of the current one, from 1
	observation observation
	heardAt     time.Time // when the last message was received
	// renewal is the token renewal whose answer is awaited: nil for none. While it is set, this
	// connection holds device.mu.
	renewal *repair
}

const (
	pingInterval = 2 * time.Second

	// renewalID is the id of the operation that renews the token.
	renewalID = "renew"

	// renewalPause is how long a planned break waits for the answer of a renewal.
	renewalPause = 500 * time.Millisecond

	// noBreak is the time to the next break if none is left.
	noBreak = time.Hour
)

func (c *connection) id() string { return strconv.Itoa(c.operation) }

// subscribe requests the items after the last one. The pong to its ping shows that the server has
// received the request.
func (c *connection) subscribe(ctx context.Context) error {
	if c.operation > 0 && c.plan.transport == overSSE { // which carries one operation
		return errPlanned
	}
	// The user was removed, and may have been added again. A stream of everything needs no
	// membership.
	if c.away && c.repair == nil && (c.everything != nil || !c.isNonMember()) {
		c.startRepair(wasRemoved, nil)
	}
	c.operation++
	query, variables, from := c.recorder.resumption()
	c.note("%s: subscribes %s", c.nodeName(), from)
	c.observation = c.recorder.subscribing(c.session)
	conversation, after := c.conversation, c.recorder.progress()
	if c.everything != nil {
		conversation, after = "", 0
	}
	c.follow(c.stream, c.plan.source, conversation, c.device.person.id, after, false)
	err := c.link.subscribe(ctx, c.id(), api.Operation{Query: query, Variables: variables})
	if err != nil {
		return err
	}
	return c.link.write(ctx, api.Message{Type: api.TypePing})
}

// isNonMember reports whether the user is certainly not a member of the conversation now.
func (c *connection) isNonMember() bool {
	return c.history.isNonMember(c.conversation, c.device.person.id)
}

// listen handles messages and planned breaks until the connection ends, and returns why it ended.
func (c *connection) listen(ctx context.Context) error {
	defer c.endRenewal(nil)
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	nextBreak := time.NewTimer(c.untilBreak())
	defer nextBreak.Stop()
	closing := c.closing
	c.heardAt = time.Now()
	for {
		select {
		case m, ok := <-c.link.received():
			if !ok {
				if isForbidden(c.link.failure()) {
					c.invalidateToken()
				}
				return c.link.failure()
			}
			c.heardAt = time.Now()
			if err := c.handle(ctx, m); err != nil {
				return err
			}
		case <-nextBreak.C:
			if err := c.breakNow(ctx); err != nil {
				return err
			}
			nextBreak.Reset(c.untilBreak())
		case <-ping.C:
			if time.Since(c.heardAt) > c.link.maxSilence(c.patience) {
				return errSilent
			}
			if err := c.link.write(ctx, api.Message{Type: api.TypePing}); err != nil {
				return c.link.cause(err)
			}
		case <-closing:
			closing = nil // from now on each message, and so each pong, leads to the check below
		case <-ctx.Done():
			return errOver
		}
		if c.complete() {
			return errDone
		}
	}
}

func (c *connection) untilBreak() time.Duration {
	if len(c.breaks) == 0 {
		return noBreak
	}
	return time.Until(c.began.Add(c.breaks[0].at))
}

// handle acts on a message. It returns an error if the connection has to end.
func (c *connection) handle(ctx context.Context, m api.Message) error {
	switch {
	case m.Type == api.TypePing:
		return c.link.write(ctx, api.Message{Type: api.TypePong})
	case m.Type == api.TypePong:
		c.endRepair()
		return nil
	case m.ID == renewalID:
		c.endRenewal(&m)
		return nil
	case m.ID != c.id(): // of an operation that this client has ended
		return nil
	case m.Type == api.TypeComplete:
		return c.handleEnd(ctx, []api.Error{{Message: "complete, without an error"}})
	case m.Type == api.TypeError:
		var list []api.Error
		if err := json.Unmarshal(m.Payload, &list); err != nil {
			return fmt.Errorf("an error that cannot be read: %w", err)
		}
		return c.handleEnd(ctx, list)
	}
	it, list, err := readItem(m)
	if err != nil {
		return err
	}
	if len(list) > 0 || it == nil {
		return c.handleEnd(ctx, list)
	}
	return c.receive(ctx, *it)
}

// receive records an item.
func (c *connection) receive(ctx context.Context, it item) error {
	now := time.Now()
	if c.everything == nil {
		it.conversation = c.conversation
	}
	c.deliver(c.stream, it)
	c.observation.receive(it, now)
	if it.Kind == messageAdded && it.Added != nil && !c.away {
		acked := c.history.ackedAt(it.conversation, it.Added.Content)
		if acked.After(c.presentSince) {
			c.report.delivered(acked, now)
		}
	}
	c.endRepair()
	startedOver := it.Kind == streamReset || it.Kind == caughtUp && !c.fetched
	if c.everything != nil && startedOver {
		c.endRenewal(nil) // its answer cannot be read meanwhile, and requests need the device
		return c.fetch(ctx, false)
	}
	return nil
}

// handleEnd acts on the end of the subscription by the server.
func (c *connection) handleEnd(ctx context.Context, list []api.Error) error {
	err := c.client.classify(list)
	if errors.Is(err, errUnknown) {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	switch codeOf(err) {
	case api.HistoryChanged:
		if err := c.readAgain(ctx, list[0].Extensions.Cursor); err != nil {
			return err
		}
		return c.subscribe(ctx)
	case api.Unauthenticated:
		c.invalidateToken()
		return fmt.Errorf("%w: %w", errRefused, err)
	case api.RateLimited:
		return fmt.Errorf("%w: %w", errRefused, err)
	case api.Forbidden, api.NotFound, "":
		c.note("%s: refused: %v", c.nodeName(), err)
		if c.observation.refused(fmt.Sprint(err)) {
			c.leave()
			return errRemoved
		}
		if !wait(ctx, minBackoff) {
			return errOver
		}
		return c.subscribe(ctx) // the user was added again in the meantime
	default:
		c.observation.unexpected("that the subscription resumes after the last item", err.Error())
		return fmt.Errorf("%w: %w", errRefused, err)
	}
}

// readAgain reads how far the conversation is, as a client does that has lost events of it, so that
// it can begin again after a cursor.
func (c *connection) readAgain(ctx context.Context, cursor string) error {
	if cursor == "" {
		c.observation.unexpected("HISTORY_CHANGED with a cursor", "none")
		return errRefused
	}
	c.endRenewal(nil) // its answer cannot be read meanwhile, and requests need the device
	c.startRepair(historyChanged, nil)
	number := c.history.restoresSoFar()
	var now *struct{ LastSeq int64 }
	err := c.device.person.do(ctx, c.node, lastSeqQuery, c.conversation, &now, nil)
	if err != nil {
		return err
	}
	if now == nil { // the user is not a member any more: the next subscription says so
		return errRefused
	}
	c.records.Write(judge.Record{
		Type: judge.Told, Stream: c.stream, Conversation: c.conversation, Why: api.HistoryChanged,
	})
	c.records.Write(judge.Record{
		Type: judge.Seek, Stream: c.stream, Conversation: c.conversation, Seq: now.LastSeq,
	})
	c.recorder.(*stream).told(time.Now(), number, now.LastSeq, cursor)
	return nil
}

// breakNow does the next break of the plan. It returns an error if that ends the connection.
func (c *connection) breakNow(ctx context.Context) error {
	// Other followers of the person wait for the device, so the answer of a renewal comes first.
	if c.renewal != nil {
		c.breaks[0].at = time.Since(c.began) + renewalPause
		return nil
	}
	b := c.breaks[0]
	c.breaks = c.breaks[1:]
	c.note("%s: %s", c.nodeName(), b.kind)
	switch b.kind {
	case renewing:
		return c.renew(ctx)
	case resubscribing:
		c.startRepair(b.kind, nil)
		complete := api.Message{ID: c.id(), Type: api.TypeComplete}
		if err := c.link.write(ctx, complete); err != nil {
			return c.link.cause(err)
		}
		return c.subscribe(ctx)
	case sleeping:
		c.leave()
		if !wait(ctx, b.away) {
			return errOver
		}
		c.heardAt = time.Now()
		c.startRepair(b.kind, nil)
		return nil
	case switching:
		c.link.closeGracefully()
		c.node++
	default:
		c.link.close()
	}
	c.leave()
	c.nextCut = plannedBreak{kind: b.kind, depth: b.depth}
	if !wait(ctx, b.away) {
		return errOver
	}
	c.startRepair(b.kind, nil)
	return errPlanned
}

// renew sends the refresh token over the socket. It does nothing if the device is in use or has
// another session. It locks device.mu, which endRenewal unlocks.
func (c *connection) renew(ctx context.Context) error {
	if !c.device.mu.TryLock() {
		return nil
	}
	if c.device.session == nil || c.device.session.id != c.session {
		c.device.mu.Unlock()
		return nil
	}
	c.renewal = &repair{kind: renewing, from: time.Now()}
	in := map[string]any{"in": map[string]any{"refreshToken": c.device.session.refresh}}
	err := c.link.subscribe(ctx, renewalID, api.Operation{Query: refreshQuery, Variables: in})
	if err != nil {
		return c.link.cause(err)
	}
	return nil
}

// endRenewal takes the answer to a renewal, and unlocks device.mu. m is nil if no answer can come.
func (c *connection) endRenewal(m *api.Message) {
	if c.renewal == nil {
		return
	}
	defer c.device.mu.Unlock()
	renewal := c.renewal
	c.renewal = nil
	// Without an answer the tokens may have been traded or not. The next use trades them again: for
	// a while the server then answers with the same new ones.
	c.device.session.expires = time.Time{}
	if m == nil || m.Type != api.TypeNext {
		return
	}
	var payload struct {
		Data *struct {
			RefreshSession *struct{ Tokens *tokens }
		}
	}
	if json.Unmarshal(m.Payload, &payload) != nil {
		return
	}
	if payload.Data == nil || payload.Data.RefreshSession == nil ||
		payload.Data.RefreshSession.Tokens == nil {
		return
	}
	c.device.session.setTokens(*payload.Data.RefreshSession.Tokens)
	c.token = c.device.session.access
	c.report.repaired(renewing, time.Since(renewal.from))
}

// invalidateToken makes the device get another token before it connects again.
func (c *connection) invalidateToken() {
	c.endRenewal(nil) // unlocks the device
	c.device.invalidate(c.token)
}

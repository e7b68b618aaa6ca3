package live

import (
	"context"
	"maps"
	"sync"
	"time"

	"parley/model"
	"parley/store"
	"parley/wake"
)

// localConnections are the users with live connections to this node. Connected only marks and
// notifies; recordConnections writes to the database.
type localConnections struct {
	wake.Notifier

	node        model.NodeID
	grace       time.Duration // how long a user counts as online after the last connection ended
	nodeTimeout time.Duration // how long after its last heartbeat a node counts as alive

	mu      sync.Mutex // guards what follows
	users   map[model.UserID]*localUser
	arrived map[model.UserID]bool      // online, and not recorded yet
	pending []*pendingOffline          // the oldest first; some are void, see localUser
	offline map[model.UserID]time.Time // when they were last seen; not recorded yet
}

// localUser is a user with connections to this node, or whose last one ended within the grace time.
type localUser struct {
	connections int
	pending     *pendingOffline // nil while there are connections; earlier ones are void
}

// pendingOffline is a user whose last connection has ended, and who is offline after the grace
// time.
type pendingOffline struct {
	user   model.UserID
	since  time.Time // on this process's monotonic clock
	seenAt time.Time // as it is stored
}

func newLocalConnections(grace, nodeTimeout time.Duration) *localConnections {
	return &localConnections{
		Notifier: wake.NewNotifier(),
		node:     model.NewNodeID(), grace: grace, nodeTimeout: nodeTimeout,
		users: map[model.UserID]*localUser{}, arrived: map[model.UserID]bool{},
		offline: map[model.UserID]time.Time{},
	}
}

// Connected registers a live connection of a user to this node, until release is called; further
// calls do nothing. Neither waits: Run records the change.
func (s *Service) Connected(user model.UserID) (release func()) {
	s.connections.connect(user)
	return sync.OnceFunc(func() { s.connections.disconnect(user, s.db.Now()) })
}

func (c *localConnections) connect(user model.UserID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.users[user]
	if u == nil {
		u = &localUser{}
		c.users[user] = u
		c.arrived[user] = true
		c.Notify()
	}
	u.connections++
	u.pending = nil
}

func (c *localConnections) disconnect(user model.UserID, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.users[user]
	if u.connections--; u.connections > 0 {
		return
	}
	u.pending = &pendingOffline{user: user, since: time.Now(), seenAt: now}
	if c.pending = append(c.pending, u.pending); len(c.pending) == 1 {
		c.Notify()
	}
}

// drain returns what has to be recorded: the users who are online now, and those whose grace time
// is over, with when they were last seen.
func (c *localConnections) drain() (arrived []model.UserID, offline map[model.UserID]time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for len(c.pending) > 0 && now.Sub(c.pending[0].since) >= c.grace {
		p := c.pending[0]
		c.pending = c.pending[1:]
		if u := c.users[p.user]; u != nil && u.pending == p {
			delete(c.users, p.user)
			c.offline[p.user] = p.seenAt
		}
	}
	offline, c.offline = c.offline, map[model.UserID]time.Time{}
	for user := range offline {
		delete(c.arrived, user)
		if c.users[user] != nil { // connected again, since recording failed
			delete(offline, user)
			c.arrived[user] = true
		}
	}
	for user := range c.arrived {
		arrived = append(arrived, user)
	}
	c.arrived = map[model.UserID]bool{}
	return arrived, offline
}

// restore takes back what drain has returned and could not be recorded.
func (c *localConnections) restore(arrived []model.UserID, offline map[model.UserID]time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, user := range arrived {
		c.arrived[user] = true
	}
	maps.Copy(c.offline, offline)
}

func (c *localConnections) all() (users []model.UserID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for user := range c.users {
		users = append(users, user)
	}
	return users
}

// nextOffline returns when the grace time of the first pending user is over.
func (c *localConnections) nextOffline() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 {
		return time.Time{}, false
	}
	return c.pending[0].since.Add(c.grace), true
}

const (
	// recordDelay is how long changes are collected, so that they share a transaction.
	recordDelay = 50 * time.Millisecond
	// presenceTimeout is how long one transaction, or one round of reconciling, may take.
	presenceTimeout = 10 * time.Second
	// presenceBatch is how many users one statement, or one signal, has at most.
	presenceBatch = 500
)

// recordConnections records who is connected to this node, and sends the node's heartbeat, until
// ctx ends. Then the rows stay: a user who connects to another node before this one is reaped was
// never offline.
func (s *Service) recordConnections(ctx context.Context) {
	c := s.connections
	heartbeatEvery := c.nodeTimeout / 3
	nextHeartbeat := time.Now().Add(heartbeatEvery)
	for {
		if !s.awaitConnections(ctx, nextHeartbeat, min(recordDelay, heartbeatEvery)) {
			return
		}
		arrived, offline := c.drain()
		due := !time.Now().Before(nextHeartbeat)
		if len(arrived)+len(offline) == 0 && (!due || len(c.all()) == 0) {
			if due { // a node without users needs no heartbeat
				nextHeartbeat = time.Now().Add(heartbeatEvery)
			}
			continue
		}
		nextHeartbeat = time.Now().Add(heartbeatEvery)
		if err := s.record(ctx, arrived, offline); err != nil {
			c.restore(arrived, offline)
			nextHeartbeat = time.Now().Add(min(heartbeatEvery, time.Second))
			if ctx.Err() == nil {
				s.opts.Log.Warn("cannot record who is online; retrying", "error", err)
			}
		}
	}
}

// awaitConnections waits until the heartbeat is due, the grace time of a user is over, or
// connections have changed; false once ctx has ended. After a change it waits for delay, which is
// also the shortest wait.
func (s *Service) awaitConnections(
	ctx context.Context, nextHeartbeat time.Time, delay time.Duration,
) bool {
	due := nextHeartbeat
	if first, ok := s.connections.nextOffline(); ok && first.Before(due) {
		due = first
	}
	timer := time.NewTimer(max(time.Until(due), delay))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-s.connections.C():
	}
	timer.Reset(delay)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// record sends the heartbeat, and writes which users are online and offline now. If another node
// has reaped this one, it writes all users as online.
func (s *Service) record(
	ctx context.Context, arrived []model.UserID, offline map[model.UserID]time.Time,
) error {
	ctx, cancel := context.WithTimeout(ctx, presenceTimeout)
	defer cancel()
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		fresh, err := s.heartbeat(ctx, tx)
		if err != nil {
			return err
		}
		online := arrived
		if fresh {
			online = s.connections.all()
		}
		if err := s.recordOnline(ctx, tx, online); err != nil {
			return err
		}
		return s.recordOffline(ctx, tx, offline)
	})
}

package chat

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"parley/model"
	"parley/store"
)

// attendance is who has a live connection on this node. Connected only marks and rings; attend
// writes it down.
type attendance struct {
	node  model.NodeID
	stay  time.Duration // how long somebody is here without a connection
	alive time.Duration // how long a node counts after a sign of life
	bell  chan struct{}

	mu      sync.Mutex // guards what follows
	here    map[model.UserID]*attendee
	arrived map[model.UserID]bool // who is here, and not written down yet
	leaving []*departure          // whose last connection has ended, in that order
	gone    map[model.UserID]time.Time
}

// attendee is one person with connections here, or without since a short while.
type attendee struct {
	connections int
	departure   *departure // nil while there are connections
}

type departure struct {
	user  model.UserID
	since time.Time // as this process measures time
	seen  time.Time // as it is stored
}

func newAttendance(stay, alive time.Duration) *attendance {
	return &attendance{
		node: model.NewNodeID(), stay: stay, alive: alive, bell: make(chan struct{}, 1),
		here: map[model.UserID]*attendee{}, arrived: map[model.UserID]bool{}, gone: map[model.UserID]time.Time{},
	}
}

// Connected says that a person has a live connection on this node until release is called, once or
// more often. Neither waits: Run writes it down.
func (s *Service) Connected(user model.UserID) (release func()) {
	s.attendance.connect(user)
	return sync.OnceFunc(func() { s.attendance.disconnect(user, s.db.Now()) })
}

func (a *attendance) connect(user model.UserID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := a.here[user]
	if at == nil {
		at = &attendee{}
		a.here[user] = at
		a.arrived[user] = true
		a.ring()
	}
	at.connections++
	at.departure = nil
}

func (a *attendance) disconnect(user model.UserID, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := a.here[user]
	if at.connections--; at.connections > 0 {
		return
	}
	at.departure = &departure{user: user, since: time.Now(), seen: now}
	if a.leaving = append(a.leaving, at.departure); len(a.leaving) == 1 {
		a.ring()
	}
}

func (a *attendance) ring() {
	select {
	case a.bell <- struct{}{}:
	default: // it rings already
	}
}

// take takes what is to be written down: who has arrived, and who has been gone for long enough,
// since when.
func (a *attendance) take() (arrived []model.UserID, gone map[model.UserID]time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for len(a.leaving) > 0 && now.Sub(a.leaving[0].since) >= a.stay {
		d := a.leaving[0]
		a.leaving = a.leaving[1:]
		if at := a.here[d.user]; at != nil && at.departure == d {
			delete(a.here, d.user)
			a.gone[d.user] = d.seen
		}
	}
	gone, a.gone = a.gone, map[model.UserID]time.Time{}
	for user := range gone {
		delete(a.arrived, user)
		if a.here[user] != nil { // back, since it could not be written down
			delete(gone, user)
			a.arrived[user] = true
		}
	}
	for user := range a.arrived {
		arrived = append(arrived, user)
	}
	a.arrived = map[model.UserID]bool{}
	return arrived, gone
}

// giveBack takes back what could not be written down.
func (a *attendance) giveBack(arrived []model.UserID, gone map[model.UserID]time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, user := range arrived {
		a.arrived[user] = true
	}
	maps.Copy(a.gone, gone)
}

func (a *attendance) everybody() (all []model.UserID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for user := range a.here {
		all = append(all, user)
	}
	return all
}

// nextDeparture is when the first of those who leave has been gone for long enough.
func (a *attendance) nextDeparture() (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.leaving) == 0 {
		return time.Time{}, false
	}
	return a.leaving[0].since.Add(a.stay), true
}

const (
	// gather is how long what comes together is waited for, so that it is written in one
	// transaction.
	gather = 50 * time.Millisecond
	// presencePatience bounds one transaction.
	presencePatience = 10 * time.Second
	// presenceAtOnce bounds one statement, and what one sign tells.
	presenceAtOnce = 500
)

// attend writes down who is connected here, again and again until ctx ends. Then the rows stay: who
// connects to another node meanwhile has never been away.
func (s *Service) attend(ctx context.Context) {
	a := s.attendance
	beatEvery := a.alive / 3
	nextBeat := time.Now().Add(beatEvery)
	for {
		wake := nextBeat
		if first, ok := a.nextDeparture(); ok && first.Before(wake) {
			wake = first
		}
		timer := time.NewTimer(max(time.Until(wake), min(gather, beatEvery)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-a.bell:
			timer.Reset(min(gather, beatEvery))
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
		case <-timer.C:
		}
		timer.Stop()
		arrived, gone := a.take()
		if len(arrived)+len(gone) == 0 && (time.Now().Before(nextBeat) || len(a.everybody()) == 0) {
			if !time.Now().Before(nextBeat) { // with nobody here, the node need not be known
				nextBeat = time.Now().Add(beatEvery)
			}
			continue
		}
		nextBeat = time.Now().Add(beatEvery)
		if err := s.writeAttendance(ctx, arrived, gone); err != nil {
			a.giveBack(arrived, gone)
			nextBeat = time.Now().Add(min(beatEvery, time.Second))
			if ctx.Err() == nil {
				s.opts.Log.Warn("cannot write down who is online; trying again", "error", err)
			}
		}
	}
}

// writeAttendance says that this node is alive, and writes down who has come and gone. Where the
// others had given the node up, everybody who is here comes anew.
func (s *Service) writeAttendance(ctx context.Context, arrived []model.UserID, gone map[model.UserID]time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, presencePatience)
	defer cancel()
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		fresh, err := s.beat(ctx, tx)
		if err != nil {
			return err
		}
		came := arrived
		if fresh {
			came = s.attendance.everybody()
		}
		if err := s.writeArrivals(ctx, tx, came); err != nil {
			return err
		}
		return s.writeDepartures(ctx, tx, gone)
	})
}

// clock is the time by which nodes are alive: the database's where there can be several, whose own
// may differ.
func (s *Service) clock(ahead time.Duration) schema.QueryAppender {
	if s.db.Postgres() {
		return bun.SafeQuery("(statement_timestamp() + ? * interval '1 microsecond')", ahead.Microseconds())
	}
	return bun.SafeQuery("?", s.db.Now().Add(ahead))
}

// beat says that this node is alive, and reports whether it was not known. It locks the node's row,
// so that nobody gives it up before the transaction is in.
func (s *Service) beat(ctx context.Context, tx *store.Tx) (fresh bool, err error) {
	now, until := s.clock(0), s.clock(s.attendance.alive)
	res, err := tx.NewUpdate().Model((*model.Node)(nil)).Set("seen_at = ?", now).Set("alive_until = ?", until).
		Where("id = ?", s.attendance.node).Exec(ctx)
	if err != nil {
		return false, err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return false, err
	}
	_, err = tx.NewInsert().Model(&model.Node{ID: s.attendance.node}).Value("seen_at", "?", now).Value("alive_until", "?", until).
		Exec(ctx)
	return true, err
}

func (s *Service) writeArrivals(ctx context.Context, tx *store.Tx, users []model.UserID) error {
	// All nodes write people in order of their ids, so that two do not wait for each other.
	slices.SortFunc(users, compareUsers)
	for some := range slices.Chunk(users, presenceAtOnce) {
		there, err := existing(ctx, tx, some)
		if err != nil {
			return err
		}
		rows := make([]*model.Presence, len(there))
		sightings := make([]*model.Sighting, len(there))
		for i, user := range there {
			rows[i] = &model.Presence{UserID: user, NodeID: s.attendance.node}
			sightings[i] = &model.Sighting{UserID: user}
		}
		if len(there) == 0 {
			continue
		}
		if _, err := tx.NewInsert().Model(&rows).On("CONFLICT DO NOTHING").Exec(ctx); err != nil {
			return err
		}
		if err := s.sight(ctx, tx, sightings); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) writeDepartures(ctx context.Context, tx *store.Tx, gone map[model.UserID]time.Time) error {
	users := make([]model.UserID, 0, len(gone))
	for user := range gone {
		users = append(users, user)
	}
	slices.SortFunc(users, compareUsers)
	for some := range slices.Chunk(users, presenceAtOnce) {
		_, err := tx.NewDelete().Model((*model.Presence)(nil)).Where("node_id = ?", s.attendance.node).
			Where("user_id IN (?)", bun.List(some)).Exec(ctx)
		if err != nil {
			return err
		}
		there, err := existing(ctx, tx, some)
		if err != nil {
			return err
		}
		sightings := make([]*model.Sighting, len(there))
		for i, user := range there {
			seen := gone[user]
			sightings[i] = &model.Sighting{UserID: user, LastSeenAt: &seen}
		}
		if err := s.sight(ctx, tx, sightings); err != nil {
			return err
		}
	}
	return nil
}

func compareUsers(a, b model.UserID) int { return slices.Compare(a[:], b[:]) }

// existing leaves out those whose account is gone. One that goes in this moment makes the
// transaction run again.
func existing(ctx context.Context, tx *store.Tx, users []model.UserID) (there []model.UserID, err error) {
	err = tx.NewSelect().Model((*model.User)(nil)).Column("id").Where("u.id IN (?)", bun.List(users)).OrderExpr("u.id").
		Scan(ctx, &there)
	return there, err
}

// sight writes that people have come or gone, and tells all nodes after the commit. A time that is
// older than the stored one does not count.
func (s *Service) sight(ctx context.Context, tx *store.Tx, sightings []*model.Sighting) error {
	if len(sightings) == 0 {
		return nil
	}
	position, err := nextPosition(ctx, tx)
	if err != nil {
		return err
	}
	_, err = tx.NewInsert().Model(&sightings).Value("position", "?", position).On("CONFLICT (user_id) DO UPDATE").
		Set("position = EXCLUDED.position").
		Set("last_seen_at = CASE WHEN EXCLUDED.last_seen_at IS NULL OR EXCLUDED.last_seen_at < sg.last_seen_at " +
			"THEN sg.last_seen_at ELSE EXCLUDED.last_seen_at END").Exec(ctx)
	if err != nil {
		return err
	}
	told := sign{Users: make([]model.UserID, len(sightings))}
	for i, of := range sightings {
		told.Users[i] = of.UserID
	}
	tx.AfterCommit(func() { s.publishSign(presenceTopic, told) })
	return nil
}

// giveUp removes what nodes have left behind that are alive no longer.
func (s *Service) giveUp(ctx context.Context) error {
	dead, err := s.db.NewSelect().Model((*model.Node)(nil)).Where("n.alive_until <= ?", s.clock(0)).Exists(ctx)
	if err != nil || !dead {
		return store.Error(err)
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		var nodes []model.Node
		err := tx.NewDelete().Model((*model.Node)(nil)).Where("alive_until <= ?", s.clock(0)).Returning("id, seen_at").
			Scan(ctx, &nodes)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if err := s.forgetNode(ctx, tx, n); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Service) forgetNode(ctx context.Context, tx *store.Tx, n model.Node) error {
	var users []model.UserID
	err := tx.NewDelete().Model((*model.Presence)(nil)).Where("node_id = ?", n.ID).Returning("user_id").Scan(ctx, &users)
	if err != nil {
		return err
	}
	slices.SortFunc(users, compareUsers)
	for some := range slices.Chunk(users, presenceAtOnce) {
		there, err := existing(ctx, tx, some)
		if err != nil {
			return err
		}
		sightings := make([]*model.Sighting, len(there))
		for i, user := range there {
			sightings[i] = &model.Sighting{UserID: user, LastSeenAt: &n.SeenAt}
		}
		if err := s.sight(ctx, tx, sightings); err != nil {
			return err
		}
	}
	return nil
}

package live

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"parley/model"
	"parley/wake"
)

// presenceWatch is the presence that one consumer of PresenceChanges has, and which users have to
// be read.
type presenceWatch struct {
	wake.Notifier // notified when users are dirty

	actor model.Actor

	mu sync.Mutex // guards what follows
	// delivered has the newest delivered presence of each user who shares a conversation with the
	// actor; nil if none has been delivered, or if the user has begun to hide it.
	delivered map[model.UserID]*Presence
	hidden    map[model.UserID]bool // those of them who do not show their presence
	dirty     map[model.UserID]bool // the users to read
	allDirty  bool                  // all users have to be read
	reading   bool                  // a read may add users to delivered, so every signal counts
	rereadAt  time.Time             // when all users are to be read again
}

// markKnownDirty marks those of the users who are in delivered, or may be after the current read.
func (w *presenceWatch) markKnownDirty(users map[model.UserID]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for user := range users {
		if _, known := w.delivered[user]; known || w.reading {
			w.markDirtyLocked(user)
		}
	}
}

// markDirty marks users.
func (w *presenceWatch) markDirty(users []model.UserID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, user := range users {
		w.markDirtyLocked(user)
	}
}

// reconcileHidden marks the users who have changed whether they show their presence. hidden has all
// users who do not show it.
func (w *presenceWatch) reconcileHidden(hidden map[model.UserID]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for user := range w.delivered {
		if hidden[user] != w.hidden[user] {
			w.markDirtyLocked(user)
		}
	}
}

// markDirtyLocked must be called with w.mu held.
func (w *presenceWatch) markDirtyLocked(user model.UserID) {
	if user != w.actor.UserID {
		w.dirty[user] = true
		w.Notify()
	}
}

func (w *presenceWatch) markAllDirty() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.allDirty = true
	w.rereadAt = time.Now().Add(rereadAfter + rand.N(rereadAfter)) // not all watches at once
	w.Notify()
}

// drain returns the dirty users, and marks them clean.
func (w *presenceWatch) drain() (ids []model.UserID, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids, all = slices.Collect(maps.Keys(w.dirty)), w.allDirty
	w.dirty, w.allDirty, w.reading = map[model.UserID]bool{}, false, true
	return ids, all
}

// diff compares what was read, of the users ids or of all, with what was delivered, and returns
// what has to be delivered.
func (w *presenceWatch) diff(
	ids []model.UserID, all bool, found []sharedPresence,
) (changed []Presence) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading = false
	if all {
		ids = slices.Collect(maps.Keys(w.delivered))
	}
	missing := setOf(ids)
	for _, p := range found {
		delete(missing, p.UserID)
		before, known := w.delivered[p.UserID]
		if !known {
			w.delivered[p.UserID] = nil
		}
		if p.Shown {
			delete(w.hidden, p.UserID)
		} else {
			w.hidden[p.UserID] = true
		}
		switch {
		case p.Shown && (before == nil || !before.equal(p.Presence)):
			changed = append(changed, p.Presence)
		case !p.Shown && before != nil:
			changed = append(changed, Presence{UserID: p.UserID})
		}
	}
	for id := range missing { // users who do not share a conversation with the actor, or no longer
		before := w.delivered[id]
		delete(w.delivered, id)
		delete(w.hidden, id)
		if before != nil {
			changed = append(changed, Presence{UserID: id})
		}
	}
	return changed
}

// markDelivered records that a change is about to be yielded. It returns false if the user is dirty
// again: then a newer one follows.
func (w *presenceWatch) markDelivered(p Presence) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.delivered[p.UserID]; !known {
		return true // offline, because the user no longer shares a conversation
	}
	if w.dirty[p.UserID] || w.allDirty {
		return false
	}
	w.delivered[p.UserID] = &p
	if w.hidden[p.UserID] {
		w.delivered[p.UserID] = nil
	}
	return true
}

// presenceWatches are the watches of this node.
type presenceWatches struct {
	signals wake.Notifier // notified when users were signaled
	lost    wake.Notifier // notified when signals may have been lost

	mu       sync.Mutex // guards what follows
	open     map[*presenceWatch]struct{}
	signaled map[model.UserID]bool
}

// rereadAfter is after how long a watch reads all users again, for changes that no round of
// reconciling finds. A random time up to the same is added.
const rereadAfter = 5 * time.Minute

func newPresenceWatches() *presenceWatches {
	return &presenceWatches{
		signals: wake.NewNotifier(), lost: wake.NewNotifier(),
		open: map[*presenceWatch]struct{}{}, signaled: map[model.UserID]bool{},
	}
}

func (ws *presenceWatches) register(actor model.Actor) *presenceWatch {
	w := &presenceWatch{
		Notifier: wake.NewNotifier(), actor: actor, delivered: map[model.UserID]*Presence{},
		hidden: map[model.UserID]bool{}, dirty: map[model.UserID]bool{},
	}
	w.markAllDirty()
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.open[w] = struct{}{}
	return w
}

func (ws *presenceWatches) unregister(w *presenceWatch) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.open, w)
}

// handle handles a signal about presence or settings.
func (ws *presenceWatches) handle(sig Signal) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if len(ws.open) == 0 {
		return
	}
	for _, user := range sig.Users {
		ws.signaled[user] = true
	}
	ws.signals.Notify()
}

// deliverSignals marks the signaled users in all watches.
func (ws *presenceWatches) deliverSignals() {
	ws.mu.Lock()
	signaled := ws.signaled
	ws.signaled = map[model.UserID]bool{}
	ws.mu.Unlock()
	ws.markKnownDirty(signaled)
}

func (ws *presenceWatches) markKnownDirty(users map[model.UserID]bool) {
	if len(users) == 0 {
		return
	}
	for _, w := range ws.all() {
		w.markKnownDirty(users)
	}
}

func (ws *presenceWatches) all() []*presenceWatch {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return slices.Collect(maps.Keys(ws.open))
}

// reread marks all users in the watches whose last complete read is long ago.
func (ws *presenceWatches) reread() {
	now := time.Now()
	for _, w := range ws.all() {
		w.mu.Lock()
		due := now.After(w.rereadAt)
		w.mu.Unlock()
		if due {
			w.markAllDirty()
		}
	}
}

func (ws *presenceWatches) byUser() map[model.UserID][]*presenceWatch {
	by := map[model.UserID][]*presenceWatch{}
	for _, w := range ws.all() {
		by[w.actor.UserID] = append(by[w.actor.UserID], w)
	}
	return by
}

func setOf(users []model.UserID) map[model.UserID]bool {
	set := make(map[model.UserID]bool, len(users))
	for _, user := range users {
		set[user] = true
	}
	return set
}

package chat

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"parley/model"
)

// presenceWatch is what one consumer of PresenceChanges knows, and of whom it has to look again.
type presenceWatch struct {
	actor model.Actor
	bell  chan struct{}

	mu      sync.Mutex                 // guards what follows
	told    map[model.UserID]*Presence // of all who share a conversation; nil while nothing is told
	hiders  map[model.UserID]bool      // those of them who do not let it show
	dirty   map[model.UserID]bool
	all     bool      // of everybody
	reading bool      // what is found is not in told yet, so every sign counts
	again   time.Time // to look at everybody
}

// mark has the watch look at those of the people whom it knows, or is looking at.
func (w *presenceWatch) mark(users map[model.UserID]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for user := range users {
		if _, known := w.told[user]; known || w.reading {
			w.look(user)
		}
	}
}

// markNew has the watch look at people, known or not.
func (w *presenceWatch) markNew(users []model.UserID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, user := range users {
		w.look(user)
	}
}

// markHiders has the watch look at those whom it knows otherwise than they are: hidden is everybody
// who hides now.
func (w *presenceWatch) markHiders(hidden map[model.UserID]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for user := range w.told {
		if hidden[user] != w.hiders[user] {
			w.look(user)
		}
	}
}

// look needs the lock.
func (w *presenceWatch) look(user model.UserID) {
	if user != w.actor.UserID {
		w.dirty[user] = true
		w.ring()
	}
}

func (w *presenceWatch) markAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = true
	w.again = time.Now().Add(lookAgain + rand.N(lookAgain)) // not all at once
	w.ring()
}

func (w *presenceWatch) ring() {
	select {
	case w.bell <- struct{}{}:
	default: // it rings already
	}
}

func (w *presenceWatch) take() (ids []model.UserID, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids, all = slices.Collect(maps.Keys(w.dirty)), w.all
	w.dirty, w.all, w.reading = map[model.UserID]bool{}, false, true
	return ids, all
}

// compare finds out what is news of that which was read, of some or of everybody.
func (w *presenceWatch) compare(ids []model.UserID, all bool, found []knownPresence) (changed []Presence) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading = false
	if all {
		ids = slices.Collect(maps.Keys(w.told))
	}
	gone := make(map[model.UserID]bool, len(ids))
	for _, id := range ids {
		gone[id] = true
	}
	for _, p := range found {
		delete(gone, p.UserID)
		told, known := w.told[p.UserID]
		if !known {
			w.told[p.UserID] = nil
		}
		if p.Shown {
			delete(w.hiders, p.UserID)
		} else {
			w.hiders[p.UserID] = true
		}
		switch {
		case p.Shown && (told == nil || !told.equal(p.Presence)):
			changed = append(changed, p.Presence)
		case !p.Shown && told != nil:
			changed = append(changed, Presence{UserID: p.UserID})
		}
	}
	for id := range gone { // who may not be known, or not any more
		told := w.told[id]
		delete(w.told, id)
		delete(w.hiders, id)
		if told != nil {
			changed = append(changed, Presence{UserID: id})
		}
	}
	return changed
}

// tell reports whether a change is still to be told: there may be a newer one.
func (w *presenceWatch) tell(p Presence) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.told[p.UserID]; !known {
		return true // that they are not known any more
	}
	if w.dirty[p.UserID] || w.all {
		return false
	}
	w.told[p.UserID] = &p
	if w.hiders[p.UserID] {
		w.told[p.UserID] = nil
	}
	return true
}

// presenceWatches are those of this node.
type presenceWatches struct {
	bell chan struct{} // rings when there are signs
	miss chan struct{} // rings when signs were lost

	mu    sync.Mutex // guards what follows; taken before a watch's own
	open  map[*presenceWatch]struct{}
	heard map[model.UserID]bool

	compared presencesCompared // the rounds' own
}

// lookAgain is after how long, up to twice of it, a watch looks at everybody, for what no round
// tells.
const lookAgain = 5 * time.Minute

func newPresenceWatches() *presenceWatches {
	return &presenceWatches{
		bell: make(chan struct{}, 1), miss: make(chan struct{}, 1),
		open: map[*presenceWatch]struct{}{}, heard: map[model.UserID]bool{},
	}
}

func (ws *presenceWatches) begin(actor model.Actor) *presenceWatch {
	w := &presenceWatch{
		actor: actor, bell: make(chan struct{}, 1), told: map[model.UserID]*Presence{},
		hiders: map[model.UserID]bool{}, dirty: map[model.UserID]bool{},
	}
	w.markAll()
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.open[w] = struct{}{}
	return w
}

func (ws *presenceWatches) end(w *presenceWatch) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.open, w)
}

// hear takes a sign, and returns at once.
func (ws *presenceWatches) hear(told sign) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if len(ws.open) == 0 {
		return
	}
	for _, user := range told.Users {
		ws.heard[user] = true
	}
	select {
	case ws.bell <- struct{}{}:
	default: // it rings already
	}
}

func (ws *presenceWatches) lost() {
	select {
	case ws.miss <- struct{}{}:
	default: // it rings already
	}
}

// pass hands on what was heard.
func (ws *presenceWatches) pass() {
	ws.mu.Lock()
	heard := ws.heard
	ws.heard = map[model.UserID]bool{}
	ws.mu.Unlock()
	ws.mark(heard)
}

func (ws *presenceWatches) mark(users map[model.UserID]bool) {
	if len(users) == 0 {
		return
	}
	for _, w := range ws.all() {
		w.mark(users)
	}
}

func (ws *presenceWatches) all() []*presenceWatch {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return slices.Collect(maps.Keys(ws.open))
}

// lookAgain has those look at everybody who have not for long.
func (ws *presenceWatches) lookAgain() {
	now := time.Now()
	for _, w := range ws.all() {
		w.mu.Lock()
		due := now.After(w.again)
		w.mu.Unlock()
		if due {
			w.markAll()
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

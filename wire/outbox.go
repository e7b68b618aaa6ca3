package wire

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/vektah/gqlparser/v2/gqlerror"
)

// kind of an item.
type kind byte

const (
	kindNext kind = iota
	kindError
	kindComplete
	kindMessage // a whole message: an acknowledgement, or the answer to a ping
	kindPing    // of the WebSocket, with nothing in it
	kindPong    // of the WebSocket
	kindClose   // the last item
)

// item is what waits to be written. Its data is never changed, because a thousand connections may
// share it.
type item struct {
	op   *Operation // nil for what belongs to the connection
	kind kind
	data []byte
}

// itemOverhead stands for what an item takes beside its data, so that empty ones count too.
const itemOverhead = 64

func (it item) size() int { return len(it.data) + itemOverhead }

// transport is the connection below an outbox: a WebSocket, or a server-sent stream. It is called
// without the lock.
type transport interface {
	// wake has a writer come, and is not called again until that one has found nothing. Here means
	// that the calling goroutine may write itself, because it serves nobody else.
	wake(here bool)
	overflow() // ends the connection, because more is to be written than may wait
}

// bounds of what may wait on one connection.
type bounds struct{ items, bytes int }

// outbox is what waits to be written on one connection, and the operations that put it there.
// Whoever puts something in never writes: a writer is told that there is something, takes all of it
// at once, and comes back until nothing is left. So a message that comes alone leaves at once, and
// what comes while another write is under way leaves with the next.
type outbox struct {
	bounds *bounds
	transport

	mu         sync.Mutex // guards what follows; never held while writing
	writing    bool       // the writer has been woken, and is not done
	ended      bool
	draining   bool   // leave was called: no operation begins any more
	waits      bool   // first does
	first      item   // what waits longest: most often it is all, and needs no queue
	queue      *queue // what waits behind it; nil when nothing does
	bytes      int    // of what waits
	operations []*Operation
	// operations whose work has not returned yet, also those that the client has completed
	running int
	// those of them that are being executed; a subscription only until it has begun
	executing int
	// ends the connection once nothing is being executed; nil while nobody waits for that
	onIdle   func()
	room     chan struct{} // closed when there is room again; nil while nobody waits for that
	blocked  int           // bytes of results that wait for room
	retained int           // bytes that subscriptions keep of their requests
	large    chan struct{} // has a value while a large operation runs; nil before the first one
}

// Operation is one that a client has asked for, on a connection that stays. Its methods may be
// called by several goroutines, in whatever order: after its end, or that of its connection, they
// do nothing.
type Operation struct {
	box    *outbox
	id     string // as the client wrote it
	quoted string // the same as JSON
	cancel context.CancelFunc
	over   bool // guarded by box.mu
	// retained is how many bytes the operation keeps of its request. Guarded by box.mu.
	retained int
}

// Next queues a result, the JSON of a GraphQL response, which must not be changed afterwards. It
// never waits: a connection that has too much waiting already is ended with 1013, so that its
// client comes back and resumes. It reports whether the result was queued.
func (o *Operation) Next(payload []byte) bool { return o.box.add(item{o, kindNext, payload}) }

// TryNext is Next for whoever keeps what there is no room for: then it reports false, and nothing
// has happened.
func (o *Operation) TryNext(payload []byte) bool {
	full, _, _ := o.box.tryAdd(item{o, kindNext, payload}, false)
	return !full
}

// Put is Next for whoever can wait: for room on the connection, until ctx ends. What waits for room
// is bounded too: beyond that, the connection is ended as by Next.
func (o *Operation) Put(ctx context.Context, payload []byte) error {
	waits := false
	for {
		full, room, err := o.box.tryAdd(item{o, kindNext, payload}, true)
		if !full {
			return err
		}
		if !waits {
			waits = true
			if !o.box.block(len(payload)) {
				o.box.overflow()
				return errEnded
			}
			defer o.box.unblock(len(payload))
		}
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Fail ends the operation with errors. It never waits.
func (o *Operation) Fail(list gqlerror.List) { o.box.add(item{o, kindError, mustMarshal(list)}) }

// Complete ends the operation: there is nothing more to come. It never waits.
func (o *Operation) Complete() { o.box.add(item{o, kindComplete, nil}) }

// Why an operation does not begin; errEnded also says that the connection is about to end.
var (
	errInUse   = errors.New("an operation with this id is running")
	errTooMany = errors.New("as many operations are running as may")
)

// blockedFactor is by how much more may wait for room in an outbox than the outbox has.
const blockedFactor = 3

// block counts a result that waits for room. It reports false where too much does; one may always.
func (b *outbox) block(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.blocked > 0 && b.blocked+n > blockedFactor*b.bounds.bytes {
		return false
	}
	b.blocked += n
	return true
}

func (b *outbox) unblock(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.blocked -= n
}

// acquireLarge waits until no other large operation of the connection runs. So of large results at
// most one waits for room, however many a client asks for and does not read. The function that it
// returns ends that.
func (b *outbox) acquireLarge(ctx context.Context) (end func(), err error) {
	b.mu.Lock()
	if b.large == nil {
		b.large = make(chan struct{}, 1)
	}
	large := b.large
	b.mu.Unlock()
	select {
	case large <- struct{}{}:
		return func() { <-large }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// maxRetained is how many bytes the subscriptions of one connection may keep of their requests.
const maxRetained = 4 << 20

// retain counts what a subscription keeps of its request until it is over. It reports false where
// that is too much; one may always.
func (o *Operation) retain(n int) bool {
	o.box.mu.Lock()
	defer o.box.mu.Unlock()
	if o.over || o.box.retained > 0 && o.box.retained+n > maxRetained {
		return o.over
	}
	o.retained = n
	o.box.retained += n
	return true
}

// begin registers an operation. That there are too many is for the operation itself to tell, and so
// it is returned all the same.
func (b *outbox) register(id string, cancel context.CancelFunc, limit int) (*Operation, error) {
	o := &Operation{box: b, id: id, quoted: string(mustMarshal(id)), cancel: cancel}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ended || b.draining:
		return nil, errEnded
	case b.find(id) != nil:
		return nil, errInUse
	case max(b.running, len(b.operations)) >= limit: // one that was taken over has no work of its own
		return o, errTooMany
	}
	b.running++
	b.executing++
	b.operations = append(b.operations, o)
	return o, nil
}

// returned says that an operation's work is done, whoever ended it.
func (b *outbox) markReturned() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running--
}

// executed says that an operation has been, or that it is a subscription and has begun.
func (b *outbox) markExecuted() {
	b.mu.Lock()
	b.executing--
	var end func()
	if b.executing == 0 {
		end, b.onIdle = b.onIdle, nil
	}
	b.mu.Unlock()
	if end != nil {
		end()
	}
}

// leave calls end once nothing is being executed any more. From now on no operation begins, also
// while end is on its way: what has begun is answered, and what is not answered was never begun.
func (b *outbox) whenIdle(end func()) {
	b.mu.Lock()
	b.draining = true
	if b.executing > 0 {
		b.onIdle = end
		end = func() {}
	}
	b.mu.Unlock()
	end()
}

// find needs the lock.
func (b *outbox) find(id string) *Operation {
	for _, o := range b.operations {
		if o.id == id {
			return o
		}
	}
	return nil
}

// forget needs the lock.
func (b *outbox) unregister(o *Operation) {
	for i, other := range b.operations {
		if other == o {
			last := len(b.operations) - 1
			b.operations[i] = b.operations[last]
			b.operations[last] = nil
			b.operations = b.operations[:last]
			break
		}
	}
	o.over = true
	b.retained -= o.retained
}

// completed ends an operation that its client wants no more of; what waits for it is thrown away.
// It reports whether there was one.
func (b *outbox) cancelOperation(id string) bool {
	b.mu.Lock()
	o := b.find(id)
	if o == nil {
		b.mu.Unlock()
		return false
	}
	b.unregister(o)
	b.discard(func(it item) bool { return it.op == o })
	b.notifyRoom()
	b.mu.Unlock()
	o.cancel()
	return true
}

// add queues an item, and ends the connection when there is no room for it.
func (b *outbox) add(it item) bool {
	full, _, err := b.tryAdd(it, false)
	if full {
		b.overflow()
		return false
	}
	return err == nil
}

// fits needs the lock. What ends an operation may take twice the room, so that it never has to
// wait.
func (b *outbox) fits(it item) bool {
	factor := 1
	if it.kind == kindError || it.kind == kindComplete {
		factor = 2
	}
	n := b.waiting()
	return n == 0 || n < factor*b.bounds.items && b.bytes+it.size() <= factor*b.bounds.bytes
}

// try queues an item, unless the outbox is full. For whoever waits, room is closed when it may not
// be any more.
func (b *outbox) tryAdd(it item, waits bool) (full bool, room <-chan struct{}, err error) {
	b.mu.Lock()
	if b.ended || it.op != nil && it.op.over {
		b.mu.Unlock()
		return false, nil, errEnded
	}
	if !b.fits(it) {
		defer b.mu.Unlock()
		if waits && b.room == nil {
			b.room = make(chan struct{})
		}
		return true, b.room, nil
	}
	over := it.kind == kindError || it.kind == kindComplete
	if over {
		b.unregister(it.op)
	}
	wake := b.enqueue(it)
	b.mu.Unlock()
	if over {
		it.op.cancel()
	}
	if wake {
		b.wake(waits)
	}
	return false, nil, nil
}

// waiting needs the lock.
func (b *outbox) waiting() int {
	if !b.waits {
		return 0
	}
	return 1 + b.queue.len()
}

// push needs the lock, and reports whether the writer has to be woken once that is given back.
func (b *outbox) enqueue(it item) (wake bool) {
	switch {
	case !b.waits:
		b.waits, b.first = true, it
	case b.queue == nil:
		b.queue = queues.Get().(*queue)
		fallthrough
	default:
		b.queue.items = append(b.queue.items, it)
	}
	b.bytes += it.size()
	wake = !b.writing
	b.writing = true
	return wake
}

// take hands the writer what waits, about as much as one write should carry. Nothing means that the
// writer is done: the next item wakes it again.
func (b *outbox) dequeue(batch []item) []item {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dequeueLocked(batch)
}

// takeSome needs the lock.
func (b *outbox) dequeueLocked(batch []item) []item {
	b.writing = b.waits
	if b.waits {
		batch = append(batch, b.first)
		size := b.first.size()
		n := 0
		for n < b.queue.len() && size < batchBytes {
			size += b.queue.items[n].size()
			n++
		}
		b.bytes -= size
		if b.queue != nil {
			batch = append(batch, b.queue.items[:n]...)
		}
		b.shift(n)
	}
	b.notifyRoom()
	return batch
}

// shift needs the lock. The first item is gone, and so are some of those behind it.
func (b *outbox) shift(gone int) {
	b.first, b.waits = item{}, b.queue.len() > gone
	if b.waits {
		b.first = b.queue.items[gone]
		gone++
	}
	if b.queue != nil {
		b.queue.items = slices.Delete(b.queue.items, 0, gone)
		b.releaseQueue()
	}
}

// discard needs the lock. It drops what waits and fits a description.
func (b *outbox) discard(drop func(item) bool) {
	if b.queue != nil {
		b.queue.items = slices.DeleteFunc(b.queue.items, func(it item) bool {
			if drop(it) {
				b.bytes -= it.size()
				return true
			}
			return false
		})
		b.releaseQueue()
	}
	if b.waits && drop(b.first) {
		b.bytes -= b.first.size()
		b.shift(0)
	}
}

// notifyRoom needs the lock. It lets go on who waits, once half of what may wait is free.
func (b *outbox) notifyRoom() {
	if b.room != nil && b.waiting() <= b.bounds.items/2 && b.bytes <= b.bounds.bytes/2 {
		close(b.room)
		b.room = nil
	}
}

// end throws away the results that wait, says the last words instead, and lets nothing more in.
// With errors, each operation that is left fails with them. It reports false when the end has come
// before.
func (b *outbox) end(last []item, errors []byte) bool {
	return b.endWithout(func(it item) bool { return it.op != nil || last == nil }, last, errors)
}

// endAnswered is end, but operations that are over are still told of.
func (b *outbox) endAnswered(last []item) bool {
	return b.endWithout(func(it item) bool { return it.op != nil && !it.op.over }, last, nil)
}

func (b *outbox) endWithout(dropped func(item) bool, last []item, errors []byte) bool {
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return false
	}
	b.ended = true
	b.discard(dropped)
	for _, o := range b.operations {
		o.over = true
		if errors != nil {
			last = append(last, item{o, kindError, errors})
		}
	}
	b.operations, b.onIdle = nil, nil
	if b.room != nil {
		close(b.room)
		b.room = nil
	}
	wake := false
	for _, it := range last {
		wake = b.enqueue(it) || wake
	}
	b.mu.Unlock()
	if wake {
		b.wake(false)
	}
	return true
}

// hasEnded reports whether nothing more is let in.
func (b *outbox) hasEnded() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended
}

// batchBytes is about how much leaves with one write, so that a connection with much to say holds
// up others little.
const batchBytes = 64 << 10

// queue is borrowed while more than one item waits: a connection that is idle has none.
type queue struct{ items []item }

//nolint:gochecknoglobals // memory that all connections share
var queues = sync.Pool{New: func() any { return &queue{make([]item, 0, 8)} }}

func (q *queue) len() int {
	if q == nil {
		return 0
	}
	return len(q.items)
}

// giveBack needs the lock. A queue that has grown large is left to the garbage collector.
func (b *outbox) releaseQueue() {
	if b.queue.len() > 0 {
		return
	}
	if cap(b.queue.items) <= 64 {
		queues.Put(b.queue)
	}
	b.queue = nil
}

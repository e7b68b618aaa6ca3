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
	kindMessage // a whole message: an acknowledgement, or the answer to a ping message
	kindPing    // a ping frame without a payload
	kindPong    // a pong frame
	kindClose   // a close frame, the last item
)

// endsOperation reports whether the item is the last one of its operation.
func (k kind) endsOperation() bool { return k == kindError || k == kindComplete }

// item is something that is queued to be written. Its data must not be changed, because many
// connections can share it.
type item struct {
	op   *Operation // nil if the item belongs to the connection itself
	kind kind
	data []byte
}

// itemOverhead is what an item counts for in addition to its data, so that empty items count too.
const itemOverhead = 64

func (it item) size() int { return len(it.data) + itemOverhead }

// transport writes the outbox of a connection: it is a WebSocket or a server-sent stream. outbox.mu
// is never held when a method is called.
type transport interface {
	// wakeWriter makes a writer dequeue the items. It is not called again before that writer has
	// found the queue empty.
	wakeWriter()
	// writeOrWake is wakeWriter for a goroutine that serves only this connection: it may write the
	// items itself.
	writeOrWake()
	// overflow ends the connection, because its queue is full.
	overflow()
}

// bounds of the queue of one connection.
type bounds struct{ items, bytes int }

// outbox is the queue of one connection, and the operations that add items to it. Adding an item
// wakes a writer, which writes all queued items at once, and repeats that until the queue is empty.
// So an item that comes alone is written at once, and items that come during a write are written
// together after it. Its bounds are the backpressure: an operation waits for room, and an item that
// cannot wait ends the connection.
type outbox struct {
	bounds *bounds
	transport

	mu      sync.Mutex // guards what follows; not held while writing
	writing bool       // a writer is awake: it has not found the queue empty yet
	ended   bool       // nothing is added any more
	closing bool       // whenIdle was called: no operation starts any more

	// The queue is first, and then rest. Most often there is only one item, which needs no slice.
	hasFirst bool
	first    item
	rest     *itemSlice // nil when it is empty
	bytes    int        // the sizes of all queued items

	operations []*Operation
	// running counts the operations whose goroutine has not returned, also those that the client
	// has completed.
	running int
	// executing counts those of them that are being executed. A subscription counts only until it
	// has started.
	executing int
	onIdle    func() // called when executing becomes 0; nil when that has no consequence

	room     chan struct{} // closed when there is room again; nil when no goroutine waits for room
	blocked  int           // bytes of the results that wait for room
	retained int           // bytes that the subscriptions keep of their requests
	large    chan struct{} // a semaphore of 1 for large operations; nil before the first one
}

// Operation is an operation of a client on a WebSocket or a stream. Its methods may be called by
// several goroutines. After the end of the operation or of its connection, they do nothing.
type Operation struct {
	box      *outbox
	id       string // as the client sent it
	quoted   string // the id as JSON
	cancel   context.CancelFunc
	over     bool // guarded by box.mu
	retained int  // bytes that the operation keeps of its request; guarded by box.mu
}

// Next queues a result: the JSON of a GraphQL response, which must not be changed afterwards. It
// never waits. If the client's queue is full, Next ends the connection with 1013, and the client
// connects again and resumes. It reports whether the result was queued.
func (o *Operation) Next(payload []byte) bool { return o.box.add(item{o, kindNext, payload}) }

// TryNext is Next for callers that keep the result while the client's queue is full: then it
// returns false, and does nothing. If the operation is over, the result is discarded, and TryNext
// returns true.
func (o *Operation) TryNext(payload []byte) bool {
	full, _, _ := o.box.tryAdd(item{o, kindNext, payload}, false)
	return !full
}

// Put is Next for callers that can wait: while the client's queue is full, it waits for room, until
// ctx ends. The results that wait are bounded too: if there are too many, Put ends the connection
// as Next does.
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

// Complete ends the operation without an error. It never waits.
func (o *Operation) Complete() { o.box.add(item{o, kindComplete, nil}) }

// The reasons for which an operation does not start. Another reason is errEnded: the connection is
// about to end.
var (
	errInUse   = errors.New("an operation with this id is running")
	errTooMany = errors.New("the connection has reached its limit of operations")
)

// blockedFactor bounds the bytes that wait for room, in multiples of the bytes that may be queued.
const blockedFactor = 3

// block counts a result that waits for room. It reports false if too many bytes wait already. A
// single result may always wait.
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

// acquireLarge waits until no other large operation runs on the connection. So at most one large
// result waits for room, however many a client requests without reading them. The returned release
// lets the next one run.
func (b *outbox) acquireLarge(ctx context.Context) (release func(), err error) {
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

// retain counts the bytes that a subscription keeps of its request until it is over. It reports
// false if the subscriptions keep too much. A single subscription may always keep its request.
func (o *Operation) retain(n int) bool {
	o.box.mu.Lock()
	defer o.box.mu.Unlock()
	if o.over {
		return true
	}
	if o.box.retained > 0 && o.box.retained+n > maxRetained {
		return false
	}
	o.retained = n
	o.box.retained += n
	return true
}

// register adds an operation to the connection. With errTooMany it also returns an operation,
// which is not registered: the caller reports the error with its Fail.
func (b *outbox) register(id string, cancel context.CancelFunc, limit int) (*Operation, error) {
	o := &Operation{box: b, id: id, quoted: string(mustMarshal(id)), cancel: cancel}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ended || b.closing:
		return nil, errEnded
	case b.find(id) != nil:
		return nil, errInUse
	// An operation that Options.Subscribe took over is not running. A running one can be over.
	case max(b.running, len(b.operations)) >= limit:
		return o, errTooMany
	}
	b.running++
	b.executing++
	b.operations = append(b.operations, o)
	return o, nil
}

// markReturned records that the goroutine of an operation has returned.
func (b *outbox) markReturned() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running--
}

// markExecuted records that an operation was executed, or that a subscription has started.
func (b *outbox) markExecuted() {
	b.mu.Lock()
	b.executing--
	var idle func()
	if b.executing == 0 {
		idle, b.onIdle = b.onIdle, nil
	}
	b.mu.Unlock()
	if idle != nil {
		idle()
	}
}

// whenIdle calls fn once no operation is being executed. No operation starts from now on, also not
// while fn runs. So every operation that has started is answered, and the client can repeat the
// others.
func (b *outbox) whenIdle(fn func()) {
	b.mu.Lock()
	b.closing = true
	idle := b.executing == 0
	if !idle {
		b.onIdle = fn
	}
	b.mu.Unlock()
	if idle {
		fn()
	}
}

// find must be called with b.mu held.
func (b *outbox) find(id string) *Operation {
	for _, o := range b.operations {
		if o.id == id {
			return o
		}
	}
	return nil
}

// unregister must be called with b.mu held.
func (b *outbox) unregister(o *Operation) {
	if i := slices.Index(b.operations, o); i >= 0 {
		last := len(b.operations) - 1
		b.operations[i] = b.operations[last]
		b.operations[last] = nil
		b.operations = b.operations[:last]
	}
	o.over = true
	b.retained -= o.retained
}

// cancelOperation ends an operation that the client has completed, and discards its queued items.
func (b *outbox) cancelOperation(id string) {
	b.mu.Lock()
	o := b.find(id)
	if o == nil {
		b.mu.Unlock()
		return
	}
	b.unregister(o)
	b.discard(func(it item) bool { return it.op == o })
	b.notifyRoom()
	b.mu.Unlock()
	o.cancel()
}

// add queues an item, and reports whether it did. If the client's queue is full, add ends the
// connection.
func (b *outbox) add(it item) bool {
	full, _, err := b.tryAdd(it, false)
	if full {
		b.overflow()
		return false
	}
	return err == nil
}

// fits reports whether there is room for the item. The last item of an operation may use twice the
// bounds, so that it never has to wait. fits must be called with b.mu held.
func (b *outbox) fits(it item) bool {
	factor := 1
	if it.kind.endsOperation() {
		factor = 2
	}
	n := b.queued()
	return n == 0 || n < factor*b.bounds.items && b.bytes+it.size() <= factor*b.bounds.bytes
}

// tryAdd queues an item, unless the queue is full. canWait says that the caller serves only this
// connection, and can wait. Then room is closed when there may be room again.
func (b *outbox) tryAdd(it item, canWait bool) (full bool, room <-chan struct{}, err error) {
	b.mu.Lock()
	if b.ended || it.op != nil && it.op.over {
		b.mu.Unlock()
		return false, nil, errEnded
	}
	if !b.fits(it) {
		defer b.mu.Unlock()
		if canWait && b.room == nil {
			b.room = make(chan struct{})
		}
		return true, b.room, nil
	}
	over := it.kind.endsOperation()
	if over {
		b.unregister(it.op)
	}
	asleep := b.enqueue(it)
	b.mu.Unlock()
	if over {
		it.op.cancel()
	}
	switch {
	case !asleep:
	case canWait:
		b.writeOrWake()
	default:
		b.wakeWriter()
	}
	return false, nil, nil
}

// queued returns how many items are queued. It must be called with b.mu held.
func (b *outbox) queued() int {
	if !b.hasFirst {
		return 0
	}
	return 1 + b.rest.len()
}

// enqueue adds an item to the queue. It reports whether the writer is asleep, and must be woken
// after b.mu is unlocked. enqueue must be called with b.mu held.
func (b *outbox) enqueue(it item) (asleep bool) {
	switch {
	case !b.hasFirst:
		b.hasFirst, b.first = true, it
	case b.rest == nil:
		b.rest = itemSlices.Get().(*itemSlice)
		fallthrough
	default:
		b.rest.items = append(b.rest.items, it)
	}
	b.bytes += it.size()
	asleep = !b.writing
	b.writing = true
	return asleep
}

// dequeue moves the items of the next write to batch, about batchBytes. If it returns no items, the
// writer is done, and the next item wakes one again.
func (b *outbox) dequeue(batch []item) []item {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dequeueLocked(batch)
}

// dequeueLocked is dequeue. It must be called with b.mu held.
func (b *outbox) dequeueLocked(batch []item) []item {
	b.writing = b.hasFirst
	if b.hasFirst {
		batch = append(batch, b.first)
		size := b.first.size()
		n := 0
		for n < b.rest.len() && size < batchBytes {
			size += b.rest.items[n].size()
			n++
		}
		b.bytes -= size
		if b.rest != nil {
			batch = append(batch, b.rest.items[:n]...)
		}
		b.shift(n)
	}
	b.notifyRoom()
	return batch
}

// shift removes the first item and n more from the queue. It must be called with b.mu held.
func (b *outbox) shift(n int) {
	b.first, b.hasFirst = item{}, b.rest.len() > n
	if b.hasFirst {
		b.first = b.rest.items[n]
		n++
	}
	if b.rest != nil {
		b.rest.items = slices.Delete(b.rest.items, 0, n)
		b.releaseRest()
	}
}

// discard removes the items that match from the queue. It must be called with b.mu held.
func (b *outbox) discard(matches func(item) bool) {
	if b.rest != nil {
		b.rest.items = slices.DeleteFunc(b.rest.items, func(it item) bool {
			if matches(it) {
				b.bytes -= it.size()
				return true
			}
			return false
		})
		b.releaseRest()
	}
	if b.hasFirst && matches(b.first) {
		b.bytes -= b.first.size()
		b.shift(0)
	}
}

// notifyRoom wakes the goroutines that wait for room, once half of the bounds is free. It must be
// called with b.mu held.
func (b *outbox) notifyRoom() {
	if b.room != nil && b.queued() <= b.bounds.items/2 && b.bytes <= b.bounds.bytes/2 {
		close(b.room)
		b.room = nil
	}
}

// ending says how an outbox ends.
type ending struct {
	discard func(item) bool // which queued items are not written
	last    []item          // written after the others
	errors  []byte          // with which each running operation fails; nil for no such item
}

// The functions for ending.discard.
func allItems(item) bool              { return true }
func operationItems(it item) bool     { return it.op != nil }
func openOperationItems(it item) bool { return it.op != nil && !it.op.over }

// end adds the last items, and nothing after them. It reports false if the outbox has ended before.
func (b *outbox) end(e ending) bool {
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return false
	}
	b.ended = true
	b.discard(e.discard)
	for _, o := range b.operations {
		o.over = true
		if e.errors != nil {
			e.last = append(e.last, item{o, kindError, e.errors})
		}
	}
	b.operations, b.onIdle = nil, nil
	if b.room != nil {
		close(b.room)
		b.room = nil
	}
	asleep := false
	for _, it := range e.last {
		asleep = b.enqueue(it) || asleep
	}
	b.mu.Unlock()
	if asleep {
		b.wakeWriter()
	}
	return true
}

// hasEnded reports whether end was called.
func (b *outbox) hasEnded() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended
}

// batchBytes is about how much one write carries, so that a connection with a long queue does not
// delay others.
const batchBytes = 64 << 10

// itemSlice is a slice from a pool. A connection has one only while several items are queued.
type itemSlice struct{ items []item }

//nolint:gochecknoglobals // memory that all connections share
var itemSlices = sync.Pool{New: func() any { return &itemSlice{make([]item, 0, 8)} }}

// maxPooledItems is the largest capacity of a slice that goes back to the pool.
const maxPooledItems = 64

func (q *itemSlice) len() int {
	if q == nil {
		return 0
	}
	return len(q.items)
}

// releaseRest returns b.rest to the pool if it is empty. It must be called with b.mu held.
func (b *outbox) releaseRest() {
	if b.rest.len() > 0 {
		return
	}
	if cap(b.rest.items) <= maxPooledItems {
		itemSlices.Put(b.rest)
	}
	b.rest = nil
}

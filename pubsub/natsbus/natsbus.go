// Package natsbus joins the topics of several nodes over NATS: what is published on one reaches the
// subscriptions of all.
//
// It carries hints over core NATS, which keeps nothing. What does not fit, cannot leave or does not
// arrive is gone, and whoever follows a topic repairs that from the database. Link.Run says when
// there may be something to repair.
//
// A Conn is the connection of a node. A Link joins one bus; each topic of it is a NATS subject, to
// which a node subscribes while it has a local subscription. Fanning out to those is left to the
// bus. What a node publishes does not come back to it.
//
// # Concurrency
//
// Publish and Status never wait for the network: Publish puts the message into a bounded buffer, or
// drops and counts it. Everything that may wait for the network happens in the goroutines of
// Link.Run and of the NATS client, which may hold the client's lock for as long as a write or a
// dial takes. Messages of one node on one topic arrive in the order in which Publish took them;
// those of several nodes have no order. The bus's watcher takes the lock of its Link, so nothing
// calls the bus with that lock held. Run ends with its context, and hands over what is in the
// buffer; Close comes after it.
package natsbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// DefaultPrefix is the default of Options.Prefix.
const DefaultPrefix = "parley"

// Options say how to reach NATS.
type Options struct {
	// URLs are nats://USER:PASSWORD@HOST:PORT, tls:// or with a token instead of user and password.
	// One of them is enough.
	URLs []string
	// Prefix begins all subjects, so that several clusters can share a server; "" means
	// DefaultPrefix.
	Prefix string
	Name   string // of this node, for NATS's own monitoring
	// RetryEvery is how long to wait, at least, after all URLs have failed; up to as much again is
	// added by chance, so that the nodes of a cluster do not come back all at once. 0 means one
	// second.
	RetryEvery time.Duration
	// Buffer is how many messages of a link may wait to leave, and how many that have arrived to be
	// handed on; 0 means 1024.
	Buffer int
	Log    *slog.Logger // nil means slog.Default
}

const (
	// netTimeout bounds a dial, a handshake, a write and an answer. Nothing but goroutines of this
	// package waits for it.
	netTimeout = 5 * time.Second
	// pingEvery times two is after how long a peer that has gone without a word is given up.
	pingEvery = 10 * time.Second
	// goodbye bounds what Close waits for the last messages to be on their way.
	goodbye = time.Second
)

// Conn is the connection of this node, kept up, or being made again, until Close.
type Conn struct {
	opts    Options
	counts  counts
	hangUp  context.CancelFunc // ends dialling, and closes the socket
	dialing sync.WaitGroup     // of dial

	mu     sync.Mutex // guards what follows; nothing waits for the network with it held
	nc     *nats.Conn // the present one; nats.go gives a connection up for good after some errors
	state  state
	round  int           // how often the connection was made
	gone   chan struct{} // closed when the connection of this round has ended
	links  map[any]func()
	retry  *time.Timer
	closed bool
	// complained says that an error within this round was logged: NATS repeats some of them for
	// each message.
	complained bool
}

type state struct {
	known     bool // false until the first attempt has ended
	connected bool
	reason    string
	since     time.Time
}

type counts struct {
	sent, dropped, received, missed, broken atomic.Uint64
}

// Status is how things stand, and what has passed since the start.
type Status struct {
	Connected bool
	Reason    string    // why not; may name addresses, and never has credentials
	Since     time.Time // zero until the first attempt has ended
	// Sent, Received: messages from and for this node. Dropped: those that did not fit or could not
	// leave. Missed: at least so many times came more than fit. Broken: what came and was no
	// message.
	Sent, Dropped, Received, Missed, Broken uint64
}

// Open begins to connect, and returns without waiting for NATS: a server that is not there is
// waited for. An error is about options that cannot work.
func Open(opts Options) (*Conn, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Prefix == "" {
		opts.Prefix = DefaultPrefix
	}
	if opts.RetryEvery == 0 {
		opts.RetryEvery = time.Second
	}
	if opts.Buffer == 0 {
		opts.Buffer = 1024
	}
	if err := CheckPrefix(opts.Prefix); err != nil {
		return nil, err
	}
	if len(opts.URLs) == 0 {
		return nil, errors.New("there is no address of NATS")
	}
	for i, text := range opts.URLs {
		if err := CheckURL(text); err != nil {
			return nil, fmt.Errorf("address %d of NATS: %w", i+1, err)
		}
	}
	c := &Conn{opts: opts, links: map[any]func(){}, gone: make(chan struct{})}
	close(c.gone)
	ctx, hangUp := context.WithCancel(context.Background())
	c.hangUp = hangUp
	c.dialing.Go(func() { c.dial(ctx) })
	return c, nil
}

// CheckURL says what is wrong with an address of NATS, without repeating it: it may have a password
// in it.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" {
		return errors.New("it is not like nats://HOST:4222 or tls://USER:PASSWORD@HOST:4222 (in a password, write what is not a letter or digit as %XX)")
	}
	return nil
}

// CheckPrefix says what is wrong with a prefix of subjects.
func CheckPrefix(prefix string) error {
	for token := range strings.SplitSeq(prefix, ".") {
		if !isToken(token) {
			return fmt.Errorf("%q is not a name like parley or chat.parley: letters, digits, - and _", prefix)
		}
	}
	return nil
}

// isToken reports whether s can be a part of a subject: "*" and ">" would listen to everything, a
// dot would make it two.
func isToken(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-' {
			return false
		}
	}
	return s != ""
}

// Redacted is an address of NATS for people: user, password and token left out. (A token stands
// where a user would.)
func Redacted(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "(not an address)"
	}
	return u.Scheme + "://" + u.Host
}

// Status tells how things stand. It never waits.
func (c *Conn) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Status{
		Connected: c.state.connected, Reason: c.state.reason, Since: c.state.since,
		Sent: c.counts.sent.Load(), Dropped: c.counts.dropped.Load(), Received: c.counts.received.Load(),
		Missed: c.counts.missed.Load(), Broken: c.counts.broken.Load(),
	}
}

// Close gives what was published a moment to leave, and ends the connection. The links have to have
// ended.
func (c *Conn) Close() {
	c.mu.Lock()
	nc, connected := c.nc, c.state.connected
	c.closed = true
	if c.retry != nil && c.retry.Stop() {
		c.dialing.Done()
	}
	c.mu.Unlock()
	// The client waits for the network with its lock held, in a dial, a handshake, or a write that
	// stalls. Without its sockets it has nothing to wait for.
	hurry := time.AfterFunc(goodbye, c.hangUp)
	defer hurry.Stop()
	if connected {
		_ = nc.FlushTimeout(goodbye)
	}
	c.hangUp()
	if nc != nil {
		nc.Close()
	}
	c.dialing.Wait()
}

// dial makes the first connection, or the next one after nats.go has closed one for good. With
// RetryOnFailedConnect it comes back at once from a server that is not there, and nats.go goes on
// trying.
func (c *Conn) dial(ctx context.Context) {
	nc, err := nats.Connect(strings.Join(c.opts.URLs, ","),
		nats.Name(c.opts.Name),
		nats.NoEcho(),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(c.opts.RetryEvery), nats.ReconnectJitter(c.opts.RetryEvery, c.opts.RetryEvery),
		// a hint that has waited for an outage is of no use: followers will have read by then
		nats.ReconnectBufSize(-1),
		nats.Timeout(netTimeout), nats.FlusherTimeout(netTimeout), nats.ReconnectOnFlusherError(),
		nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(2),
		nats.SkipHostLookup(), nats.SetCustomDialer(dialer(func(network, address string) (net.Conn, error) {
			return dialSocket(ctx, network, address)
		})),
		nats.ConnectHandler(func(nc *nats.Conn) { c.isConnected(nc) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { c.isConnected(nc) }),
		nats.DisconnectErrHandler(c.isAway),
		nats.ReconnectErrHandler(c.isAway),
		nats.ErrorHandler(c.complain),
		nats.ClosedHandler(func(nc *nats.Conn) { c.again(ctx, nc) }),
	)
	// Open has looked at the addresses: it is about something that does not come from outside
	if err != nil {
		c.isAway(nil, err)
		c.again(ctx, nil)
		return
	}
	c.mu.Lock()
	c.nc = nc
	closed := c.closed
	c.mu.Unlock()
	if closed { // while this was connecting, so Close has not seen nc
		nc.Close()
	}
}

type dialer func(network, address string) (net.Conn, error)

func (d dialer) Dial(network, address string) (net.Conn, error) { return d(network, address) }

// socket is closed at the latest when the context ends that it was dialled with.
type socket struct {
	net.Conn
	forget func() bool
}

func dialSocket(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: netTimeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &socket{conn, context.AfterFunc(ctx, func() { _ = conn.Close() })}, nil
}

func (s *socket) Close() error {
	s.forget()
	return s.Conn.Close()
}

// again makes a new connection in place of one that nats.go has given up, as it does when
// credentials are refused twice, or when the server says something that it does not know.
func (c *Conn) again(ctx context.Context, nc *nats.Conn) {
	if nc != nil {
		c.isAway(nc, nc.LastError())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.dialing.Add(1)
	c.retry = time.AfterFunc(c.opts.RetryEvery+rand.N(c.opts.RetryEvery), func() {
		defer c.dialing.Done()
		c.dial(ctx)
	})
}

// isConnected and isAway are called by nats.go, one after the other and in the order in which it
// happened.
func (c *Conn) isConnected(nc *nats.Conn) {
	server := Redacted(nc.ConnectedUrl())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nc = nc // dial may not have come to it yet
	if c.state.connected {
		close(c.gone)
	} else {
		c.opts.Log.Info("NATS is connected: nodes tell each other of new messages at once", "server", server)
	}
	c.state = state{known: true, connected: true, since: time.Now()}
	c.complained = false
	c.round++
	c.gone = make(chan struct{})
	for _, ring := range c.links {
		ring()
	}
}

func (c *Conn) isAway(_ *nats.Conn, err error) {
	reason := "the connection was closed"
	if err != nil {
		reason = err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.state.known && !c.state.connected {
		return // it is away as before: one line for a change, not for each try
	}
	c.opts.Log.Warn("NATS is away: what other nodes store is found by comparing with the database, and a little later", "reason", reason)
	if c.state.connected {
		close(c.gone)
	}
	c.state = state{known: true, reason: reason, since: time.Now()}
}

// complain hears of what does not end a connection: that we take too slowly, or are not allowed
// something.
func (c *Conn) complain(_ *nats.Conn, sub *nats.Subscription, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, nats.ErrSlowConsumer) {
		c.counts.missed.Add(1)
		for _, ring := range c.links {
			ring()
		}
	}
	level := slog.LevelDebug
	if !c.complained && !c.closed {
		c.complained, level = true, slog.LevelWarn
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	c.opts.Log.Log(context.Background(), level, "NATS complains", "error", err, "subject", subject)
}

// connection is what the state of a Conn is to a Link.
type connection struct {
	nc        *nats.Conn
	connected bool
	round     int
	gone      <-chan struct{}
}

func (c *Conn) connection() connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	return connection{nc: c.nc, connected: c.state.connected, round: c.round, gone: c.gone}
}

// flush waits until the server has done all that it was told on this connection, subscribing
// included.
func (cn connection) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, netTimeout)
	defer cancel()
	flushed := make(chan struct{})
	defer close(flushed)
	// nats.go forgets, when it connects again, who waits for an answer of the connection before
	go func() {
		select {
		case <-cn.gone:
			cancel()
		case <-flushed:
		}
	}()
	return cn.nc.FlushWithContext(ctx)
}

// attach registers what is to be called when the connection was made, or when something was missed.
// It must return at once.
func (c *Conn) attach(link any, ring func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.links[link] = ring
	ring() // for what was before
}

func (c *Conn) detach(link any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.links, link)
}

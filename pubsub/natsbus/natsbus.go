// Package natsbus connects the topics of several nodes over NATS: a message that is published on
// one node reaches the subscriptions of all.
//
// It sends hints over core NATS, which stores nothing. A message that does not fit into a buffer,
// cannot be sent or does not arrive is lost, and the subscriber reconciles with the database. The
// callback missed reports when that is necessary.
//
// A Conn is the connection of a node, and a Bus is a pubsub.Bus that has a link to the other nodes.
// Each topic of it is a NATS subject, to which a node subscribes while the topic has a local
// subscription. The bus fans messages out to the local subscriptions. A node does not receive its
// own messages.
//
// # Concurrency
//
// Publish and Status never wait for the network: Publish puts the message into a bounded buffer, or
// drops and counts it. Only the goroutines of Run and of the NATS client wait for the network. The
// client may hold its own lock for as long as a write or a dial takes. Messages of one node on one
// topic arrive in the order in which they were published. Those of several nodes have no order.
//
// Lock order: the pubsub.Bus → its link, because the watcher of the bus locks the link. The lock of
// a Conn is held alone. Nothing waits for the network with one of these locks held.
//
// Run ends with its context, after it has sent the messages of the buffer. Close comes after Run.
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
	// One of a cluster's servers is enough.
	URLs []string
	// Prefix is the prefix of all subjects, so that several clusters can share a server; "" means
	// DefaultPrefix.
	Prefix string
	Name   string // of this node, for the monitoring of NATS
	// RetryEvery is how long to wait after all URLs have failed, plus a random part of as much
	// again, so that the nodes of a cluster do not all connect at once. 0 means one second.
	RetryEvery time.Duration
	// Buffer is how many messages of a bus may wait to be sent, and how many to be delivered; 0
	// means 1024.
	Buffer int
	Log    *slog.Logger // nil means slog.Default
}

const (
	// netTimeout bounds a dial, a handshake, a write and an answer.
	netTimeout = 5 * time.Second
	// A server that does not answer two pings counts as gone.
	pingEvery = 10 * time.Second
	// flushTimeout bounds how long Close waits until the last messages are sent.
	flushTimeout = time.Second
)

// Conn is the connection of this node. Until Close, it connects again after each failure.
type Conn struct {
	opts    Options
	counts  counts
	hangUp  context.CancelFunc // ends dialling, and closes the socket
	dialing sync.WaitGroup     // of dial

	mu     sync.Mutex // guards what follows
	nc     *nats.Conn // the current one; nats.go closes a connection for good after some errors
	state  state
	round  int            // how often the connection was made
	gone   chan struct{}  // closed when the connection of this round has ended
	links  map[any]func() // wakes each link
	retry  *time.Timer
	closed bool
	// errorLogged is true if an error of this round was logged. The later ones are logged at the
	// level Debug, because NATS repeats some errors for each message.
	errorLogged bool
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

// Status is the state of the connection, and counters since the start.
type Status struct {
	Connected bool
	Reason    string    // why it is not connected; may have addresses in it, never credentials
	Since     time.Time // when this state began; zero until the first attempt has ended

	Sent     uint64 // messages sent to other nodes
	Dropped  uint64 // messages that did not fit into the buffer or could not be sent
	Received uint64 // messages of other nodes that were delivered
	Missed   uint64 // times that the buffer of arrived messages was full, at least
	Broken   uint64 // messages of other nodes that could not be decoded
}

// Open starts to connect and returns without waiting for NATS. It tries until a server answers. The
// error is about options that cannot work.
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

// CheckURL returns an error if the text is not an address of NATS. The error does not repeat the
// text, which may have a password in it.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" ||
		strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" {
		return errors.New(
			"it is not like nats://HOST:4222 or tls://USER:PASSWORD@HOST:4222 (in a password, " +
				"write what is not a letter or digit as %XX)")
	}
	return nil
}

// CheckPrefix returns an error if the text cannot be a prefix of subjects.
func CheckPrefix(prefix string) error {
	for token := range strings.SplitSeq(prefix, ".") {
		if !isToken(token) {
			return fmt.Errorf(
				"%q is not a name like parley or chat.parley: letters, digits, - and _", prefix)
		}
	}
	return nil
}

// isToken reports whether s can be one token of a subject. A dot separates tokens, and "*" and ">"
// are wildcards.
func isToken(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' &&
			r != '-' {
			return false
		}
	}
	return s != ""
}

// Redacted returns an address of NATS without user, password and token. (A token stands in the
// place of the user.)
func Redacted(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "(not an address)"
	}
	return u.Scheme + "://" + u.Host
}

// Status returns the state of the connection. It never waits.
func (c *Conn) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Status{
		Connected: c.state.connected, Reason: c.state.reason, Since: c.state.since,
		Sent: c.counts.sent.Load(), Dropped: c.counts.dropped.Load(),
		Received: c.counts.received.Load(), Missed: c.counts.missed.Load(),
		Broken: c.counts.broken.Load(),
	}
}

// Close waits up to a second until published messages are sent, and ends the connection. The Run of
// each bus must have ended.
func (c *Conn) Close() {
	c.mu.Lock()
	nc, connected := c.nc, c.state.connected
	c.closed = true
	if c.retry != nil && c.retry.Stop() {
		c.dialing.Done()
	}
	c.mu.Unlock()
	// The client may wait for the network with its lock held: in a dial, a handshake, or a write
	// that stalls. Closing its sockets ends that.
	deadline := time.AfterFunc(flushTimeout, c.hangUp)
	defer deadline.Stop()
	if connected {
		_ = nc.FlushTimeout(flushTimeout)
	}
	c.hangUp()
	if nc != nil {
		nc.Close()
	}
	c.dialing.Wait()
}

// dial makes the first connection, or the next one after nats.go has closed one for good. Because
// of RetryOnFailedConnect, it returns at once if no server answers, and nats.go goes on trying.
func (c *Conn) dial(ctx context.Context) {
	nc, err := nats.Connect(strings.Join(c.opts.URLs, ","),
		nats.Name(c.opts.Name),
		nats.NoEcho(),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(c.opts.RetryEvery),
		nats.ReconnectJitter(c.opts.RetryEvery, c.opts.RetryEvery),
		// no buffer for an outage: after it, subscribers reconcile with the database anyway
		nats.ReconnectBufSize(-1),
		nats.Timeout(netTimeout), nats.FlusherTimeout(netTimeout), nats.ReconnectOnFlusherError(),
		nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(2),
		nats.SkipHostLookup(), nats.SetCustomDialer(
			dialer(func(network, address string) (net.Conn, error) {
				return dialSocket(ctx, network, address)
			})),
		nats.ConnectHandler(func(nc *nats.Conn) { c.onConnect(nc) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { c.onConnect(nc) }),
		nats.DisconnectErrHandler(c.onDisconnect),
		nats.ReconnectErrHandler(c.onDisconnect),
		nats.ErrorHandler(c.onError),
		nats.ClosedHandler(func(nc *nats.Conn) { c.reconnect(ctx, nc) }),
	)
	if err != nil { // not of the addresses, which Open has checked
		c.onDisconnect(nil, err)
		c.reconnect(ctx, nil)
		return
	}
	c.mu.Lock()
	c.nc = nc
	closed := c.closed
	c.mu.Unlock()
	if closed { // while this dialled, so Close did not see nc
		nc.Close()
	}
}

type dialer func(network, address string) (net.Conn, error)

func (d dialer) Dial(network, address string) (net.Conn, error) { return d(network, address) }

// socket is a connection that is also closed when the context of its dial ends.
type socket struct {
	net.Conn
	stopWatching func() bool // stops waiting for the end of the context
}

func dialSocket(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: netTimeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &socket{conn, context.AfterFunc(ctx, func() { _ = conn.Close() })}, nil
}

func (s *socket) Close() error {
	s.stopWatching()
	return s.Conn.Close()
}

// reconnect makes a new connection after nats.go has closed one for good. It does so if a server
// refuses the credentials twice, or sends an error that nats.go does not know.
func (c *Conn) reconnect(ctx context.Context, nc *nats.Conn) {
	if nc != nil {
		c.onDisconnect(nc, nc.LastError())
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

// onConnect and onDisconnect are called by nats.go, one after the other, in the order of the
// events.
func (c *Conn) onConnect(nc *nats.Conn) {
	server := Redacted(nc.ConnectedUrl())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nc = nc // dial may not have set it yet
	if c.state.connected {
		close(c.gone)
	} else {
		c.opts.Log.Info("NATS is connected: messages of other nodes arrive at once",
			"server", server)
	}
	c.state = state{known: true, connected: true, since: time.Now()}
	c.errorLogged = false
	c.round++
	c.gone = make(chan struct{})
	for _, wakeLink := range c.links {
		wakeLink()
	}
}

func (c *Conn) onDisconnect(_ *nats.Conn, err error) {
	reason := "the connection was closed"
	if err != nil {
		reason = err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.state.known && !c.state.connected {
		return // a failed attempt changes nothing, and is not logged
	}
	c.opts.Log.Warn(
		"NATS is away: messages of other nodes arrive later, by reconciling with the database",
		"reason", reason)
	if c.state.connected {
		close(c.gone)
	}
	c.state = state{known: true, reason: reason, since: time.Now()}
}

// onError is called by nats.go for errors that do not end the connection: the buffer of a
// subscription is full, or the server does not permit something.
func (c *Conn) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, nats.ErrSlowConsumer) {
		c.counts.missed.Add(1)
		for _, wakeLink := range c.links {
			wakeLink()
		}
	}
	level := slog.LevelDebug
	if !c.errorLogged && !c.closed {
		c.errorLogged, level = true, slog.LevelWarn
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	c.opts.Log.Log(context.Background(), level, "NATS reports an error",
		"error", err, "subject", subject)
}

// connection is the part of a Conn's state that Links use.
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

// flush waits until the server has processed everything that was sent on this connection before,
// including subscriptions.
func (cn connection) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, netTimeout)
	defer cancel()
	flushed := make(chan struct{})
	defer close(flushed)
	// When nats.go connects again, it never answers a flush of the connection before.
	go func() {
		select {
		case <-cn.gone:
			cancel()
		case <-flushed:
		}
	}()
	return cn.nc.FlushWithContext(ctx)
}

// attach registers a function that is called after each connection, and when messages were missed.
// The function must return at once. attach calls it too, for what happened before.
func (c *Conn) attach(link any, wakeLink func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.links[link] = wakeLink
	wakeLink()
}

func (c *Conn) detach(link any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.links, link)
}

// Package client is a device in Go: it keeps a session open, sends each message once and in order, and hands the application
// every record of every conversation once, in order and without holes. It never shows a record twice within a process,
// and never keeps anything but cursors and unanswered writes.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// Start says where the application's view of a conversation begins that was there before this store's first connect. Ones
// that are joined later are shown from their join on.
type Start int

// The starts.
const (
	StartAtHead Start = iota // What comes from now on; History has the rest.
	StartAtJoin              // Everything the user may read.
)

// Options of a client. URL, Token and Handler are required.
type Options struct {
	// URL of a comet: ws://host:port/v1/connect, wss://…, tcp://host:port, or tls://….
	URL string
	// TLS of wss and tls: the authorities that vouch for the server, a certificate of the device's own. Nil: the system's
	// authorities.
	TLS *tls.Config
	// Token returns a token that the app's server issued. It is called before the first connect, when a token nears its
	// end, and after the server refused one; it should not keep tokens itself.
	Token func(ctx context.Context) (string, error)
	// Handler gets the events, one at a time, in order. It may call every method of the client. While it is slow, records wait
	// on the server, not here; other events are dropped.
	Handler func(Event)
	// Name of the program and its version, for the operator of the server.
	Name  string
	Start Start
	// Store keeps cursors and unanswered writes; nil keeps them in memory, for this client alone.
	Store  Store
	Logger *slog.Logger
	Limits Limits
}

// Limits bound what a client holds and waits for. A zero field takes the default.
type Limits struct {
	Outbox         int           // Unanswered writes; beyond it ErrOutboxFull. 1,000.
	InFlight       int           // Writes on the way in one conversation. 32.
	Events         int           // Events that wait for the handler. 1,024.
	AnswerTimeout  time.Duration // An answer that takes longer is taken for lost. 10 s.
	ConnectTimeout time.Duration // From dial to hello. 10 s.
	BackOffFirst   time.Duration // Most of the first wait before a reconnect; it doubles. 500 ms.
	BackOffMost    time.Duration // 30 s.
	GapGrace       time.Duration // A record that came before its predecessor waits this long before history is asked. 150 ms.
}

func (l Limits) withDefaults() Limits {
	count := func(n *int, otherwise int) {
		if *n <= 0 {
			*n = otherwise
		}
	}
	span := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	count(&l.Outbox, 1000)
	count(&l.InFlight, 32)
	count(&l.Events, 1024)
	span(&l.AnswerTimeout, 10*time.Second)
	span(&l.ConnectTimeout, 10*time.Second)
	span(&l.BackOffFirst, 500*time.Millisecond)
	span(&l.BackOffMost, 30*time.Second)
	span(&l.GapGrace, 150*time.Millisecond)
	return l
}

// What the client's methods answer beside *protocol.Error, the server's refusals.
var (
	// ErrStopped: Run has returned. A write that was not answered is in the Store and goes out with the next client on it.
	ErrStopped = errors.New("client: stopped")
	// ErrOutboxFull: too many writes wait for an answer. Nothing was sent.
	ErrOutboxFull = errors.New("client: outbox is full")
	// ErrNotConnected: what is worth nothing later was not sent.
	ErrNotConnected = errors.New("client: not connected")
)

// CloseError is why the server closed the connection for good, or why the last attempt failed.
type CloseError struct {
	Code   protocol.CloseCode
	Reason string
	// Reconnect is what the server asked for.
	Reconnect  envelopev1.Reconnect
	RetryAfter time.Duration
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("client: closed by the server: %s (%d)", e.Reason, e.Code)
}

// Client is one device of one user. Its methods are safe for concurrent use; they wait for a connection as long as their
// context allows.
type Client struct {
	// Static.
	opts   Options
	limits Limits
	url    *url.URL
	log    *slog.Logger
	events *eventQueue

	// wake tells Run's loop that something is due earlier than it knew. Holds one.
	wake chan struct{}
	// unheard is when a Connect was given up that had no answer. Run's own.
	unheard time.Time

	mu sync.Mutex
	engine
}

// New checks the options and reads the store. It starts nothing: Run does.
func New(opts Options) (*Client, error) {
	u, err := url.Parse(opts.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("client: URL: %w", err)
	case !slices.Contains([]string{"ws", "wss", "tcp", "tls"}, u.Scheme):
		return nil, fmt.Errorf("client: URL: scheme %q is not ws, wss, tcp or tls", u.Scheme)
	case u.Host == "":
		return nil, errors.New("client: URL: no host")
	case opts.Token == nil:
		return nil, errors.New("client: Token is required")
	case opts.Handler == nil:
		return nil, errors.New("client: Handler is required")
	}
	if opts.Store == nil {
		opts.Store = NewMemoryStore()
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.TLS == nil {
		opts.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if opts.Name == "" {
		opts.Name = "halley-go"
	}
	c := &Client{
		opts: opts, limits: opts.Limits.withDefaults(), url: u, log: opts.Logger,
		wake: make(chan struct{}, 1),
	}
	c.events = newEventQueue(c.limits.Events, c.poke)
	c.engine.init()
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("client: load: %w", err)
	}
	return c, nil
}

// Run keeps the session open until ctx ends or the server forbids to come back, which is a *CloseError. It is called once.
func (c *Client) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var dispatcher sync.WaitGroup
	dispatcher.Go(func() { c.dispatch(ctx) })
	err := c.stayConnected(ctx)
	c.stop()
	cancel()
	dispatcher.Wait()
	return err
}

func (c *Client) stayConnected(ctx context.Context) error {
	wait := backOff{first: c.limits.BackOffFirst, most: c.limits.BackOffMost}
	for {
		began := time.Now()
		err := c.session(ctx)
		c.mu.Lock()
		wasConnected := c.disconnected()
		c.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var closed *CloseError
		var atLeast time.Duration
		if errors.As(err, &closed) {
			switch closed.Reconnect {
			case envelopev1.Reconnect_RECONNECT_NO:
				if !c.replacedItself(closed) {
					return err
				}
			case envelopev1.Reconnect_RECONNECT_NEW_TOKEN:
				c.forgetToken()
			}
			atLeast = closed.RetryAfter
		}
		c.events.put(State{Err: err})
		if wasConnected && time.Since(began) > c.limits.BackOffMost {
			wait.reset() // It held for a while: the trouble is new.
		}
		delay := wait.next(atLeast)
		c.log.Info("disconnected", "err", err, "again_in", delay)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
	}
}

// ownFor is how long a Connect that was given up may still come to its session: a node or a wire can stand still for so long.
const ownFor = 2 * time.Minute

// replacedItself reports whether the session may have been replaced by one of this very client: one that it had given up before it heard
// of it. That one is gone, so this client is the one to come again. Each such session replaces one at most.
func (c *Client) replacedItself(closed *CloseError) bool {
	if closed.Code != protocol.CloseReplaced || c.unheard.IsZero() || time.Since(c.unheard) > ownFor {
		return false
	}
	c.unheard = time.Time{}
	return true
}

// poke makes Run's loop look at what is due.
func (c *Client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

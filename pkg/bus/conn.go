package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	dialTimeout     = 2 * time.Second
	reconnectWait   = 200 * time.Millisecond
	reconnectJitter = 300 * time.Millisecond
	// A server that vanished without closing its connections is noticed after two of these.
	pingInterval = 5 * time.Second
	// Bounds what one JetStream API call may take where the caller's context sets no bound.
	apiTimeout = 10 * time.Second
	// What Close spends on handing over what was published before.
	closeFlush = time.Second
)

// Conn is one connection to NATS; it reconnects by itself for ever. Methods are safe for concurrent use.
type Conn struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	log  *slog.Logger
	drop func(subject string, dropped int)

	watching sync.WaitGroup
	unwatch  context.CancelFunc
}

// Connect tries until it succeeds or ctx ends.
func Connect(ctx context.Context, cfg Config, log *slog.Logger) (*Conn, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Conn{log: log.With("conn", cfg.Name), drop: cfg.OnDrop}
	opts, err := c.options(cfg)
	if err != nil {
		return nil, err
	}
	for wait := reconnectWait; ; wait = min(2*wait, 5*time.Second) {
		c.nc, err = nats.Connect(strings.Join(cfg.URLs, ","), opts...)
		if err == nil {
			break
		}
		c.log.Warn("nats: cannot connect", "err", err)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("bus: connect: %w (%w)", err, ctx.Err())
		case <-time.After(wait):
		}
	}
	c.js, err = jetstream.New(c.nc, jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		c.nc.Close()
		return nil, fmt.Errorf("bus: %w", err)
	}
	var watch context.Context
	watch, c.unwatch = context.WithCancel(context.Background())
	if cfg.Embedded == nil { // It has no peers.
		c.watching.Go(func() { c.leaveCutOff(watch) })
	}
	return c, nil
}

func (c *Conn) options(cfg Config) ([]nats.Option, error) {
	opts := []nats.Option{
		nats.Name(cfg.Name),
		nats.Timeout(dialTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: we closed it
				c.log.Warn("nats: disconnected", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { c.log.Info("nats: reconnected", "server", nc.ConnectedServerName()) }),
		nats.ErrorHandler(c.asyncError),
	}
	if cfg.NoReconnectBuffer {
		opts = append(opts, nats.ReconnectBufSize(-1))
	}
	switch {
	case cfg.CredsFile != "":
		opts = append(opts, nats.UserCredentials(cfg.CredsFile))
	case cfg.User != "":
		opts = append(opts, nats.UserInfo(cfg.User, cfg.Password))
		// Answers to one tier are not for the others to read: the server's permissions say so by this prefix.
		opts = append(opts, nats.CustomInboxPrefix("_INBOX."+cfg.User))
	}
	if cfg.TLS.enabled() {
		tc, err := cfg.TLS.config()
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.Secure(tc))
	}
	if cfg.Embedded != nil {
		opts = append(opts, nats.InProcessServer(cfg.Embedded.srv))
	}
	return opts, nil
}

// asyncError reports what nats.go can tell nobody else. A queue that overflows is reported once until it has emptied again,
// so the count of drops is taken from the subscription.
func (c *Conn) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrSlowConsumer) && sub != nil {
		n, derr := sub.Dropped()
		if derr == nil && c.drop != nil {
			c.drop(sub.Subject, n)
		}
		c.log.Warn("nats: subscription's queue is full, messages are dropped", "subject", sub.Subject, "dropped", n)
		return
	}
	c.log.Warn("nats: connection error", "err", err)
}

// Close hands over what was published, waits at most a second for that, and closes the connection. Subscriptions end.
func (c *Conn) Close() {
	c.unwatch()
	c.watching.Wait()
	if c.nc.IsConnected() {
		if err := c.nc.FlushTimeout(closeFlush); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			c.log.Warn("nats: closing with unsent messages", "err", err)
		}
	}
	c.nc.Close()
}

// Connected reports whether there is a connection right now.
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// Reconnects counts how often the connection was lost and made again.
func (c *Conn) Reconnects() uint64 { return c.nc.Stats().Reconnects }

// MaxPayload is the server's limit in bytes, headers included.
func (c *Conn) MaxPayload() int64 { return c.nc.MaxPayload() }

// Flush returns once the server has processed everything published before.
func (c *Conn) Flush(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("bus: flush: %w", err)
	}
	return nil
}

// Publish sends data to the subject, at most once. data may be reused when it has returned. With a reply subject, a message that
// nobody receives is answered there with NoResponders.
func (c *Conn) Publish(subject, reply string, data []byte) error {
	var err error
	if reply == "" {
		err = c.nc.Publish(subject, data)
	} else {
		err = c.nc.PublishRequest(subject, reply, data)
	}
	if err != nil {
		return publishError(subject, err)
	}
	return nil
}

// Request sends data and waits for one answer, bounded by ctx (10 s where it has no deadline).
func (c *Conn) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	m, err := c.nc.RequestWithContext(ctx, subject, data)
	if err != nil {
		return nil, publishError(subject, err)
	}
	return m.Data, nil
}

func publishError(subject string, err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		err = ErrNoResponders
	case errors.Is(err, nats.ErrMaxPayload):
		err = ErrTooLarge
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionReconnecting):
		err = ErrDisconnected
	}
	return fmt.Errorf("bus: publish to %s: %w", subject, err)
}

// bounded gives ctx a deadline if it has none: an answer that was lost must not hold its waiter for ever.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, apiTimeout)
}

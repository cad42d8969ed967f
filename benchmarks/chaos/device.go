package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/halley-im/halley/benchmarks/oracle"
	"github.com/halley-im/halley/pkg/client"
	"github.com/halley-im/halley/protocol"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// write is a write of a device as the judge will be told of it.
type write struct {
	clientID     string
	conversation string
	from         time.Time
	pending      *client.Pending
	outcome      oracle.Outcome
	seq          uint64
}

// wait is how long a write waited for its answer.
type wait struct {
	took         time.Duration
	from         time.Time
	device       string
	conversation string
}

func longer(a, b wait) wait {
	if b.took > a.took {
		return b
	}
	return a
}

// device is one device of one user over all its lives: the program on it ends and starts again with what it had stored.
type device struct {
	// Static.
	index   uint32
	name    string
	user    string
	options client.Options
	texts   *oracle.Payloads
	slow    bool

	// The life that runs; guarded by writing, so that the order of writes is the order of their list.
	writing sync.Mutex
	client  *client.Client
	end     context.CancelFunc
	ended   chan struct{}
	counter uint32
	writes  map[string][]*write

	mu      sync.Mutex
	shown   map[string][]oracle.Shown // guarded by mu
	faults  []string                  // guarded by mu: what no server may do to it
	longest wait                      // guarded by mu: the longest wait for an ack
	acked   int                       // guarded by mu
}

// start begins a life.
func (d *device) start(ctx context.Context) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	return d.startLocked(ctx)
}

func (d *device) startLocked(ctx context.Context) error {
	opts := d.options
	opts.Handler = d.handle
	c, err := client.New(opts)
	if err != nil {
		return err
	}
	life, end := context.WithCancel(ctx)
	ended := make(chan struct{})
	d.client, d.end, d.ended = c, end, ended
	go func() { // stop waits for it.
		defer close(ended)
		var closed *client.CloseError
		if err := c.Run(life); errors.As(err, &closed) {
			d.fault("%s was closed for good: %v", d.name, err)
		}
	}()
	return nil
}

// stop ends the life that runs.
func (d *device) stop() {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.stopLocked()
}

func (d *device) stopLocked() {
	d.end()
	<-d.ended
}

// restart is a crash of the program: answers that were on their way are never heard.
func (d *device) restart(ctx context.Context) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.stopLocked()
	return d.startLocked(ctx)
}

func (d *device) fault(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = append(d.faults, fmt.Sprintf(format, args...))
}

// handle is the application on the device.
func (d *device) handle(e client.Event) {
	r, ok := e.(client.Record)
	if !ok {
		return
	}
	if d.slow {
		time.Sleep(rand.N(20 * time.Millisecond)) // A slow reader, not a wait for something.
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shown[r.Conversation] = append(d.shown[r.Conversation], shownOf(r.Record))
}

// send writes a message and returns at once.
func (d *device) send(conversation string) (*write, error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.counter++
	text := d.texts.Append(nil, d.index, d.counter)
	p, err := d.client.SendAsync(conversation, client.Text(string(text)))
	if err != nil {
		return nil, err
	}
	w := &write{clientID: p.ClientID, conversation: conversation, from: time.Now(), pending: p}
	d.writes[conversation] = append(d.writes[conversation], w)
	return w, nil
}

// await waits for the answer and notes it. That there is none before ctx ends is a fault: all is healed by then.
func (d *device) await(ctx context.Context, w *write) {
	ack, err := w.pending.Wait(ctx)
	took := time.Since(w.from)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.longest = longer(d.longest, wait{took, w.from, d.name, w.conversation})
	d.note(w, ack, err)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		d.faults = append(d.faults, fmt.Sprintf("%s got no answer to %s within %.0f s", d.name, w.clientID, took.Seconds()))
	}
}

// note runs under mu.
func (d *device) note(w *write, ack *recordv1.Ack, err error) {
	var refusal *protocol.Error
	switch {
	case err == nil:
		w.outcome, w.seq = oracle.Acked, ack.Seq
		d.acked++
	case errors.As(err, &refusal) && refusal.Code == protocol.CodeExpired:
		// It says that nobody can tell any more.
	case errors.As(err, &refusal):
		w.outcome = oracle.Refused
	}
}

// change does what changes a group, and waits. One goroutine makes all changes of a group, so they are in order.
func (d *device) change(ctx context.Context, do func(ctx context.Context, c *client.Client) (*recordv1.Ack, error)) (oracle.Sent, bool) {
	d.writing.Lock()
	c := d.client
	d.writing.Unlock()
	ack, err := do(ctx, c)
	if err != nil {
		return oracle.Sent{}, false // Refused, or not known; history tells.
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.acked++
	return oracle.Sent{Outcome: oracle.Acked, Seq: ack.Seq}, true
}

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/halley-im/halley/pkg/bus"
)

// owner writes one log: one block at a time, each expecting to follow the last, as the first of docs/adr decides.
type owner struct {
	log        *bus.Log
	name       string // In the ledger, where a log is a conversation and a block a message.
	last       uint64
	written    int
	unanswered string // The block whose fate is not known.
}

// owners are the owners of all partitions.
type owners struct {
	conn   *bus.Conn
	ledger *ledger
	run    string
	each   []*owner
}

func openOwners(ctx context.Context, conn *bus.Conn, run string, partitions int) (*owners, error) {
	o := &owners{conn: conn, ledger: newLedger(), run: run}
	for p := range partitions {
		one := &owner{name: fmt.Sprintf("log %d", p)}
		err := persist(ctx, func(ctx context.Context) (err error) {
			one.log, err = bus.OpenLog(ctx, conn, p)
			return err
		})
		if err != nil {
			o.close()
			return nil, err
		}
		o.each = append(o.each, one)
	}
	return o, nil
}

func (o *owners) book() *ledger { return o.ledger }

func (o *owners) close() {
	for _, one := range o.each {
		one.log.Close()
	}
	o.conn.Close()
}

func (o *owners) talk(talking, settling context.Context) {
	var all sync.WaitGroup
	for _, one := range o.each {
		all.Go(func() {
			for talking.Err() == nil || one.unanswered != "" {
				if err := o.write(settling, one); err != nil {
					o.ledger.violation("%q has no answer: %v", one.unanswered, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// write appends the next block, or again the one whose fate is not known.
func (o *owners) write(ctx context.Context, one *owner) error {
	if one.unanswered == "" {
		one.written++
		one.unanswered = fmt.Sprintf("%s %s %d", o.run, one.name, one.written)
		o.ledger.sends(one.unanswered, message{conversation: one.name, sender: one.name, number: one.written})
	}
	seq, err := one.append(ctx, []byte(one.unanswered))
	if err != nil {
		return err
	}
	o.ledger.ack(one.unanswered, seq, 0)
	one.last, one.unanswered = seq, ""
	return nil
}

const (
	appendWithin = 5 * time.Second
	appendPause  = 100 * time.Millisecond
	// behindFor is how long a new leader may take to have all of a log before what is missing counts as lost.
	behindFor = 15 * time.Second
)

var errBehind = errors.New("the log ends before what it acknowledged")

// append is the owner's loop: what is unknown is tried again with the same expectation, and what was refused is looked up.
func (one *owner) append(ctx context.Context, block []byte) (uint64, error) {
	var behind time.Time
	for {
		attempt, done := context.WithTimeout(ctx, appendWithin)
		seq, err := one.log.Append(attempt, block, false, one.last)
		if errors.Is(err, bus.ErrMoved) {
			var m bus.Message
			m, err = one.log.Get(attempt, one.last+1)
			switch {
			case err == nil && string(m.Data) == string(block):
				seq = m.Seq // An earlier try of it, whose answer was lost.
			case err == nil:
				err = fmt.Errorf("%d is %q", m.Seq, m.Data)
				done()
				return 0, err
			case errors.Is(err, bus.ErrNoMessage) && behind.IsZero():
				behind = time.Now()
			case errors.Is(err, bus.ErrNoMessage) && time.Since(behind) > behindFor:
				done()
				return 0, errBehind
			}
		}
		done()
		if err == nil {
			return seq, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: %w", err, ctx.Err())
		case <-time.After(appendPause):
		}
	}
}

// audit reads every log from its first block.
func (o *owners) audit(ctx context.Context) (map[string]uint64, error) {
	for _, one := range o.each {
		var history []record
		err := persist(ctx, func(ctx context.Context) error {
			history = history[:0]
			return one.log.Scan(ctx, 1, func(m bus.Message) error {
				history = append(history, record{seq: m.Seq, sender: one.name, text: string(m.Data)})
				return nil
			})
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.name, err)
		}
		o.ledger.judge(one.name, history)
	}
	return nil, nil
}

// complete: nobody but the owners knows what they wrote.
func (o *owners) complete(context.Context, map[string]uint64) {}

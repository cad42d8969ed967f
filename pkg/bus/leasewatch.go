package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Watch calls fn for every key that is held and then for every change, until ctx ends or the watch breaks; nil means that nobody
// holds the key any more. Renewals are no change.
//
// A lease that runs out leaves no event behind, so the watch keeps the time when each must have been renewed, and asks for
// those that were not.
func (s *Leases) Watch(ctx context.Context, fn func(key string, value []byte)) error {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	// Only the start of a watch has a bound: a server that dies meanwhile never answers.
	late := time.AfterFunc(apiTimeout, cancel)
	w, err := s.kv.WatchAll(watching)
	if !late.Stop() || err != nil {
		return fmt.Errorf("bus: watch leases: %w", errors.Join(err, watching.Err()))
	}
	defer func() { _ = w.Stop() }()
	watch := leaseWatch{s: s, fn: fn, held: map[string]watched{}}
	tick := time.NewTicker(max(s.ttl/8, 25*time.Millisecond))
	defer tick.Stop()
	heard := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Updates():
			if !ok {
				return fmt.Errorf("bus: watch leases: %w", ErrDisconnected)
			}
			heard = time.Now()
			if e != nil {
				watch.update(e)
			}
		case <-tick.C:
			watch.suspect(ctx)
			// A held lease is renewed well inside its time to live, and every renewal is an event. So silence means that
			// the server has forgotten the watch, as it does when the node that kept it dies: new keys would never be seen.
			// That nothing seems to be held is no excuse: in an outage of all servers every lease runs out, and whoever
			// takes one afterwards would never be seen either. A bucket that is truly empty is watched anew each time.
			if time.Since(heard) > 2*s.ttl {
				return fmt.Errorf("bus: watch leases: nothing heard for %v", 2*s.ttl)
			}
		}
	}
}

type watched struct {
	value string
	// When, without a further event, the lease is asked for.
	check time.Time
}

type leaseWatch struct {
	s    *Leases
	fn   func(key string, value []byte)
	held map[string]watched
}

func (w *leaseWatch) update(e jetstream.KeyValueEntry) {
	key := e.Key()
	old, known := w.held[key]
	if e.Operation() != jetstream.KeyValuePut {
		delete(w.held, key)
		if known {
			w.fn(key, nil)
		}
		return
	}
	w.held[key] = watched{value: string(e.Value()), check: w.checkAt(e.Created())}
	if !known || old.value != string(e.Value()) {
		w.fn(key, e.Value())
	}
}

// checkAt is when a lease renewed at the given time of the server's clock should be gone. That clock may be off, so the answer
// is between now and one TTL from now.
func (w *leaseWatch) checkAt(renewed time.Time) time.Time {
	now := time.Now()
	at := now.Add(w.s.ttl)
	if t := renewed.Add(w.s.ttl); t.Before(at) {
		at = now.Add(max(0, time.Until(t)))
	}
	return at
}

// suspect asks for the leases that were not renewed in time. One that is still there (its expiry runs late, or the event of its
// renewal is under way) is asked for again at the next tick.
func (w *leaseWatch) suspect(ctx context.Context) {
	now := time.Now()
	for key, h := range w.held {
		if now.Before(h.check) {
			continue
		}
		// A request that went to a server as it died has no answer: without a bound it would be the last thing that this watch does.
		ask, cancel := context.WithTimeout(ctx, w.s.ttl)
		_, err := w.s.c.bucketGet(ask, w.s.bucket, key)
		cancel()
		if errors.Is(err, ErrNoMessage) {
			delete(w.held, key)
			w.fn(key, nil)
			continue
		}
		if err != nil {
			return // nothing is known; the next tick asks again
		}
	}
}

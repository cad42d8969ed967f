package partition

import (
	"context"
	"errors"
	"fmt"

	"github.com/halley-im/halley/pkg/bus"
)

// evict lets go of idle conversations that history has in full. It looks at some, in the map's order, so its cost is bounded.
func (o *owner) evict(most int) {
	looked := 0
	for k, c := range o.cells {
		if looked++; looked > most {
			return
		}
		o.settle(c)
		if c.idle(o.floor, o.toldTo) && c.used < o.tick-1 {
			delete(o.cells, k)
		}
	}
}

// housekeep runs every second.
func (o *owner) housekeep() {
	o.tick++
	if !o.looking {
		o.looking = true
		last, witness := o.last, o.tick%witnessEvery == 0
		untold := o.changed > o.toldTo
		o.async.own(func(ctx context.Context) { o.look(ctx, last, witness, untold) })
	}
	o.report()
	o.loadMore()
	o.readMore()
	o.forgetRecalled()
	later := o.later
	o.later = nil
	for _, c := range later {
		if !c.loaded && !c.loading {
			o.load(c)
		}
	}
	if over := len(o.cells) - o.cfg.Conversations*9/10; over > 0 {
		o.evict(over + 1024)
	}
}

// witnessEvery is after how many seconds an owner writes down how far its log has come.
const witnessEvery = 10

// look asks how far history and the log are, and users' logs where it matters, outside the partition's goroutine, one look at a time.
func (o *owner) look(ctx context.Context, last uint64, witness, untold bool) {
	floor, err := o.Floor(ctx)
	var logState bus.LogState
	if err == nil {
		logState, err = o.Log.State(ctx)
	}
	if err == nil && witness {
		err = o.Log.Witness(ctx, last)
	}
	if err != nil {
		o.Logger.Warn("what the log and its history say is unknown", "err", err)
	}
	var toldTo uint64
	if untold {
		var unknown error
		if toldTo, unknown = o.UserlogFloor(ctx); unknown != nil { // Members of whom the nodes may not know get their pushes one by one.
			o.Logger.Warn("the floor of users' logs is unknown", "err", unknown)
		}
	}
	o.queue.post(func() {
		o.looking = false
		o.toldTo = max(o.toldTo, toldTo)
		if errors.Is(err, bus.ErrIncarnation) {
			o.fatal = err
		}
		if err == nil && logState.Last > o.last {
			// No append is under way here. Who only reads would never learn it from a refused one, and nobody hears the answers of an
			// epoch that is over.
			o.fatal = fmt.Errorf("the log has block %d, and the last of this owner is %d: %w", logState.Last, o.last, errDeposed)
		}
		if err == nil {
			o.noteFloor(floor)
			o.room = room{bytes: logState.Bytes, most: logState.MaxBytes}
		}
	})
}

// reassert answers the loss of the lease: its key is gone or taken. Writing is safe by the fence alone, so the owner tries to
// take the key again and to append a fence; if the log has moved on, another reigns.
func (o *owner) reassert(ctx context.Context) error {
	o.Logger.Warn("lease is gone; writing a fence to go on", "epoch", o.epoch)
	err := o.reign.reacquire(ctx)
	if errors.Is(err, bus.ErrHeld) {
		return errSucceeded
	}
	if err != nil {
		// The bucket does not answer. Sends go on, reads do not; the next renewal says again that the key is gone.
		o.Logger.Warn("lease cannot be taken again yet", "err", err)
		return nil
	}
	if err := o.fence(ctx, o.epoch+1); err != nil {
		return fmt.Errorf("fence after a lost lease: %w", err)
	}
	return nil
}

// reported is what the metrics and the log say of the owner's part in what waits for history.
type reported struct {
	bytes, records int
	full, behind   bool
}

// report brings the metrics up to date, and logs what began and what ended.
func (o *owner) report() {
	now, was := reported{o.tail.bytes, o.tail.records, o.full(fullForClients), o.tail.evicted > 0}, o.reported
	if now == was {
		return
	}
	o.count(now)
	log := o.Logger.With("records", now.records, "block", o.last, "floor", o.floor, "log_bytes", o.room.bytes, "log_max_bytes", o.room.most)
	switch {
	case now.full && !was.full:
		log.Warn("the log is full, for history does not keep up: senders are told that the server is busy")
	case !now.full && was.full:
		log.Info("the log has room again")
	}
	switch {
	case now.behind && !was.behind:
		log.Warn("history does not keep up: records outside memory are read again from the log")
	case !now.behind && was.behind:
		log.Info("history has caught up")
	}
}

// count adds what changed to the metrics of all partitions. At the end of a reign nothing is left.
func (o *owner) count(now reported) {
	o.metrics.tailBytes.Add(float64(now.bytes - o.reported.bytes))
	o.metrics.tailRecords.Add(float64(now.records - o.reported.records))
	if now.full != o.reported.full {
		if now.full {
			o.metrics.full.Inc()
		} else {
			o.metrics.full.Dec()
		}
	}
	o.reported = now
}

// complaint is what keeps one that every request would repeat from filling the log.
type complaint struct {
	until  int64 // tick before which nothing more is said
	unsaid int
}

// complain logs, once a second at most, that a request failed for want of the store or of another owner.
func (o *owner) complain(what string, args ...any) {
	c := &o.complaint
	if o.tick < c.until {
		c.unsaid++
		return
	}
	o.Logger.Warn(what, append(args, "unsaid", c.unsaid)...)
	c.until, c.unsaid = o.tick+1, 0
}

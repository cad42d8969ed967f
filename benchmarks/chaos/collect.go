package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/halley-im/halley/benchmarks/oracle"
	"github.com/halley-im/halley/protocol"
)

// evidence is what the judge is given: the devices' views, taken first, and then history.
type evidence struct {
	transcripts []oracle.Transcript
}

const collectors = 8

// collect gathers it for every conversation. Nothing may be writing.
func (f *fleet) collect(ctx context.Context, a *api) (*evidence, error) {
	heads, err := f.heads(ctx)
	if err != nil {
		return nil, err
	}
	ids := f.conversations()
	e := &evidence{transcripts: make([]oracle.Transcript, len(ids))}
	for i, id := range ids {
		e.transcripts[i] = f.transcript(id, heads)
	}
	return e, e.read(ctx, a)
}

// again is the same with history read anew.
func (e *evidence) again(ctx context.Context, a *api) (*evidence, error) {
	anew := &evidence{transcripts: slices.Clone(e.transcripts)}
	return anew, anew.read(ctx, a)
}

// read reads every conversation's history.
func (e *evidence) read(ctx context.Context, a *api) error {
	work := make(chan int)
	errs := make([]error, collectors)
	var wg sync.WaitGroup
	for c := range collectors {
		wg.Go(func() {
			for i := range work {
				t := &e.transcripts[i]
				entries, err := a.history(ctx, t.Conversation)
				if err != nil && written(t) { // One that nobody has written to is not there.
					errs[c] = fmt.Errorf("history of %s: %w", t.Conversation, err)
				}
				t.History = entries
			}
		})
	}
	for i := range e.transcripts {
		work <- i
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

// written reports whether there must be a history.
func written(t *oracle.Transcript) bool {
	for _, w := range t.Writers {
		if slices.ContainsFunc(w.Sent, func(s oracle.Sent) bool { return s.Outcome == oracle.Acked }) {
			return true
		}
	}
	return slices.ContainsFunc(t.Devices, func(d oracle.Device) bool { return len(d.Shown) > 0 })
}

// transcript is what devices know of a conversation.
func (f *fleet) transcript(id string, heads []map[string]uint64) oracle.Transcript {
	t := oracle.Transcript{Conversation: id}
	for i, d := range f.devices {
		if protocol.KindOf(id) == protocol.KindUser && id != protocol.UserLog(d.user) {
			continue
		}
		if protocol.KindOf(id) != protocol.KindUser && !slices.Contains(f.of[d.user], id) {
			continue
		}
		head, known := heads[i][id]
		d.mu.Lock()
		t.Devices = append(t.Devices, oracle.Device{
			Name: d.name, User: d.user, Shown: slices.Clone(d.shown[id]), Head: head, HeadKnown: known,
		})
		w := oracle.Writer{Name: d.name, User: d.user}
		for _, one := range d.writes[id] {
			w.Sent = append(w.Sent, oracle.Sent{ClientID: one.clientID, Outcome: one.outcome, Seq: one.seq})
		}
		d.mu.Unlock()
		t.Writers = append(t.Writers, w)
	}
	for _, g := range f.groups {
		if g.id != id {
			continue
		}
		for user, changes := range g.changes {
			t.Writers = append(t.Writers, oracle.Writer{Name: user + "'s changes", User: user, Sent: changes})
		}
	}
	return t
}

// headsAtOnce is how many conversations one request names.
const headsAtOnce = 100

// heads asks, as each device, where its conversations stand.
func (f *fleet) heads(ctx context.Context) ([]map[string]uint64, error) {
	out := make([]map[string]uint64, len(f.devices))
	errs := make([]error, len(f.devices))
	var wg sync.WaitGroup
	for i, d := range f.devices {
		wg.Go(func() {
			out[i] = map[string]uint64{}
			for ids := range slices.Chunk(f.of[d.user], headsAtOnce) {
				found, err := d.client.Heads(ctx, ids...)
				if err != nil {
					errs[i] = fmt.Errorf("heads of %s: %w", d.name, err)
					return
				}
				for _, h := range found {
					out[i][h.Conversation] = h.Seq
				}
			}
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

func (e *evidence) judge() []oracle.Violation {
	var found []oracle.Violation
	for i := range e.transcripts {
		found = append(found, e.transcripts[i].Judge()...)
	}
	return found
}

// late reports whether some of the violations are such that time may mend: what a device has not been shown yet, and what it has not
// been told yet.
func late(found []oracle.Violation) bool {
	return slices.ContainsFunc(found, func(v oracle.Violation) bool {
		return v.Rule == oracle.RuleHidden || v.Rule == oracle.RuleHead
	})
}

// settle collects and judges until nothing is missing any more, or until ctx ends. What else is wrong stays wrong.
func (f *fleet) settle(ctx context.Context, a *api, log func(string, ...any)) (e *evidence, found []oracle.Violation, err error) {
	began := time.Now()
	for {
		e, err := f.collect(ctx, a)
		if err != nil {
			return e, found, err
		}
		found = e.judge()
		if !late(found) {
			return e, found, nil
		}
		log("after %.1f s: %s", time.Since(began).Seconds(), oracle.Count(found))
		if !sleep(ctx, time.Second) {
			return e, found, nil
		}
	}
}

// differs compares histories with what they were before nothing but a restart: all is there, unchanged. Users' own logs may have
// grown.
func (e *evidence) differs(after *evidence) []oracle.Violation {
	var found []oracle.Violation
	for i := range e.transcripts {
		was, is := e.transcripts[i].History, after.transcripts[i].History
		id := e.transcripts[i].Conversation
		if len(is) < len(was) {
			found = append(found, oracle.Violation{
				Rule: oracle.RuleLost, Conversation: id, What: fmt.Sprintf("history had %d records and has %d after a restart", len(was), len(is)),
			})
			continue
		}
		for k := range was {
			if was[k].Shown != is[k].Shown {
				found = append(found, oracle.Violation{
					Rule: oracle.RuleConflict, Conversation: id, What: fmt.Sprintf("%d is another record after a restart", was[k].Seq),
				})
			}
		}
	}
	return found
}

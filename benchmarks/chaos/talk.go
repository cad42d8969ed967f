package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/halley-im/halley/pkg/client"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// How the people behave. What they do follows from the seed; when, from the machine.
const (
	burstMost   = 4                      // Messages that a device writes without waiting for an answer.
	pauseMost   = 900 * time.Millisecond // Between two bursts.
	changeEvery = 4 * time.Second        // One change of a group's members, in the mean.
	crashEvery  = 25 * time.Second       // One end of the program on a device, in the mean.
	readEach    = 5                      // One read in so many bursts.
)

// talk has everybody write, come and go until ctx ends, and waits for the answers to what was written until patience does. Devices
// that start again run until life ends.
func (f *fleet) talk(ctx, patience, life context.Context) {
	var wg sync.WaitGroup
	for i, d := range f.devices {
		r := rand.New(rand.NewPCG(f.seed, 100+uint64(i)))
		wg.Go(func() { f.write(ctx, patience, r, d) })
		crashes := rand.New(rand.NewPCG(f.seed, 10_000+uint64(i)))
		wg.Go(func() { f.crash(ctx, life, crashes, d) })
	}
	for i, g := range f.groups {
		r := rand.New(rand.NewPCG(f.seed, 20_000+uint64(i)))
		wg.Go(func() { f.shuffle(ctx, patience, r, g) })
	}
	wg.Wait()
}

// sleep reports whether ctx still holds afterwards.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// write is a person at a device: a burst, its answers, a pause.
func (f *fleet) write(ctx, patience context.Context, r *rand.Rand, d *device) {
	mine := f.of[d.user]
	if len(mine) == 0 {
		return // Among few people, somebody may know nobody.
	}
	for sleep(ctx, time.Duration(r.Int64N(int64(pauseMost)))) {
		id := mine[r.IntN(len(mine))]
		var burst []*write
		for range 1 + r.IntN(burstMost) {
			if w, err := d.send(id); err == nil {
				burst = append(burst, w)
			}
		}
		for _, w := range burst {
			d.await(patience, w)
		}
		if r.IntN(readEach) == 0 {
			d.read(ctx, id)
		}
	}
}

// read marks what the device was shown last.
func (d *device) read(ctx context.Context, conversation string) {
	d.mu.Lock()
	var seq uint64
	if shown := d.shown[conversation]; len(shown) > 0 {
		seq = shown[len(shown)-1].Seq
	}
	d.mu.Unlock()
	if seq == 0 {
		return
	}
	d.writing.Lock()
	c := d.client
	d.writing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, _ = c.MarkRead(ctx, conversation, seq) // Lost or refused, the next one includes it.
}

// crash ends the program on a device now and then; it starts again at once, with what it had stored.
func (f *fleet) crash(ctx, life context.Context, r *rand.Rand, d *device) {
	for sleep(ctx, time.Duration(r.Int64N(int64(2*crashEvery)))) {
		if err := d.restart(life); err != nil {
			d.fault("device: %s does not start again: %v", d.name, err)
		}
	}
}

// shuffle takes members out of a group and puts them back.
func (f *fleet) shuffle(ctx, patience context.Context, r *rand.Rand, g *group) {
	out := map[string]bool{}
	for sleep(ctx, time.Duration(r.Int64N(int64(2*changeEvery)))) {
		user := g.members[r.IntN(len(g.members))]
		if f.changeOne(patience, g, user, out[user], r.IntN(3) == 0) {
			out[user] = !out[user]
		}
	}
	for _, user := range g.members {
		if out[user] {
			f.changeOne(patience, g, user, true, false)
		}
	}
}

// changeOne puts a user back into a group, has the owner take it out, or has it leave by itself.
func (f *fleet) changeOne(ctx context.Context, g *group, user string, back, leaves bool) bool {
	by := g.owner
	if !back && leaves {
		by = f.first(user)
	}
	s, done := by.change(ctx, func(ctx context.Context, c *client.Client) (*recordv1.Ack, error) {
		switch {
		case back:
			return c.Add(ctx, g.id, user)
		case leaves:
			return c.Leave(ctx, g.id)
		}
		return c.Remove(ctx, g.id, user)
	})
	if done {
		g.changes[by.user] = append(g.changes[by.user], s)
	}
	return done
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// machine loses power when it is cut: it keeps what was synced, and nothing else has to be there after the next start. It is a vm.Machine,
// or stands for one in a test.
type machine interface {
	Start(ctx context.Context) error
	Cut(ctx context.Context) error
	Running(ctx context.Context) bool
	Console() string
}

// experiment cuts one machine's power again and again.
type experiment struct {
	machine machine
	load    func(ctx context.Context, name string) (load, error)
	out     io.Writer
	random  *rand.Rand
	seed    uint64
	cuts    int
	// untilLost ends with the first message lost, and asks no more of a server that has lost one: the control.
	untilLost bool
	within    time.Duration
	// grace is the most that the power holds after the acks of a round, again the most that it holds in a recovery that is cut.
	grace, again time.Duration
}

// Between two cuts so many messages are acknowledged.
const (
	fewestAcks = 100
	mostAcks   = 600
	// Every so-manieth cut is followed by another while the server is still recovering from it.
	againOneIn = 3
)

var (
	errSilent = errors.New("the server did not answer in time")
	// errGone: nothing that was acknowledged can be had from it again.
	errGone = errors.New("after a cut the server ended by itself")
)

// watchEvery is how often a machine is looked at that devices wait for.
const watchEvery = 2 * time.Second

func (e *experiment) run(ctx context.Context) (result, error) {
	if err := e.machine.Start(ctx); err != nil {
		return result{}, err
	}
	opening, done := context.WithTimeout(ctx, e.within)
	l, err := e.load(opening, fmt.Sprintf("power-%d", e.seed))
	done()
	if err != nil {
		return result{}, fmt.Errorf("%w\n%s", err, e.machine.Console())
	}
	defer l.close()
	cuts := 0
	for cuts < e.cuts {
		n, err := e.round(ctx, l)
		cuts += n
		now := l.book().result(cuts)
		say(e.out, "%s  %v", time.Now().UTC().Format(time.TimeOnly), now)
		if err != nil {
			return now, fmt.Errorf("%w\n%s", err, e.machine.Console())
		}
		if !now.kept() {
			say(e.out, "%v", l.book().examples(5))
		}
		if e.untilLost && now.lost > 0 {
			break
		}
	}
	return l.book().result(cuts), nil
}

// round talks, cuts while devices talk, boots, waits for every answer, and reads everything back.
func (e *experiment) round(ctx context.Context, l load) (cuts int, err error) {
	settling, settled := context.WithCancel(ctx)
	defer settled()
	talking, hush := context.WithCancel(settling)
	defer hush()
	silent := make(chan struct{})
	go func() {
		defer close(silent)
		l.talk(talking, settling)
	}()
	defer func() { settled(); <-silent }()

	if err := e.acked(ctx, l, l.book().acks()+fewestAcks+e.random.IntN(mostAcks-fewestAcks)); err != nil {
		return 0, err
	}
	for again := true; again; {
		again = e.random.IntN(againOneIn) == 0
		if err := e.pause(ctx, e.grace); err != nil {
			return cuts, err
		}
		if err := e.machine.Cut(ctx); err != nil {
			return cuts, err
		}
		cuts++
		if err := e.machine.Start(ctx); err != nil {
			return cuts, err
		}
		if again {
			if err := e.pause(ctx, e.again); err != nil {
				return cuts, err
			}
		}
	}
	hush()
	if err := e.settle(ctx, silent, settled); err != nil {
		return cuts, err
	}

	reading, done := context.WithTimeout(ctx, e.within)
	defer done()
	heads, err := l.audit(reading)
	switch {
	case err != nil && reading.Err() != nil:
		return cuts, fmt.Errorf("%w: %w", errSilent, err)
	case err != nil:
		return cuts, err
	}
	if !e.untilLost {
		l.complete(reading, heads)
	}
	return cuts, nil
}

// settle waits until the devices have all their answers, or have waited long enough, and gives up on a machine that is off.
func (e *experiment) settle(ctx context.Context, silent <-chan struct{}, settled func()) error {
	late := time.AfterFunc(e.within, settled)
	defer late.Stop()
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	for {
		select {
		case <-silent:
			return nil
		case <-watch.C:
			if !e.machine.Running(ctx) {
				return errGone
			}
		}
	}
}

// acked waits for the devices to have so many acks.
func (e *experiment) acked(ctx context.Context, l load, want int) error {
	ctx, done := context.WithTimeout(ctx, e.within)
	defer done()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for l.book().acks() < want {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %d acks of %d: %w", errSilent, l.book().acks(), want, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// pause lets a random time pass.
func (e *experiment) pause(ctx context.Context, most time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Duration(e.random.Int64N(int64(most)))):
		return nil
	}
}

package comet

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/pkg/presence"
)

// lease keeps the node alive in presence. What depends on it: an entry counts only under the epoch of a living lease.
type lease struct {
	comet *Comet
	epoch atomic.Uint64 // 0: none was ever held

	// Owned by the keeper's goroutine.
	renewed     time.Time // start of the last acquire or renewal that succeeded
	incarnation string
}

// current is the epoch that new entries are written under.
func (k *lease) current() uint64 { return k.epoch.Load() }

// keep renews until ctx ends. The first acquire was Run's.
func (k *lease) keep(ctx context.Context) {
	timer := time.NewTimer(k.pause())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		k.beat(ctx)
		timer.Reset(k.pause())
	}
}

// pause is the time to the next beat: short while presence is away, so that it is noticed soon when it is back.
func (k *lease) pause() time.Duration {
	if k.comet.registrar.up.Load() {
		return k.comet.renewEvery
	}
	return k.comet.renewEvery / 4
}

// beat renews the lease, or acquires one where there is none any more, and has done with the sessions what follows from it.
func (k *lease) beat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	start := time.Now()
	renewed := k.renew(ctx, start)
	switch {
	case renewed != nil && !errors.Is(renewed, presence.ErrLost):
		k.lost(renewed)
		return
	case !k.comet.registrar.isSettled():
		return // It counts as away until then.
	case renewed == nil:
		k.held(k.comet.registrar.missed.Swap(false), sweepRegister)
		return
	}
	if err := k.acquire(ctx); err != nil {
		k.lost(err)
		return
	}
	if !errors.Is(renewed, errNone) {
		k.comet.log.Warn("presence lease is new; sessions register again", "epoch", k.current(), "reason", renewed)
	}
	k.comet.registrar.missed.Store(false)
	k.held(true, sweepRegisterAll)
}

var (
	errLate        = errors.Join(presence.ErrLost, errors.New("renewed later than its time to live"))
	errLostData    = errors.Join(presence.ErrLost, errors.New("presence lost its data"))
	errLostRemoval = errors.Join(presence.ErrLost, errors.New("too many sessions left while presence was away"))
	errNone        = errors.Join(presence.ErrLost, errors.New("none was held"))
)

// renew extends the lease. Whatever means that entries under this epoch cannot be trusted any more is an ErrLost.
func (k *lease) renew(ctx context.Context, start time.Time) error {
	c := k.comet
	if k.current() == 0 {
		return errNone
	}
	incarnation, err := c.presence.Incarnation(ctx)
	if err != nil {
		return err
	}
	if err := c.presence.Renew(ctx, c.node, k.current()); err != nil {
		return err
	}
	switch {
	case incarnation != k.incarnation:
		return errLostData
	case time.Since(k.renewed) > c.ttl:
		// The lease ran out and was revived by this very renewal: in between nothing was sent to this node, and no number
		// on any link tells.
		return errLate
	case c.registrar.fresh.Load():
		return errLostRemoval
	}
	k.renewed = start
	return nil
}

func (k *lease) acquire(ctx context.Context) error {
	c := k.comet
	start := time.Now()
	incarnation, err := c.presence.Incarnation(ctx)
	if err != nil {
		return err
	}
	epoch, err := c.presence.Acquire(ctx, c.node)
	if err != nil {
		return err
	}
	c.registrar.fresh.Store(false)
	k.renewed, k.incarnation = start, incarnation
	k.epoch.Store(epoch)
	c.keeper.leased()
	return nil
}

// held notes that presence answers, and sweeps if sessions need it.
func (k *lease) held(needed bool, kind sweepKind) {
	c := k.comet
	if c.registrar.answers() {
		c.log.Info("presence answers", "epoch", k.current())
		c.registrar.remind()
	}
	if needed {
		c.sweepAll(kind)
	}
}

func (k *lease) lost(err error) {
	if k.comet.registrar.up.Swap(false) {
		k.comet.log.Warn("presence does not answer; sessions go on unregistered", "during", "renew", "error", err)
	}
}

// release ends the lease, so that the node's entries end with it.
func (k *lease) release(ctx context.Context) {
	if k.current() == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	if err := k.comet.presence.Release(ctx, k.comet.node, k.current()); err != nil {
		k.comet.log.Warn("release the presence lease", "error", err)
	}
}

package client

import (
	"math/rand/v2"
	"time"
)

// backOff spreads reconnects: full jitter, so that a million devices that lost one node do not come back together.
type backOff struct {
	first, most time.Duration
	tries       int
}

// next is how long to wait now: at least what the server asked for, plus a random part of a span that doubles.
func (b *backOff) next(atLeast time.Duration) time.Duration {
	span := b.most
	if b.tries < 20 {
		span = min(b.most, b.first<<b.tries)
	}
	b.tries++
	return atLeast + rand.N(span+1)
}

func (b *backOff) reset() { b.tries = 0 }

package redis

import (
	"context"
	"errors"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Redis may get a call, or come to it, long after its caller has given up: the bytes lie in the buffer of a socket that was cut, which the
// kernel sends on even when it is closed, or in that of a Redis that stands still. What was done meanwhile would be undone. So every
// script that could undo something has the time until which its caller waits, by the clock of Redis, and does nothing after it.
//
// That clock is known from what it showed when it was asked for last. It showed that a little later than it was asked, so it is taken to
// be ahead of what it is, by the time of one answer at most, and of several servers the one that is furthest ahead counts: whoever waits
// is never refused. A clock of Redis that is stepped forward has the next call refused, and is asked for again.

// inTime begins such scripts. ARGV[1] is the time, in microseconds.
const inTime = `
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
if now > tonumber(ARGV[1]) then return redis.error_reply('LATE the caller has given up') end
`

// serverTime is what the clock of Redis shows, at most, at a time of this process, in microseconds.
func (r *Registry) serverTime(ctx context.Context, at time.Time) (int64, error) {
	if r.ahead.Load() == 0 {
		if _, err := r.servers(ctx); err != nil {
			return 0, err
		}
	}
	return at.Sub(r.began).Microseconds() + r.ahead.Load(), nil
}

// until is the first argument of scripts that begin with inTime.
func (r *Registry) until(ctx context.Context) (int64, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0, errors.New("a call without a deadline")
	}
	return r.serverTime(ctx, deadline)
}

// checkLate takes the error of such a script.
func (r *Registry) checkLate(err error) {
	if goredis.HasErrorPrefix(err, "LATE") {
		r.ahead.Store(0) // The caller waits still: it is another clock, or was stepped.
	}
}

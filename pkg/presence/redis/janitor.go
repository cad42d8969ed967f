package redis

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/halley-im/halley/pkg/presence"
)

// The janitor's pace: a step each stepEvery, its place renewed with each, lost janitorTTL after the last.
const (
	stepEvery  = 200 * time.Millisecond
	janitorTTL = 10 * time.Second
	// waitForPlace is how often the others see whether the place is free.
	waitForPlace = 5 * time.Second
	// A round that found nothing to remove is followed by a rest, so many times as long as it took: the entries of those who stay
	// connected are most of what there is, and to read them all again and again would cost more than all else that an idle cluster does.
	restFactor = 9
	mostRest   = 30 * time.Minute
)

// Run removes entries of dead nodes until ctx ends, in small steps. Of all processes that run it one works and the others wait.
// Nothing depends on it but memory: such entries count as absent anyway.
func (r *Registry) Run(ctx context.Context) error {
	j := &janitor{r: r, who: rand.Text()}
	wait := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = stepEvery
		mine, err := j.hold(ctx)
		switch {
		case err != nil || !mine:
		case j.resting(time.Now()):
			wait = janitorTTL / 4
		default:
			err = j.step(ctx)
		}
		if err != nil || !mine {
			wait = waitForPlace
		}
		if err != nil && ctx.Err() == nil {
			r.log.Warn("presence: janitor", "err", err)
		}
	}
}

// janitor walks over all users, server by server.
type janitor struct {
	r       *Registry
	who     string
	todo    []scan    // servers not finished in this round
	began   time.Time // when this round did
	removed int       // in this round
	rest    time.Time // when the next one may begin
}

// resting reports whether it is too early for another round.
func (j *janitor) resting(now time.Time) bool { return len(j.todo) == 0 && now.Before(j.rest) }

// finished ends a round.
func (j *janitor) finished(now time.Time) {
	j.rest = now
	if j.removed == 0 {
		j.rest = now.Add(min(now.Sub(j.began)*restFactor, mostRest))
	}
}

// scan is a walk over one server.
type scan struct {
	client goredis.Cmdable
	match  string
	cursor uint64
}

func (j *janitor) hold(ctx context.Context) (mine bool, err error) {
	err = j.r.call(ctx, "janitor", callTimeout, nil, func(ctx context.Context) (err error) {
		mine, err = janitorScript.Run(ctx, j.r.client, []string{"janitor"}, j.who, janitorTTL.Milliseconds()).Bool()
		return err
	})
	return mine, err
}

// step looks at about JanitorUsersPerSecond × stepEvery users.
func (j *janitor) step(ctx context.Context) error {
	return j.r.call(ctx, "janitor", callTimeout, nil, func(ctx context.Context) error {
		if len(j.todo) == 0 {
			j.began, j.removed = time.Now(), 0
			var mu sync.Mutex
			if err := j.r.primaries(ctx, func(_ context.Context, c goredis.Cmdable) error {
				mu.Lock()
				defer mu.Unlock()
				j.todo = append(j.todo, scan{client: c, match: "p:{*"}, scan{client: c, match: roomPrefix + "*"})
				return nil
			}); err != nil {
				return err
			}
		}
		at := &j.todo[0]
		count := max(1, int64(j.r.cfg.JanitorUsersPerSecond)*int64(stepEvery)/int64(time.Second))
		keys, cursor, err := at.client.Scan(ctx, at.cursor, at.match, count).Result()
		if err != nil {
			j.todo = nil // The servers may be others by now: a new round.
			return err
		}
		n, err := j.r.removeDead(ctx, keys)
		if err != nil {
			return err
		}
		j.removed += n
		if at.cursor = cursor; cursor == 0 {
			if j.todo = j.todo[1:]; len(j.todo) == 0 {
				j.finished(time.Now())
			}
		}
		return nil
	})
}

// removeDead removes the entries of dead nodes among the users', or the rooms', and returns how many. Each is removed only while it is
// unchanged.
func (r *Registry) removeDead(ctx context.Context, keys []string) (int, error) {
	if len(keys) == 0 {
		return 0, nil
	}
	p := r.client.Pipeline()
	cmds := make([]*goredis.MapStringStringCmd, len(keys))
	for i, key := range keys {
		cmds[i] = p.HGetAll(ctx, key)
	}
	if err := exec(ctx, p); err != nil {
		return 0, err
	}
	var entries []presence.Entry
	var calls []scriptCall
	for i, cmd := range cmds {
		fields, err := cmd.Result()
		if err != nil {
			return 0, err
		}
		parse := unpack
		if strings.HasPrefix(keys[i], roomPrefix) {
			parse = unpackRoom
		}
		for device, value := range fields {
			if e, ok := parse(device, value); ok {
				entries = append(entries, e)
				calls = append(calls, scriptCall{keys[i], []any{device, strings.Clone(value)}})
			}
		}
	}
	live, err := r.resolve(ctx, entries)
	if err != nil {
		return 0, err
	}
	dead := calls[:0]
	for i := range entries {
		if !live.alive(&entries[i]) {
			dead = append(dead, calls[i])
		}
	}
	if len(dead) == 0 {
		return 0, nil
	}
	n, err := r.removeAll(ctx, dead)
	r.metrics.removed.Add(float64(n))
	return n, err
}

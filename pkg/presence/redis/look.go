package redis

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Server is what a look at Redis tells.
type Server struct {
	Version, Role string
	// Eviction is its maxmemory-policy; anything but noeviction loses entries without a word.
	Eviction string
	// RoundTrip is the median of some, and Ahead how far its clock is ahead of this machine's, give or take half of that.
	RoundTrip, Ahead time.Duration
}

// looks is an odd number.
const looks = 9

// Look connects, asks and leaves.
func Look(ctx context.Context, cfg Config) (s Server, err error) {
	if err := cfg.Validate(); err != nil {
		return s, fmt.Errorf("redis: %w", err)
	}
	opts, err := cfg.options()
	if err != nil {
		return s, fmt.Errorf("redis: %w", err)
	}
	goredis.SetLogger(silence{}) // What it would write to standard error is in the errors.
	client := goredis.NewUniversalClient(opts)
	defer client.Close() //nolint:errcheck // nothing was written.
	info, err := client.Info(ctx).Result()
	if err != nil {
		return s, fmt.Errorf("redis: %w", err)
	}
	lines := bufio.NewScanner(strings.NewReader(info))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		switch name {
		case "redis_version":
			s.Version = value
		case "role":
			s.Role = value
		case "maxmemory_policy":
			s.Eviction = value
		}
	}
	trips := make([]time.Duration, looks)
	for i := range trips {
		start := time.Now()
		now, err := client.Time(ctx).Result()
		if err != nil {
			return s, fmt.Errorf("redis: %w", err)
		}
		trips[i] = time.Since(start)
		if i == 0 || trips[i] <= slices.Min(trips[:i]) { // The quickest tells the time best.
			s.Ahead = now.Sub(start.Add(trips[i] / 2))
		}
	}
	slices.Sort(trips)
	s.RoundTrip = trips[looks/2]
	return s, nil
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

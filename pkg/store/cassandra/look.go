package cassandra

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/gocql/gocql"
)

// Server is what a look at Cassandra tells of the node that answered.
type Server struct {
	Version, Datacenter string
	// RoundTrip is the median of some reads, and Ahead how far its clock is ahead of this machine's, give or take half of that.
	RoundTrip, Ahead time.Duration
}

// looks is an odd number.
const looks = 9

// Look connects, asks and leaves. An error that is ErrSchema comes with all the rest.
func Look(ctx context.Context, cfg Config, log *slog.Logger) (s Server, err error) {
	if err := cfg.Validate(); err != nil {
		return s, fmt.Errorf("cassandra: %w", err)
	}
	known, err := load(files)
	if err != nil {
		return s, err
	}
	session, err := connect(ctx, cfg, "", log)
	if err != nil {
		return s, err
	}
	defer session.Close()
	trips := make([]time.Duration, looks)
	for i := range trips {
		var now int64
		start := time.Now()
		err := session.Query(`SELECT release_version, data_center, toUnixTimestamp(now()) FROM system.local`).
			WithContext(ctx).Consistency(gocql.One).Scan(&s.Version, &s.Datacenter, &now)
		if err != nil {
			return s, fmt.Errorf("cassandra: %w", classify(err))
		}
		trips[i] = time.Since(start)
		if i == 0 || trips[i] <= slices.Min(trips[:i]) { // The quickest tells the time best.
			s.Ahead = time.UnixMilli(now).Sub(start.Add(trips[i] / 2))
		}
	}
	slices.Sort(trips)
	s.RoundTrip = trips[looks/2]
	inKeyspace, err := connect(ctx, cfg, cfg.Keyspace, log)
	if err != nil {
		return s, err
	}
	defer inKeyspace.Close()
	if err := checkSchema(ctx, inKeyspace, known); err != nil {
		return s, fmt.Errorf("cassandra: keyspace %s: %w", cfg.Keyspace, err)
	}
	return s, nil
}

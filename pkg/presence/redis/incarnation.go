package redis

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// clusterCanaries are spread over the slots of a cluster by their names, so that a shard which loses its data is all but sure
// to lose one of them.
const clusterCanaries = 64

// Incarnation is a digest of what changes when data may have been lost: each primary's run id (it restarted, perhaps from an old
// dump) and replication id (another was promoted, perhaps without the newest writes), and canary keys (the data was flushed). It
// changes as well when a cluster gets more shards, which costs one paced registration of all. Redis must allow INFO, or only the
// canaries tell.
func (r *Registry) Incarnation(ctx context.Context) (digest string, err error) {
	err = r.call(ctx, "incarnation", callTimeout, nil, func(ctx context.Context) error {
		canaries, err := r.canaries(ctx)
		if err != nil {
			return err
		}
		servers, err := r.servers(ctx)
		if err != nil {
			return err
		}
		sum := sha256.Sum256([]byte(strings.Join(append(servers, canaries...), "\n")))
		digest = hex.EncodeToString(sum[:8])
		return nil
	})
	return digest, err
}

func (r *Registry) canaries(ctx context.Context) ([]string, error) {
	n := 1
	if r.cfg.Mode == ModeCluster {
		n = clusterCanaries
	}
	p := r.client.Pipeline()
	cmds := make([]*goredis.StringCmd, n)
	for i := range cmds {
		key := "canary:{" + strconv.Itoa(i) + "}"
		p.SetNX(ctx, key, rand.Text(), 0)
		cmds[i] = p.Get(ctx, key)
	}
	if err := exec(ctx, p); err != nil {
		return nil, err
	}
	values := make([]string, n)
	for i, cmd := range cmds {
		var err error
		if values[i], err = cmd.Result(); err != nil {
			return nil, fmt.Errorf("canary: %w", err)
		}
	}
	return values, nil
}

// primaries calls f for each server that takes writes.
func (r *Registry) primaries(ctx context.Context, f func(context.Context, goredis.Cmdable) error) error {
	if c, ok := r.client.(*goredis.ClusterClient); ok {
		return c.ForEachMaster(ctx, func(ctx context.Context, m *goredis.Client) error { return f(ctx, m) })
	}
	return f(ctx, r.client)
}

// servers returns what tells the primaries from others, and learns their clocks.
func (r *Registry) servers(ctx context.Context) ([]string, error) {
	var mu sync.Mutex
	var ids []string
	var ahead int64
	err := r.primaries(ctx, func(ctx context.Context, c goredis.Cmdable) error {
		start := time.Now()
		p := c.Pipeline()
		clock := p.Time(ctx)
		cmds := []*goredis.StringCmd{p.Info(ctx, "server"), p.Info(ctx, "replication")}
		if err := exec(ctx, p); err != nil {
			return err
		}
		shows, err := clock.Result()
		if err != nil {
			return err
		}
		mu.Lock()
		ahead = max(ahead, shows.UnixMicro()-start.Sub(r.began).Microseconds())
		mu.Unlock()
		for _, cmd := range cmds {
			text, err := cmd.Result()
			if reply := goredis.Error(nil); err != nil && !errors.As(err, &reply) {
				return err
			}
			for line := range strings.Lines(text) {
				line = strings.TrimSpace(line)
				if strings.HasPrefix(line, "run_id:") || strings.HasPrefix(line, "master_replid:") {
					mu.Lock()
					ids = append(ids, line)
					mu.Unlock()
				}
			}
		}
		return nil
	})
	if err == nil {
		r.ahead.Store(ahead)
	}
	slices.Sort(ids)
	return ids, err
}

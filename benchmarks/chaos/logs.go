package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/protocol"
)

// operateWithin bounds what an operator does: the servers may have lost their leaders to what was done to them before.
const operateWithin = 50 * time.Second

// operate does something as the operator of the NATS servers.
func (t *tiers) operate(ctx context.Context, do func(ctx context.Context, conn *bus.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, operateWithin)
	defer cancel()
	cfg := bus.Config{Name: "chaos", User: "operator", Password: t.password}
	for i, name := range natsNames {
		cfg.URLs = append(cfg.URLs, "nats://"+t.at(name, natsPort+i))
	}
	conn, err := bus.Connect(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer conn.Close()
	return do(ctx, conn)
}

// stepDowns has the leaders of a few logs step down, as an operator may.
func (t *tiers) stepDowns() blow {
	r := rand.New(rand.NewPCG(t.seed, 5))
	return func(ctx context.Context) error {
		return t.operate(ctx, func(ctx context.Context, conn *bus.Conn) error {
			for _, p := range r.Perm(partitions)[:partitions/4] {
				// A log without a leader has none that could step down.
				_, _ = conn.Request(ctx, fmt.Sprintf("$JS.API.STREAM.LEADER.STEPDOWN.%s", protocol.StreamLog(p)), nil)
			}
			return nil
		})
	}
}

// fullLogs gives the logs hardly more room than they have used: clients' sends are refused, what follows from records fits for a while.
type fullLogs struct{ t *tiers }

const (
	fullPercent = 107 // Of what is in the log: it is then above nine tenths full.
	logBytes    = 256 << 20
)

// Begin shrinks them.
func (f fullLogs) Begin(ctx context.Context) error {
	return f.limit(ctx, func(used int64) int64 { return used * fullPercent / 100 })
}

// End gives them the room that tiers.sh gave them.
func (f fullLogs) End(ctx context.Context) error {
	return f.limit(ctx, func(int64) int64 { return logBytes })
}

func (f fullLogs) limit(ctx context.Context, most func(used int64) int64) error {
	return f.t.operate(ctx, func(ctx context.Context, conn *bus.Conn) error {
		for p := range partitions {
			if err := again(ctx, func(ctx context.Context) error { return limitLog(ctx, conn, protocol.StreamLog(p), most) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// again has do done until it succeeds, or ctx ends. Servers that are hurt otherwise meanwhile, or elect, say that they cannot, or nothing.
func again(ctx context.Context, do func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := do(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// limitLog changes nothing of a stream but its max_bytes.
func limitLog(ctx context.Context, conn *bus.Conn, stream string, most func(used int64) int64) error {
	var info struct {
		Config map[string]json.RawMessage
		State  struct{ Bytes int64 }
		Error  json.RawMessage
	}
	ask := func(what string, body []byte) error {
		info.Error = nil
		answer, err := conn.Request(ctx, "$JS.API.STREAM."+what+"."+stream, body)
		if err == nil {
			err = json.Unmarshal(answer, &info)
		}
		if err == nil && info.Error != nil {
			err = fmt.Errorf("%s: %s", what, info.Error)
		}
		return err
	}
	if err := ask("INFO", nil); err != nil {
		return err
	}
	info.Config["max_bytes"] = fmt.Append(nil, most(info.State.Bytes))
	body, err := json.Marshal(info.Config)
	if err != nil {
		return err
	}
	return ask("UPDATE", body)
}

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/protocol"
)

// tiers is a cluster on this machine: three NATS servers, Redis, Cassandra and two nodes of each tier, run by the scripts of
// deploy/local.
type tiers struct {
	scripts  string // Their folder.
	dir      string
	env      []string
	base     int // Of the ports of nodes.
	nats     int // Of the NATS servers'.
	password string
	seed     uint64

	logging sync.Mutex // One writer of the scripts' log.
}

const (
	natsServers = 3
	// Of the port where tiers.sh begins, tierPorts lie behind; the services follow.
	tierPorts    = 330
	servicePorts = 20
	partitions   = 16 // As tiers.sh creates them.
)

var nodeNames = []string{"job-1", "job-2", "logic-1", "logic-2", "comet-1", "comet-2"}

func newTiers(root, binary, dir string, seed uint64) (*tiers, error) {
	base, err := freePorts(firstPort+os.Getpid()%20*(tierPorts+servicePorts), tierPorts+servicePorts)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 16)
	rand.Read(secret) // It never fails.
	t := &tiers{
		scripts: filepath.Join(root, "deploy", "local"), dir: dir, base: base, nats: base + tierPorts, password: hex.EncodeToString(secret), seed: seed,
	}
	for name, value := range map[string]any{
		"SERVICES_DIR": dir, "TIERS_BIN": binary, "TIERS_PORT": base,
		"NATS_PORT": t.nats, "NATS_CLUSTER_PORT": t.nats + 3, "NATS_HTTP_PORT": t.nats + 6, "REDIS_PORT": t.nats + 9,
		"CASSANDRA_PORT": t.nats + 10, "CASSANDRA_STORAGE_PORT": t.nats + 11, "CASSANDRA_JMX_PORT": t.nats + 12,
		"NATS_COMET_PASSWORD": t.password, "NATS_LOGIC_PASSWORD": t.password, "NATS_JOB_PASSWORD": t.password,
		"NATS_OPERATOR_PASSWORD": t.password, "REDIS_PASSWORD": t.password,
	} {
		t.env = append(t.env, fmt.Sprintf("%s=%v", name, value))
	}
	return t, nil
}

func (t *tiers) endpoints() endpoints {
	var e endpoints
	for i := 1; i <= 2; i++ {
		comet, logic := t.base+100+10*i, t.base+200+10*i
		e.websocket = append(e.websocket, address(comet))
		e.tcp = append(e.tcp, address(comet+1))
		e.api = append(e.api, address(logic))
		e.admin = append(e.admin, address(logic+9))
	}
	return e
}

// script runs one of deploy/local. What it says goes into a log.
func (t *tiers) script(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(t.scripts, name), args...)
	cmd.Env = append(os.Environ(), t.env...)
	said, err := cmd.CombinedOutput()
	t.logging.Lock()
	defer t.logging.Unlock()
	log, openErr := os.OpenFile(filepath.Join(t.dir, "scripts.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if openErr != nil {
		return openErr
	}
	_, _ = fmt.Fprintf(log, "%s %s %s\n%s", time.Now().UTC().Format(time.TimeOnly), name, strings.Join(args, " "), said)
	_ = log.Close()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lastLine(said))
	}
	return nil
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// scripted is a process that a script runs; args follow the verb.
type scripted struct {
	t    *tiers
	name string
	args []string
}

func (s scripted) do(ctx context.Context, v verb) error {
	return s.t.script(ctx, s.name, append([]string{string(v)}, s.args...)...)
}

func (t *tiers) node(name string) scripted { return scripted{t, "tiers.sh", []string{name}} }

func (t *tiers) natsServer(n int) scripted { return scripted{t, "nats.sh", []string{fmt.Sprint(n)}} }

func (t *tiers) redis() scripted { return scripted{t, "redis.sh", nil} }

func (t *tiers) cassandra() scripted { return scripted{t, "cassandra/cassandra.sh", []string{"1"}} }

func (t *tiers) nodes() []process {
	out := make([]process, len(nodeNames))
	for i, name := range nodeNames {
		out[i] = t.node(name)
	}
	return out
}

func (t *tiers) services() []process {
	return []process{scripted{t, "nats.sh", nil}, t.redis(), t.cassandra()}
}

func (t *tiers) up(ctx context.Context) error {
	if err := all(ctx, t.services(), verbStart); err != nil {
		return err
	}
	if _, _, err := t.secrets(); err != nil {
		return err
	}
	return t.script(ctx, "tiers.sh", "start")
}

func (t *tiers) cold(ctx context.Context) error {
	if err := t.script(ctx, "tiers.sh", "kill"); err != nil {
		return err
	}
	return until(ctx, func() error { return t.script(ctx, "tiers.sh", "start") })
}

const downWithin = time.Minute

func (t *tiers) down() {
	ctx, cancel := context.WithTimeout(context.Background(), downWithin)
	defer cancel()
	_ = t.script(ctx, "tiers.sh", "kill") // The log has what went wrong.
	_ = all(ctx, t.services(), verbKill)
}

// audits: with the settings and the credentials of who creates the cluster.
func (t *tiers) audits() []string {
	return []string{"--config", filepath.Join(t.dir, "tiers", "operator.yaml")}
}

// faults: the scripts do not see a process that ends by itself; a node that stays down fails the run when all is healed.
func (t *tiers) faults() []string { return nil }

// secrets makes the API key once; the key of tokens is tiers.sh's.
func (t *tiers) secrets() (tokenKeys, apiKey string, err error) {
	data := filepath.Join(t.dir, "tiers")
	keyFile := filepath.Join(t.dir, "api-key")
	tokenKeys = filepath.Join(data, "token-keys")
	known, err := os.ReadFile(keyFile)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return tokenKeys, string(known), err
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return "", "", err
	}
	keys, err := auth.OpenKeys(filepath.Join(data, "api-keys.json"))
	if err != nil {
		return "", "", err
	}
	apiKey, _, err = keys.Add(auth.APIKey{App: protocol.DefaultApp, Name: "chaos", Scopes: []string{"*"}}, time.Now())
	if err != nil {
		return "", "", err
	}
	return tokenKeys, apiKey, os.WriteFile(keyFile, []byte(apiKey), 0o600)
}

func (t *tiers) kinds(gates []*gate) []Kind {
	kinds := []Kind{
		{Name: "storm", Targets: []string{"gates"}, Fault: storm(gates)},
		{Name: "flush-redis", Targets: []string{"redis"}, Fault: blow(func(ctx context.Context) error { return t.script(ctx, "redis.sh", "flush") })},
		{Name: "step-down", Targets: []string{"leaders"}, Fault: t.stepDowns()},
		blinds(killed("redis", t.redis())), blinds(paused("redis", t.redis())),
		{
			Name: "kill-cassandra", Targets: []string{"cassandra"}, Least: 10 * time.Second, Most: 25 * time.Second,
			Fault: change{verbKill, verbStart, []process{t.cassandra()}},
		},
		{
			Name: "pause-cassandra", Targets: []string{"cassandra"}, Least: 5 * time.Second, Most: 20 * time.Second,
			Fault: change{verbPause, verbResume, []process{t.cassandra()}},
		},
		{
			Name: "kill-all-nodes", Targets: nodeNames, Most: 3 * time.Second,
			Fault: change{verbKill, verbStart, t.nodes()},
		},
	}
	for _, name := range nodeNames {
		kinds = append(kinds, killed(name, t.node(name)), paused(name, t.node(name)), restarted(name, t.node(name)))
	}
	var nats []process
	var natsNames []string
	for n := 1; n <= natsServers; n++ {
		name := fmt.Sprintf("nats-%d", n)
		nats, natsNames = append(nats, t.natsServer(n)), append(natsNames, name)
		kinds = append(kinds, killed(name, t.natsServer(n)), paused(name, t.natsServer(n)))
	}
	return append(kinds, Kind{
		Name: "kill-all-nats", Targets: natsNames, Most: 3 * time.Second, Fault: change{verbKill, verbStart, nats},
	})
}

// stepDowns has the leaders of a few logs step down, as an operator may.
func (t *tiers) stepDowns() blow {
	r := mathrand.New(mathrand.NewPCG(t.seed, 5))
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		cfg := bus.Config{Name: "chaos", User: "operator", Password: t.password}
		for i := range natsServers {
			cfg.URLs = append(cfg.URLs, "nats://"+address(t.nats+i))
		}
		conn, err := bus.Connect(ctx, cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer conn.Close()
		for _, p := range r.Perm(partitions)[:partitions/4] {
			// A log without a leader has none that could step down.
			_, _ = conn.Request(ctx, fmt.Sprintf("$JS.API.STREAM.LEADER.STEPDOWN.%s", protocol.StreamLog(p)), nil)
		}
		return nil
	}
}

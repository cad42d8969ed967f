package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/halley-im/halley/benchmarks/chaos/clock"
	"github.com/halley-im/halley/benchmarks/chaos/network"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/protocol"
)

// tiers is a cluster on this machine: three NATS servers, Redis under three sentinels, Cassandra and two nodes of each tier, run by
// the scripts of deploy/local. Each has a network namespace of its own.
type tiers struct {
	scripts  string // Their folder.
	dir      string
	env      []string
	net      *network.Network
	password string
	seed     uint64

	logging sync.Mutex // One writer of the scripts' log.
}

// Nobody else has ports in the namespaces of a run.
const (
	nodePorts   = 17_000
	natsPort    = 14_222
	redisPort   = 16_379
	cqlPort     = 19_042
	storagePort = 17_999
	jmxPort     = 17_998
	partitions  = 16 // As tiers.sh creates them.
)

var (
	jobNames   = []string{"job-1", "job-2"}
	logicNames = []string{"logic-1", "logic-2"}
	cometNames = []string{"comet-1", "comet-2"}
	natsNames  = []string{"nats-1", "nats-2", "nats-3"}
	redisNames = []string{"redis-1", "redis-2"}
	// The third of the hosts that have a sentinel has no server.
	sentinelHosts = append(slices.Clone(redisNames), "redis-3")
	cassandraName = "cassandra-1"

	nodeNames = slices.Concat(jobNames, logicNames, cometNames)
	hostNames = slices.Concat(natsNames, sentinelHosts, []string{cassandraName}, nodeNames)
)

func newTiers(root, binary, dir string, seed uint64) (*tiers, error) {
	secret := make([]byte, 16)
	rand.Read(secret) // It never fails.
	t := &tiers{scripts: filepath.Join(root, "deploy", "local"), dir: dir, password: hex.EncodeToString(secret), seed: seed}
	err := t.disk().mount()
	if err != nil {
		return nil, err
	}
	if t.net, err = network.New(append([]string{network.Self}, hostNames...)...); err != nil {
		return nil, err
	}
	for name, value := range map[string]any{
		"SERVICES_DIR": dir, "TIERS_BIN": binary, "TIERS_PORT": nodePorts, "NATS_PORT": natsPort, "REDIS_MODE": "sentinel", "REDIS_PORT": redisPort,
		"CASSANDRA_PORT": cqlPort, "CASSANDRA_STORAGE_PORT": storagePort, "CASSANDRA_JMX_PORT": jmxPort,
		"NATS_COMET_PASSWORD": t.password, "NATS_LOGIC_PASSWORD": t.password, "NATS_JOB_PASSWORD": t.password,
		"NATS_OPERATOR_PASSWORD": t.password, "REDIS_PASSWORD": t.password,
		// Presence is to be true within 15 s, whatever was lost; for a million devices the shipped time is the right one.
		"HALLEY_COMET_PRESENCE_CHECK_MS": 5000,
	} {
		t.env = append(t.env, fmt.Sprintf("%s=%v", name, value))
	}
	for _, name := range hostNames {
		t.env = append(t.env, fmt.Sprintf("HOST_%s=%s", strings.ReplaceAll(name, "-", "_"), t.net.Address(name)))
	}
	return t, nil
}

func (t *tiers) use(binary string) { t.env = append(t.env, "TIERS_BIN="+binary) }

func (t *tiers) at(host string, port int) string {
	return net.JoinHostPort(t.net.Address(host), strconv.Itoa(port))
}

func (t *tiers) endpoints() endpoints {
	var e endpoints
	for i := range cometNames {
		comet, logic := nodePorts+110+10*i, nodePorts+210+10*i
		e.websocket = append(e.websocket, t.at(cometNames[i], comet))
		e.tcp = append(e.tcp, t.at(cometNames[i], comet+1))
		e.api = append(e.api, t.at(logicNames[i], logic))
		e.admin = append(e.admin, t.at(logicNames[i], logic+9))
	}
	return e
}

// script runs one of deploy/local where a member of the network is. What it says goes into a log.
func (t *tiers) script(ctx context.Context, member, name string, args ...string) (said string, err error) {
	cmd := t.net.Command(ctx, member, filepath.Join(t.scripts, name), args...)
	cmd.Env = slices.Concat(os.Environ(), t.env, []string{clock.Variable + "=" + string(clockOf(t.dir, member))})
	out, err := cmd.CombinedOutput()
	t.logging.Lock()
	defer t.logging.Unlock()
	log, openErr := os.OpenFile(filepath.Join(t.dir, "scripts.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if openErr != nil {
		return "", openErr
	}
	_, _ = fmt.Fprintf(log, "%s %s %s\n%s", time.Now().UTC().Format(time.TimeOnly), name, strings.Join(args, " "), out)
	_ = log.Close()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lastLine(out))
	}
	return lastLine(out), nil
}

// here runs a script where the harness is.
func (t *tiers) here(ctx context.Context, name string, args ...string) error {
	_, err := t.script(ctx, network.Self, name, args...)
	return err
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// scripted is a process that a script runs; its name follows the verb.
type scripted struct {
	t                  *tiers
	host, script, name string
}

func (s scripted) do(ctx context.Context, v verb) error {
	_, err := s.t.script(ctx, s.host, s.script, string(v), s.name)
	return err
}

func (t *tiers) node(name string) scripted { return scripted{t, name, "tiers.sh", name} }

func (t *tiers) natsServer(name string) scripted {
	return scripted{t, name, "nats.sh", strings.TrimPrefix(name, "nats-")}
}

func (t *tiers) redis(name string) scripted { return scripted{t, name, "redis.sh", name} }

func (t *tiers) cassandra() scripted {
	return scripted{t, cassandraName, "cassandra/cassandra.sh", strings.TrimPrefix(cassandraName, "cassandra-")}
}

func each(names []string, of func(string) scripted) []process {
	out := make([]process, len(names))
	for i, name := range names {
		out[i] = of(name)
	}
	return out
}

// smallDisk is the server whose data are on a disk that can be filled.
const smallDisk = "nats-3"

func (t *tiers) disk() disk { return disk{filepath.Join(t.dir, "nats", "n3", "js")} }

func (t *tiers) nodes() []process { return each(nodeNames, t.node) }

func (t *tiers) services() []process {
	services := append(each(natsNames, t.natsServer), each(redisNames, t.redis)...)
	for _, host := range sentinelHosts {
		services = append(services, scripted{t, host, "redis.sh", strings.Replace(host, "redis", "sentinel", 1)})
	}
	return append(services, t.cassandra())
}

func (t *tiers) up(ctx context.Context) error {
	if err := all(ctx, t.services(), verbStart); err != nil {
		return err
	}
	// All of it runs: this waits until the sentinels could fail over.
	if err := t.here(ctx, "redis.sh", "start"); err != nil {
		return err
	}
	if _, _, err := t.secrets(); err != nil {
		return err
	}
	if err := t.here(ctx, "tiers.sh", "create"); err != nil {
		return err
	}
	return all(ctx, t.nodes(), verbStart)
}

func (t *tiers) cold(ctx context.Context) error {
	if err := all(ctx, t.nodes(), verbKill); err != nil {
		return err
	}
	return until(ctx, func() error { return all(ctx, t.nodes(), verbStart) })
}

const downWithin = time.Minute

func (t *tiers) down() {
	ctx, cancel := context.WithTimeout(context.Background(), downWithin)
	defer cancel()
	_ = all(ctx, append(t.nodes(), t.services()...), verbKill) // The log has what went wrong.
	_ = t.disk().unmount()
	t.net.Close()
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

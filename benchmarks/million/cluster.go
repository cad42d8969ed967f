package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/halley-im/halley/benchmarks"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/protocol"
)

// cluster is real services, run by the scripts of deploy/local, one logic, one job, and comets that are started as they are needed. It
// has a network of its own, so nobody else has ports there; all of them are below those of connections.
type cluster struct {
	o        options
	dir      string
	keys     string // File of the keys that sign tokens.
	key      auth.Key
	apiKey   string
	comets   int // Started so far.
	password string

	mu   sync.Mutex // Guards died.
	died error
	lost context.CancelCauseFunc
}

const (
	natsPort      = 4222
	redisPort     = 6379
	cassandraPort = 9042
	apiPort       = 1500
	logicAdmin    = 1501
	jobAdmin      = 1502
	cometPort     = 2000 // And those after it.
	cometAdmin    = 3000
	partitions    = 16
	readyWithin   = 2 * time.Minute
)

// serviceSlack is the timer slack of NATS, Redis and Cassandra, in nanoseconds: what nodes give themselves, and docs/operations.md advises.
const serviceSlack = 1_000_000

// The nodes run at a lower priority than the services, and the generator below both: whoever loads a cluster from the same machine must
// not keep it from renewing its leases. Devices whose messages are timed have that of nodes: what they wait for a processor is no delay of a message.
const (
	niceComet     = "5"
	niceGenerator = "10"
)

func newCluster(o options, dir string, lost context.CancelCauseFunc) (*cluster, error) {
	c := &cluster{o: o, dir: dir, keys: filepath.Join(dir, "token-keys"), password: "of-this-run", lost: lost}
	keys, err := auth.GenerateKeys(c.keys)
	if err != nil {
		return nil, err
	}
	c.key = keys[0]
	api, err := auth.OpenKeys(filepath.Join(dir, "api-keys.json"))
	if err != nil {
		return nil, err
	}
	c.apiKey, _, err = api.Add(auth.APIKey{App: protocol.DefaultApp, Name: "million", Scopes: []string{"*"}}, time.Now())
	return c, err
}

// redisBytes is enough for every device and its room, and a rewrite of the file.
func (c *cluster) redisBytes() int { return (256 << 20) + (c.o.connections+c.o.talkers)*500 }

func (c *cluster) env() []string {
	// What is set already, of the scripts' other settings, holds.
	env := append([]string{"CASSANDRA_JIT=full", "CASSANDRA_START_TIMEOUT=300", "CASSANDRA_JVM_EXTRA=-XX:-UseDynamicNumberOfCompilerThreads"}, os.Environ()...)
	for name, value := range map[string]any{
		"SERVICES_DIR": c.dir, "SERVICES_TIMER_SLACK_NS": serviceSlack, "NATS_NODES": c.o.nats, "NATS_PORT": natsPort, "NATS_CLUSTER_PORT": 6222, "NATS_HTTP_PORT": 8222,
		"REDIS_PORT": redisPort, "REDIS_PASSWORD": c.password, "REDIS_MAXMEMORY": c.redisBytes(),
		"CASSANDRA_PORT": cassandraPort, "CASSANDRA_STORAGE_PORT": 7000, "CASSANDRA_JMX_PORT": 7199,
		"NATS_COMET_PASSWORD": c.password, "NATS_LOGIC_PASSWORD": c.password, "NATS_JOB_PASSWORD": c.password, "NATS_OPERATOR_PASSWORD": c.password,
	} {
		env = append(env, fmt.Sprintf("%s=%v", name, value))
	}
	return env
}

// up starts everything but comets.
func (c *cluster) up(ctx context.Context) error {
	scripts := []string{"nats.sh", "redis.sh", "cassandra/cassandra.sh"}
	errs := make([]error, len(scripts))
	var wait sync.WaitGroup
	for i, script := range scripts {
		wait.Go(func() {
			cmd := exec.CommandContext(ctx, filepath.Join(c.o.root, "deploy", "local", script), "start")
			cmd.Env = c.env()
			if out, err := cmd.CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("%s: %w\n%s", script, err, out)
			}
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	operator, err := c.config("operator", "operator", "")
	if err != nil {
		return err
	}
	// A NATS cluster that has just started may still be electing the leaders of its streams.
	for end := time.Now().Add(readyWithin); ; {
		out, err := exec.CommandContext(ctx, c.o.binary, "cluster", "create", "--config", operator).CombinedOutput()
		if err == nil {
			break
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("create the cluster: %w\n%s", err, out)
		}
		time.Sleep(500 * time.Millisecond)
	}
	logic := fmt.Sprintf("api: { address: \"127.0.0.1:%d\" }\nlogic: { replicas: %d }\n", apiPort, c.o.nats)
	for _, node := range []struct {
		tier, more string
		admin      int
	}{{"job", "", jobAdmin}, {"logic", logic, logicAdmin}} {
		if err := c.start(node.tier, node.tier, node.admin, node.more, "0"); err != nil {
			return err
		}
	}
	return errors.Join(c.ready(ctx, jobAdmin), c.ready(ctx, logicAdmin))
}

// grow starts comets until there are n.
func (c *cluster) grow(ctx context.Context, n int) error {
	first := c.comets
	for ; c.comets < n; c.comets++ {
		more := "comet: { " + c.o.listens("127.0.0.1", cometPort+c.comets) + " }\n"
		if err := c.start("comet", fmt.Sprintf("comet-%d", c.comets+1), cometAdmin+c.comets, more, niceComet); err != nil {
			return err
		}
	}
	for i := first; i < n; i++ {
		if err := c.ready(ctx, cometAdmin+i); err != nil {
			return fmt.Errorf("comet %d of %d: %w", i+1, n, err)
		}
	}
	return nil
}

// listens are a comet's settings of where it listens. All connections come from few addresses here.
func (o options) listens(host string, port int) string {
	on, off := "websocket_address", "tcp_address"
	if o.transport == "tcp" {
		on, off = off, on
	}
	return fmt.Sprintf("%s: \"%s:%d\", %s: \"\", connections_per_address: 0", on, host, port, off)
}

// config writes the settings of a node.
func (c *cluster) config(name, tier, more string) (path string, err error) {
	path = filepath.Join(c.dir, name+".yaml")
	return path, os.WriteFile(path, []byte(c.settings(name, tier, more)), 0o600)
}

func (c *cluster) settings(name, tier, more string) string {
	urls := make([]string, c.o.nats)
	for i := range urls {
		urls[i] = strconv.Quote(fmt.Sprintf("nats://127.0.0.1:%d", natsPort+i))
	}
	return fmt.Sprintf(`node: %s
nats: { urls: [%s], user: %s, password: %s }
redis: { addresses: ["127.0.0.1:%d"], password: %s }
cassandra: { hosts: ["127.0.0.1:%d"], replicas: 1, consistency: QUORUM }
logs: { partitions: %d, replicas: %d, max_bytes: 268435456 }
auth: { keys_file: %q, api_keys_file: %q }
log: { format: text }
%s`, name, strings.Join(urls, ", "), tier, c.password, redisPort, c.password, cassandraPort, partitions, c.o.nats,
		c.keys, filepath.Join(c.dir, "api-keys.json"), more)
}

// start starts a node. When it ends, so does the run.
func (c *cluster) start(tier, name string, admin int, more, nice string) error {
	config, err := c.config(name, tier, fmt.Sprintf("admin: { address: \"127.0.0.1:%d\" }\n%s", admin, more))
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(c.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own.
	cmd := exec.Command("nice", "-n", nice, c.o.binary, tier, "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	// An interrupt from a terminal is for the run, whose end is the cluster's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = os.Environ()
	if tier == "comet" {
		cmd.Env = append(cmd.Env, "GOMAXPROCS=1") // Fifty of them share the machine's cores.
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		err := cmd.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.died == nil {
			c.died = fmt.Errorf("%s ended: %w; its last words:\n%s", name, errors.Join(err, benchmarks.ErrAbandoned), tail(log.Name()))
			c.lost(c.died)
		}
	}()
	return nil
}

func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-2000):])
}

func (c *cluster) ready(ctx context.Context, admin int) error {
	url := fmt.Sprintf("http://127.0.0.1:%d/readyz?verbose", admin)
	var last error
	for end := time.Now().Add(readyWithin); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		body, err := get(ctx, url)
		if err == nil {
			return nil
		}
		last = fmt.Errorf("%w: %s", err, body)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return fmt.Errorf("not ready after %v: %w", readyWithin, last)
}

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return do(req)
}

func do(req *http.Request) ([]byte, error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read.
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s: %s", req.URL.Path, resp.Status, body[:min(len(body), 300)])
	}
	return body, err
}

// written is what the API answers to a write.
type written struct {
	Conversation string `json:"conversation"`
	Seq          uint64 `json:"seq"`
}

// post writes through the HTTP API, again where the server asks for that.
func (c *cluster) post(ctx context.Context, path, idempotency string, body any) (out written, err error) {
	data, err := json.Marshal(body)
	if err != nil {
		return out, err
	}
	for try := 0; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d%s", apiPort, path), bytes.NewReader(data))
		if err != nil {
			return out, err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+c.apiKey)
		if idempotency != "" {
			req.Header.Set("Idempotency-Key", idempotency)
		}
		answer, err := do(req)
		if err == nil {
			return out, json.Unmarshal(answer, &out)
		}
		if try == 20 || ctx.Err() != nil {
			return out, err
		}
		time.Sleep(time.Duration(try+1) * 200 * time.Millisecond)
	}
}

// targets are the comets from the first on.
func (c *cluster) targets(from, n int) (list []string) {
	for i := from; i < from+n; i++ {
		list = append(list, fmt.Sprintf("127.0.0.1:%d", cometPort+i))
	}
	return list
}

func admins(comets int) []string {
	list := []string{fmt.Sprintf("http://127.0.0.1:%d", logicAdmin), fmt.Sprintf("http://127.0.0.1:%d", jobAdmin)}
	for i := range comets {
		list = append(list, fmt.Sprintf("http://127.0.0.1:%d", cometAdmin+i))
	}
	return list
}

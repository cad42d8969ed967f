// Package bustest gives tests a real NATS server, or three of them, inside the test's process. It never fakes one.
package bustest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/halley-im/halley/pkg/bus"
)

// Wait bounds what the helpers wait for.
const Wait = 30 * time.Second

// Log returns a logger that writes warnings and errors to the test's log, while the test runs.
func Log(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(w.end)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type testWriter struct {
	mu sync.Mutex
	t  testing.TB // nil once the test has ended, when writing to it would panic
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Logf("%s", p)
	}
	return len(p), nil
}

func (w *testWriter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t = nil
}

// StartEmbedded starts a server in a directory of the test, without syncs, and stops it when the test ends.
func StartEmbedded(t testing.TB) *bus.Embedded {
	t.Helper()
	e := Embedded(t, bus.EmbeddedConfig{Dir: t.TempDir(), MaxStore: 8 << 30})
	t.Cleanup(e.Shutdown)
	return e
}

// Embedded starts a server that the caller stops.
func Embedded(t testing.TB, cfg bus.EmbeddedConfig) *bus.Embedded {
	t.Helper()
	e, err := bus.StartEmbedded(cfg, Log(t))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Connect opens a connection to the embedded server and closes it when the test ends.
func Connect(t testing.TB, e *bus.Embedded) *bus.Conn {
	t.Helper()
	return Open(t, bus.Config{Name: t.Name(), Embedded: e, NoReconnectBuffer: true})
}

// Open opens any connection and closes it when the test ends.
func Open(t testing.TB, cfg bus.Config) *bus.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Wait)
	defer cancel()
	c, err := bus.Connect(ctx, cfg, Log(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Logs starts a server with the logs of so many partitions, of 64 MiB at most each, and a connection to it.
func Logs(t testing.TB, partitions int) *bus.Conn {
	t.Helper()
	c := Connect(t, StartEmbedded(t))
	Create(t, c, bus.LogConfig{Partitions: partitions, Replicas: 1, MaxBytes: 64 << 20})
	return c
}

// Create creates the logs.
func Create(t testing.TB, c *bus.Conn, cfg bus.LogConfig) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Wait)
	defer cancel()
	if err := bus.CreateLogs(ctx, c, cfg); err != nil {
		t.Fatal(err)
	}
}

// OpenLog opens a log.
func OpenLog(t testing.TB, c *bus.Conn, partition int) *bus.Log {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Wait)
	defer cancel()
	l, err := bus.OpenLog(ctx, c, partition)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// Until polls until done answers true, and fails the test after Wait.
func Until(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(Wait)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Wait, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Cluster is some servers that form one JetStream cluster over the loopback interface, or a single one that can be restarted.
type Cluster struct {
	t       testing.TB
	options []*server.Options
	servers []*server.Server // nil while killed
}

// StartCluster starts n servers and waits until they have elected a leader.
func StartCluster(t testing.TB, n int) *Cluster {
	t.Helper()
	cl := &Cluster{t: t, servers: make([]*server.Server, n)}
	routes := make([]string, n)
	ports := freePorts(t, n)
	for i := range routes {
		routes[i] = fmt.Sprintf("nats://127.0.0.1:%d", ports[i])
	}
	dir := t.TempDir()
	for i := range n {
		o := &server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: filepath.Join(dir, fmt.Sprintf("n%d", i)), JetStreamMaxStore: 4 << 30, JetStreamMaxMemory: 64 << 20,
		}
		if n > 1 {
			o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[i]}
			o.Routes = server.RoutesFromStr(strings.Join(routes, ","))
		}
		cl.options = append(cl.options, o)
	}
	for i := range n {
		cl.Start(i)
	}
	t.Cleanup(func() {
		for i := range n {
			cl.Kill(i)
		}
	})
	if n > 1 {
		cl.ready()
	}
	return cl
}

func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	listeners := make([]net.Listener, n) // all stay open until all are known, so that they differ
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i], ports[i] = l, l.Addr().(*net.TCPAddr).Port
	}
	for _, l := range listeners {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return ports
}

// Start starts server i, which keeps its port and its data.
func (cl *Cluster) Start(i int) {
	cl.t.Helper()
	if cl.servers[i] != nil {
		return
	}
	s, err := server.NewServer(cl.options[i].Clone())
	if err != nil {
		cl.t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(Wait) {
		cl.t.Fatalf("server %d is not ready", i)
	}
	// The port of clients was free to choose the first time only.
	cl.options[i].Port = s.Addr().(*net.TCPAddr).Port
	cl.servers[i] = s
}

// Kill stops server i.
func (cl *Cluster) Kill(i int) {
	if s := cl.servers[i]; s != nil {
		cl.servers[i] = nil
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// Wipe loses the disk of server i, which is killed.
func (cl *Cluster) Wipe(i int) {
	cl.t.Helper()
	if err := os.RemoveAll(cl.options[i].StoreDir); err != nil {
		cl.t.Fatal(err)
	}
}

// URLs are the clients' addresses of all servers.
func (cl *Cluster) URLs() []string {
	out := make([]string, len(cl.options))
	for i, o := range cl.options {
		out[i] = fmt.Sprintf("nats://127.0.0.1:%d", o.Port)
	}
	return out
}

// Connect opens a connection to any of the servers and closes it when the test ends.
func (cl *Cluster) Connect() *bus.Conn {
	cl.t.Helper()
	return Open(cl.t, bus.Config{Name: cl.t.Name(), URLs: cl.URLs(), NoReconnectBuffer: true})
}

// Leader is the number of the server that leads the stream, or -1.
func (cl *Cluster) Leader(stream string) int {
	for i, s := range cl.servers {
		if s != nil && s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
			return i
		}
	}
	return -1
}

// Has reports whether server i itself has the stream up to this sequence.
func (cl *Cluster) Has(i int, stream string, last uint64) bool {
	s := cl.servers[i]
	if s == nil {
		return false
	}
	info, err := s.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return false
	}
	for _, account := range info.AccountDetails {
		for i := range account.Streams {
			if account.Streams[i].Name == stream {
				return account.Streams[i].State.LastSeq >= last
			}
		}
	}
	return false
}

// ready waits until the cluster leads itself.
func (cl *Cluster) ready() {
	cl.t.Helper()
	Until(cl.t, "a leader of the cluster", func() bool {
		for _, s := range cl.servers {
			if s != nil && s.JetStreamIsLeader() && s.JetStreamClusterPeers() != nil && len(s.JetStreamClusterPeers()) == len(cl.servers) {
				return true
			}
		}
		return false
	})
}

//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// services are the real servers that all tests of this package share, on ports and in a folder of their own.
type services struct {
	root string // of the repository
	dir  string
	env  []string

	nats      [3]string // host:port
	redis     string
	cassandra string
}

// The one set, which TestMain starts; a test that needs a server kills its own node and starts it again.
var servers *services

// serviceScripts start in this order, all at once.
var serviceScripts = []string{"nats.sh", "redis.sh", "cassandra/cassandra.sh"}

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if servers, err = newServices(); err != nil {
		log.Print(err)
		return 1
	}
	defer func() {
		if err := servers.each("wipe"); err != nil {
			log.Print(err)
		}
		if err := os.RemoveAll(servers.dir); err != nil {
			log.Print(err)
		}
	}()
	if err := servers.each("start"); err != nil {
		log.Print(err)
		return 1
	}
	return m.Run()
}

func newServices() (*services, error) {
	wd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "halley-integration-")
	if err != nil {
		return nil, err
	}
	s := &services{root: filepath.Join(wd, "..", ".."), dir: dir}
	ports, err := freePorts(12)
	if err != nil {
		return nil, err
	}
	for i := range s.nats {
		s.nats[i] = address(ports[0] + i)
	}
	s.redis = address(ports[0] + 9)
	s.cassandra = address(ports[0] + 10)
	set := func(name string, value any) { s.env = append(s.env, fmt.Sprintf("%s=%v", name, value)) }
	set("SERVICES_DIR", dir)
	set("NATS_PORT", ports[0])
	set("NATS_CLUSTER_PORT", ports[0]+3)
	set("NATS_HTTP_PORT", ports[0]+6)
	set("REDIS_PORT", ports[0]+9)
	set("REDIS_PASSWORD", "") // The suite names its server by host and port alone.
	set("CASSANDRA_PORT", ports[0]+10)
	set("CASSANDRA_STORAGE_PORT", ports[0]+11)
	set("CASSANDRA_JMX_PORT", ports[0]+12)
	return s, nil
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePorts finds n+1 ports in a row that nobody listens on, below the range from which the kernel takes those of outgoing
// connections.
func freePorts(n int) ([]int, error) {
	start := 20000 + os.Getpid()%400*20
	for base := start; base < start+4000; base += 20 {
		if ports := tryPorts(base, n+1); ports != nil {
			return ports, nil
		}
	}
	return nil, errors.New("no ports in a row are free")
}

func tryPorts(base, n int) []int {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", address(base+i))
		if err != nil {
			return nil
		}
		if err := l.Close(); err != nil {
			return nil
		}
		ports[i] = base + i
	}
	return ports
}

// each runs one command of every service, all at once, and waits for them.
func (s *services) each(command string) error {
	var wg sync.WaitGroup
	errs := make([]error, len(serviceScripts))
	for i, script := range serviceScripts {
		wg.Go(func() { errs[i] = s.script(script, command) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// script runs a script of deploy/local.
func (s *services) script(name string, args ...string) error { return s.scriptWith(nil, name, args...) }

// scriptWith runs it with more settings.
func (s *services) scriptWith(env []string, name string, args ...string) error {
	_, err := s.output(env, name, args...)
	return err
}

// output is what a script says.
func (s *services) output(env []string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.root, "deploy", "local", name), args...)
	cmd.Env = append(append(os.Environ(), s.env...), env...)
	out, err := cmd.CombinedOutput()
	log.Printf("%s %s\n%s", name, strings.Join(args, " "), out)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), nil
}

// goTest runs the tests of other packages that need a real server, which the environment names. A skipped test, or none,
// is a failure.
func goTest(t *testing.T, env []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"test", "-tags", "integration", "-count=1", "-v"}, args...)...)
	cmd.Dir = servers.root
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go test %v: %v\n%s", args, err, out)
	}
	for _, bad := range []string{"--- SKIP", "no tests to run", "no test files"} {
		if bytes.Contains(out, []byte(bad)) {
			t.Errorf("go test %v: %s\n%s", args, bad, out)
		}
	}
}

// buildBinary builds ./cmd/halley of this tree.
func buildBinary(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "halley")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/halley")
	build.Dir = servers.root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// cacheDir is where install.sh put programs.
func cacheDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("SERVICES_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "halley-services")
}

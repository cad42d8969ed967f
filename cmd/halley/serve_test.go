package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// served is a halley serve in a process of its own, as people run it.
type served struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	banner string
	errs   *lockedBuffer
	ended  chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// halley is the program itself: TestMain runs main where the process is called so.
func halley(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args = append([]string{"halley"}, args...)
	cmd.Dir = dir
	return cmd
}

// anyPort keeps tests from meeting each other; the ports are read from the folder.
var anyPort = []string{"--websocket", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0"}

// serve starts it and waits for the last line of the banner.
func serve(t *testing.T, dir string, args ...string) *served {
	t.Helper()
	s := &served{t: t, dir: dir, errs: &lockedBuffer{}, ended: make(chan error, 1)}
	s.cmd = halley(t, dir, append(append([]string{"serve"}, anyPort...), args...)...)
	s.cmd.Stderr = s.errs
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill() })
	told := make(chan string, 1)
	go func() {
		var text strings.Builder
		for lines := bufio.NewScanner(out); lines.Scan(); {
			fmt.Fprintln(&text, lines.Text())
			if lines.Text() == bannerEnd {
				told <- text.String()
			}
		}
		s.ended <- s.cmd.Wait()
	}()
	select {
	case s.banner = <-told:
	case err := <-s.ended:
		t.Fatalf("ended before its banner: %v\n%s", err, s.errs)
	case <-time.After(20 * time.Second):
		t.Fatalf("no banner within 20 s\n%s", s.errs)
	}
	return s
}

func (s *served) endpoints() endpoints {
	s.t.Helper()
	e, err := readEndpoints(filepath.Join(s.dir, defaultDataDir))
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s *served) get(url string) (int, string) {
	s.t.Helper()
	res, err := http.Get(url)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// end sends a signal and returns how the process ended and how long that took.
func (s *served) end(signal os.Signal) (time.Duration, error) {
	s.t.Helper()
	begin := time.Now()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.ended:
		return time.Since(begin), err
	case <-time.After(30 * time.Second):
		s.t.Fatalf("still there 30 s after %v\n%s", signal, s.errs)
		return 0, nil
	}
}

func TestServeNeedsNothingAndLeavesCleanly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := serve(t, dir)
	e := s.endpoints()
	for _, want := range []string{e.WS, "tcp://" + e.TCP, e.API + "/v1", e.Admin + "/metrics", "loopback only"} {
		if want == "" || !strings.Contains(s.banner, want) {
			t.Errorf("the banner lacks %q:\n%s", want, s.banner)
		}
	}
	if code, text := s.get(e.Admin + "/readyz?verbose"); code != 200 || !strings.Contains(text, "[+] partitions ok") {
		t.Errorf("/readyz: %d\n%s", code, text)
	}
	if code, text := s.get(e.Admin + "/metrics"); code != 200 || !strings.Contains(text, `tier="serve"`) {
		t.Errorf("/metrics: %d, without halley_build_info of serve", code)
	}
	// The demo's bot is connected, and what the owner of its user's log read for that is counted.
	for end := time.Now().Add(30 * time.Second); ; <-time.After(10 * time.Millisecond) {
		_, text := s.get(e.Admin + "/metrics")
		if strings.Contains(text, `halley_store_seconds_count{op="range",result="ok"}`) {
			break
		}
		if time.Now().After(end) {
			t.Error("/metrics has nothing of the store")
			break
		}
	}
	if c, err := net.Dial("tcp", e.TCP); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	secretsStayPrivate(t, filepath.Join(dir, defaultDataDir))

	token, err := halley(t, dir, "token", "issue", "--user", "alice").Output()
	if err != nil {
		t.Fatal(err)
	}
	inspect := halley(t, dir, "token", "inspect", "-")
	inspect.Stdin = bytes.NewReader(token)
	if out, err := inspect.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}

	took, err := s.end(syscall.SIGTERM)
	if err != nil || took > 2*time.Second {
		t.Errorf("SIGTERM without clients: %v after %v, want exit code 0 within 2 s\n%s", err, took, s.errs)
	}
	if _, err := readEndpoints(filepath.Join(dir, defaultDataDir)); err == nil {
		t.Error("endpoints.json outlives the server")
	}
}

// secretsStayPrivate looks at the permissions of what serve wrote.
func secretsStayPrivate(t *testing.T, data string) {
	t.Helper()
	for name, want := range map[string]os.FileMode{
		".": 0o700 | os.ModeDir, tokenKeysName: 0o600, apiKeysName: 0o600, devAPIKeyName: 0o600, endpointsName: 0o600, lockName: 0o600,
	} {
		info, err := os.Stat(filepath.Join(data, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
}

// The line of the banner must work at every start, the one after a crash included, and the conversation must go on.
func TestCrashChangesNeitherSecretsNorConversations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	read := func() string {
		t.Helper()
		var all string
		for _, name := range []string{tokenKeysName, devAPIKeyName, apiKeysName} {
			data, err := os.ReadFile(filepath.Join(dir, defaultDataDir, name))
			if err != nil {
				t.Fatal(err)
			}
			all += string(data)
		}
		return all
	}
	s := serve(t, dir)
	first := read()
	if seq := s.send(); seq != 1 {
		t.Errorf("seq %d, want 1", seq)
	}
	s.end(os.Kill) // It leaves endpoints.json and the lock's file behind; neither must be in the way.
	if _, err := readEndpoints(filepath.Join(dir, defaultDataDir)); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("endpoints of a process that was killed: %v", err)
	}
	s = serve(t, dir)
	if read() != first {
		t.Error("the second start has other secrets")
	}
	if seq := s.send(); seq != 2 {
		t.Errorf("seq %d, want 2", seq)
	}
	if _, err := s.end(syscall.SIGTERM); err != nil {
		t.Errorf("%v\n%s", err, s.errs)
	}
}

func TestTwoServesInOneFolderAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := serve(t, dir)
	out, err := halley(t, dir, append([]string{"serve"}, anyPort...)...).CombinedOutput()
	want := fmt.Sprintf("another halley serve (pid %d) works in halley-data", s.cmd.Process.Pid)
	if err == nil || !strings.Contains(string(out), want) {
		t.Errorf("%v\n%s\nwant %s", err, out, want)
	}
}

func TestTakenPortNamesThePortAndTheFlag(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ flag, key string }{
		{"--websocket", "comet.websocket_address"}, {"--tcp", "comet.tcp_address"}, {"--api", "api.address"}, {"--admin", "admin.address"},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		taken := ln.Addr().String()
		_, port, _ := net.SplitHostPort(taken)
		args := append(append([]string{"serve"}, anyPort...), c.flag, taken)
		out, err := halley(t, t.TempDir(), args...).CombinedOutput()
		want := fmt.Sprintf("port %s is taken (%s is %s); choose another with %s HOST:PORT", port, c.key, taken, c.flag)
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%v\n%s\nwant %s", err, out, want)
		}
	}
}

func TestAddressForOthersNeedsSecretsOfItsOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, err := halley(t, dir, append(append([]string{"serve"}, anyPort...), "--websocket", "0.0.0.0:0")...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "comet.websocket_address is 0.0.0.0:0, which other machines can reach") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, defaultDataDir)); err == nil {
		t.Error("a refused start has left a folder behind")
	}
	keys := filepath.Join(dir, "keys")
	if err := os.WriteFile(keys, []byte("k1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, "--websocket", "0.0.0.0:0", "--set", "auth.keys_file="+keys, "--set", "auth.api_keys_file="+filepath.Join(dir, "api"))
	e := s.endpoints()
	if !strings.HasPrefix(e.WS, "ws://127.0.0.1:") || e.SecretFile != keys || !strings.Contains(s.banner, "Other machines can reach it") {
		t.Errorf("%+v\n%s", e, s.banner)
	}
}

func TestFolderOfSomebodyElseIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	theirs := filepath.Join(dir, "home")
	if err := os.MkdirAll(filepath.Join(theirs, "photos"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := halley(t, dir, append(append([]string{"serve"}, anyPort...), "--data-dir", "home")...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "home holds files, and none that halley serve has made") {
		t.Errorf("%v\n%s", err, out)
	}
	if info, err := os.Stat(theirs); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestLogLevelOfARunningServerChanges(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	url := s.endpoints().Admin + "/loglevel"
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPut, url, strings.NewReader("debug"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if code, text := s.get(url); res.StatusCode != 200 || code != 200 || text != "DEBUG\n" {
		t.Errorf("%d, then %d %q", res.StatusCode, code, text)
	}
	if _, err := s.end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	var line struct{ Msg, Node, Tier string }
	for text := range strings.Lines(s.errs.String()) {
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Errorf("a line of the log is no JSON: %s", text)
		}
	}
	if line.Tier != "serve" || !regexp.MustCompile(`-[0-9a-f]{8}$`).MatchString(line.Node) {
		t.Errorf("%+v", line)
	}
}

// send runs the line that begins with curl as it stands, and returns the seq of its answer.
func (s *served) send() int {
	s.t.Helper()
	line := regexp.MustCompile(`(?m)^curl -fsS .*$`).FindString(s.banner)
	out, err := runCurl(s.t, line)
	var answer struct {
		ID  string
		Seq int
	}
	if err == nil {
		err = json.Unmarshal(out, &answer)
	}
	if err != nil || answer.ID == "" {
		s.t.Fatalf("%s\nanswers %s: %v\n%s", line, out, err, s.errs)
	}
	return answer.Seq
}

// runCurl does what curl would: a test needs nothing but Go.
func runCurl(t *testing.T, line string) ([]byte, error) {
	t.Helper()
	quoted := regexp.MustCompile(`^curl -fsS -H '([^:']+): ([^']+)' -H '([^:']+): ([^']+)' -d '([^']+)' (\S+)$`)
	m := quoted.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("not a line that this test understands: %s", line)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m[6], strings.NewReader(m[5]))
	if err != nil {
		return nil, err
	}
	req.Header.Set(m[1], m[2])
	req.Header.Set(m[3], m[4])
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode/100 != 2 {
		err = errors.New(res.Status)
	}
	return body, err
}

func TestBenchInTheFolderOfAServeNeedsNoFlag(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := serve(t, dir)
	for _, transport := range []string{"ws", "tcp"} {
		out, err := halley(t, dir, "bench", "p2p", "-n", "20", "--warmup", "100ms", "--duration", "500ms", "--transport", transport,
			"--out", "run.json").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, out, s.errs)
		}
		data, err := os.ReadFile(filepath.Join(dir, "run.json"))
		if err != nil {
			t.Fatal(err)
		}
		var run struct {
			Acked, Lost, Connections int
			Server                   struct {
				RSS float64 `json:"rss_bytes"`
			}
		}
		if err := json.Unmarshal(data, &run); err != nil || run.Acked == 0 || run.Lost != 0 || run.Connections != 20 || run.Server.RSS == 0 {
			t.Errorf("%s: %v %+v", transport, err, run)
		}
	}
}

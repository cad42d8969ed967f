package observe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func newAdmin(t *testing.T, log *slog.Logger, level *slog.LevelVar, checks ...Check) *Admin {
	t.Helper()
	cfg := DefaultAdmin()
	cfg.Address = "127.0.0.1:0"
	a, err := ListenAdmin(cfg, AdminDeps{
		Log: log, Level: level, Gatherer: NewRegistry(Build{Version: "v1.2.3", Commit: "abc", Go: "go1"}, "serve"),
		Checks: func() []Check { return checks },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func ask(h http.Handler, method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func TestLogIsJSONOffATerminal(t *testing.T) {
	var out bytes.Buffer
	log, _, err := NewLogger(DefaultLog(), &out)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hello", "n", 1, "took", 1500*time.Millisecond)
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["msg"] != "hello" {
		t.Fatalf("got %q (%v), want one JSON object", out.String(), err)
	}
	if line["took"] != "1.5s" {
		t.Errorf("a duration is %v, want it with its unit", line["took"])
	}
}

func TestLogLevelChangesWhileRunning(t *testing.T) {
	var out bytes.Buffer
	log, level, err := NewLogger(LogConfig{Level: "warn", Format: FormatText}, &out)
	if err != nil {
		t.Fatal(err)
	}
	h := newAdmin(t, log, level).Handler()
	log.Debug("before")
	for _, body := range []string{"debug\n", `{"level":"debug"}`} {
		level.Set(slog.LevelWarn)
		if code, text := ask(h, "PUT", "/loglevel", body); code != 200 || text != "DEBUG\n" {
			t.Fatalf("PUT %q: %d %q", body, code, text)
		}
	}
	log.Debug("after")
	if s := out.String(); strings.Contains(s, "before") || !strings.Contains(s, "after") {
		t.Errorf("log holds %q", s)
	}
	if code, text := ask(h, "PUT", "/loglevel", "loud"); code != 400 || !strings.Contains(text, `"loud"`) {
		t.Errorf("a level that is none: %d %q", code, text)
	}
	if code, text := ask(h, "GET", "/loglevel", ""); code != 200 || text != "DEBUG\n" {
		t.Errorf("GET after the refused PUT: %d %q", code, text)
	}
}

func TestReadyzNamesWhatFails(t *testing.T) {
	var bus error
	h := newAdmin(t, slog.New(slog.DiscardHandler), new(slog.LevelVar),
		Check{"bus", func(context.Context) error { return bus }},
		Check{"store", func(context.Context) error { return nil }},
	).Handler()
	steps := []struct {
		err        error
		path, want string
		code       int
	}{
		{nil, "/readyz", "ready\n", 200},
		{nil, "/readyz?verbose", "[+] bus ok\n[+] store ok\nready\n", 200},
		{errors.New("no route"), "/readyz", "[-] bus: no route\nnot ready\n", 503},
		{errors.New("no route"), "/readyz?verbose", "[-] bus: no route\n[+] store ok\nnot ready\n", 503},
	}
	for _, s := range steps {
		bus = s.err
		if code, text := ask(h, "GET", s.path, ""); code != s.code || text != s.want {
			t.Errorf("%s with %v: %d %q, want %d %q", s.path, s.err, code, text, s.code, s.want)
		}
	}
	bus = errors.New("no route")
	if code, _ := ask(h, "GET", "/livez", ""); code != 200 {
		t.Errorf("a node that is not ready must still live: %d", code)
	}
}

// A check that hangs, and even one that ignores its context, must not hold the answer back nor hide the others.
func TestReadyzDoesNotWaitForACheckThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer synctest.Wait()
		defer close(release)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		got := runChecks(ctx, []Check{
			{"deaf", func(context.Context) error { <-release; return nil }},
			{"slow", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
			{"good", func(context.Context) error { return nil }},
		})
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("took %v", took)
		}
		if !errors.Is(got[0], context.DeadlineExceeded) || !errors.Is(got[1], context.DeadlineExceeded) || got[2] != nil {
			t.Errorf("got %v", got)
		}
	})
}

func TestMetricsHoldProcessAndBuild(t *testing.T) {
	h := newAdmin(t, slog.New(slog.DiscardHandler), new(slog.LevelVar)).Handler()
	code, text := ask(h, "GET", "/metrics", "")
	for _, want := range []string{
		`halley_build_info{commit="abc",go="go1",tier="serve",version="v1.2.3"} 1`,
		"process_resident_memory_bytes ", "process_cpu_seconds_total ", "go_goroutines ",
	} {
		if code != 200 || !strings.Contains(text, want) {
			t.Errorf("/metrics (%d) lacks %s", code, want)
		}
	}
	if code, text := ask(h, "GET", "/debug/pprof/goroutine?debug=1", ""); code != 200 || !strings.Contains(text, "goroutine profile") {
		t.Errorf("pprof: %d %.60q", code, text)
	}
}

func TestAdminServesUntilToldToStop(t *testing.T) {
	a := newAdmin(t, slog.New(slog.DiscardHandler), new(slog.LevelVar))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	res, err := http.Get("http://" + a.Addr().String() + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if string(body) != "ok\n" {
		t.Errorf("got %q", body)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("still running 5 s after its context ended")
	}
	if c, err := net.Dial("tcp", a.Addr().String()); err == nil {
		c.Close()
		t.Error("still accepts")
	}
}

func TestTakenPortIsKnownBeforeRun(t *testing.T) {
	a := newAdmin(t, slog.New(slog.DiscardHandler), new(slog.LevelVar))
	cfg := DefaultAdmin()
	cfg.Address = a.Addr().String()
	if _, err := ListenAdmin(cfg, AdminDeps{Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("two servers on one port")
	}
}

func TestConfigNamesEveryFieldAtFault(t *testing.T) {
	err := AdminConfig{ReadHeaderTimeoutMs: -1, IdleTimeoutMs: 1}.Validate()
	for _, want := range []string{"address", "read_header_timeout_ms", "check_timeout_ms"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
	if err := DefaultAdmin().Validate(); err != nil {
		t.Error(err)
	}
	if err := (LogConfig{Level: "x", Format: "y"}).Validate(); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("want two faults, got %v", err)
	}
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/halley-im/halley/logic/audit"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/store/pebble"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// audited is what halley audit said.
type audited struct {
	code                               int
	text                               string
	violations, records, conversations int
}

var lastLine = regexp.MustCompile(`^violations=(\d+) records=(\d+) conversations=(\d+) partitions=2$`)

// auditIn runs halley audit as people do.
func auditIn(t *testing.T, dir string, args ...string) audited {
	t.Helper()
	var errs bytes.Buffer
	cmd := halley(t, dir, append([]string{"audit"}, args...)...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	a := audited{text: string(out) + errs.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		a.code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if m := lastLine.FindStringSubmatch(lines[len(lines)-1]); m != nil {
		for i, n := range []*int{&a.violations, &a.records, &a.conversations} {
			if _, err := fmt.Sscan(m[i+1], n); err != nil {
				t.Fatal(err)
			}
		}
	} else if a.code != exitUsage {
		t.Fatalf("exit code %d, and the last line is no result:\n%s", a.code, a.text)
	}
	return a
}

func load(t *testing.T, dir string) {
	t.Helper()
	out, err := halley(t, dir, "bench", "group", "-n", "20", "--members", "5", "--warmup", "100ms", "--duration", "1s").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestAuditOfAServe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := serve(t, dir)
	load(t, dir)
	running := auditIn(t, dir)
	if running.code != exitOK || running.violations != 0 || running.records < 100 || running.conversations < 4 {
		t.Fatalf("of the running server: exit code %d\n%s", running.code, running.text)
	}
	everyRecordIsTold(t, dir)
	if _, err := holdDataDir(filepath.Join(dir, defaultDataDir)); !errors.Is(err, errInUse) {
		t.Errorf("the folder of a running server is opened: %v", err)
	}
	if _, err := s.end(syscall.SIGTERM); err != nil {
		t.Fatalf("%v\n%s", err, s.errs)
	}

	before := durable(t, dir)
	stopped := auditIn(t, dir, "--out", "audit.json")
	// Users' own logs may have been told of the groups meanwhile.
	if stopped.code != exitOK || stopped.violations != 0 || stopped.records < running.records || stopped.conversations < running.conversations {
		t.Errorf("of the stopped server: exit code %d\n%s\nof the same server while it ran:\n%s", stopped.code, stopped.text, running.text)
	}
	if d := cmp.Diff(before, durable(t, dir)); d != "" {
		t.Errorf("the audit has changed what is stored:\n%s", d)
	}
	var report audit.Report
	data, err := os.ReadFile(filepath.Join(dir, "audit.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &report); err != nil || int(report.Records) != stopped.records || len(report.Logs) != 2 {
		t.Errorf("%v\n%s", err, data)
	}
	if report.StoreRecords < report.Records {
		t.Errorf("%d records of the store were looked at, of %d", report.StoreRecords, report.Records)
	}

	everyRecordIsTold(t, dir)

	r := spoil(t, dir)
	broken := auditIn(t, dir)
	want := fmt.Sprintf("differs: partition 0, app %s, conversation %s, seq %d: ", r.App, r.Conversation, r.Seq)
	if broken.code != exitFailure || broken.violations != 1 || !strings.Contains(broken.text, want) {
		t.Errorf("exit code %d, want %s:\n%s", broken.code, want, broken.text)
	}
	seen := map[string]int{}
	for line := range strings.Lines(auditLines(t, dir)) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for key := range maps.Keys(e) {
			seen[key]++
		}
	}
	if d := cmp.Diff(map[string]int{"violation": 1, "partition": 2, "report": 1}, seen); d != "" {
		t.Errorf("lines of JSON: %s", d)
	}

	serve(t, dir) // It works as before.
}

// everyRecordIsTold to who asks for them, by a server that runs or from its folder.
func everyRecordIsTold(t *testing.T, dir string) {
	t.Helper()
	out, err := halley(t, dir, "audit", "--json", "--records").Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var told, reported uint64
	for line := range strings.Lines(string(out)) {
		var e audit.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		switch {
		case e.Record != nil && e.Record.Conversation != "" && e.Record.Seq > 0 && e.Record.ClientID != "":
			told++
		case e.Report != nil:
			reported = e.Report.Records
		}
	}
	if told == 0 || told != reported {
		t.Errorf("%d records are told, of %d", told, reported)
	}
}

// auditLines is what the audit of a spoilt folder prints as JSON.
func auditLines(t *testing.T, dir string) string {
	t.Helper()
	out, err := halley(t, dir, "audit", "--json").Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitFailure {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// durable maps the files of the store and of the logs to what is in them.
func durable(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	root := filepath.Join(dir, defaultDataDir)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, path)
		isLog := strings.Contains(name, "LOG_") && filepath.Ext(name) == ".blk"
		if err != nil || d.IsDir() || !isLog && !strings.HasPrefix(name, storeName) {
			return err
		}
		data, err := os.ReadFile(path)
		out[name] = fmt.Sprintf("%x", sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// spoil puts a record into the store that the log never had.
func spoil(t *testing.T, dir string) *logv1.Record {
	t.Helper()
	s, err := pebble.Open(filepath.Join(dir, defaultDataDir, storeName), pebble.Default(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := &logv1.Record{App: "main", Conversation: "g:unknown2", Seq: 1, Id: 1, TimeUs: 1, ClientId: "c", Sender: "mallory"}
	if err := errors.Join(s.Append(t.Context(), []*logv1.Record{r}), s.Close()); err != nil {
		t.Fatal(err)
	}
	return r
}

// Whatever was in flight, a server that was killed leaves everything as it was promised.
func TestAuditOfAServeThatWasKilledUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := serve(t, dir)
	bench := halley(t, dir, "bench", "p2p", "-n", "20", "--warmup", "0s", "--duration", "30s", "--wait", "1s")
	if err := bench.Start(); err != nil {
		t.Fatal(err)
	}
	acked := regexp.MustCompile(`(?m)^halley_logic_records_acked_total (\S+)$`)
	url := s.endpoints().Admin + "/metrics"
	bustest.Until(t, "a load that is under way", func() bool {
		_, text := s.get(url)
		m := acked.FindStringSubmatch(text)
		if m == nil {
			return false
		}
		n, err := strconv.ParseFloat(m[1], 64)
		return err == nil && n > 1000
	})
	s.end(os.Kill)
	if err := bench.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = bench.Wait() // It was killed.
	a := auditIn(t, dir)
	if a.code != exitOK || a.violations != 0 || a.records < 1000 {
		t.Errorf("exit code %d\n%s", a.code, a.text)
	}
}

func TestAuditIsRefusedWhereThereIsNothingToAudit(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no folder":       {[]string{"--data-dir", "nowhere"}, "no halley serve has worked in nowhere"},
		"another setting": {[]string{"--set", "nats.url=nats://a"}, "nats.url"},
		"no such limit":   {[]string{"--limit=-1"}, "--limit -1: want 0 to 10000"},
		"records without": {[]string{"--records"}, "--records: its lines are JSON"},
		"no such flag":    {[]string{"--fast"}, "unknown flag --fast"},
	} {
		t.Run(name, func(t *testing.T) {
			_, stderr, code := call(t, append([]string{"audit"}, c.args...)...)
			if code != exitUsage || !strings.Contains(stderr, c.want) {
				t.Errorf("exit code %d, %s; want %d, %s", code, stderr, exitUsage, c.want)
			}
		})
	}
}

// A folder whose lock is held by one who says nothing of its address must not be read.
func TestAuditIsRefusedWhileTheFolderIsInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	d, err := openDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.close() })
	for _, name := range []string{natsName, storeName} {
		if err := os.Mkdir(d.file(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	_, stderr, code := call(t, "audit", "--data-dir", dir)
	if code != exitUsage || !strings.Contains(stderr, "another halley serve (pid ") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

func TestAuditPortMakesOneAuditAtATimeAndStops(t *testing.T) {
	var port auditPort
	server := httptest.NewServer(&port)
	t.Cleanup(server.Close)
	post := func(query string) (status int, lines *bufio.Scanner) {
		t.Helper()
		res, err := http.Post(server.URL+query, "", nil) //nolint:noctx // a test's own server
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res.StatusCode, bufio.NewScanner(res.Body)
	}
	if status, _ := post(""); status != http.StatusServiceUnavailable {
		t.Errorf("before there is anything to audit: %d", status)
	}
	port.set(func(ctx context.Context, want auditScope, emit func(audit.Event) error) error {
		if err := emit(audit.Event{Partition: &audit.Partition{Partition: want.limit}}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if status, _ := post("?limit=many"); status != http.StatusBadRequest {
		t.Errorf("limit=many: %d", status)
	}
	_, lines := post("?limit=7")
	if !lines.Scan() || !strings.Contains(lines.Text(), `"partition":7`) {
		t.Errorf("the first event is %s", lines.Text())
	}
	if status, _ := post(""); status != http.StatusConflict {
		t.Errorf("while another runs: %d", status)
	}
	port.stop()
	if !lines.Scan() || !strings.Contains(lines.Text(), `"error":"context canceled"`) {
		t.Errorf("the last event is %s", lines.Text())
	}
	if status, _ := post(""); status != http.StatusServiceUnavailable {
		t.Errorf("after the end: %d", status)
	}
}

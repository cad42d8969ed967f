//go:build integration

package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// What the README says to a stranger with Go alone: an empty folder, `make run`, the line from the banner, and a server that
// is killed as hard as can be.
func TestReadme(t *testing.T) {
	dir := clone(t)
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"make run", "make test"} {
		if !bytes.Contains(readme, []byte(command)) {
			t.Errorf("README.md no longer says %q", command)
		}
	}
	if out, err := goAlone(t, dir, "make", "build").CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}

	first := startServe(t, goAlone(t, dir, "make", "run"))
	first.send(t)
	before := first.send(t)
	first.kill(t)

	second := startServe(t, goAlone(t, dir, "./halley", "serve"))
	if after := second.send(t); after != before+1 {
		t.Errorf("after kill -9 the conversation goes on at seq %d, not %d", after, before+1)
	}
	second.stop(t)
	info, err := os.Stat(filepath.Join(dir, "halley-data"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("halley-data has mode %v: it holds secrets and messages", info.Mode().Perm())
	}
}

// A run of each kind, small: not for its figures but for its verdict.
func TestBenchOnServe(t *testing.T) {
	dir := clone(t)
	if out, err := goAlone(t, dir, "make", "build").CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	s := startServe(t, goAlone(t, dir, "./halley", "serve"))
	for _, verb := range [][]string{
		{"p2p", "-n", "200", "--outstanding", "1", "--duration", "5s"},
		{"p2p", "-n", "200", "--outstanding", "4", "--duration", "5s"},
		{"conn", "-n", "500", "--duration", "5s"},
	} {
		report := filepath.Join(t.TempDir(), "run.json")
		args := append(append([]string{"bench"}, verb...), "--out", report)
		if out, err := goAlone(t, dir, "./halley", args...).CombinedOutput(); err != nil {
			t.Errorf("halley %v: %v\n%s", args, err, out)
			continue
		}
		checkReport(t, verb[0], report)
	}
	s.stop(t)
}

func checkReport(t *testing.T, verb, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	var run struct {
		Sent, Acked, Delivered                     uint64
		Unacked, Lost, Duplicated, Reordered, Gaps *uint64
		Connections                                int
	}
	if err := json.Unmarshal(data, &run); err != nil {
		t.Errorf("%s: %v\n%s", verb, err, data)
		return
	}
	for name, n := range map[string]*uint64{
		"unacked": run.Unacked, "lost": run.Lost, "duplicated": run.Duplicated, "reordered": run.Reordered, "gaps": run.Gaps,
	} {
		if n == nil || *n != 0 {
			t.Errorf("%s: %s is not 0\n%s", verb, name, data)
		}
	}
	if verb == "p2p" && (run.Sent == 0 || run.Acked != run.Sent || run.Delivered < run.Sent) {
		t.Errorf("%s: sent %d, acked %d, delivered %d", verb, run.Sent, run.Acked, run.Delivered)
	}
}

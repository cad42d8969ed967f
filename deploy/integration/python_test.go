//go:build integration

package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPythonExample runs the client that was written from docs/protocol.md alone, in another language, against the binary.
func TestPythonExample(t *testing.T) {
	ports, err := freePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	dir, binary := t.TempDir(), buildBinary(t)
	s := startServe(t, goAlone(t, dir, binary, "serve", "--websocket", address(ports[0]), "--tcp", address(ports[1]),
		"--api", address(ports[2]), "--admin", address(ports[3])))
	token := func(user string) string {
		t.Helper()
		out, err := goAlone(t, dir, binary, "token", "issue", "--user", user).Output()
		if err != nil {
			t.Fatalf("token issue: %v", err)
		}
		return strings.TrimSpace(string(out))
	}
	python := filepath.Join(cacheDir(t), "venv", "bin", "python")
	cmd := exec.CommandContext(t.Context(), python, filepath.Join(servers.root, "docs", "examples", "python", "chat.py"),
		"--url", fmt.Sprintf("ws://%s/v1/connect", address(ports[0])),
		"--token", token("alice"), "--peer", "bob", "--peer-token", token("bob"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("chat.py: %v\n%s\nthe server said:\n%s", err, out, s.output())
	}
	s.stop(t)
}

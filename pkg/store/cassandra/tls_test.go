package cassandra

import (
	"context"
	"encoding/pem"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whoever answers at a node's address without a certificate that holds is not spoken to: no user name, no password. (That the
// server here is no Cassandra is found out only by who trusts it.)
func TestTLSToCassandraIsVerified(t *testing.T) {
	web := httptest.NewTLSServer(nil) // It brings a certificate for 127.0.0.1, which vouches for itself.
	defer web.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		change func(*Config)
		says   string
	}{
		"the system's CAs":            {func(c *Config) { c.CAFile = "" }, "unknown authority"},
		"another name":                {func(c *Config) { c.ServerName = "other.test" }, "other.test"},
		"a CA file that is not there": {func(c *Config) { c.CAFile = ca + ".gone" }, "ca.pem.gone"},
		"the right CA":                {func(*Config) {}, ""},
	} {
		cfg := Default()
		cfg.Hosts, cfg.TLS, cfg.CAFile, cfg.Username, cfg.Password = []string{web.Listener.Addr().String()}, true, ca, "u", "p"
		cfg.ConnectTimeoutMs, cfg.RequestTimeoutMs = 2000, 2000
		c.change(&cfg)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		s, err := Open(ctx, cfg, slog.New(slog.DiscardHandler))
		cancel()
		if err == nil {
			_ = s.Close()
			t.Errorf("%s: opened", what)
		} else if !strings.Contains(err.Error(), c.says) || c.says == "" && strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v; want words with %q", what, err, c.says)
		}
	}
}

package bus_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
)

// pair writes a certificate for 127.0.0.1 and its key as files; it vouches for itself.
func pair(t *testing.T) (cert tls.Certificate, certFile, keyFile string) {
	t.Helper()
	web := httptest.NewTLSServer(nil) // It brings one.
	defer web.Close()
	cert = web.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, certFile, keyFile
}

// natsOverTLS starts a server; cfg nil: without TLS.
func natsOverTLS(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, TLS: cfg != nil, TLSConfig: cfg, TLSTimeout: 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(bustest.Wait) {
		t.Fatal("the server is not ready")
	}
	return fmt.Sprint("nats://", s.Addr())
}

// refused wants Connect to give up with words that say what is wrong: any of says.
func refused(t *testing.T, what string, cfg bus.Config, says ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	c, err := bus.Connect(ctx, cfg, slog.New(slog.DiscardHandler))
	if err == nil {
		c.Close()
		t.Errorf("%s: connected", what)
	} else if !slices.ContainsFunc(says, func(words string) bool { return strings.Contains(err.Error(), words) }) {
		t.Errorf("%s: %v; want words with %q", what, err, says)
	}
}

func TestTLSToNATSIsVerified(t *testing.T) {
	cert, ca, key := pair(t)
	url := natsOverTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	c := bustest.Open(t, bus.Config{URLs: []string{url}, TLS: bus.TLS{CAFile: ca}})
	if err := c.Flush(testContext(t)); err != nil {
		t.Error(err)
	}
	refused(t, "no word of TLS", bus.Config{URLs: []string{url}}, "certificate")
	refused(t, "another name", bus.Config{URLs: []string{url}, TLS: bus.TLS{CAFile: ca, ServerName: "other.test"}}, "other.test")
	refused(t, "a CA that vouches for nobody here", bus.Config{URLs: []string{url}, TLS: bus.TLS{ServerName: "127.0.0.1"}}, "unknown authority")
	refused(t, "a CA file that is not there", bus.Config{URLs: []string{url}, TLS: bus.TLS{CAFile: ca + ".gone"}}, "ca_file")
	refused(t, "a CA file without a certificate", bus.Config{URLs: []string{url}, TLS: bus.TLS{CAFile: key}}, "no certificate")
	refused(t, "half a pair", bus.Config{URLs: []string{url}, TLS: bus.TLS{CAFile: ca, CertFile: ca}}, "key_file")
	refused(t, "a server that has none", bus.Config{URLs: []string{natsOverTLS(t, nil)}, TLS: bus.TLS{CAFile: ca}}, "secure connection not available")
}

func TestNATSMayAskForACertificate(t *testing.T) {
	cert, ca, key := pair(t)
	pool := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(leaf)
	// Any certificate of the pool: the one at hand is a server's.
	url := natsOverTLS(t, &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert, ClientCAs: pool,
	})
	c := bustest.Open(t, bus.Config{URLs: []string{url}, TLS: bus.TLS{CAFile: ca, CertFile: ca, KeyFile: key}})
	if err := c.Flush(testContext(t)); err != nil {
		t.Error(err)
	}
	// Under TLS 1.3 a client has finished its handshake before the server judges it: its first write may fail before it reads why.
	refused(t, "no certificate", bus.Config{URLs: []string{url}, TLS: bus.TLS{CAFile: ca}},
		"certificate required", "connection closed by remote after TLS handshake")
}

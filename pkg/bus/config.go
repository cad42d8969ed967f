package bus

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// Config says how to reach NATS. The servers' side of it (accounts, permissions) is the operator's.
type Config struct {
	// URLs of the servers; ignored with Embedded.
	URLs []string
	// Name shows up in the server's monitoring.
	Name string

	User, Password string
	// CredsFile is a .creds file of the decentralised JWT authentication.
	CredsFile string

	TLS TLS

	// NoReconnectBuffer makes Publish fail at once while disconnected, instead of keeping bytes that may be stale by the time
	// they leave. The connection of logs must set it.
	NoReconnectBuffer bool
	// Embedded, if not nil, is the server to connect to, inside this process.
	Embedded *Embedded

	// OnDrop, if not nil, is called when a subscription's queue begins to overflow, with the number of messages that this
	// subscription has dropped in all. It must not block.
	OnDrop func(subject string, dropped int)
}

// TLS of a connection. Zero is none, unless a URL says tls://.
type TLS struct {
	CAFile            string // PEM; empty: the system's
	CertFile, KeyFile string // of this client, for mutual TLS
	ServerName        string // if not the URL's host
}

func (t TLS) enabled() bool { return t != TLS{} }

// Validate reports the first field at fault.
func (c *Config) Validate() error {
	if c.Embedded == nil && len(c.URLs) == 0 {
		return errors.New("bus: urls: at least one, or an embedded server")
	}
	if c.User != "" && c.CredsFile != "" {
		return errors.New("bus: user and creds_file exclude each other")
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		return errors.New("bus: tls: cert_file and key_file go together")
	}
	return nil
}

func (t TLS) config() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("bus: tls: ca_file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("bus: tls: ca_file: no certificate in %s", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("bus: tls: cert_file, key_file: %w", err)
		}
		out.Certificates = []tls.Certificate{cert}
	}
	return out, nil
}

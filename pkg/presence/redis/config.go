package redis

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// The ways in which Redis is run.
const (
	ModeSingle   = "single"
	ModeSentinel = "sentinel"
	ModeCluster  = "cluster"
)

// Config says how to reach Redis. It must run with maxmemory-policy noeviction: an entry evicted is a device that gets no
// pushes, and nothing tells.
type Config struct {
	Mode      string   `koanf:"mode" doc:"How Redis is run: single, sentinel or cluster."`
	Addresses []string `koanf:"addresses" doc:"host:port of the server, of the sentinels, or of some of the cluster's nodes."`
	Master    string   `koanf:"master" doc:"Name of the primary that the sentinels watch."`
	DB        int      `koanf:"db" doc:"Number of the database; a cluster has only 0."`

	Username         string `koanf:"username" doc:"ACL user; empty for the default user."`
	Password         string `koanf:"password" doc:"Its password."`
	SentinelUsername string `koanf:"sentinel_username" doc:"ACL user on the sentinels."`
	SentinelPassword string `koanf:"sentinel_password" secret:"true" doc:"Its password."`

	TLS TLS `koanf:"tls" doc:"Encryption of the connections to Redis."`

	PoolSize                int `koanf:"pool_size" doc:"Most connections per server; 0 means ten per CPU."`
	JanitorUsersPerSecond   int `koanf:"janitor_users_per_second" doc:"How many users' entries one process of the cluster looks at per second to remove those of dead nodes."`
	BreakerFailures         int `koanf:"breaker_failures" doc:"Failures in a row after which calls fail at once for breaker_open_ms."`
	BreakerOpenMilliseconds int `koanf:"breaker_open_ms" doc:"How long they do, before one call tries again."`
}

// TLS of a connection.
type TLS struct {
	Enabled    bool   `koanf:"enabled" doc:"Whether to encrypt."`
	CAFile     string `koanf:"ca_file" doc:"PEM file of the certificates to trust; empty for the system's."`
	CertFile   string `koanf:"cert_file" doc:"PEM file of this client's certificate, for mutual TLS."`
	KeyFile    string `koanf:"key_file" doc:"PEM file of its key."`
	ServerName string `koanf:"server_name" doc:"Name in the server's certificate if it is not the host's."`
}

// Default is one server on this machine.
func Default() Config {
	return Config{
		Mode: ModeSingle, Addresses: []string{"127.0.0.1:6379"},
		JanitorUsersPerSecond: 5000, BreakerFailures: 5, BreakerOpenMilliseconds: 500,
	}
}

// Validate reports the first field at fault.
func (c *Config) Validate() error {
	switch {
	case c.Mode != ModeSingle && c.Mode != ModeSentinel && c.Mode != ModeCluster:
		return fmt.Errorf("mode: %q is none of single, sentinel, cluster", c.Mode)
	case len(c.Addresses) == 0:
		return errors.New("addresses: at least one")
	case c.Mode == ModeSingle && len(c.Addresses) > 1:
		return errors.New("addresses: mode single has one")
	case (c.Mode == ModeSentinel) != (c.Master != ""):
		return errors.New("master: names the primary in mode sentinel, and there only")
	case c.DB < 0 || c.Mode == ModeCluster && c.DB != 0:
		return errors.New("db: 0 or above, and 0 in mode cluster")
	case (c.TLS.CertFile == "") != (c.TLS.KeyFile == ""):
		return errors.New("tls: cert_file and key_file go together")
	case !c.TLS.Enabled && c.TLS != TLS{}:
		return errors.New("tls: not enabled, but ca_file, cert_file or server_name is set")
	case c.PoolSize < 0:
		return errors.New("pool_size: 0 or above")
	case c.JanitorUsersPerSecond < 1:
		return errors.New("janitor_users_per_second: 1 or above")
	case c.BreakerFailures < 1 || c.BreakerOpenMilliseconds < 1:
		return errors.New("breaker_failures, breaker_open_ms: 1 or above")
	}
	return nil
}

func (c *Config) options() (*goredis.UniversalOptions, error) {
	o := &goredis.UniversalOptions{
		Addrs: c.Addresses, MasterName: c.Master, DB: c.DB, IsClusterMode: c.Mode == ModeCluster,
		Username: c.Username, Password: c.Password,
		SentinelUsername: c.SentinelUsername, SentinelPassword: c.SentinelPassword,
		PoolSize: c.PoolSize,
		// The deadline of a call is its context's, dialling and waiting for a connection included; a retry would only
		// eat into it.
		ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1,
		DialTimeout: callTimeout, ReadTimeout: callTimeout, WriteTimeout: callTimeout, PoolTimeout: callTimeout,
	}
	if !c.TLS.Enabled {
		return o, nil
	}
	o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLS.ServerName}
	if c.TLS.CAFile != "" {
		pem, err := os.ReadFile(c.TLS.CAFile)
		if err != nil {
			return nil, fmt.Errorf("tls: ca_file: %w", err)
		}
		o.TLSConfig.RootCAs = x509.NewCertPool()
		if !o.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls: ca_file: no certificate in %s", c.TLS.CAFile)
		}
	}
	if c.TLS.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.TLS.CertFile, c.TLS.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("tls: cert_file: %w", err)
		}
		o.TLSConfig.Certificates = []tls.Certificate{cert}
	}
	return o, nil
}

func (c *Config) breakerOpen() time.Duration {
	return time.Duration(c.BreakerOpenMilliseconds) * time.Millisecond
}

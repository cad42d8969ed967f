package cassandra

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gocql/gocql"
)

// Config is how to reach a cluster and how hard to press it.
type Config struct {
	Hosts    []string `koanf:"hosts" doc:"Some nodes of the cluster, host or host:port; the others are found."`
	Keyspace string   `koanf:"keyspace" doc:"Keyspace of Halley's tables."`
	LocalDC  string   `koanf:"local_dc" doc:"Data centre whose nodes are asked. Needed where there are several."`
	Replicas int      `koanf:"replicas" doc:"Copies of each row, used only when the migration creates the keyspace."`

	Consistency string `koanf:"consistency" doc:"Of every read and write: LOCAL_QUORUM, QUORUM, EACH_QUORUM, ALL; ONE for tests."`

	Username string `koanf:"username" doc:"User of Cassandra's own authentication; none if empty."`
	Password string `koanf:"password" doc:"Password of the user."`

	TLS        bool   `koanf:"tls" doc:"Speak TLS and verify the nodes' certificates."`
	CAFile     string `koanf:"ca_file" doc:"Certificate authority of the nodes; the system's if empty."`
	CertFile   string `koanf:"cert_file" doc:"Certificate shown to the nodes."`
	KeyFile    string `koanf:"key_file" doc:"Key of cert_file."`
	ServerName string `koanf:"server_name" doc:"Name in the nodes' certificates, where it is not their address."`

	ConnectTimeoutMs int `koanf:"connect_timeout_ms" doc:"For one connection to a node."`
	RequestTimeoutMs int `koanf:"request_timeout_ms" doc:"For one answer of a node."`
	CallTimeoutMs    int `koanf:"call_timeout_ms" doc:"For one whole call of the store, retries and waiting for a free slot included."`
	Retries          int `koanf:"retries" doc:"How often a request that failed is tried at another node. All writes are idempotent."`
	Requests         int `koanf:"requests" doc:"Most requests under way at once."`
	Connections      int `koanf:"connections" doc:"Connections to each node."`
	BreakerFailures  int `koanf:"breaker_failures" doc:"Calls in a row without an answer after which calls fail at once for breaker_open_ms."`
	BreakerOpenMs    int `koanf:"breaker_open_ms" doc:"How long they do, before one call tries again, milliseconds."`
}

// Default is a cluster of three copies on this machine's network.
func Default() Config {
	return Config{
		Hosts: []string{"127.0.0.1"}, Keyspace: "halley", Replicas: 3, Consistency: "LOCAL_QUORUM",
		ConnectTimeoutMs: 5_000, RequestTimeoutMs: 5_000, CallTimeoutMs: 20_000, Retries: 2, Requests: 128, Connections: 2,
		BreakerFailures: 16, BreakerOpenMs: 1_000,
	}
}

// keyspaceName: unquoted names of CQL, which it folds to lower case.
var keyspaceName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`)

var consistencies = map[string]gocql.Consistency{
	"LOCAL_QUORUM": gocql.LocalQuorum, "QUORUM": gocql.Quorum, "EACH_QUORUM": gocql.EachQuorum,
	"ALL": gocql.All, "ONE": gocql.One, "LOCAL_ONE": gocql.LocalOne,
}

// Validate names the first field at fault.
func (c Config) Validate() error {
	if len(c.Hosts) == 0 {
		return errors.New("hosts: none")
	}
	for _, h := range c.Hosts {
		if _, _, err := splitHost(h); err != nil {
			return fmt.Errorf("hosts: %w", err)
		}
	}
	if !keyspaceName.MatchString(c.Keyspace) {
		return fmt.Errorf("keyspace: %q is not of the form [a-z][a-z0-9_]*, at most 48 long", c.Keyspace)
	}
	if _, ok := consistencies[c.Consistency]; !ok {
		return fmt.Errorf("consistency: %q is unknown", c.Consistency)
	}
	if strings.ContainsAny(c.LocalDC, `'"`) {
		return fmt.Errorf("local_dc: %q contains a quote", c.LocalDC)
	}
	if (c.Username == "") != (c.Password == "") {
		return errors.New("username, password: one without the other")
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("cert_file, key_file: one without the other")
	}
	if !c.TLS && c.CAFile+c.CertFile+c.ServerName != "" {
		return errors.New("tls: off, but ca_file, cert_file or server_name is set")
	}
	for _, f := range []struct {
		name       string
		value, min int
	}{
		{"replicas", c.Replicas, 1}, {"connect_timeout_ms", c.ConnectTimeoutMs, 1}, {"request_timeout_ms", c.RequestTimeoutMs, 1},
		{"call_timeout_ms", c.CallTimeoutMs, c.RequestTimeoutMs}, {"retries", c.Retries, 0}, {"requests", c.Requests, 1},
		{"connections", c.Connections, 1}, {"breaker_failures", c.BreakerFailures, 1}, {"breaker_open_ms", c.BreakerOpenMs, 1},
	} {
		if f.value < f.min {
			return fmt.Errorf("%s: %d is less than %d", f.name, f.value, f.min)
		}
	}
	return nil
}

// splitHost returns port 0 where there is none.
func splitHost(s string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		host, p = s, "0"
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 || host == "" {
		return "", 0, fmt.Errorf("%q is neither host nor host:port", s)
	}
	return host, port, nil
}

// cluster is the driver's view of the configuration.
func (c Config) cluster(keyspace string, log *slog.Logger) *gocql.ClusterConfig {
	cl := gocql.NewCluster(c.Hosts...)
	// Nodes that are found rather than listed are asked at the port of the first.
	if _, port, _ := splitHost(c.Hosts[0]); port != 0 {
		cl.Port = port
	}
	cl.ProtoVersion = 4
	cl.Keyspace = keyspace
	cl.Consistency = consistencies[c.Consistency]
	cl.SerialConsistency = gocql.Serial
	cl.ConnectTimeout = time.Duration(c.ConnectTimeoutMs) * time.Millisecond
	cl.Timeout = time.Duration(c.RequestTimeoutMs) * time.Millisecond
	cl.WriteTimeout = cl.Timeout
	cl.NumConns = c.Connections
	cl.PageSize = pageRows
	cl.DefaultIdempotence = true
	// Statements carry their own timestamps: time of the record, seq, minute.
	cl.DefaultTimestamp = false
	cl.RetryPolicy = retryPolicy{c.Retries}
	// A node that comes back is used again within seconds, not after the driver's minute.
	cl.ReconnectInterval = 2 * time.Second
	cl.ReconnectionPolicy = &gocql.ExponentialReconnectionPolicy{MaxRetries: 10, InitialInterval: 100 * time.Millisecond, MaxInterval: 5 * time.Second}
	cl.Logger = driverLog{log}
	var fallback gocql.HostSelectionPolicy = gocql.RoundRobinHostPolicy()
	if c.LocalDC != "" {
		fallback = gocql.DCAwareRoundRobinPolicy(c.LocalDC)
	}
	// The first replica before the others, not any: writes that it has in common travel together.
	cl.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(fallback)
	if c.Username != "" {
		cl.Authenticator = gocql.PasswordAuthenticator{Username: c.Username, Password: c.Password}
	}
	if c.TLS {
		cl.SslOpts = &gocql.SslOptions{
			Config: &tls.Config{ServerName: c.ServerName, MinVersion: tls.VersionTLS12},
			CaPath: c.CAFile, CertPath: c.CertFile, KeyPath: c.KeyFile, EnableHostVerification: true,
		}
	}
	return cl
}

// driverLog hands the driver's words to slog; it has no levels, and what matters comes back as an error as well.
type driverLog struct{ log *slog.Logger }

func (l driverLog) Print(v ...any) { l.say(fmt.Sprint(v...)) }

func (l driverLog) Printf(format string, v ...any) { l.say(fmt.Sprintf(format, v...)) }

func (l driverLog) Println(v ...any) { l.say(fmt.Sprintln(v...)) }

func (l driverLog) say(s string) { l.log.Debug("cassandra driver", "said", strings.TrimSpace(s)) }

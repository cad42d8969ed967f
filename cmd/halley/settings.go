package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/job"
	"github.com/halley-im/halley/logic"
	"github.com/halley-im/halley/logic/api"
	"github.com/halley-im/halley/pkg/app"
	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/config"
	"github.com/halley-im/halley/pkg/link/natslink"
	"github.com/halley-im/halley/pkg/observe"
	"github.com/halley-im/halley/pkg/presence/redis"
	"github.com/halley-im/halley/pkg/store/cassandra"
	"github.com/halley-im/halley/pkg/store/pebble"
)

// envPrefix begins the name of every variable that is a setting.
const envPrefix = "HALLEY_"

// tier is what a process runs as.
type tier string

const (
	tierNone  tier = "" // a tool: it reads what all tiers share.
	tierServe tier = "serve"
	tierComet tier = "comet"
	tierLogic tier = "logic"
	tierJob   tier = "job"

	tierCluster tier = "cluster" // the tool that creates one.
	tierAudit   tier = "audit"   // the tool that looks at one, or at a serve.
)

// settings is everything that can be set. One file may serve all tiers: each validates only the sections it uses.
type settings struct {
	DataDir   string              `koanf:"data_dir" doc:"Where serve keeps everything. It is created with mode 0700; one process at a time works in it."`
	Node      string              `koanf:"node" doc:"What this process is called, in logs and in the cluster; empty takes the host's name. A random suffix is added at each start, for no two may be called the same."`
	Log       observe.LogConfig   `koanf:"log" doc:"What is logged, to standard error."`
	Admin     observe.AdminConfig `koanf:"admin" doc:"The admin port of every tier: health, metrics, profiles."`
	Lifecycle app.Config          `koanf:"lifecycle" doc:"Start and end of the process."`
	Runtime   runtimeSettings     `koanf:"runtime" doc:"The Go runtime."`
	Auth      authSettings        `koanf:"auth" doc:"Tokens of devices and API keys of the apps' servers."`
	NATS      natsSettings        `koanf:"nats" doc:"The bus of comet, logic and job. serve has a server of its own inside and reads nothing of this."`
	Logs      logSettings         `koanf:"logs" doc:"The partitions' logs. What stands here counts when they are created, by the first start of serve or by 'halley cluster create', and never changes afterwards."`
	Comet     comet.Config        `koanf:"comet" doc:"Connections: addresses, limits, drain."`
	Logic     logic.Config        `koanf:"logic" doc:"Partitions and reads."`
	API       api.Config          `koanf:"api" doc:"The HTTP API for the apps' servers, on every logic node."`
	Job       job.Config          `koanf:"job" doc:"Followers of the logs."`
	Link      natslink.Config     `koanf:"link" doc:"Requests and deliveries between comet and logic, over NATS."`
	Redis     redis.Config        `koanf:"redis" doc:"Presence of comet and logic; serve keeps it in memory."`
	Cassandra cassandra.Config    `koanf:"cassandra" doc:"The store of logic and job."`
	Pebble    pebble.Config       `koanf:"pebble" doc:"The store of serve."`
}

// defaultSettings is what holds where nothing is set.
func defaultSettings() settings {
	return settings{
		DataDir: defaultDataDir, Log: observe.DefaultLog(), Admin: observe.DefaultAdmin(), Lifecycle: app.Default(),
		Auth: defaultAuth(),
		NATS: natsSettings{URLs: []string{"nats://127.0.0.1:4222"}}, Logs: logSettings{MaxBytes: 1 << 30},
		Comet: comet.Default(), Logic: logic.Default(), API: api.Default(), Job: job.Default(), Link: natslink.Default(),
		Redis: redis.Default(), Cassandra: cassandra.Default(), Pebble: pebble.Default(),
	}
}

// sectionsOf lists the top-level sections that each tier uses; those in none of the lists are everyone's.
var sectionsOf = map[tier][]string{
	tierServe:   {"logs", "pebble", "comet", "logic", "api", "job"},
	tierComet:   {"nats", "link", "comet", "redis"},
	tierLogic:   {"nats", "link", "logs", "logic", "api", "redis", "cassandra"},
	tierJob:     {"nats", "job", "cassandra"},
	tierCluster: {"nats", "logs", "cassandra"},
	tierAudit:   {"nats", "cassandra", "pebble"},
}

// uses reports whether the tier reads the section, or the section that it is a part of.
func (t tier) uses(section string) bool {
	top, _, _ := strings.Cut(section, ".")
	owned := false
	for other, list := range sectionsOf {
		for _, s := range list {
			if s == top {
				if other == t {
					return true
				}
				owned = true
			}
		}
	}
	return !owned
}

// loadSettings reads and validates the settings for a tier. All that is wrong is in the error.
func loadSettings(t tier, in config.Input) (settings, config.Origins, error) {
	s := defaultSettings()
	schema := settingsSchema()
	origins, err := schema.Load(&s, in)
	if err != nil {
		return s, nil, err
	}
	return s, origins, schema.Validate(&s, origins, t.uses)
}

func settingsSchema() *config.Schema { return config.NewSchema(envPrefix, defaultSettings()) }

// natsSettings say how to reach the bus.
type natsSettings struct {
	URLs       []string `koanf:"urls" doc:"Servers of the cluster; any of them will do for the start."`
	User       string   `koanf:"user" doc:"User of this tier."`
	Password   string   `koanf:"password" secret:"true" doc:"Its password."`
	CredsFile  string   `koanf:"creds_file" doc:"A .creds file, in place of user and password."`
	CAFile     string   `koanf:"ca_file" doc:"Certificates of the authorities that vouch for the servers, PEM; empty takes the system's."`
	CertFile   string   `koanf:"cert_file" doc:"Certificate of this client, PEM."`
	KeyFile    string   `koanf:"key_file" doc:"Its key, PEM."`
	ServerName string   `koanf:"server_name" doc:"Name in the servers' certificates, where it is not the host of the URL."`
}

// bus is the configuration of the connection called name.
func (s natsSettings) bus(name string) bus.Config {
	return bus.Config{
		URLs: s.URLs, Name: name, User: s.User, Password: s.Password, CredsFile: s.CredsFile,
		TLS: bus.TLS{CAFile: s.CAFile, CertFile: s.CertFile, KeyFile: s.KeyFile, ServerName: s.ServerName},
	}
}

func (s natsSettings) Validate() error {
	c := s.bus("")
	return c.Validate()
}

// logSettings say how logs are created.
type logSettings struct {
	Partitions int   `koanf:"partitions" doc:"Number of partitions, for the life of the cluster; 0 is 2 in serve and 16 in a cluster."`
	Replicas   int   `koanf:"replicas" doc:"Copies of each log: 1, 3 or 5; 0 is 1 in serve and 3 in a cluster."`
	MaxBytes   int64 `koanf:"max_bytes" doc:"Most bytes of one log. At nine tenths of it, devices are told that the server is busy until history has caught up."`
}

func (s logSettings) Validate() error {
	var errs []error
	if s.Partitions < 0 || s.Partitions > bus.MaxPartitions {
		errs = append(errs, fmt.Errorf("partitions: want 0 to %d, got %d", bus.MaxPartitions, s.Partitions))
	}
	switch s.Replicas {
	case 0, 1, 3, 5:
	default:
		errs = append(errs, fmt.Errorf("replicas: want 1, 3 or 5, got %d", s.Replicas))
	}
	if s.MaxBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("max_bytes: want at least 1 MiB, got %d", s.MaxBytes))
	}
	return errors.Join(errs...)
}

// resolve fills in what depends on where the logs are created.
func (s logSettings) resolve(partitions, replicas int) bus.LogConfig {
	if s.Partitions != 0 {
		partitions = s.Partitions
	}
	if s.Replicas != 0 {
		replicas = s.Replicas
	}
	return bus.LogConfig{Partitions: partitions, Replicas: replicas, MaxBytes: s.MaxBytes}
}

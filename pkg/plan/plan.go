// Package plan computes what a cluster of Halley needs from what it is to bear: nodes of each tier, memory, disks, and the sizes of NATS,
// Redis and Cassandra. It is arithmetic on measured constants, and never looks at a cluster.
package plan

import (
	"errors"
	"fmt"
	"math"
)

// Load is what the cluster is to bear.
type Load struct {
	Connections       float64 `json:"connections"`         // at once, at the peak
	MessagesPerSecond float64 `json:"messages_per_second"` // written, at the peak
	PeakToMean        float64 `json:"peak_to_mean"`        // how much more than on average
	BodyBytes         float64 `json:"body_bytes"`          // of a message, on average
	DevicesPerUser    float64 `json:"devices_per_user"`    // connected at once, of a user who is

	GroupShare   float64 `json:"group_share"`   // part of the messages that goes to groups
	GroupMembers float64 `json:"group_members"` // members of such a group
	Online       float64 `json:"online"`        // part of the members that is connected

	ConversationsPerUser float64 `json:"conversations_per_user"` // that are talked in, of a user who is connected

	SessionMinutes float64 `json:"session_minutes"` // life of a connection
	TLS            bool    `json:"tls"`             // whether comet ends TLS
	RetentionDays  float64 `json:"retention_days"`  // of history
	LogHours       float64 `json:"log_hours"`       // how long the logs have room for, at the peak, while history is away
}

// DefaultLoad is what a load is where nothing is said.
func DefaultLoad() Load {
	return Load{
		PeakToMean: 3, BodyBytes: 100, DevicesPerUser: 1.3, GroupShare: 0.3, GroupMembers: 20, Online: 0.3,
		ConversationsPerUser: 10, SessionMinutes: 60, TLS: true, RetentionDays: 365, LogHours: 2,
	}
}

// Loss is what may be missing while the rest bears the whole load.
type Loss string

// The losses.
const (
	LossNone Loss = "none"
	LossNode Loss = "node"
	LossZone Loss = "zone"
)

// Shape is what a node of a tier has.
type Shape struct {
	Cores       float64 `json:"cores"`
	MemoryBytes float64 `json:"memory_bytes"`
	DiskBytes   float64 `json:"disk_bytes,omitempty"`
}

// Policy is what is kept free, and for what.
type Policy struct {
	Headroom               float64 `json:"headroom"` // part of every node that stays free when a loss has happened
	Zones                  int     `json:"zones"`
	Loss                   Loss    `json:"loss"`
	RecoverSeconds         float64 `json:"recover_seconds"`         // within which connections that were lost are made again
	ConnectionsPerComet    float64 `json:"connections_per_comet"`   // at most
	CassandraFill          float64 `json:"cassandra_fill"`          // part of its disk that may hold data; compaction needs the rest
	LargeMembers           float64 `json:"large_members"`           // logic.partition.large_members
	PartitionConversations float64 `json:"partition_conversations"` // logic.partition.conversations
	PartitionTailBytes     float64 `json:"partition_tail_bytes"`    // logic.partition.tail_bytes
	WindowRecords          float64 `json:"window_records"`          // logic.partition.window_records
	HeartbeatSeconds       float64 `json:"heartbeat_seconds"`       // comet.heartbeat_ms
	ReplicasOfLogs         int     `json:"replicas_of_logs"`        // logs.replicas
	ReplicasOfHistory      int     `json:"replicas_of_history"`     // of Cassandra's keyspace
	ReplicasOfPresence     int     `json:"replicas_of_presence"`    // servers of a shard of Redis, the primary included
	Shapes                 Shapes  `json:"shapes"`
}

// Shapes are those of the tiers.
type Shapes struct {
	Comet     Shape `json:"comet"`
	Logic     Shape `json:"logic"`
	Job       Shape `json:"job"`
	NATS      Shape `json:"nats"`
	Redis     Shape `json:"redis"`
	Cassandra Shape `json:"cassandra"`
}

const gib, tib = 1 << 30, 1 << 40

// DefaultPolicy loses a zone of three and has three tenths left.
func DefaultPolicy() Policy {
	return Policy{
		Headroom: 0.3, Zones: 3, Loss: LossZone, RecoverSeconds: 300, ConnectionsPerComet: 500_000, CassandraFill: 0.5,
		LargeMembers: 200, PartitionConversations: 200_000, PartitionTailBytes: 64 << 20, WindowRecords: 32, HeartbeatSeconds: 240,
		ReplicasOfLogs: 3, ReplicasOfHistory: 3, ReplicasOfPresence: 2,
		Shapes: Shapes{
			Comet: Shape{Cores: 8, MemoryBytes: 32 * gib}, Logic: Shape{Cores: 8, MemoryBytes: 32 * gib}, Job: Shape{Cores: 8, MemoryBytes: 16 * gib},
			NATS: Shape{Cores: 16, MemoryBytes: 64 * gib, DiskBytes: 4 * tib}, Redis: Shape{Cores: 2, MemoryBytes: 16 * gib},
			Cassandra: Shape{Cores: 16, MemoryBytes: 64 * gib, DiskBytes: 4 * tib},
		},
	}
}

// Validate names every figure that cannot be.
func (l Load) Validate() error {
	var errs []error
	check := checker(&errs)
	check("connections", l.Connections, 1, 1e10)
	check("messages_per_second", l.MessagesPerSecond, 0, 1e9)
	check("peak_to_mean", l.PeakToMean, 1, 1000)
	check("body_bytes", l.BodyBytes, 1, 32<<10)
	check("devices_per_user", l.DevicesPerUser, 1, 100)
	check("group_share", l.GroupShare, 0, 1)
	check("group_members", l.GroupMembers, 2, 1e6)
	check("online", l.Online, 0, 1)
	check("conversations_per_user", l.ConversationsPerUser, 0, 1e6)
	check("session_minutes", l.SessionMinutes, 0.1, 1e6)
	check("retention_days", l.RetentionDays, 1, 36500)
	check("log_hours", l.LogHours, 0.1, 24*30)
	return errors.Join(errs...)
}

// Validate names every figure that cannot be.
func (p Policy) Validate() error {
	var errs []error
	check := checker(&errs)
	check("headroom", p.Headroom, 0, 0.9)
	check("zones", float64(p.Zones), 1, 100)
	check("recover_seconds", p.RecoverSeconds, 1, 86_400)
	check("connections_per_comet", p.ConnectionsPerComet, 1, 1<<24)
	check("cassandra_fill", p.CassandraFill, 0.05, 1)
	check("large_members", p.LargeMembers, 2, 1e6)
	check("partition_conversations", p.PartitionConversations, 1, 1e9)
	check("partition_tail_bytes", p.PartitionTailBytes, 1, 1e12)
	check("window_records", p.WindowRecords, 0, 1e6)
	check("heartbeat_seconds", p.HeartbeatSeconds, 0.2, 3600)
	check("replicas_of_logs", float64(p.ReplicasOfLogs), 1, 5)
	check("replicas_of_history", float64(p.ReplicasOfHistory), 1, 7)
	check("replicas_of_presence", float64(p.ReplicasOfPresence), 1, 5)
	for name, s := range map[string]Shape{
		"comet": p.Shapes.Comet, "logic": p.Shapes.Logic, "job": p.Shapes.Job, "nats": p.Shapes.NATS, "redis": p.Shapes.Redis, "cassandra": p.Shapes.Cassandra,
	} {
		check(name+".cores", s.Cores, 0.1, 1024)
		check(name+".memory_bytes", s.MemoryBytes, 1, 1e15)
	}
	check("nats.disk_bytes", p.Shapes.NATS.DiskBytes, 1, 1e18)
	check("cassandra.disk_bytes", p.Shapes.Cassandra.DiskBytes, 1, 1e18)
	switch p.Loss {
	case LossNone, LossNode:
	case LossZone:
		if p.Zones < 3 {
			errs = append(errs, fmt.Errorf("zones: %d: to go on without a zone, logs and history need a majority in the others: three at least", p.Zones))
		}
	default:
		errs = append(errs, fmt.Errorf("loss: want none, node or zone, got %q", p.Loss))
	}
	if p.Loss != LossNone && (p.ReplicasOfLogs < 3 || p.ReplicasOfHistory < 3 || p.ReplicasOfPresence < 2) {
		errs = append(errs, errors.New("replicas: to lose a node or a zone takes three of logs and history, and two of presence"))
	}
	return errors.Join(errs...)
}

func checker(errs *[]error) func(name string, v, low, high float64) {
	return func(name string, v, low, high float64) {
		if math.IsNaN(v) || v < low || v > high {
			*errs = append(*errs, fmt.Errorf("%s: must be %s to %s, got %s", name, number(low), number(high), number(v)))
		}
	}
}

// Result is a plan.
type Result struct {
	Load       Load   `json:"load"`
	Policy     Policy `json:"policy"`
	Tiers      []Tier `json:"tiers"`
	Partitions int    `json:"partitions"`     // logs.partitions
	LogBytes   int64  `json:"logs_max_bytes"` // logs.max_bytes
	Steps      []Step `json:"steps"`          // how it was computed
	// Assumed are the constants in it that nobody has measured.
	Assumed []string `json:"assumed_constants"`
}

// Tier is the nodes of one.
type Tier struct {
	Name      string `json:"name"`
	Nodes     int    `json:"nodes"`
	Shape     Shape  `json:"shape"`
	BoundBy   string `json:"bound_by"`             // what would not fit on fewer
	Survivors int    `json:"nodes_after_the_loss"` // and these bear all
	Needs     []Need `json:"needs"`
}

// Need is what all nodes of a tier have to bear together.
type Need struct {
	What  string  `json:"what"`
	Total float64 `json:"total"`
	Unit  string  `json:"unit"`
	Limit float64 `json:"limit_per_node"`   // of which Headroom stays free
	After float64 `json:"used_after_loss"`  // part of a node that is used when the loss has happened
	Used  float64 `json:"used_at_the_peak"` // and when nothing is missing
	whole bool    // Limit is the whole of what may be used: no headroom is taken off
	stays bool    // what a lost node had of it is not put on others: they have copies of their own
}

// Step is one line of the arithmetic.
type Step struct {
	Name    string  `json:"name"`
	Formula string  `json:"formula"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
}

// Tier returns one by its name.
func (r *Result) Tier(name string) Tier {
	for _, t := range r.Tiers {
		if t.Name == name {
			return t
		}
	}
	return Tier{}
}

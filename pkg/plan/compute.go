package plan

import (
	"errors"
	"fmt"
	"math"
)

const (
	million     = 1e6
	secondsADay = 86_400
)

// sum is a plan in the making.
type sum struct {
	Load
	Policy
	constants Constants
	out       *Result
}

// Compute makes the plan. The error names every figure that cannot be.
func Compute(l Load, p Policy, c Constants) (*Result, error) {
	if err := errors.Join(l.Validate(), p.Validate(), c.Validate()); err != nil {
		return nil, err
	}
	s := &sum{l, p, c, &Result{Load: l, Policy: p, Assumed: c.assumed()}}
	deliveries := s.deliveries()
	connects := s.step("connects", l.Connections/(l.SessionMinutes*60), "1/s", "connections ÷ session time = %s ÷ %s s", l.Connections, l.SessionMinutes*60)
	comets, err := s.comet(deliveries, connects)
	if err != nil {
		return nil, err
	}
	again := s.comingBack()
	// Of a large conversation logic sends once to each comet with a member, not to each session.
	sent := s.sent(deliveries, float64(comets))
	for _, tier := range []func() error{
		func() error { return s.logic(sent, connects, again) },
		s.job,
		func() error { return s.nats(sent, connects, again) },
		func() error { return s.redis(sent, connects, again) },
		func() error { return s.cassandra(connects, again) },
	} {
		if err := tier(); err != nil {
			return nil, err
		}
	}
	return s.out, nil
}

// step notes a line of the arithmetic and returns its value.
func (s *sum) step(name string, value float64, unit, formula string, args ...float64) float64 {
	texts := make([]any, len(args))
	for i, a := range args {
		texts[i] = number(a)
	}
	s.out.Steps = append(s.out.Steps, Step{name, fmt.Sprintf(formula, texts...), value, unit})
	return value
}

// deliveries are how many sessions get a message, in all and each second.
func (s *sum) deliveries() float64 {
	// Of a 1:1 message the other user is told who is connected, and each of the writer's other devices.
	own := s.DevicesPerUser - 1
	single := s.Online*s.DevicesPerUser + own
	group := (s.GroupMembers-1)*s.Online*s.DevicesPerUser + own
	each := s.step("deliveries of a message", (1-s.GroupShare)*single+s.GroupShare*group, "",
		"(1 − group share) × (online × devices + own) + group share × ((members − 1) × online × devices + own) = %s × %s + %s × %s",
		1-s.GroupShare, single, s.GroupShare, group)
	return s.step("deliveries", each*s.MessagesPerSecond, "1/s", "deliveries of a message × messages = %s × %s/s", each, s.MessagesPerSecond)
}

// sent is how many deliveries logic sends.
func (s *sum) sent(deliveries, comets float64) float64 {
	if s.GroupMembers <= s.LargeMembers {
		return deliveries
	}
	own := s.DevicesPerUser - 1
	toGroups := s.GroupShare * ((s.GroupMembers-1)*s.Online*s.DevicesPerUser + own) * s.MessagesPerSecond
	nodes := min(toGroups, s.GroupShare*comets*s.MessagesPerSecond)
	return s.step("deliveries that logic sends", deliveries-toGroups+nodes, "1/s",
		"groups are large: each comet gets a message once: %s − %s + %s", deliveries, toGroups, nodes)
}

func (s *sum) comet(deliveries, connects float64) (int, error) {
	c := s.constants
	connect := c.of("comet_cpu_us_per_connect")
	memory := c.of("comet_memory_bytes_per_connection") + c.of("kernel_bytes_per_connection")
	if s.TLS {
		connect += c.of("comet_cpu_us_per_tls_handshake")
		memory += c.of("comet_memory_bytes_per_tls_session")
	}
	beats := s.step("heartbeats", s.Connections/s.HeartbeatSeconds, "1/s", "connections ÷ heartbeat = %s ÷ %s s", s.Connections, s.HeartbeatSeconds)
	cores := s.step("comet: cores", (s.MessagesPerSecond*c.of("comet_cpu_us_per_message")+deliveries*c.of("comet_cpu_us_per_delivery")+
		connects*connect+beats*c.of("comet_cpu_us_per_heartbeat"))/million, "cores",
		"(messages × %s + deliveries × %s + connects × %s + heartbeats × %s µs) ÷ 1,000,000",
		c.of("comet_cpu_us_per_message"), c.of("comet_cpu_us_per_delivery"), connect, c.of("comet_cpu_us_per_heartbeat"))
	bytes := s.step("comet: memory of connections", s.Connections*memory, "bytes", "connections × %s bytes, kernel included", memory)
	needs := []Need{
		{What: "cpu", Total: cores, Unit: "cores", Limit: s.Shapes.Comet.Cores},
		{What: "memory", Total: bytes, Unit: "bytes", Limit: s.Shapes.Comet.MemoryBytes - c.of("process_memory_bytes")},
		{What: "connections", Total: s.Connections, Unit: "connections", Limit: s.ConnectionsPerComet, whole: true},
	}
	t, err := s.size("comet", s.Shapes.Comet, needs, 2, func(n, left int) []Need {
		// What the missing ones held comes back within the time for it, to those that are left.
		again := s.Connections * float64(n-left) / float64(n) / s.RecoverSeconds * connect / million
		return []Need{{What: "cpu", Total: cores + again, Unit: "cores", Limit: s.Shapes.Comet.Cores}}
	})
	if err == nil && t.Nodes > t.Survivors {
		lost := s.Connections * float64(t.Nodes-t.Survivors) / float64(t.Nodes)
		s.step("comet: cores for those who come back", lost/s.RecoverSeconds*connect/million, "cores",
			"connections of the lost nodes ÷ time × cost of a connect = %s ÷ %s s × %s µs", lost, s.RecoverSeconds, connect)
	}
	return t.Nodes, err
}

// comingBack is how many connect each second when the comets of the loss are gone, beside those who connect always.
func (s *sum) comingBack() float64 {
	if s.Loss == LossNone {
		return 0
	}
	part := 1 / float64(s.Zones)
	if s.Loss == LossNode {
		part = 1 / float64(max(s.out.Tier("comet").Nodes, 1))
	}
	return s.step("those who come back", s.Connections*part/s.RecoverSeconds, "1/s",
		"connections × part of the comets that are lost ÷ time = %s × %s ÷ %s s", s.Connections, part, s.RecoverSeconds)
}

func (s *sum) logic(sent, connects, again float64) error {
	c := s.constants
	each, connect := c.of("logic_cpu_us_per_message"), c.of("logic_cpu_us_per_connect")
	cores := s.step("logic: cores", (s.MessagesPerSecond*each+sent*c.of("logic_cpu_us_per_delivery")+connects*connect)/million, "cores",
		"(messages × %s + deliveries × %s + connects × %s µs) ÷ 1,000,000", each, c.of("logic_cpu_us_per_delivery"), connect)
	cpu := s.returning(cores, again, connect, s.Shapes.Logic.Cores)
	// A partition is served by one goroutine at a time: its part must fit into a core. And a node's loss is to be spread, so each has several.
	t, err := s.size("logic", s.Shapes.Logic, []Need{{What: "cpu", Total: cores, Unit: "cores", Limit: s.Shapes.Logic.Cores}}, 2, cpu)
	if err != nil {
		return err
	}
	const fewest, partitionsEach = 16, 4
	partitions := math.Max(fewest, math.Max(cores/(1-s.Headroom), float64(t.Nodes)*partitionsEach))
	partitions = s.step("partitions", math.Pow(2, math.Ceil(math.Log2(partitions))), "",
		"at least 16, one for each core of logic's with headroom (%s), four for each node that the cores need (%s); the next power of two",
		cores/(1-s.Headroom), float64(t.Nodes)*partitionsEach)
	s.out.Partitions = int(partitions)
	conversations := s.step("conversations in memory", min(s.Connections/s.DevicesPerUser*s.ConversationsPerUser, partitions*s.PartitionConversations), "",
		"connections ÷ devices × conversations of a user, at most %s for each partition = min(%s, %s)",
		s.PartitionConversations, s.Connections/s.DevicesPerUser*s.ConversationsPerUser, partitions*s.PartitionConversations)
	one := c.of("logic_memory_bytes_per_conversation") + s.WindowRecords*(c.of("logic_memory_bytes_per_record")+s.BodyBytes)
	memory := s.step("logic: memory", conversations*one+partitions*s.PartitionTailBytes, "bytes",
		"conversations × (%s + %s records × (body + %s bytes)) + partitions × tail of %s bytes",
		c.of("logic_memory_bytes_per_conversation"), s.WindowRecords, c.of("logic_memory_bytes_per_record"), s.PartitionTailBytes)
	s.out.Tiers = s.out.Tiers[:len(s.out.Tiers)-1] // Sized anew, with its memory.
	second, err := s.size("logic", s.Shapes.Logic, []Need{
		{What: "cpu", Total: cores, Unit: "cores", Limit: s.Shapes.Logic.Cores},
		{What: "memory", Total: memory, Unit: "bytes", Limit: s.Shapes.Logic.MemoryBytes - c.of("process_memory_bytes")},
	}, t.Nodes, cpu)
	if err == nil && second.Nodes == t.Nodes {
		s.out.Tiers[len(s.out.Tiers)-1].BoundBy = t.BoundBy
	}
	return err
}

// returning is the need of a tier for processors after the loss, while those come back who were connected to what is lost.
func (s *sum) returning(cores, again, connect, limit float64) func(n, left int) []Need {
	return func(int, int) []Need {
		return []Need{{What: "cpu", Total: cores + again*connect/million, Unit: "cores", Limit: limit}}
	}
}

func (s *sum) job() error {
	c := s.constants
	cores := s.step("job: cores", s.MessagesPerSecond*c.of("job_cpu_us_per_message")/million, "cores",
		"messages × %s µs ÷ 1,000,000", c.of("job_cpu_us_per_message"))
	memory := s.step("job: memory", float64(s.out.Partitions)*c.of("job_memory_bytes_per_partition"), "bytes",
		"partitions × %s bytes", c.of("job_memory_bytes_per_partition"))
	_, err := s.size("job", s.Shapes.Job, []Need{
		{What: "cpu", Total: cores, Unit: "cores", Limit: s.Shapes.Job.Cores},
		{What: "memory", Total: memory, Unit: "bytes", Limit: s.Shapes.Job.MemoryBytes - c.of("process_memory_bytes")},
	}, 2, nil)
	return err
}

func (s *sum) nats(sent, connects, again float64) error {
	c := s.constants
	replicas, connect := float64(s.ReplicasOfLogs), c.of("nats_cpu_us_per_connect")
	// The constant is what three servers use together for three copies.
	cores := s.step("nats: cores", (s.MessagesPerSecond*c.of("nats_cpu_us_per_message")*replicas/3+sent*c.of("nats_cpu_us_per_delivery")+connects*connect)/million, "cores",
		"(messages × %s × replicas ÷ 3 + deliveries × %s + connects × %s µs) ÷ 1,000,000", c.of("nats_cpu_us_per_message"), c.of("nats_cpu_us_per_delivery"), connect)
	each := c.of("nats_overhead_bytes_per_message") + s.BodyBytes
	one := s.step("nats: a copy of the logs", s.MessagesPerSecond*each*s.LogHours*3600, "bytes",
		"messages × (body + %s bytes) × %s h", c.of("nats_overhead_bytes_per_message"), s.LogHours)
	disk := s.step("nats: disk", one*replicas, "bytes", "a copy × replicas = %s × %s", one, replicas)
	// At nine tenths of a log's size devices are told that the server is busy. NATS reserves the size on each server that has a copy.
	const least = 64 << 20
	s.out.LogBytes = int64(s.step("logs.max_bytes", math.Ceil(max(one/float64(s.out.Partitions)/0.9, least)), "bytes",
		"a copy ÷ partitions ÷ 0.9, at least 64 MiB = %s ÷ %s ÷ 0.9", one, float64(s.out.Partitions)))
	reserved := float64(s.out.LogBytes) * float64(s.out.Partitions) * replicas
	_, err := s.size("nats", s.Shapes.NATS, []Need{
		{What: "cpu", Total: cores, Unit: "cores", Limit: s.Shapes.NATS.Cores},
		{What: "disk", Total: max(disk, reserved), Unit: "bytes", Limit: s.Shapes.NATS.DiskBytes, stays: true},
		{What: "memory", Total: float64(s.out.Partitions) * replicas * c.of("nats_memory_bytes_per_log_copy"), Unit: "bytes",
			Limit: s.Shapes.NATS.MemoryBytes - c.of("process_memory_bytes")},
	}, s.ReplicasOfLogs, s.returning(cores, again, connect, s.Shapes.NATS.Cores))
	return err
}

func (s *sum) redis(sent, connects, again float64) error {
	c := s.constants
	cores := s.step("redis: cores of primaries", (s.MessagesPerSecond*c.of("redis_cpu_us_per_message")+sent*c.of("redis_cpu_us_per_delivery")+
		connects*c.of("redis_cpu_us_per_connect"))/million, "cores",
		"(messages × %s + deliveries × %s + connects × %s µs) ÷ 1,000,000",
		c.of("redis_cpu_us_per_message"), c.of("redis_cpu_us_per_delivery"), c.of("redis_cpu_us_per_connect"))
	memory := s.step("redis: memory of primaries", s.Connections*c.of("redis_memory_bytes_per_connection"), "bytes",
		"connections × %s bytes", c.of("redis_memory_bytes_per_connection"))
	recovering := cores
	if again > 0 {
		recovering += s.step("redis: cores for those who come back", again*c.of("redis_cpu_us_per_connect")/million, "cores",
			"those who come back × %s µs ÷ 1,000,000", c.of("redis_cpu_us_per_connect"))
	}
	// One thread of a server does all commands. A loss takes no shard away: its copy goes on.
	usable := 1 - s.Headroom
	shards := int(max(1, math.Ceil(recovering/usable), math.Ceil(memory/usable/s.Shapes.Redis.MemoryBytes)))
	bound := "minimum"
	switch {
	case shards == 1:
	case math.Ceil(recovering/usable) >= float64(shards):
		bound = "cpu"
	default:
		bound = "memory"
	}
	n := shards * s.ReplicasOfPresence
	left := n
	if s.Loss != LossNone {
		left = n - max(1, lost(n, s.Policy))
	}
	s.step("redis: shards", float64(shards), "", "cores ÷ (1 − headroom), or memory ÷ (1 − headroom) ÷ memory of a server, whichever is more")
	s.out.Tiers = append(s.out.Tiers, Tier{Name: "redis", Nodes: n, Shape: s.Shapes.Redis, BoundBy: bound, Survivors: max(left, shards), Needs: []Need{
		{What: "cpu", Total: recovering, Unit: "cores", Limit: 1, Used: cores / float64(shards), After: recovering / float64(shards)},
		{What: "memory", Total: memory, Unit: "bytes", Limit: s.Shapes.Redis.MemoryBytes, Used: memory / float64(shards) / s.Shapes.Redis.MemoryBytes,
			After: memory / float64(shards) / s.Shapes.Redis.MemoryBytes},
	}})
	return nil
}

func (s *sum) cassandra(connects, again float64) error {
	c := s.constants
	replicas := float64(s.ReplicasOfHistory)
	// A quorum of the replicas is asked.
	connect := c.of("cassandra_cpu_us_per_connect") * math.Floor(replicas/2+1)
	cores := s.step("cassandra: cores", (s.MessagesPerSecond*c.of("cassandra_cpu_us_per_message")*replicas+connects*connect)/million, "cores",
		"(messages × %s × replicas + connects × %s µs, of a quorum of them) ÷ 1,000,000", c.of("cassandra_cpu_us_per_message"), connect)
	mean := s.MessagesPerSecond / s.PeakToMean
	each := c.of("cassandra_overhead_bytes_per_message") + s.BodyBytes
	disk := s.step("cassandra: disk", mean*secondsADay*s.RetentionDays*each*replicas, "bytes",
		"messages ÷ peak to mean × 86,400 × days × (body + %s bytes) × replicas = %s/s × 86,400 × %s × %s × %s",
		c.of("cassandra_overhead_bytes_per_message"), mean, s.RetentionDays, each, replicas)
	_, err := s.size("cassandra", s.Shapes.Cassandra, []Need{
		{What: "cpu", Total: cores, Unit: "cores", Limit: s.Shapes.Cassandra.Cores},
		// What a lost node held is not moved: it comes back, or another is put in its place.
		{What: "disk", Total: disk, Unit: "bytes", Limit: s.Shapes.Cassandra.DiskBytes * s.CassandraFill, whole: true, stays: true},
	}, s.ReplicasOfHistory, s.returning(cores, again, connect, s.Shapes.Cassandra.Cores))
	return err
}

package main

import (
	"context"
	"slices"
	"time"

	"github.com/halley-im/halley/benchmarks/chaos/network"
)

func (t *tiers) kinds(gates []*gate) []Kind {
	return slices.Concat(gateKinds(gates), t.processKinds(), t.serviceKinds(), t.outageKinds(), t.wireKinds())
}

// processKinds are those of single processes.
func (t *tiers) processKinds() (kinds []Kind) {
	for _, name := range nodeNames {
		kinds = append(kinds, killed(name, t.node(name)), paused(name, t.node(name)), restarted(name, t.node(name)),
			clockWrong(t.seed, t.dir, name))
	}
	for _, name := range natsNames {
		kinds = append(kinds, killed(name, t.natsServer(name)), paused(name, t.natsServer(name)))
	}
	for _, name := range redisNames {
		kinds = append(kinds, killed(name, t.redis(name)), paused(name, t.redis(name)))
	}
	cassandra := []process{t.cassandra()}
	return append(kinds, Kind{
		Name: "kill-cassandra", Targets: []string{cassandraName}, Least: 10 * time.Second, Most: 25 * time.Second,
		Fault: change{verbKill, verbStart, cassandra},
	}, Kind{
		Name: "pause-cassandra", Targets: []string{cassandraName}, Least: 5 * time.Second, Most: 20 * time.Second,
		Fault: change{verbPause, verbResume, cassandra},
	})
}

// serviceKinds are what happens to a service as a whole.
func (t *tiers) serviceKinds() []Kind {
	flush := func(ctx context.Context) error { return t.here(ctx, "redis.sh", "flush") }
	return []Kind{
		{Name: "step-down", Targets: []string{"logs"}, Fault: t.stepDowns()},
		{Name: "fill-logs", Targets: []string{"logs"}, Least: 8 * time.Second, Most: 20 * time.Second, Fault: fullLogs{t}},
		diskFilled(smallDisk, fullDisk{t.disk(), t.natsServer(smallDisk)}),
		{Name: "flush-redis", Targets: redisNames, Fault: blow(flush)},
		// The sentinels wait two seconds, and may need some more to agree.
		{Name: "fail-over-redis", Targets: redisNames, Least: 8 * time.Second, Most: 15 * time.Second, Fault: &failOver{t: t}},
	}
}

// failOver kills whichever Redis is the primary, so that the sentinels make the other one it.
type failOver struct {
	t      *tiers
	victim string // Between Begin and End.
}

// Begin kills.
func (f *failOver) Begin(ctx context.Context) error {
	primary, err := f.t.script(ctx, network.Self, "redis.sh", "primary")
	if err != nil {
		return err
	}
	f.victim = primary
	return f.t.redis(primary).do(ctx, verbKill)
}

// End brings it back, as the replica of the other.
func (f *failOver) End(ctx context.Context) error {
	if f.victim == "" {
		return nil
	}
	return f.t.redis(f.victim).do(ctx, verbStart)
}

// outageKinds are what happens to many at once.
func (t *tiers) outageKinds() []Kind {
	everything := append(t.services(), t.nodes()...)
	return []Kind{
		{Name: "kill-all-nodes", Targets: nodeNames, Most: 3 * time.Second, Fault: change{verbKill, verbStart, t.nodes()}},
		{Name: "pause-all-nodes", Targets: nodeNames, Least: 5 * time.Second, Most: 9 * time.Second, Fault: change{verbPause, verbResume, t.nodes()}},
		{Name: "kill-all-nats", Targets: natsNames, Most: 3 * time.Second, Fault: change{verbKill, verbStart, each(natsNames, t.natsServer)}},
		{Name: "kill-everything", Targets: hostNames, Most: 3 * time.Second, Fault: &outage{t, verbKill}},
		{Name: "restart-everything", Targets: hostNames, Most: time.Second, Fault: &outage{t, verbStop}},
		{
			Name: "pause-everything", Targets: hostNames, Least: 5 * time.Second, Most: 15 * time.Second,
			Fault: change{verbPause, verbResume, everything},
		},
	}
}

// outage ends services and nodes at once; they come back in the order in which they need each other.
type outage struct {
	t   *tiers
	how verb
}

// Begin ends everything.
func (o *outage) Begin(ctx context.Context) error {
	return all(ctx, append(o.t.nodes(), o.t.services()...), o.how)
}

// End starts everything.
func (o *outage) End(ctx context.Context) error { return o.t.up(ctx) }

// impaired has links suffer a condition.
type impaired struct {
	net     *network.Network
	links   []network.Link
	suffers network.Condition
	restore func() // Between Begin and End.
}

// Begin impairs.
func (i *impaired) Begin(context.Context) error {
	i.restore = i.net.Impair(i.links, i.suffers)
	return nil
}

// End restores.
func (i *impaired) End(context.Context) error {
	i.restore()
	return nil
}

// The holds of cuts: longer than the leases of owners, which are 4 s, and than two of NATS's pings.
const (
	cutLeast = 6 * time.Second
	cutMost  = 18 * time.Second
)

// wireKinds are what happens between members: nobody dies, but some do not hear others.
func (t *tiers) wireKinds() (kinds []Kind) {
	add := func(name, of string, links []network.Link, suffers network.Condition) {
		kinds = append(kinds, Kind{
			Name: name, Targets: []string{of}, Least: cutLeast, Most: cutMost, Fault: &impaired{net: t.net, links: links, suffers: suffers},
		})
	}
	cut := network.Condition{Lost: 1}
	everybody := append([]string{network.Self}, hostNames...)
	for _, name := range natsNames {
		one := []string{name}
		add("part-"+name, name, network.Both(one, natsNames), cut) // From its peers: its clients do not notice by themselves.
		add("isolate-"+name, name, network.Both(one, everybody), cut)
		add("deafen-"+name, name, network.Links(natsNames, one), cut)
		add("mute-"+name, name, network.Links(one, natsNames), cut)
	}
	for _, name := range nodeNames {
		one := []string{name}
		add("cut-"+name+"-from-nats", name, network.Both(one, natsNames), cut)
		add("deafen-"+name, name, network.Links(natsNames, one), cut)
	}
	for _, name := range slices.Concat(logicNames, cometNames) {
		add("cut-"+name+"-from-redis", name, network.Both([]string{name}, sentinelHosts), cut)
	}
	for _, name := range slices.Concat(logicNames, jobNames) {
		add("cut-"+name+"-from-cassandra", name, network.Both([]string{name}, []string{cassandraName}), cut)
	}
	nodes := append([]string{network.Self}, nodeNames...)
	// A look-up in presence has 100 ms.
	add("slow-redis", "redis-wires", network.Both(nodeNames, sentinelHosts), network.Condition{Delay: 80 * time.Millisecond})
	add("slow-nats", "nats-wires", network.Both(natsNames, append(nodes, natsNames...)), network.Condition{Delay: 60 * time.Millisecond})
	add("lossy-nats", "nats-wires", network.Both(natsNames, append(nodes, natsNames...)), network.Condition{Lost: 0.05})
	add("slow-devices", "device-wires", network.Both([]string{network.Self}, cometNames), network.Condition{Delay: 300 * time.Millisecond})
	add("lossy-devices", "device-wires", network.Both([]string{network.Self}, cometNames), network.Condition{Lost: 0.1})
	return kinds
}

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/halley-im/halley/benchmarks"
)

// Halley has no message to everybody. What comes nearest are its largest groups: each user is a member of one, and an app's server writes
// to all of them.

const (
	inCreate = 999
	inAdd    = 1000
	makers   = 4
	// lagPatience bounds the wait for the followers of the log after the groups were made.
	lagPatience = 20 * time.Minute
	// heardPatience bounds the wait for one message to be everywhere.
	heardPatience = 2 * time.Minute
)

// makeGroups makes the groups while nobody is connected: a join tells every connected member that the head has moved, and a thousand
// joins of a thousand would be a load that is not what is measured here.
func (m *million) makeGroups(ctx context.Context, parts []*crowd) error {
	defer m.phase("make the groups of the broadcast")()
	before, err := scrape(ctx, admins(0)[1:])
	if err != nil {
		return err
	}
	begin := readUsage()
	type one struct {
		crowd           *crowd
		number          int
		members, people int
	}
	var list []one
	for _, part := range parts {
		n := part.config.Connections
		count, members := benchmarks.Groups(n, m.o.groupSize)
		part.groups = benchmarks.Broadcast{Members: members, Groups: make([]benchmarks.BroadcastGroup, count), Messages: m.o.broadcasts}
		for i := range count {
			list = append(list, one{part, i, members, min(members, n-i*members)})
		}
	}
	errs := make([]error, len(list))
	slots := make(chan struct{}, makers)
	var wait sync.WaitGroup
	for i, g := range list {
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			first := g.number * g.members
			group, err := m.makeGroup(ctx, g.crowd.config, first, g.people)
			g.crowd.groups.Groups[g.number], errs[i] = group, err
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	joined := time.Since(begin.At)
	// Until users' logs know of it, members are looked up one by one.
	for end := time.Now().Add(lagPatience); ; {
		s, err := scrape(ctx, admins(0)[1:])
		if err != nil {
			return err
		}
		told := s[notices] - before[notices]
		if told >= float64(m.o.connections) {
			break
		}
		if time.Now().After(end) {
			m.report.warn("%.0f of %d users' logs told of the groups when everybody connected: the others are looked up member by member", told, m.o.connections)
			break
		}
		if err := sleep(ctx, 2*time.Second); err != nil {
			return err
		}
	}
	m.report.Groups = &GroupsMade{
		Groups: len(list), Members: m.o.connections, JoinSeconds: joined.Seconds(), ToldSeconds: time.Since(begin.At).Seconds(), Spent: between(begin, readUsage()),
	}
	m.say("%d groups with %d members in all, made in %.0f s; users' logs told after %.0f s", len(list), m.o.connections, joined.Seconds(), m.report.Groups.ToldSeconds)
	return nil
}

func (m *million) makeGroup(ctx context.Context, c benchmarks.Config, first, people int) (g benchmarks.BroadcastGroup, err error) {
	names := make([]string, people)
	for i := range names {
		names[i] = c.User(first + i)
	}
	initial := min(people, inCreate+1)
	made, err := m.cluster.post(ctx, "/v1/groups", "make-"+names[0], map[string]any{"owner": names[0], "name": "everybody", "members": names[1:initial]})
	if err != nil {
		return g, fmt.Errorf("make a group: %w", err)
	}
	g.Conversation, g.Head = made.Conversation, made.Seq
	for at := initial; at < people; at += inAdd {
		to := min(at+inAdd, people)
		added, err := m.cluster.post(ctx, "/v1/groups/"+g.Conversation+"/members", "join-"+names[at], map[string]any{"members": names[at:to]})
		if err != nil {
			return g, fmt.Errorf("add members %d to %d: %w", at, to, err)
		}
		g.Head = added.Seq
	}
	return g, nil
}

// broadcast writes to all groups at once, again when everybody has what was written before.
func (m *million) broadcast(ctx context.Context, parts []*crowd) error {
	defer m.phase("a broadcast to everybody")()
	begin, err := m.mark(ctx)
	if err != nil {
		return err
	}
	b := &Broadcast{Messages: m.o.broadcasts}
	for _, part := range parts {
		b.Groups += len(part.groups.Groups)
		if err := part.held.Expect(ctx, part.groups); err != nil {
			return err
		}
	}
	for n := range m.o.broadcasts {
		due := time.Now()
		if err := m.write1(ctx, parts, benchmarks.BroadcastText(n, due)); err != nil {
			return err
		}
		acked := time.Since(due)
		heard, err := m.await(ctx, parts, int64(n+1))
		if err != nil {
			return err
		}
		b.AckedSeconds = append(b.AckedSeconds, acked.Seconds())
		b.LastSeconds = append(b.LastSeconds, heard.Last.Sub(due).Seconds())
		m.say("message %d: acknowledged after %.2f s, %d devices have it, the last after %.2f s", n+1, acked.Seconds(), heard.Records-b.have, heard.Last.Sub(due).Seconds())
		b.have = heard.Records
	}
	heard, err := m.ask(ctx, parts, false)
	if err != nil {
		return err
	}
	b.Pushed = heard.Records
	if heard.Complete < heard.Devices {
		if heard, err = m.ask(ctx, parts, true); err != nil {
			return err
		}
	}
	now, err := m.mark(ctx)
	if err != nil {
		return err
	}
	b.Devices, b.Complete, b.Pulled, b.Redelivered, b.Strays, b.Resyncs = heard.Devices, heard.Complete, heard.Pulled, heard.Redelivered, heard.Strays, heard.Resyncs
	b.DeliverMs = benchmarks.LatencyOf(heard.Deliver)
	b.Spent = between(begin.usage, now.usage)
	b.Pauses = now.comets.minus(begin.comets).pauses()
	if heard.Records > 0 {
		b.CometUsPerDelivery = b.Spent.CPU[kindComet] / float64(heard.Records) * 1e6
		b.ServerUsPerDelivery = b.Spent.server() / float64(heard.Records) * 1e6
	}
	m.report.Broadcast = b
	m.say("broadcast: %d of %d devices have all, %d records pulled; p50 %.0f ms, p99 %.0f; %.1f µs of comets' CPU each", b.Complete, b.Devices, b.Pulled,
		b.DeliverMs.P50, b.DeliverMs.P99, b.CometUsPerDelivery)
	return nil
}

// write1 writes one message to every group.
func (m *million) write1(ctx context.Context, parts []*crowd, text string) error {
	var errs []error
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, part := range parts {
		for i, g := range part.groups.Groups {
			wait.Go(func() {
				_, err := m.cluster.post(ctx, "/v1/messages", text+" "+g.Conversation, map[string]any{
					"conversation": g.Conversation, "sender": part.config.User(i * part.groups.Members),
					"message": map[string]any{"text": map[string]string{"text": text}},
				})
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, err)
				}
			})
		}
	}
	wait.Wait()
	return errors.Join(errs...)
}

// await waits until everybody has so many messages, or heardPatience is over.
func (m *million) await(ctx context.Context, parts []*crowd, messages int64) (heard benchmarks.Heard, err error) {
	for end := time.Now().Add(heardPatience); ; {
		if err := sleep(ctx, time.Second); err != nil {
			return heard, err
		}
		if heard, err = m.ask(ctx, parts, false); err != nil {
			return heard, err
		}
		if heard.Records >= messages*heard.Devices || time.Now().After(end) {
			return heard, nil
		}
	}
}

func (m *million) ask(ctx context.Context, parts []*crowd, pull bool) (sum benchmarks.Heard, err error) {
	sum = benchmarks.NewHeard()
	for _, part := range parts {
		h, err := part.held.Heard(ctx, pull)
		if err != nil {
			return sum, err
		}
		sum.Add(h)
	}
	return sum, nil
}

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/client"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// largeDevice is one device of one user, on and off at random. What it is shown it keeps over its reconnects.
type largeDevice struct {
	user  string
	store *client.MemoryStore
	stop  func()

	mu   sync.Mutex
	seen []uint64
}

func (d *largeDevice) handle(group string) func(client.Event) {
	return func(e client.Event) {
		if r, ok := e.(client.Record); ok && r.Conversation == group {
			d.mu.Lock()
			d.seen = append(d.seen, r.Seq)
			d.mu.Unlock()
		}
	}
}

func (d *largeDevice) shown() []uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.seen)
}

// largeWorld is a server whose groups are large from 17 members on, and small again below 12.
type largeWorld struct {
	t   *testing.T
	s   *served
	key auth.Key
	aud string
}

func (w *largeWorld) client(user, device string, store client.Store, handler func(client.Event)) (*client.Client, func()) {
	w.t.Helper()
	c, err := client.New(client.Options{
		URL: w.s.endpoints().WS, Handler: handler, Store: store, Start: client.StartAtJoin,
		Token: func(context.Context) (string, error) {
			now := time.Now()
			return auth.Issue(w.key, auth.Claims{Audience: w.aud, App: "main", User: user, Device: device, IssuedAt: now, Expires: now.Add(time.Hour)})
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	w.t.Cleanup(stop)
	return c, stop
}

// memberIntervals is what the test knows of a user: the intervals in which the user was a member.
type memberIntervals [][2]uint64

func (m memberIntervals) seqs(head uint64) (out []uint64) {
	for _, i := range m {
		to := i[1]
		if to == 0 {
			to = head
		}
		for seq := i[0]; seq <= to; seq++ {
			out = append(out, seq)
		}
	}
	return out
}

// A group crosses the large line up and down, again and again, while its members come, go, connect and disconnect and two of them
// talk. In the end every device was shown exactly the records of its user's time as a member: none is lost, doubled or
// somebody else's.
func TestAGroupCrossesTheLargeLineUnderLoad(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	dir := t.TempDir()
	s := serve(t, dir, "--set", "logic.partition.large_members=16", "--set", "comet.resync_spread_ms=200")
	keys, err := auth.LoadKeys(filepath.Join(dir, defaultDataDir, tokenKeysName))
	if err != nil {
		t.Fatal(err)
	}
	w := &largeWorld{t: t, s: s, key: keys[0], aud: "halley"}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	const users = 30
	owner, _ := w.client("owner", "laptop", nil, func(client.Event) {})
	first := make([]string, 8)
	intervals := make(map[string]memberIntervals)
	for i := range first {
		first[i] = fmt.Sprint("user", i)
		intervals[first[i]] = memberIntervals{{1, 0}}
	}
	created, err := owner.CreateGroup(ctx, "large", first...)
	if err != nil {
		t.Fatal(err)
	}
	group := created.Conversation
	devices := make([]*largeDevice, 0, users+users/3)
	for i := range users {
		devices = append(devices, &largeDevice{user: fmt.Sprint("user", i), store: client.NewMemoryStore()})
		if i%3 == 0 {
			devices = append(devices, &largeDevice{user: fmt.Sprint("user", i), store: client.NewMemoryStore()})
		}
	}
	connect := func(i int) {
		d := devices[i]
		_, d.stop = w.client(d.user, fmt.Sprint("device", i), d.store, d.handle(group))
	}
	for i := range devices {
		connect(i)
	}

	var talk sync.WaitGroup
	talking, quiet := context.WithCancel(ctx)
	defer quiet()
	for range 2 {
		talk.Go(func() {
			for talking.Err() == nil {
				if _, err := owner.Send(ctx, group, client.Text("hello")); err != nil {
					t.Errorf("send: %v", err)
					return
				}
				select {
				case <-talking.Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	active := func(user string) bool {
		m := intervals[user]
		return len(m) > 0 && m[len(m)-1][1] == 0
	}
	change := func(join bool, most int) {
		var names []string
		for _, i := range rnd.Perm(users) {
			if user := fmt.Sprint("user", i); active(user) != join && len(names) < most {
				names = append(names, user)
			}
		}
		if len(names) == 0 {
			return
		}
		var ack *recordv1.Ack
		var err error
		if join {
			ack, err = owner.Add(ctx, group, names...)
		} else {
			ack, err = owner.Remove(ctx, group, names...)
		}
		if err != nil {
			t.Fatalf("members: %v\n%s", err, s.errs)
		}
		for _, user := range names {
			if join {
				intervals[user] = append(intervals[user], [2]uint64{ack.Seq, 0})
			} else {
				intervals[user][len(intervals[user])-1][1] = ack.Seq
			}
		}
	}
	for round := range 8 {
		for range 6 {
			change(round%2 == 0, 1+rnd.IntN(6))
			for range 3 {
				i := rnd.IntN(len(devices))
				if i%4 == 0 {
					continue // Always there.
				}
				if d := devices[i]; d.stop != nil {
					d.stop()
					d.stop = nil
				} else {
					connect(i)
				}
			}
			<-time.After(time.Duration(rnd.IntN(300)) * time.Millisecond)
		}
		// Now and then the users' logs catch up, so that pushes go by rooms alone.
		if round%2 == 0 {
			<-time.After(1500 * time.Millisecond)
		}
	}
	for i, d := range devices {
		if d.stop == nil {
			connect(i)
		}
	}
	quiet()
	talk.Wait()
	heads, err := owner.Heads(ctx, group)
	if err != nil || len(heads) != 1 {
		t.Fatal(heads, err)
	}
	head := heads[0].Seq
	deadline := time.Now().Add(30 * time.Second)
	for i, d := range devices {
		of := intervals[d.user]
		want := of.seqs(head)
		matches := func() bool {
			shown := d.shown()
			// A device that was off when its user joined first begins with the join that it finds.
			for k := 0; k <= len(of); k++ {
				if slices.Equal(shown, of[k:].seqs(head)) {
					return k == 0 || i%4 != 0 && k < len(of)
				}
			}
			return false
		}
		for !matches() {
			if time.Now().After(deadline) {
				t.Fatalf("device %d of %s was shown %d records %v\nwant %d: member in %v, head %d", i, d.user, len(d.shown()), summary(d.shown()), len(want), intervals[d.user], head)
			}
			<-time.After(20 * time.Millisecond)
		}
	}
	t.Logf("%d records, %d devices", head, len(devices))
	if n := s.metric("halley_logic_expansions_total"); n == 0 {
		t.Error("nothing went by rooms")
	} else {
		t.Logf("%.0f deliveries by rooms, %.0f expanded, %.0f in all", n, s.metric("halley_comet_expanded_total"), s.metric("halley_logic_deliveries_total"))
	}
	if n := s.metric("halley_comet_attach_late_total"); n > 0 {
		t.Logf("%.0f sessions went live before they were attached", n)
	}
}

// summary writes runs of seqs as from-to.
func summary(seqs []uint64) (out []string) {
	for i := 0; i < len(seqs); {
		j := i
		for j+1 < len(seqs) && seqs[j+1] == seqs[j]+1 {
			j++
		}
		out = append(out, fmt.Sprintf("%d-%d", seqs[i], seqs[j]))
		i = j + 1
	}
	return out
}

// metric sums up a metric of the served process.
func (s *served) metric(name string) (sum float64) {
	s.t.Helper()
	_, text := s.get(s.endpoints().Admin + "/metrics")
	for _, line := range regexp.MustCompile(`(?m)^`+name+`(?:\{[^}]*\})? (\S+)$`).FindAllStringSubmatch(text, -1) {
		var v float64
		if _, err := fmt.Sscan(line[1], &v); err != nil {
			s.t.Fatal(err)
		}
		sum += v
	}
	return sum
}

// Once all is quiet, a message of a large group is one delivery, and each member's device is written to once.
func TestAMessageOfALargeGroupIsOneDeliveryForEachNode(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir, "--set", "logic.partition.large_members=16")
	keys, err := auth.LoadKeys(filepath.Join(dir, defaultDataDir, tokenKeysName))
	if err != nil {
		t.Fatal(err)
	}
	w := &largeWorld{t: t, s: s, key: keys[0], aud: "halley"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	owner, _ := w.client("owner", "laptop", nil, func(client.Event) {})
	const members = 40
	names := make([]string, members)
	for i := range names {
		names[i] = fmt.Sprint("user", i)
	}
	created, err := owner.CreateGroup(ctx, "large", names...)
	if err != nil {
		t.Fatal(err)
	}
	devices := make([]*largeDevice, members)
	for i := range devices {
		devices[i] = &largeDevice{user: names[i], store: client.NewMemoryStore()}
		w.client(names[i], "phone", devices[i].store, devices[i].handle(created.Conversation))
	}
	seq := created.Seq
	send := func(n int) {
		for range n {
			ack, err := owner.Send(ctx, created.Conversation, client.Text("hello"))
			if err != nil {
				t.Fatal(err)
			}
			seq = ack.Seq
		}
		for _, d := range devices {
			for len(d.shown()) < int(seq) {
				if ctx.Err() != nil {
					t.Fatalf("%s was shown %v, want up to %d", d.user, summary(d.shown()), seq)
				}
				<-time.After(5 * time.Millisecond)
			}
		}
	}
	// Until the users' logs have caught up, members are delivered to one by one as well.
	for {
		before := s.metric("halley_logic_deliveries_total")
		send(1)
		if s.metric("halley_logic_deliveries_total")-before < 2 {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	const messages = 50
	deliveries, expanded := s.metric("halley_logic_deliveries_total"), s.metric("halley_comet_expanded_total")
	send(messages)
	if got := s.metric("halley_logic_deliveries_total") - deliveries; got != messages {
		t.Errorf("%.0f deliveries for %d messages to one node", got, messages)
	}
	if got := s.metric("halley_comet_expanded_total") - expanded; got != messages*members {
		t.Errorf("%.0f frames for %d messages to %d devices", got, messages, members)
	}
}

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/halley-im/halley/benchmarks/oracle"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/client"
	"github.com/halley-im/halley/protocol"
)

// size is how many people there are and what they have between them.
type size struct {
	users, pairs, groups int
	// crowd is how many members the large group has; 0: there is none. Most of them never connect.
	crowd int
}

var (
	small = size{users: 12, pairs: 10, groups: 4}
	whole = size{users: 40, pairs: 40, groups: 12, crowd: 230}
)

// group is a group and its changes, which one goroutine makes.
type group struct {
	id      string
	owner   *device
	members []string                 // Those who are now and then taken out and put back.
	changes map[string][]oracle.Sent // By who made them.
}

// fleet is all devices and what they have between them.
type fleet struct {
	seed    uint64
	size    size
	users   []string
	devices []*device
	// of are the conversations that a user may write to, or might.
	of     map[string][]string
	groups []*group
}

const messageSize = 64

// newFleet makes the devices; each connects through a gate of either transport.
func newFleet(seed uint64, s size, key auth.Key, websocket, tcp *gate) *fleet {
	f := &fleet{seed: seed, size: s, of: map[string][]string{}}
	r := rand.New(rand.NewPCG(seed, 3))
	texts := oracle.NewPayloads(uint32(seed), seed, messageSize)
	for u := range s.users {
		user := fmt.Sprintf("c%d-%03d", seed, u)
		f.users = append(f.users, user)
		for n := range 1 + r.IntN(3) {
			url := "ws://" + websocket.address() + "/v1/connect"
			if r.IntN(2) == 0 {
				url = "tcp://" + tcp.address()
			}
			f.devices = append(f.devices, newDevice(uint32(len(f.devices)), user, fmt.Sprintf("%s.%d", user, n), url, key, texts))
		}
	}
	for _, d := range f.devices {
		d.slow = r.IntN(12) == 0
	}
	for range s.pairs {
		a, b := r.IntN(s.users), r.IntN(s.users)
		if a != b {
			f.pair(f.users[a], f.users[b])
		}
	}
	for u, user := range f.users {
		if len(f.of[user]) == 0 {
			f.pair(user, f.users[(u+1)%s.users])
		}
	}
	return f
}

func (f *fleet) pair(a, b string) {
	id := protocol.Direct(a, b)
	f.join(a, id)
	f.join(b, id)
}

func (f *fleet) join(user, conversation string) {
	for _, id := range f.of[user] {
		if id == conversation {
			return
		}
	}
	f.of[user] = append(f.of[user], conversation)
}

const tokenLife = 24 * time.Hour

func newDevice(index uint32, user, name, url string, key auth.Key, texts *oracle.Payloads) *device {
	d := &device{
		index: index, name: name, user: user, texts: texts, writes: map[string][]*write{}, shown: map[string][]oracle.Shown{},
	}
	d.options = client.Options{
		URL: url, Name: "chaos", Start: client.StartAtJoin, Store: client.NewMemoryStore(),
		Token: func(context.Context) (string, error) {
			now := time.Now().Add(-stepMost) // A token is older than any clock is wrong, so that it is not from a node's future.
			return auth.Issue(key, auth.Claims{
				App: protocol.DefaultApp, User: user, Device: name, IssuedAt: now, Expires: now.Add(tokenLife),
			})
		},
		// Shorter than an app would choose, so that a run of minutes sees many reconnects.
		Limits: client.Limits{
			AnswerTimeout: 6 * time.Second, ConnectTimeout: 5 * time.Second, BackOffFirst: 300 * time.Millisecond, BackOffMost: 3 * time.Second,
		},
	}
	return d
}

// start connects all devices, makes the groups, and waits until every device has what there is.
func (f *fleet) start(ctx, life context.Context) error {
	for _, d := range f.devices {
		if err := d.start(life); err != nil {
			return err
		}
	}
	r := rand.New(rand.NewPCG(f.seed, 4))
	for n := range f.size.groups {
		if err := f.found(ctx, r, fmt.Sprintf("group %d", n), 3+r.IntN(6), 0); err != nil {
			return err
		}
	}
	if f.size.crowd > 0 {
		if err := f.found(ctx, r, "crowd", len(f.users), f.size.crowd-len(f.users)); err != nil {
			return err
		}
	}
	return nil
}

// found makes a group of some of the users, and of others who never connect.
func (f *fleet) found(ctx context.Context, r *rand.Rand, name string, members, others int) error {
	chosen := r.Perm(len(f.users))[:min(members, len(f.users))]
	owner := f.first(f.users[chosen[0]])
	g := &group{owner: owner, changes: map[string][]oracle.Sent{}}
	var names []string
	for _, u := range chosen[1:] {
		names = append(names, f.users[u])
		g.members = append(g.members, f.users[u])
	}
	for n := range others {
		names = append(names, fmt.Sprintf("c%d-absent-%03d", f.seed, n))
	}
	ack, err := owner.client.CreateGroup(ctx, name, names...)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	g.id = ack.Conversation
	g.changes[owner.user] = []oracle.Sent{{Outcome: oracle.Acked, Seq: ack.Seq}}
	f.groups = append(f.groups, g)
	f.join(owner.user, g.id)
	for _, user := range g.members {
		f.join(user, g.id)
	}
	return nil
}

// first is a user's first device.
func (f *fleet) first(user string) *device {
	for _, d := range f.devices {
		if d.user == user {
			return d
		}
	}
	return nil
}

func (f *fleet) stop() {
	var wg sync.WaitGroup
	for _, d := range f.devices {
		wg.Go(d.stop)
	}
	wg.Wait()
}

// conversations are all that anybody has, users' own logs included.
func (f *fleet) conversations() []string {
	seen := map[string]bool{}
	var all []string
	for _, user := range f.users {
		for _, id := range append([]string{protocol.UserLog(user)}, f.of[user]...) {
			if !seen[id] {
				seen[id] = true
				all = append(all, id)
			}
		}
	}
	return all
}

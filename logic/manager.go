package logic

import (
	"context"
	"errors"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/halley-im/halley/logic/partition"
	"github.com/halley-im/halley/pkg/bus"
)

// manager spreads partitions over the live logic nodes. Every node computes the same plan from the same list; the leases make
// sure that a plan that is not the same yet does no harm.
type manager struct {
	*Logic
	partitions int
	leases     *bus.Leases
	nodes      *bus.Leases
	open       func(ctx context.Context, p int) (*partition.Partition, func(), error)
	changed    chan struct{}   // cap 1
	vacant     []chan struct{} // by partition, cap 1: its key was given up

	mu         sync.Mutex
	live       map[string]bool
	successors map[int]string    // who has read up to the tail and waits for the key, by partition
	handovers  map[int]*handover // from here, under way, by partition

	// Owned by run.
	running map[int]*runner
}

// runner is one partition that this node serves or waits for.
type runner struct {
	cancel  context.CancelFunc
	done    chan struct{}
	serving func() bool
}

// handover is a partition on its way to its successor.
type handover struct {
	began time.Time
	taken bool // somebody has the key again
}

// successorKey announces in the lease bucket who is ready to take a partition over.
func successorKey(p int) string { return "s." + strconv.Itoa(p) }

func (m *manager) run(ctx context.Context) {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	leaving := make(chan struct{})
	wg.Go(func() { m.stayListed(background, leaving) })
	wg.Go(func() { m.watch(background, m.nodes, m.noteNode, m.forgetNodes) })
	wg.Go(func() { m.watch(background, m.leases, m.noteLease, m.forgetSuccessors) })
	defer func() {
		stop()
		wg.Wait()
	}()
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		m.reconcile(background, m.drained.Load())
		select {
		case <-ctx.Done():
		case <-m.changed:
		case <-ticker.C:
		}
	}
	close(leaving)
	m.drain(background, ticker.C)
}

// drain hands every partition to its successor, or lets go of it when there is none in time.
func (m *manager) drain(ctx context.Context, tick <-chan time.Time) {
	deadline := time.After(time.Duration(m.cfg.DrainTimeoutMs) * time.Millisecond)
	for {
		m.mu.Lock()
		delete(m.live, m.deps.Node)
		alone := len(m.live) == 0
		moving := len(m.handovers)
		m.mu.Unlock()
		if alone || len(m.running) == 0 && moving == 0 {
			break
		}
		m.reconcile(ctx, true)
		select {
		case <-m.changed:
		case <-tick:
		case <-deadline:
			m.deps.Logger.Warn("partitions were not taken over in time", "partitions", len(m.running)+moving)
			m.stopAll()
			return
		}
	}
	m.stopAll()
}

func (m *manager) stopAll() {
	for _, r := range m.running {
		r.cancel()
	}
	for p, r := range m.running {
		<-r.done
		delete(m.running, p)
	}
}

// stayListed keeps this node in the list of live ones until it leaves, except while it is drained.
func (m *manager) stayListed(ctx context.Context, leaving <-chan struct{}) {
	ticker := time.NewTicker(m.nodes.TTL() / 4)
	defer ticker.Stop()
	var self *bus.Lease
	for {
		tryCtx, cancel := context.WithTimeout(ctx, m.nodes.TTL()/2)
		var err error
		self, err = m.list(tryCtx, self)
		cancel()
		if err != nil && ctx.Err() == nil {
			m.deps.Logger.Warn("the list of logic nodes does not say of this one what it should; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-leaving:
			if self == nil {
				return
			}
			if err := m.nodes.Release(ctx, self); err != nil {
				m.deps.Logger.Warn("the node stays listed until its lease runs out", "err", err)
			}
			return
		case <-m.wishes:
			m.signal()
		case <-ticker.C:
		}
	}
}

// list renews the node's lease, or takes it, or gives it up, as the node is to be at work or not. It returns the lease held then.
func (m *manager) list(ctx context.Context, self *bus.Lease) (*bus.Lease, error) {
	if m.drained.Load() {
		if self == nil {
			return nil, nil
		}
		if err := m.nodes.Release(ctx, self); err != nil && !errors.Is(err, bus.ErrGone) {
			return self, err
		}
		return nil, nil
	}
	if self != nil {
		if err := m.nodes.Renew(ctx, self); !errors.Is(err, bus.ErrGone) {
			return self, err
		}
	}
	fresh, err := m.nodes.Acquire(ctx, m.deps.Node, []byte(m.deps.Node))
	if err != nil {
		return self, err
	}
	return fresh, nil
}

// watch follows a bucket; a watch that breaks begins again, from nothing: it says what is held, never what was given up while it
// was broken.
func (m *manager) watch(ctx context.Context, leases *bus.Leases, note func(key string, value []byte), forget func()) {
	for ctx.Err() == nil {
		if err := leases.Watch(ctx, note); err != nil && ctx.Err() == nil {
			m.deps.Logger.Warn("leases cannot be watched; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
		forget()
	}
}

// forgetNodes keeps this node: alone in the list it begins to wait for all partitions, which does no harm for the moment.
func (m *manager) forgetNodes() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for node := range m.live {
		if node != m.deps.Node {
			delete(m.live, node)
		}
	}
}

func (m *manager) forgetSuccessors() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.successors)
	clear(m.handovers) // Nobody knows what became of them.
}

func (m *manager) noteNode(key string, value []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if value == nil {
		delete(m.live, key)
	} else {
		m.live[key] = true
	}
	m.signal()
}

func (m *manager) noteLease(key string, value []byte) {
	kind, number, _ := strings.Cut(key, ".")
	p, err := strconv.Atoi(number)
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case kind == "s" && value == nil:
		delete(m.successors, p)
		m.handedOver(p)
	case kind == "s":
		m.successors[p] = string(value)
	case value == nil && p < len(m.vacant):
		select {
		case m.vacant[p] <- struct{}{}:
		default:
		}
	case m.handovers[p] != nil:
		m.handovers[p].taken = true
	}
	m.signal()
}

// handedOver ends a hand-over: the successor withdraws its announcement when it serves. One that never had the key has died.
func (m *manager) handedOver(p int) {
	h := m.handovers[p]
	delete(m.handovers, p)
	if h == nil || !h.taken {
		return
	}
	took := time.Since(h.began)
	m.metrics.HandedOver(took)
	m.deps.Logger.Info("partition handed over", "partition", p, "took", took.Round(time.Millisecond))
}

func (m *manager) signal() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// reconcile starts what falls to this node and lets go of what falls to another that is ready for it.
func (m *manager) reconcile(ctx context.Context, leaving bool) {
	m.mu.Lock()
	live := make([]string, 0, len(m.live))
	for node := range m.live {
		if !leaving || node != m.deps.Node {
			live = append(live, node)
		}
	}
	successors := make(map[int]string, len(m.successors))
	for p, node := range m.successors {
		successors[p] = node
	}
	m.mu.Unlock()
	if leaving && len(live) == 0 {
		return // There is nobody to hand over to: what is served here stays here.
	}
	plan := spread(live, m.partitions)
	wanted, serving := 0, 0
	for p, node := range plan {
		r := m.running[p]
		if r != nil {
			select {
			case <-r.done:
				delete(m.running, p)
				r = nil
			default:
			}
		}
		mine := node == m.deps.Node && !leaving
		switch {
		case mine && r == nil:
			m.running[p] = m.start(ctx, p)
		case !mine && r != nil && !r.serving():
			r.cancel()
		case !mine && r != nil && node != "" && successors[p] == node:
			m.handOver(p)
			r.cancel()
		}
		if mine {
			wanted++
			if r != nil && r.serving() {
				serving++
			}
		}
	}
	m.owned.hold(len(m.running))
	if slices.Contains(live, m.deps.Node) { // Before that nothing is known of what falls to it.
		m.owned.set(wanted, serving)
	}
}

// handOver notes that the partition's owner here is told to go.
func (m *manager) handOver(p int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.handovers[p] == nil {
		m.handovers[p] = &handover{began: time.Now()}
	}
}

// start serves a partition, again and again until cancelled: a reign that ends in an error begins anew.
func (m *manager) start(ctx context.Context, p int) *runner {
	ctx, cancel := context.WithCancel(ctx)
	s := &service{manager: m, number: p}
	r := &runner{cancel: cancel, done: make(chan struct{}), serving: s.serving.Load}
	go func() {
		defer close(r.done)
		defer cancel()
		for pause := 50 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 2*time.Second) {
			began := time.Now()
			err := s.serve(ctx)
			if err != nil && ctx.Err() == nil {
				m.deps.Logger.Warn("partition is not served; trying again", "partition", p, "err", err)
			}
			if time.Since(began) > 10*time.Second {
				pause = 50 * time.Millisecond
			}
			wait := pause
			if errors.Is(err, partition.ErrInDoubt) {
				wait = m.leases.TTL()
			}
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
		m.signal()
	}()
	return r
}

// spread assigns partitions to nodes: each to the node that scores highest for it among those that are not full. Few
// partitions move when a node comes or goes, and no node has over one more than its share.
func spread(nodes []string, partitions int) []string {
	plan := make([]string, partitions)
	if len(nodes) == 0 {
		return plan
	}
	slices.Sort(nodes)
	share := (partitions + len(nodes) - 1) / len(nodes)
	load := make(map[string]int, len(nodes))
	for p := range plan {
		var best string
		var bestScore uint64
		for _, node := range nodes {
			h := fnv.New64a()
			h.Write([]byte(node + "/" + strconv.Itoa(p)))
			score := h.Sum64()
			score ^= score >> 29
			score *= 0xbf58476d1ce4e5b9
			if load[node] < share && (best == "" || score > bestScore) {
				best, bestScore = node, score
			}
		}
		plan[p] = best
		load[best]++
	}
	return plan
}

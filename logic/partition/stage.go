package partition

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// stage delivers what is committed, in order, behind the partition's goroutine and never in it. It is bounded: when it is full
// a parcel is dropped, counted, and all nodes are told that something is missing.
type stage struct {
	parcels   chan parcel
	partition int
	presence  presence.Registry
	sender    link.Sender
	log       *slog.Logger
	metrics   *Metrics
	overflow  chan struct{} // cap 1
	epoch     atomic.Uint64 // of the owner: what an earlier one of its epochs committed is its word too

	// Owned by run.
	failing   bool      // presence does not answer
	since     time.Time // when that began, or all were told of it last
	impatient bool      // the last look-up of rooms failed
	owed      owed
	rooms     rooms
	index     map[presence.User]int32
	users     []presence.User
	at        []int32 // of each user of each delivery: its place in users and entries
	entries   [][]presence.Entry
	nodes     []nodeBatch
	arena     []byte
	body      []byte
}

// parcel is what one block, or one signal, delivers.
type parcel struct {
	deliveries []delivery
	ephemeral  bool // nobody misses it when it is dropped
	word       bool // to those who are owed it
}

// delivery is one frame for the devices of some users. Either record or body is set.
type delivery struct {
	app, conversation string
	users             []string
	record            *logv1.Record
	command           envelopev1.Command
	body              protocol.Message
	// The session that wrote it has its answer already.
	exceptNode string
	exceptConn uint64
	// Of a large conversation: the nodes that are in its room expand the frame; users are those who get it besides.
	large bool
	// Leaves that a node in the room may not have heard of; they come before the frame.
	leaves []*link.Room
	// For the nodes of the users' devices, after the frame.
	control *link.Room
}

func newStage(p *Partition) *stage {
	return &stage{
		parcels: make(chan parcel, p.cfg.DeliveryParcels), partition: p.number, presence: p.Presence, sender: p.Sender,
		log: p.Logger, metrics: p.metrics, overflow: make(chan struct{}, 1), index: make(map[presence.User]int32),
		rooms: rooms{index: make(map[presence.RoomID]int)},
	}
}

func (s *stage) put(p parcel) {
	select {
	case s.parcels <- p:
	default:
		s.metrics.dropped.Inc()
		if p.ephemeral {
			return
		}
		select {
		case s.overflow <- struct{}{}:
		default:
		}
	}
}

// missed has nodes resync.
func (s *stage) missed() {
	select {
	case s.overflow <- struct{}{}:
	default:
	}
	s.put(parcel{})
}

// run delivers until parcels is closed.
func (s *stage) run() {
	for {
		var again <-chan time.Time
		if s.owed.any() {
			again = time.After(owedEvery)
			if !s.failing {
				s.settle()
				continue
			}
		}
		select {
		case <-again:
			s.settle()
		case p, open := <-s.parcels:
			if !open {
				if s.owed.any() {
					s.skip()
				}
				return
			}
			select {
			case <-s.overflow:
				s.log.Warn("deliveries were dropped; nodes resync")
				s.sender.Skip()
			default:
			}
			s.deliver(&p)
		}
	}
}

// deliver looks up every user of the parcel once, after the commit: a device that registered before saw the head, one that
// registers later reads it.
func (s *stage) deliver(p *parcel) {
	if len(s.index) > 10_000 { // To clear a map costs what it once held.
		s.index, s.at = make(map[presence.User]int32), nil
	}
	clear(s.index)
	clear(s.users)
	s.users, s.at = s.users[:0], s.at[:0]
	for i := range p.deliveries {
		d := &p.deliveries[i]
		for _, user := range d.users {
			u := presence.User{App: d.app, User: user}
			at, ok := s.index[u]
			if !ok {
				at = int32(len(s.users))
				s.index[u] = at
				s.users = append(s.users, u)
			}
			s.at = append(s.at, at)
		}
	}
	s.rooms.collect(p)
	if !s.known(p, s.lookUpPatiently()) {
		return
	}
	at := s.at
	for i := range p.deliveries {
		n := len(p.deliveries[i].users)
		s.fanOut(&p.deliveries[i], at[:n])
		at = at[n:]
	}
	for i := range s.nodes {
		n := &s.nodes[i]
		if len(n.batch.Deliveries) == 0 {
			continue
		}
		n.batch.Epoch = s.epoch.Load()
		s.sender.Send(n.node, &n.batch)
		s.metrics.deliveries.Add(float64(len(n.batch.Deliveries)))
		clear(n.batch.Deliveries)
		n.batch.Deliveries = n.batch.Deliveries[:0]
	}
	if len(s.nodes) > 4096 {
		s.nodes = nil
	}
}

// A look-up of rooms that fails is tried again so many times, after these pauses, unless the one before failed as well.
var roomPauses = [...]time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 900 * time.Millisecond}

// lookUpPatiently does not give up rooms for a time-out of a moment, for what they are owed is owed to every session there is.
func (s *stage) lookUpPatiently() error {
	err := s.lookUp()
	if len(s.rooms.ids) == 0 {
		return err
	}
	for _, pause := range roomPauses {
		if err == nil || s.impatient {
			break
		}
		time.Sleep(pause)
		err = s.lookUp()
	}
	s.impatient = err != nil
	return err
}

// lookUp asks presence for the users and the rooms of the parcel. With presence.ErrStale it has what was known last.
func (s *stage) lookUp() (failed error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if len(s.users) > 0 {
		entries, err := s.presence.Lookup(ctx, s.users, s.entries)
		if err != nil && !errors.Is(err, presence.ErrStale) {
			return err
		}
		s.entries, failed = entries, err
	}
	if len(s.rooms.ids) > 0 {
		nodes, err := s.presence.RoomNodes(ctx, s.rooms.ids, s.rooms.nodes)
		if err != nil && !errors.Is(err, presence.ErrStale) {
			return err
		}
		s.rooms.nodes, failed = nodes, cmp.Or(failed, err)
	}
	return failed
}

// fanOut adds the delivery to the batches of its rooms' and its users' nodes, encoding it once for each codec in use. at are the places
// of its users.
func (s *stage) fanOut(d *delivery, at []int32) {
	var proto, json []byte
	var also *link.Room
	if d.large {
		if proto, json = s.expand(d); proto == nil {
			return
		}
		also = &link.Room{App: d.app, Conversation: d.conversation, Op: link.RoomAlso, Seq: d.record.Seq}
	}
	for _, user := range at {
		entries := s.entries[user]
		for i := range entries {
			e := &entries[i]
			if e.Conn == d.exceptConn && e.Node == d.exceptNode {
				s.control(e, d)
				continue
			}
			frame := &proto
			if e.Codec == link.CodecJSON {
				frame = &json
			}
			if *frame == nil {
				if *frame = s.encode(d, e.Codec); *frame == nil {
					return
				}
			}
			s.add(e.Node, link.Delivery{Conn: e.Conn, Frame: *frame, Generation: e.Generation, Room: also})
			s.control(e, d)
		}
	}
}

func (s *stage) encode(d *delivery, codec link.Codec) []byte {
	if d.record != nil && codec != link.CodecJSON {
		if need := len(d.record.Body) + recordOverhead + 80*(len(d.record.Joined)+len(d.record.Left)); cap(s.arena)-len(s.arena) < need {
			s.arena = make([]byte, 0, max(32<<10, need))
		}
		start := len(s.arena)
		s.arena, s.body = appendPush(s.arena, s.body, d.record)
		return s.arena[start:len(s.arena):len(s.arena)]
	}
	var frame []byte
	var err error
	if d.record != nil {
		frame, err = encodeRecordJSON(d.record)
	} else {
		frame, err = encodeFrame(codec, &envelopev1.Frame{Command: d.command, Conversation: d.conversation}, d.body)
	}
	if err != nil {
		s.log.Error("push cannot be encoded", "command", d.command, "err", err)
		return nil
	}
	return frame
}

func (s *stage) add(node string, d link.Delivery) {
	for i := range s.nodes {
		if s.nodes[i].node == node {
			s.nodes[i].batch.Deliveries = append(s.nodes[i].batch.Deliveries, d)
			return
		}
	}
	s.nodes = append(s.nodes, nodeBatch{node, link.Batch{
		Partition: s.partition, Deliveries: append(make([]link.Delivery, 0, 64), d),
	}})
}

package partition

import (
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
)

// rooms are the large conversations of one parcel, and the nodes that have members of them.
type rooms struct {
	index map[presence.RoomID]int
	ids   []presence.RoomID
	nodes [][]presence.RoomNode
	// Whether a room's leaves were told in this parcel.
	left []bool
}

// collect lists the rooms that the parcel goes to.
func (r *rooms) collect(p *parcel) {
	clear(r.index)
	r.ids, r.left = r.ids[:0], r.left[:0]
	for i := range p.deliveries {
		d := &p.deliveries[i]
		if !d.large {
			continue
		}
		id := presence.RoomID{App: d.app, Conversation: d.conversation}
		if _, ok := r.index[id]; !ok {
			r.index[id] = len(r.ids)
			r.ids, r.left = append(r.ids, id), append(r.left, false)
		}
	}
}

// expand adds one delivery for each node in the room, and returns the frames, nil where they could not be made. Without one for JSON
// the others still get theirs.
func (s *stage) expand(d *delivery) (proto, json []byte) {
	at := s.rooms.index[presence.RoomID{App: d.app, Conversation: d.conversation}]
	if proto, json = s.encode(d, link.CodecProto), s.encode(d, link.CodecJSON); proto == nil {
		return nil, nil
	}
	room := &link.Room{App: d.app, Conversation: d.conversation, Op: link.RoomExpand, Seq: d.record.Seq, JSON: json}
	for _, n := range s.rooms.nodes[at] {
		if !s.rooms.left[at] {
			// Who left gets nothing more, whatever the node knew when it let the session in.
			for _, leave := range d.leaves {
				s.add(n.Node, link.Delivery{Room: leave})
			}
		}
		except := uint64(0)
		if n.Node == d.exceptNode {
			except = d.exceptConn
		}
		s.add(n.Node, link.Delivery{Conn: except, Frame: proto, Room: room})
		s.metrics.expanded.Inc()
	}
	s.rooms.left[at] = true
	return proto, json
}

// control tells the node of a device what the record means for the user's large conversations.
func (s *stage) control(e *presence.Entry, d *delivery) {
	if d.control != nil {
		s.add(e.Node, link.Delivery{Conn: e.Conn, Generation: e.Generation, Room: d.control})
	}
}

package natslink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	linkv1 "github.com/halley-im/halley/protocol/halley/link/v1"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// The hot messages of protocol/halley/link/v1 are read and written here field by field: generated code would allocate a
// message for each request and delivery. A test holds the two together.

var errMalformed = errors.New("natslink: malformed message")

// appendMessage appends a message as an element of a repeated field.
func appendMessage(b []byte, field protowire.Number, m interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
}) ([]byte, error) {
	n := m.SizeVT()
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(n))
	b = slices.Grow(b, n)
	at := len(b)
	b = b[:at+n]
	_, err := m.MarshalToSizedBufferVT(b[at:])
	return b, err
}

// appendRequest appends r to a RequestBatch; scratch is overwritten.
func appendRequest(b []byte, r *link.Request, scratch *linkv1.Request) ([]byte, error) {
	s := scratch
	s.Node, s.Conn, s.App, s.User, s.Device = r.Node, r.Conn, r.App, r.User, r.Device
	s.Codec, s.Server, s.Command, s.RequestId = linkv1.Codec(r.Codec), r.Server, uint32(r.Command), r.RequestID
	s.Conversation, s.ClientId, s.After, s.Since, s.Epoch, s.Body = r.Conversation, r.ClientID, r.After, r.Since, r.Epoch, r.Body
	b, err := appendMessage(b, 1, s)
	s.Body = nil
	return b, err
}

// eachRequest calls f for each request of a RequestBatch.
func eachRequest(data []byte, f func(link.Request)) error {
	var m linkv1.Request
	return fields(data, func(n protowire.Number, _ uint64, message []byte) error {
		if n != 1 {
			return nil
		}
		m.Reset()
		// Each in memory of its own: an owner keeps parts of a request for long, and they must not keep the batch alive.
		if err := m.UnmarshalVTUnsafe(bytes.Clone(message)); err != nil {
			return err
		}
		f(link.Request{
			Node: m.Node, Conn: m.Conn, App: m.App, User: m.User, Device: m.Device, Codec: link.Codec(m.Codec),
			Server: m.Server, Command: envelopev1.Command(int32(m.Command)), RequestID: m.RequestId,
			Conversation: m.Conversation, ClientID: m.ClientId, After: m.After, Since: m.Since, Epoch: m.Epoch, Body: m.Body,
		})
		return nil
	})
}

// fields calls f for each field of a message: v holds a varint or fixed64, b a length-delimited value.
func fields(data []byte, f func(n protowire.Number, v uint64, b []byte) error) error {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return errMalformed
		}
		data = data[n:]
		var v uint64
		var b []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(data)
		case protowire.Fixed64Type:
			v, n = protowire.ConsumeFixed64(data)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(data)
		default:
			n = protowire.ConsumeFieldValue(num, typ, data)
		}
		if n < 0 {
			return errMalformed
		}
		data = data[n:]
		if err := f(num, v, b); err != nil {
			return err
		}
	}
	return nil
}

// appendHeader appends the fields of a DeliveryBatch beside its deliveries. Fields may stand in any order, so it follows them: the
// number is known last.
func appendHeader(b []byte, from string, number uint64, partition int, epoch uint64) []byte {
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, from)
	b = appendUint(b, 2, number)
	b = appendUint(b, 3, uint64(partition))
	return appendUint(b, 4, epoch)
}

// appendControl makes a DeliveryBatch with number 0.
// With last alone, to all nodes, it tells how often deliveries for unknown nodes were lost.
func appendControl(b []byte, from string, last, skipTo uint64, lost, closing bool) []byte {
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, from)
	b = appendUint(b, 6, last)
	b = appendUint(b, 7, skipTo)
	b = appendUint(b, 8, protowire.EncodeBool(lost))
	return appendUint(b, 9, protowire.EncodeBool(closing))
}

// appendUsers adds whom alone the last skip concerns.
func appendUsers(b []byte, users link.Users) []byte {
	if len(users) == 0 {
		return b
	}
	b = protowire.AppendTag(b, 11, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(8*len(users)))
	for hash := range users {
		b = protowire.AppendFixed64(b, hash)
	}
	return b
}

// readUsers is the reverse.
func readUsers(data []byte) (link.Users, error) {
	if len(data)%8 != 0 || len(data)/8 > link.MaxUsers {
		return nil, errMalformed
	}
	users := make(link.Users, len(data)/8)
	for ; len(data) > 0; data = data[8:] {
		hash, _ := protowire.ConsumeFixed64(data)
		users[hash] = struct{}{}
	}
	return users, nil
}

// appendTaken makes the word to all nodes that the partition has a new owner.
func appendTaken(b []byte, partition int, epoch uint64) []byte {
	return appendUint(appendUint(appendUint(b, 3, uint64(partition)), 4, epoch), 10, 1)
}

func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// batch is a DeliveryBatch as it is read; its slices are used again.
type batch struct {
	from          string
	number        uint64
	last, skipTo  uint64
	lost, closing bool
	taken         bool
	users         link.Users
	link.Batch
}

// closes reports whether the batch does nothing but close sessions that lost their entries in presence to others: replaced, or to come again
// (unavailable) where the other has left.
func (b *batch) closes() bool {
	for i := range b.Deliveries {
		d := &b.Deliveries[i]
		if len(d.Frame) > 0 || d.Room != nil || d.Answers != 0 || d.Generation == 0 ||
			d.Close != protocol.CloseReplaced && d.Close != protocol.CloseUnavailable {
			return false
		}
	}
	return !b.taken && b.users == nil && b.Epoch == 0 && b.Partition == 0
}

// decode reads data, whose parts the deliveries' frames become.
func (b *batch) decode(data []byte) error {
	*b = batch{Batch: link.Batch{Deliveries: b.Deliveries[:0]}}
	return fields(data, func(n protowire.Number, v uint64, value []byte) error {
		switch n {
		case 1:
			b.from = view(value)
		case 2:
			b.number = v
		case 3:
			b.Partition = int(v)
		case 4:
			b.Epoch = v
		case 5:
			return b.decodeDelivery(value)
		case 6:
			b.last = v
		case 7:
			b.skipTo = v
		case 8:
			b.lost = v != 0
		case 9:
			b.closing = v != 0
		case 10:
			b.taken = v != 0
		case 11:
			var err error
			b.users, err = readUsers(value)
			return err
		}
		return nil
	})
}

func (b *batch) decodeDelivery(data []byte) error {
	var conns, generations, frame []byte
	var code, answers uint64
	var room *link.Room
	err := fields(data, func(n protowire.Number, v uint64, value []byte) error {
		switch n {
		case 1:
			conns = value
		case 2:
			frame = value
		case 3:
			code = v
		case 4:
			generations = value
		case 5:
			answers = v
		case 6:
			var err error
			if room, err = decodeRoom(value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || len(conns)%8 != 0 || len(generations) != 0 && len(generations) != len(conns) {
		return errMalformed
	}
	for i := 0; i < len(conns); i += 8 {
		d := link.Delivery{
			Conn: binary.LittleEndian.Uint64(conns[i:]), Frame: frame, Close: protocol.CloseCode(code), Answers: answers, Room: room,
		}
		if len(generations) != 0 {
			d.Generation = binary.LittleEndian.Uint64(generations[i:])
		}
		b.Deliveries = append(b.Deliveries, d)
	}
	return nil
}

// decodeRoom reads what large conversations add. The strings and the frame are parts of data.
func decodeRoom(data []byte) (*link.Room, error) {
	var m linkv1.Room
	if err := m.UnmarshalVTUnsafe(data); err != nil {
		return nil, errMalformed
	}
	return &link.Room{App: m.App, Conversation: m.Conversation, Op: link.RoomOp(m.Op), Seq: m.Seq, JSON: m.Json, Users: m.Users}, nil
}

// view is b as a string without a copy; nobody writes to b any more.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// sameFrame reports whether two deliveries hold the same frame, not merely equal ones, and can travel as one.
func sameFrame(a, b *link.Delivery) bool {
	return len(a.Frame) == len(b.Frame) && unsafe.SliceData(a.Frame) == unsafe.SliceData(b.Frame) && a.Close == b.Close &&
		a.Answers == b.Answers && a.Room == b.Room
}

// encoder writes deliveries; its slices are used again.
type encoder struct {
	m    linkv1.Delivery
	room linkv1.Room
}

// next appends the first of ds, and those behind it that share its frame, to a DeliveryBatch; it returns the rest.
func (e *encoder) next(b []byte, ds []link.Delivery) ([]byte, []link.Delivery, error) {
	first := &ds[0]
	m := &e.m
	m.Conns, m.Generations = m.Conns[:0], m.Generations[:0]
	m.Frame, m.CloseCode, m.Answers, m.Room = first.Frame, uint32(first.Close), first.Answers, nil
	if r := first.Room; r != nil {
		m.Room = &e.room
		e.room.App, e.room.Conversation, e.room.Op, e.room.Seq = r.App, r.Conversation, linkv1.RoomOp(r.Op), r.Seq
		e.room.Json, e.room.Users = r.JSON, r.Users
	}
	n, meant := 0, false
	for n < len(ds) && n < maxShared && sameFrame(first, &ds[n]) {
		m.Conns = append(m.Conns, ds[n].Conn)
		m.Generations = append(m.Generations, ds[n].Generation)
		meant = meant || ds[n].Generation != 0
		n++
	}
	if !meant {
		m.Generations = m.Generations[:0]
	}
	b, err := appendMessage(b, 5, m)
	m.Frame, e.room.Json, e.room.Users = nil, nil, nil
	return b, ds[n:], err
}

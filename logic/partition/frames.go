package partition

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// The frames that every message makes, an ack and a push, are put together by hand into a buffer shared by a block: the
// generated code would allocate a frame, a body and their bytes for each. The fields are those of envelope.proto and
// record.proto; a test holds the two to each other.

// appendAck appends the frame that acknowledges r.
func appendAck(dst []byte, r *link.Request, rec *logv1.Record, duplicate bool) []byte {
	var body [96]byte
	b := body[:0]
	if r.Command == envelopev1.Command_COMMAND_CONVERSATION_CREATE { // Whoever creates it does not know its id yet.
		b = appendString(b, 1, r.Conversation)
	}
	b = appendVarint(b, 2, rec.Seq)
	b = appendVarint(b, 3, rec.Count)
	b = appendVarint(b, 4, rec.Id)
	b = appendVarint(b, 5, uint64(rec.TimeUs))
	if duplicate {
		b = appendVarint(b, 6, 1)
	}
	dst = appendVarint(dst, 1, uint64(r.Command))
	dst = appendVarint(dst, 2, r.RequestID)
	return appendBytes(dst, 4, b)
}

// appendPush appends the frame that brings a record to a device. body is scratch space, returned grown.
func appendPush(dst, body []byte, rec *logv1.Record) ([]byte, []byte) {
	body = protocol.AppendClientRecord(body[:0], rec)
	dst = appendVarint(dst, 1, uint64(envelopev1.Command_COMMAND_RECORD))
	dst = appendString(dst, 3, rec.Conversation)
	return appendBytes(dst, 4, body), body
}

func appendVarint(dst []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), v)
}

func appendString(dst []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, field, protowire.BytesType), s)
}

func appendBytes(dst []byte, field protowire.Number, b []byte) []byte {
	if len(b) == 0 {
		return dst
	}
	return protowire.AppendBytes(protowire.AppendTag(dst, field, protowire.BytesType), b)
}

// encodeAnswer makes the frame that answers r with m.
func encodeAnswer(r *link.Request, m protocol.Message) ([]byte, error) {
	return encodeFrame(r.Codec, &envelopev1.Frame{Command: r.Command, RequestId: r.RequestID, Conversation: r.Conversation}, m)
}

func encodeFrame(codec link.Codec, f *envelopev1.Frame, m protocol.Message) ([]byte, error) {
	json := codec == link.CodecJSON
	body, err := protocol.EncodeBody(json, m)
	if err != nil {
		return nil, err
	}
	f.Body = body
	return protocol.EncodeFrame(json, f)
}

// EncodeError makes the frame that refuses a request.
func EncodeError(codec link.Codec, command envelopev1.Command, requestID uint64, conversation string, err *protocol.Error) []byte {
	frame, encodeErr := protocol.EncodeFrame(codec == link.CodecJSON, &envelopev1.Frame{
		Command: command, RequestId: requestID, Conversation: conversation, Error: err.Wire(),
	})
	if encodeErr != nil {
		// Only a command without a word can be at fault (an internal one asked for in JSON); the answer still names the request.
		frame, _ = protocol.EncodeFrame(codec == link.CodecJSON, &envelopev1.Frame{RequestId: requestID, Error: err.Wire()})
	}
	return frame
}

// encodeRecordJSON makes the push of a record for JSON sessions.
func encodeRecordJSON(rec *logv1.Record) ([]byte, error) {
	client, err := protocol.ClientRecord(rec)
	if err != nil {
		return nil, err
	}
	return encodeFrame(link.CodecJSON, &envelopev1.Frame{
		Command: envelopev1.Command_COMMAND_RECORD, Conversation: rec.Conversation,
	}, client)
}

// replier gathers answers by node and sends them at once. It belongs to one goroutine.
type replier struct {
	sender    link.Sender
	partition int
	nodes     []nodeBatch
	arena     []byte
}

type nodeBatch struct {
	node  string
	batch link.Batch
}

// add queues the answer to a request; one without a node wants none.
func (p *replier) add(r *link.Request, frame []byte) {
	if r.Node == "" {
		return
	}
	d := link.Delivery{Conn: r.Conn, Frame: frame, Answers: r.RequestID}
	for i := range p.nodes {
		if p.nodes[i].node == r.Node {
			p.nodes[i].batch.Deliveries = append(p.nodes[i].batch.Deliveries, d)
			return
		}
	}
	p.nodes = append(p.nodes, nodeBatch{r.Node, link.Batch{
		Partition: p.partition, Deliveries: append(make([]link.Delivery, 0, 16), d),
	}})
}

// ack queues an ack, in space shared by all acks of a block.
func (p *replier) ack(r *link.Request, rec *logv1.Record, duplicate bool) {
	const most = 384 // An ack with the longest conversation.
	if cap(p.arena)-len(p.arena) < most {
		p.arena = make([]byte, 0, 16<<10)
	}
	start := len(p.arena)
	p.arena = appendAck(p.arena, r, rec, duplicate)
	p.add(r, p.arena[start:len(p.arena):len(p.arena)])
}

// flush sends what was gathered.
func (p *replier) flush(epoch uint64) {
	for i := range p.nodes {
		n := &p.nodes[i]
		if len(n.batch.Deliveries) == 0 {
			continue
		}
		n.batch.Epoch = epoch
		p.sender.Send(n.node, &n.batch)
		clear(n.batch.Deliveries)
		n.batch.Deliveries = n.batch.Deliveries[:0]
	}
	if len(p.nodes) > 64 { // Nodes come and go; the list does not grow for ever.
		p.nodes = nil
	}
}

package protocol

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// The types of a record: field numbers of halley.record.v1.Record.body, kept in the log beside the body.
const (
	TypeMessage  = 16
	TypeCreated  = 17
	TypeMembers  = 18
	TypeStanding = 19
)

// Field numbers of halley.record.v1.Record.
const (
	recordSeq      = 1
	recordCount    = 2
	recordID       = 3
	recordSender   = 4
	recordClientID = 5
	recordTimeUs   = 6
	recordTarget   = 7
	recordJoined   = 8
	recordLeft     = 9
)

// AppendClientRecord appends the wire form of the halley.record.v1.Record that members see of r. The body is spliced in
// unopened, so a type that this build does not know passes through. The sender's device and the log's own fields stay
// behind.
func AppendClientRecord(dst []byte, r *logv1.Record) []byte {
	dst = appendVarintField(dst, recordSeq, r.Seq)
	dst = appendVarintField(dst, recordCount, r.Count)
	dst = appendVarintField(dst, recordID, r.Id)
	dst = appendStringField(dst, recordSender, r.Sender)
	dst = appendStringField(dst, recordClientID, r.ClientId)
	dst = appendVarintField(dst, recordTimeUs, uint64(r.TimeUs))
	dst = appendVarintField(dst, recordTarget, r.Target)
	for _, user := range r.Joined {
		dst = protowire.AppendTag(dst, recordJoined, protowire.BytesType)
		dst = protowire.AppendString(dst, user)
	}
	for _, user := range r.Left {
		dst = protowire.AppendTag(dst, recordLeft, protowire.BytesType)
		dst = protowire.AppendString(dst, user)
	}
	if r.Type != 0 {
		dst = protowire.AppendTag(dst, protowire.Number(r.Type), protowire.BytesType)
		dst = protowire.AppendBytes(dst, r.Body)
	}
	return dst
}

func appendVarintField(dst []byte, field protowire.Number, n uint64) []byte {
	if n == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), n)
}

func appendStringField(dst []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, field, protowire.BytesType), s)
}

// ClientRecord is the record that AppendClientRecord writes, decoded, for the JSON subprotocol and the HTTP API. A type that
// this build does not know leaves Body nil: the record still has its place in the order.
func ClientRecord(r *logv1.Record) (*recordv1.Record, error) {
	out := &recordv1.Record{
		Seq: r.Seq, Count: r.Count, Id: r.Id, Sender: r.Sender, ClientId: r.ClientId, TimeUs: r.TimeUs,
		Target: r.Target, Joined: r.Joined, Left: r.Left,
	}
	var err error
	switch r.Type {
	case TypeMessage:
		m := &messagev1.Message{}
		err = m.UnmarshalVT(r.Body)
		out.Body = &recordv1.Record_Message{Message: m}
	case TypeCreated:
		m := &recordv1.Created{}
		err = m.UnmarshalVT(r.Body)
		out.Body = &recordv1.Record_Created{Created: m}
	case TypeMembers:
		m := &recordv1.Members{}
		err = m.UnmarshalVT(r.Body)
		out.Body = &recordv1.Record_Members{Members: m}
	case TypeStanding:
		m := &recordv1.Standing{}
		err = m.UnmarshalVT(r.Body)
		out.Body = &recordv1.Record_Standing{Standing: m}
	}
	if err != nil {
		return nil, fmt.Errorf("body of record %d of %s, type %d: %w", r.Seq, r.Conversation, r.Type, err)
	}
	return out, nil
}

package protocol

import (
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
	receiptv1 "github.com/halley-im/halley/protocol/halley/receipt/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

// Message is a body: what every generated type here is.
type Message interface {
	proto.Message
	MarshalVT() ([]byte, error)
	UnmarshalVT([]byte) error
	SizeVT() int
}

// command is one row of the protocol: its number, its word in JSON, and what its frames carry.
type command struct {
	command envelopev1.Command
	word    string
	request func() Message // What the device sends; nil for what only the server sends.
	reply   func() Message // What the server sends, as an answer or on its own; nil for an empty body.
}

func body[T any, M interface {
	*T
	Message
}]() Message {
	return M(new(T))
}

// commands is the whole protocol. The words are the enum's names in lower case, the first underscore a dot; a test holds
// them to it.
var commands = [...]command{
	{envelopev1.Command_COMMAND_CONNECT, "connect", body[envelopev1.Connect], body[envelopev1.Hello]},
	{envelopev1.Command_COMMAND_PING, "ping", nil, nil},
	{envelopev1.Command_COMMAND_PONG, "pong", nil, nil},
	{envelopev1.Command_COMMAND_REFRESH, "refresh", body[envelopev1.Refresh], body[envelopev1.Hello]},
	{envelopev1.Command_COMMAND_CLOSE, "close", nil, body[envelopev1.Close]},
	{envelopev1.Command_COMMAND_RESYNC, "resync", nil, body[envelopev1.Resync]},

	{envelopev1.Command_COMMAND_MESSAGE_SEND, "message.send", body[messagev1.Message], body[recordv1.Ack]},

	{envelopev1.Command_COMMAND_CONVERSATION_CREATE, "conversation.create", body[conversationv1.CreateRequest], body[recordv1.Ack]},
	{envelopev1.Command_COMMAND_CONVERSATION_ADD, "conversation.add", body[conversationv1.AddRequest], body[recordv1.Ack]},
	{envelopev1.Command_COMMAND_CONVERSATION_REMOVE, "conversation.remove", body[conversationv1.RemoveRequest], body[recordv1.Ack]},
	{envelopev1.Command_COMMAND_CONVERSATION_LEAVE, "conversation.leave", body[conversationv1.LeaveRequest], body[recordv1.Ack]},
	{envelopev1.Command_COMMAND_CONVERSATION_LIST, "conversation.list", body[conversationv1.ListRequest], body[conversationv1.ListReply]},
	{envelopev1.Command_COMMAND_CONVERSATION_HEADS, "conversation.heads", body[conversationv1.HeadsRequest], body[conversationv1.HeadsReply]},
	{envelopev1.Command_COMMAND_CONVERSATION_HISTORY, "conversation.history", body[conversationv1.HistoryRequest], body[conversationv1.HistoryReply]},
	{envelopev1.Command_COMMAND_CONVERSATION_MEMBERS, "conversation.members", body[conversationv1.MembersRequest], body[conversationv1.MembersReply]},

	{envelopev1.Command_COMMAND_RECEIPT_READ, "receipt.read", body[receiptv1.ReadRequest], body[receiptv1.Cursor]},

	{envelopev1.Command_COMMAND_SIGNAL_TYPING, "signal.typing", body[signalv1.TypingRequest], body[signalv1.TypingReply]},
	{envelopev1.Command_COMMAND_SIGNAL_WATCH, "signal.watch", body[signalv1.WatchRequest], body[signalv1.WatchReply]},
	{envelopev1.Command_COMMAND_SIGNAL_UNWATCH, "signal.unwatch", body[signalv1.UnwatchRequest], body[signalv1.WatchReply]},

	{envelopev1.Command_COMMAND_RECORD, "record", nil, body[recordv1.Record]},
	{envelopev1.Command_COMMAND_CURSOR, "cursor", nil, body[receiptv1.Cursor]},
	{envelopev1.Command_COMMAND_TYPING, "typing", nil, body[signalv1.Typing]},
	{envelopev1.Command_COMMAND_PRESENCE, "presence", nil, body[signalv1.Presence]},
	{envelopev1.Command_COMMAND_HEAD, "head", nil, body[conversationv1.Head]},
}

// NewRequest makes the empty body that a device sends with c; nil where there is none.
func NewRequest(c envelopev1.Command) Message {
	for i := range commands {
		if commands[i].command == c && commands[i].request != nil {
			return commands[i].request()
		}
	}
	return nil
}

// NewReply makes the empty body that the server sends with c, as an answer or a push; nil where there is none.
func NewReply(c envelopev1.Command) Message {
	for i := range commands {
		if commands[i].command == c && commands[i].reply != nil {
			return commands[i].reply()
		}
	}
	return nil
}

// DecodeBody reads data into the empty message m. What it accepts every Protobuf library and every JSON reader can read
// (checkWire). JSON is strict: a field that m does not have is refused by name. Protobuf keeps unknown fields, as Protobuf
// does.
func DecodeBody(json bool, data []byte, m Message) *Error {
	if json {
		return decodeJSONBody(data, m)
	}
	d := m.ProtoReflect().Descriptor()
	err := checkWire(d, data)
	if err == nil {
		err = m.UnmarshalVT(data)
	}
	if err != nil {
		return Invalid("body", "not a valid %s: %s", d.FullName(), plain(err))
	}
	return nil
}

// EncodeBody writes m as the body of a frame. JSON is ProtoJSON with the names of the .proto files.
func EncodeBody(json bool, m Message) ([]byte, error) {
	if json {
		return protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	}
	return m.MarshalVT()
}

// EncodeFrame writes a frame for one of the codecs. Its body must be in the same codec.
func EncodeFrame(json bool, f *envelopev1.Frame) ([]byte, error) {
	if json {
		return EncodeJSONFrame(f)
	}
	return f.MarshalVT()
}

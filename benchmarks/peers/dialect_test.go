package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// ear notes what a session tells its client.
type ear struct {
	texts []string
	acks  []uint32
}

func (e *ear) delivered(_ *client, text []byte) { e.texts = append(e.texts, string(text)) }
func (e *ear) acked(_ *client, slot uint32)     { e.acks = append(e.acks, slot) }

// listener is a client whose connection does not stand: what it sends goes nowhere.
func listener(room string) (*client, *ear) {
	e := &ear{}
	c := &client{driver: &driver{}, part: &part{}, user: "u1", listen: "u1", room: room, chat: e}
	if room != "" {
		c.listen = room
	}
	return c, e
}

// inPieces has a session read a stream cut up in every way into two, and once byte by byte.
func inPieces(t *testing.T, stream string, fresh func() (session, *client, *ear), check func(c *client, e *ear) error) {
	t.Helper()
	for cut := range len(stream) + 1 {
		pieces := []string{stream[:cut], stream[cut:]}
		if cut == len(stream) {
			pieces = strings.Split(stream, "")
		}
		s, c, e := fresh()
		for _, piece := range pieces {
			if err := s.read([]byte(piece)); err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
		}
		if err := check(c, e); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
}

func heard(texts []string, acks []uint32) func(c *client, e *ear) error {
	return func(c *client, e *ear) error {
		if got, want := fmt.Sprint(c.up, e.texts, e.acks), fmt.Sprint(true, texts, acks); got != want {
			return fmt.Errorf("%s, want %s", got, want)
		}
		return nil
	}
}

func TestNATSInPieces(t *testing.T) {
	stream := "INFO {\"server_id\":\"x\"}\r\nPING\r\nPONG\r\nMSG chat.u1 1 5\r\nhello\r\nMSG _INBOX.u1.3 2 27\r\n{\"stream\":\"BENCH\",\"seq\":12}\r\n" +
		"+OK\r\nMSG chat.u1 1 _INBOX.u2.0 4\r\n\r\n\r\n\r\n"
	inPieces(t, stream, func() (session, *client, *ear) {
		c, e := listener("")
		return &nats{c: c, acks: true}, c, e
	}, heard([]string{"hello", "\r\n\r\n"}, []uint32{3}))
	for _, bad := range []string{
		"-ERR 'Authorization Violation'\r\n", "MSG chat.u1 1\r\n", "MSG chat.u1 1 x\r\n", "MSG a b c d e\r\n",
		"MSG _INBOX.u1.3 2 13\r\n{\"error\":{ }}\r\n\r\n", "MSG chat.u1 1 -1\r\n",
	} {
		c, _ := listener("")
		if err := (&nats{c: c}).read([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestNATSPublishes(t *testing.T) {
	c, _ := listener("")
	(&nats{c: c, acks: true}).publish("u7", 2, []byte("hello"))
	if got, want := string(c.part.scratch), "PUB chat.u7 _INBOX.u1.2 5\r\nhello\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestMQTTInPieces(t *testing.T) {
	long := strings.Repeat("x", 200) // Its length takes two bytes.
	stream := packet(nil, packetConnack, []byte{0, 0})
	stream = packet(stream, packetSuback, []byte{0, 1, 1})
	stream = packet(stream, packetPublish|1<<1, append(append(mqttString(nil, "chat/u1"), 0, 9), "hello"...))
	stream = packet(stream, packetPuback, []byte{0, 4})
	stream = packet(stream, packetPublish, append(mqttString(nil, "chat/u1"), long...))
	inPieces(t, string(stream), func() (session, *client, *ear) {
		c, e := listener("")
		return &mqtt{c: c, qos: 1}, c, e
	}, heard([]string{"hello", long}, []uint32{3}))
	for name, bad := range map[string][]byte{
		"a refused login":        packet(nil, packetConnack, []byte{0, 5}),
		"a refused subscription": packet(nil, packetSuback, []byte{0, 1, 0x80}),
		"a length without end":   {packetPublish, 0xFF, 0xFF, 0xFF, 0xFF, 1},
		"a foreign topic":        packet(nil, packetPublish, append(mqttString(nil, "other"), "hello"...)),
		"a topic cut off":        packet(nil, packetPublish, []byte{0, 9, 'c'}),
		"a short ack":            packet(nil, packetPuback, []byte{4}),
		"what clients send":      packet(nil, packetConnect, nil),
	} {
		c, _ := listener("")
		if err := (&mqtt{c: c, qos: 1}).read(bad); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestMQTTPublishes(t *testing.T) {
	c, _ := listener("")
	(&mqtt{c: c, qos: 1}).publish("u7", 2, []byte("hello"))
	want := append([]byte{0x32, 16, 0, 7}, "chat/u7\x00\x03hello"...)
	if got := c.part.scratch; !bytes.HasSuffix(got, want) {
		t.Errorf("% x, want % x at its end", got, want)
	}
}

// reply is a reply of centrifuge with one field beside its id, 0 for none.
func reply(id uint64, field protowire.Number, body []byte) []byte {
	var b []byte
	if id > 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, fieldID, protowire.VarintType), id)
	}
	b = bytesField(b, field, body)
	return append(protowire.AppendVarint(nil, uint64(len(b))), b...)
}

func TestCentrifugeReplies(t *testing.T) {
	const fieldPushChannel, fieldOffset = 2, 6
	publication := protowire.AppendVarint(protowire.AppendTag(nil, fieldOffset, protowire.VarintType), 300)
	publication = bytesField(publication, fieldData, []byte("hello"))
	push := bytesField(bytesField(nil, fieldPushChannel, []byte("u1")), fieldPub, publication)
	c, e := listener("")
	s := &centrifuge{c: c}
	if err := s.read(reply(commandConnect, 5, []byte("\x0a\x01x"))); err != nil || c.up {
		t.Fatalf("after the first reply: up %t, %v", c.up, err)
	}
	frame := reply(commandSubscribe, 6, nil)
	frame = append(frame, 0) // A ping.
	frame = append(frame, reply(0, fieldPush, push)...)
	frame = append(frame, reply(commandPublish+3, 8, nil)...)
	if err := s.read(frame); err != nil {
		t.Fatal(err)
	}
	if err := heard([]string{"hello"}, []uint32{3})(c, e); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string][]byte{
		"an error":      reply(commandSubscribe, fieldError, []byte("\x08\x67")),
		"half a reply":  frame[:len(frame)-1],
		"another push":  reply(0, fieldPush, bytesField(nil, 5, nil)),
		"no field's id": {1, 0},
	} {
		if err := (&centrifuge{c: c}).read(bad); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestCentrifugeCommandsAreAsLongAsTheySay(t *testing.T) {
	c, _ := listener("")
	text := bytes.Repeat([]byte("x"), 200)
	(&centrifuge{c: c}).publish("u7", 200, text)
	body := bytesField(bytesField(nil, fieldChannel, []byte("u7")), fieldPublishingData, text)
	frame := c.part.scratch[len(body):]
	size, n := protowire.ConsumeVarint(frame)
	if int(size) != len(frame)-n {
		t.Fatalf("says %d bytes, has %d", size, len(frame)-n)
	}
	var id uint64
	var request []byte
	if err := eachField(frame[n:], func(field protowire.Number, number uint64, value []byte) {
		switch field {
		case fieldID:
			id = number
		case fieldPublish:
			request = value
		}
	}); err != nil || id != commandPublish+200 || !bytes.Equal(request, body) {
		t.Errorf("id %d, request %q, %v", id, request, err)
	}
}

func TestXMPPLogsInAndListens(t *testing.T) {
	login := []string{
		"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>", "<stream:features><mechanisms/></stream:features>",
		"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "<stream:features><bind/></stream:features>",
		"<iq type='result' id='b'><bind/></iq>", "<presence from='u1@localhost/bench'/>", "<iq type='result' id='r'/>",
	}
	c, e := listener("")
	x := &xmpp{c: c}
	for _, frame := range login {
		if c.up {
			t.Fatalf("ready before %q", frame)
		}
		if err := x.read([]byte(frame)); err != nil {
			t.Fatal(err)
		}
	}
	for _, frame := range []string{
		"<presence from='u2@localhost/bench'/>",
		"<message from='u2@localhost/bench' to='u1@localhost' type='chat'><body>hello</body></message>",
		"<message from='u2@localhost/bench'><subject/></message>",
	} {
		if err := x.read([]byte(frame)); err != nil {
			t.Fatal(err)
		}
	}
	if err := heard([]string{"hello"}, nil)(c, e); err != nil {
		t.Error(err)
	}
	c, _ = listener("")
	if err := (&xmpp{c: c}).read([]byte("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>")); err == nil {
		t.Error("a refused login is taken")
	}
}

// The copy that a room sends back to who wrote is what tells that it was taken; the copies of others are messages.
func TestXMPPRoomAcknowledgesByItsCopy(t *testing.T) {
	for listen, want := range map[string]string{"": "[] [0]", roomName: "[hello] []"} {
		c, e := listener(roomName)
		c.listen, c.up = listen, true
		if err := (&xmpp{c: c}).read([]byte("<message from='room@conference.localhost/u1' type='groupchat'><body>hello</body></message>")); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(e.texts, e.acks); got != want {
			t.Errorf("who listens at %q hears %s, want %s", listen, got, want)
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/halley-im/halley/benchmarks/generator"
)

func centrifuges() []peer {
	plain := promises{
		Ack: "when it is queued to those who listen", Stored: "no", Order: "of the channel", History: "none", Dedup: "not used", Login: "JWT (HS256)",
	}
	history := plain
	history.Ack, history.Stored = "after it is in the channel's history", "in memory, lost with the process"
	history.Order, history.History = "an offset per channel", "the last 100 of a channel, 1 h"
	return []peer{{
		name: "centrifuge", title: "centrifuge", promises: plain, install: buildCentrifuge, version: centrifugeVersion,
		measure: driven("centrifuge", launchCentrifuge(false)),
	}, {
		name: "centrifuge-history", title: "centrifuge, history in memory", only: []kind{pairs, room}, promises: history,
		install: buildCentrifuge, version: centrifugeVersion, measure: driven("centrifuge", launchCentrifuge(true)),
	}}
}

// centrifugeFolder holds the module of the server.
const centrifugeFolder = "benchmarks/peers/centrifuge"

// buildCentrifuge builds the server with the releases that its go.mod pins.
func buildCentrifuge(ctx context.Context, r *rig) error {
	_, err := r.command(ctx, "go", "build", "-C", centrifugeFolder, "-o", centrifugeProgram(r), ".")
	return err
}

// centrifugeVersion is the release of the library in it.
func centrifugeVersion(_ context.Context, r *rig) (string, error) {
	list, err := os.ReadFile(filepath.Join(r.repository, centrifugeFolder, "go.mod"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(list)) {
		if version, ok := strings.CutPrefix(strings.TrimSpace(line), "github.com/centrifugal/centrifuge "); ok {
			return version, nil
		}
	}
	return "", errors.New("go.mod does not name centrifuge")
}

func centrifugeProgram(r *rig) string {
	return filepath.Join(r.repository, ".tools", "bin", "peers-centrifuge")
}

func launchCentrifuge(history bool) func(context.Context, *rig, scenario, string) (*server, wire, error) {
	return func(ctx context.Context, r *rig, _ scenario, dir string) (*server, wire, error) {
		ports, err := r.ports(1)
		if err != nil {
			return nil, wire{}, err
		}
		secret, err := newSecret()
		if err != nil {
			return nil, wire{}, err
		}
		file, err := write(dir, "secret", secret)
		if err != nil {
			return nil, wire{}, err
		}
		running, err := r.start("centrifuge", dir, nil, centrifugeProgram(r), "-listen", address(ports[0]), "-secret-file", file,
			fmt.Sprintf("-history=%t", history))
		if err != nil {
			return nil, wire{}, err
		}
		w := wire{
			transport: generator.WebSocket, target: address(ports[0]), path: "/connection/websocket", protocol: "centrifuge-protobuf",
			speak: func(c *client) session { return &centrifuge{c: c} }, acks: true,
			token: tokens([]byte(secret), func(user string, expires int64) any { return map[string]any{"sub": user, "exp": expires} }),
		}
		return running, w, running.listens(ctx, ports...)
	}
}

// Ids of commands: those of publications follow the last of these.
const (
	commandConnect = 1 + iota
	commandSubscribe
	commandPublish
)

// Fields of client.proto of centrifuge's protocol.
const (
	fieldID             = 1 // Of Command and Reply.
	fieldError          = 2 // Of Reply.
	fieldConnect        = 4 // Of Command, and the next two.
	fieldSubscribe      = 5
	fieldPublish        = 7
	fieldPush           = 4 // Of Reply.
	fieldPub            = 4 // Of Push.
	fieldData           = 4 // Of Publication.
	fieldToken          = 1 // Of ConnectRequest.
	fieldChannel        = 1 // Of SubscribeRequest and PublishRequest.
	fieldPublishingData = 2 // Of PublishRequest.
)

// centrifuge is the client's side of its Protobuf protocol: in a frame, commands or replies each after its length.
type centrifuge struct{ c *client }

func (s *centrifuge) open() {
	b := command(nil, commandConnect, fieldConnect, bytesField(nil, fieldToken, []byte(s.c.token)))
	if s.c.listen != "" {
		b = command(b, commandSubscribe, fieldSubscribe, bytesField(nil, fieldChannel, []byte(s.c.listen)))
	}
	s.c.send(b)
}

func (s *centrifuge) publish(to string, slot uint32, text []byte) {
	body := bytesField(bytesField(s.c.part.scratch[:0], fieldChannel, []byte(to)), fieldPublishingData, text)
	head := len(body)
	b := command(body, commandPublish+slot, fieldPublish, body)
	s.c.part.scratch = b
	s.c.send(b[head:])
}

// command appends a command with its length.
func command(b []byte, id uint32, field protowire.Number, body []byte) []byte {
	size := protowire.SizeTag(fieldID) + protowire.SizeVarint(uint64(id)) + protowire.SizeTag(field) + protowire.SizeBytes(len(body))
	b = protowire.AppendVarint(b, uint64(size))
	b = protowire.AppendVarint(protowire.AppendTag(b, fieldID, protowire.VarintType), uint64(id))
	return bytesField(b, field, body)
}

func bytesField(b []byte, field protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), value)
}

var errReply = errors.New("a reply of centrifuge that is not whole")

func (s *centrifuge) read(p []byte) error {
	for len(p) > 0 {
		size, n := protowire.ConsumeVarint(p)
		if n < 0 || size > uint64(len(p)-n) {
			return errReply
		}
		reply := p[n : n+int(size)]
		p = p[n+int(size):]
		if size == 0 {
			s.c.send([]byte{0}) // A ping is an empty reply, its answer an empty command.
			continue
		}
		if err := s.reply(reply); err != nil {
			return err
		}
	}
	return nil
}

func (s *centrifuge) reply(b []byte) error {
	id := uint32(0)
	var push, fault []byte
	if err := eachField(b, func(field protowire.Number, number uint64, value []byte) {
		switch field {
		case fieldID:
			id = uint32(number)
		case fieldError:
			fault = value
		case fieldPush:
			push = value
		}
	}); err != nil {
		return err
	}
	last := uint32(commandConnect)
	if s.c.listen != "" {
		last = commandSubscribe
	}
	switch {
	case fault != nil:
		return fmt.Errorf("centrifuge refuses command %d: %q", id, fault)
	case push != nil:
		return s.push(push)
	case id == last:
		s.c.ready()
	case id >= commandPublish:
		s.c.acked(id - commandPublish)
	}
	return nil
}

func (s *centrifuge) push(b []byte) error {
	var publication, data []byte
	if err := eachField(b, func(field protowire.Number, _ uint64, value []byte) {
		if field == fieldPub {
			publication = value
		}
	}); err != nil {
		return err
	}
	if publication == nil {
		return errors.New("a push of centrifuge that is no publication")
	}
	if err := eachField(publication, func(field protowire.Number, _ uint64, value []byte) {
		if field == fieldData {
			data = value
		}
	}); err != nil {
		return err
	}
	s.c.deliver(data)
	return nil
}

// eachField calls f with every field of a message: its number if it is a varint, else its bytes.
func eachField(b []byte, f func(field protowire.Number, number uint64, value []byte)) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errReply
		}
		b = b[n:]
		number, value := uint64(0), []byte(nil)
		switch kind {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return errReply
		}
		b = b[n:]
		f(field, number, value)
	}
	return nil
}

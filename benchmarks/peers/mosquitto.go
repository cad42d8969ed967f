package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/halley-im/halley/benchmarks/generator"
)

func mosquittos() []peer {
	once := promises{
		Ack: "PUBACK when the broker has it in memory", Stored: "no (sessions are clean, persistence off)", Order: "of each sender",
		History: "none", Dedup: "none at QoS 1", Login: "password (PBKDF2, as it ships)",
	}
	never := once
	never.Ack, never.Dedup = "none", "none"
	install := func(ctx context.Context, r *rig) error { return r.install(ctx, "mosquitto") }
	return []peer{{
		name: "mosquitto", title: "mosquitto, QoS 1", tcp: true, promises: once, install: install, version: mosquittoVersion,
		measure: driven("mosquitto", launchMosquitto(1)),
	}, {
		name: "mosquitto-qos0", title: "mosquitto, QoS 0", only: []kind{pairs, room}, promises: never, install: install, version: mosquittoVersion,
		measure: driven("mosquitto", launchMosquitto(0)),
	}}
}

func mosquittoVersion(ctx context.Context, r *rig) (string, error) {
	if _, err := program("mosquitto"); err != nil {
		return "", err
	}
	return packageVersion(ctx, r, "mosquitto")
}

// packageVersion is that of a Debian package.
func packageVersion(ctx context.Context, r *rig, name string) (string, error) {
	return r.command(ctx, "dpkg-query", "-W", "-f", "${Version}", name)
}

const mosquittoUser = "bench"

func launchMosquitto(qos byte) func(context.Context, *rig, scenario, string) (*server, wire, error) {
	return func(ctx context.Context, r *rig, s scenario, dir string) (*server, wire, error) {
		path, err := program("mosquitto")
		if err != nil {
			return nil, wire{}, err
		}
		ports, err := r.ports(2)
		if err != nil {
			return nil, wire{}, err
		}
		password, err := newSecret()
		if err != nil {
			return nil, wire{}, err
		}
		passwords := filepath.Join(dir, "passwords")
		if _, err := r.command(ctx, "mosquitto_passwd", "-b", "-c", passwords, mosquittoUser, password); err != nil {
			return nil, wire{}, err
		}
		// Without set_tcp_nodelay a small message waits for the acknowledgement of the one before.
		file, err := write(dir, "mosquitto.conf", fmt.Sprintf(`listener %d 127.0.0.1
listener %d 127.0.0.1
protocol websockets
allow_anonymous false
password_file %s
persistence false
set_tcp_nodelay true
log_type error
log_type warning
user root
`, ports[0], ports[1], passwords))
		if err != nil {
			return nil, wire{}, err
		}
		running, err := r.start("mosquitto", dir, nil, path, "-c", file)
		if err != nil {
			return nil, wire{}, err
		}
		w := wire{
			transport: generator.WebSocket, target: address(ports[1]), path: "/mqtt", protocol: "mqtt", acks: qos > 0,
			speak: func(c *client) session { return &mqtt{c: c, password: password, qos: qos} },
		}
		if s.TCP {
			w.transport, w.target = generator.Bytes, address(ports[0])
		}
		return running, w, running.listens(ctx, ports...)
	}
}

// Types of MQTT 3.1.1's packets, section 2.2.1, as they stand in the first byte.
const (
	packetConnect     = 0x10
	packetConnack     = 0x20
	packetPublish     = 0x30
	packetPuback      = 0x40
	packetSubscribe   = 0x82
	packetSuback      = 0x90
	packetPingresp    = 0xD0
	mqttKeepAliveS    = 600 // Longer than a scenario, so that nobody pings.
	mqttCleanSession  = 0x02
	mqttUserAndSecret = 0xC0
)

// mqtt is the client's side of MQTT 3.1.1.
type mqtt struct {
	tail
	c        *client
	password string
	qos      byte
}

func (m *mqtt) open() {
	body := append(mqttString(nil, "MQTT"), 4, mqttCleanSession|mqttUserAndSecret)
	body = binary.BigEndian.AppendUint16(body, mqttKeepAliveS)
	body = mqttString(mqttString(mqttString(body, m.c.user), mosquittoUser), m.password)
	b := packet(nil, packetConnect, body)
	if m.c.listen != "" {
		// The packet's id is 1; no publication is on its way then.
		b = packet(b, packetSubscribe, append(mqttString([]byte{0, 1}, "chat/"+m.c.listen), m.qos))
	}
	m.c.send(b)
}

func (m *mqtt) publish(to string, slot uint32, text []byte) {
	body := binary.BigEndian.AppendUint16(m.c.part.scratch[:0], uint16(len("chat/")+len(to)))
	body = append(append(body, "chat/"...), to...)
	if m.qos > 0 {
		body = binary.BigEndian.AppendUint16(body, uint16(slot+1)) // 0 is no id.
	}
	body = append(body, text...)
	head := len(body)
	b := packet(body, packetPublish|m.qos<<1, body)
	m.c.part.scratch = b
	m.c.send(b[head:])
}

// packet appends a packet with its header.
func packet(b []byte, first byte, body []byte) []byte {
	b = append(b, first)
	n := len(body)
	for ; n > 127; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(append(b, byte(n)), body...)
}

func mqttString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func (m *mqtt) read(p []byte) error { return m.feed(p, m.next) }

// next takes one packet.
func (m *mqtt) next(b []byte) (int, error) {
	size, head := 0, 1
	for shift := 0; ; shift += 7 {
		if shift > 21 {
			return 0, errors.New("an MQTT packet of more than 256 MB")
		}
		if head == len(b) {
			return 0, nil
		}
		size |= int(b[head]&0x7F) << shift
		head++
		if b[head-1]&0x80 == 0 {
			break
		}
	}
	if size > maxTail {
		return 0, fmt.Errorf("an MQTT packet of %d bytes", size)
	}
	if len(b) < head+size {
		return 0, nil
	}
	return head + size, m.packet(b[0], b[head:head+size])
}

func (m *mqtt) packet(first byte, body []byte) error {
	switch first & 0xF0 {
	case packetConnack:
		if len(body) != 2 || body[1] != 0 {
			return fmt.Errorf("mosquitto refuses the connection: % x", body)
		}
		if m.c.listen == "" {
			m.c.ready()
		}
	case packetSuback:
		if len(body) != 3 || body[2] != m.qos {
			return fmt.Errorf("mosquitto refuses the subscription: % x", body)
		}
		m.c.ready()
	case packetPuback:
		if len(body) != 2 {
			return badPacket(first, body)
		}
		m.c.acked(uint32(binary.BigEndian.Uint16(body)) - 1)
	case packetPublish:
		return m.publication(first, body)
	case packetPingresp:
	default:
		return badPacket(first, body)
	}
	return nil
}

func badPacket(first byte, body []byte) error {
	return fmt.Errorf("an MQTT packet of type %#x with %d bytes", first, len(body))
}

func (m *mqtt) publication(first byte, body []byte) error {
	if len(body) < 2 {
		return badPacket(first, body)
	}
	topic := 2 + int(binary.BigEndian.Uint16(body))
	if len(body) < topic || !bytes.HasPrefix(body[2:topic], []byte("chat/")) {
		return badPacket(first, body)
	}
	text := body[topic:]
	if first&0x06 != 0 {
		if len(text) < 2 {
			return badPacket(first, body)
		}
		m.c.send([]byte{packetPuback, 2, text[0], text[1]})
		text = text[2:]
	}
	m.c.deliver(text)
	return nil
}

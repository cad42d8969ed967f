package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/halley-im/halley/benchmarks/generator"
)

func natses() []peer {
	core := promises{
		Ack: "none", Stored: "no", Order: "of each sender", History: "none", Dedup: "none", Login: "one password, not hashed",
	}
	stream := core
	stream.Ack, stream.Stored = "after the write, before any fsync", "file; fsync every 2 min, so power loss takes acked messages"
	stream.Order, stream.History, stream.Dedup = "of the stream", "the stream", "not used (`Nats-Msg-Id` would)"
	synced := stream
	synced.Ack, synced.Stored = "after fsync", "file, fsync before the ack"
	both := []kind{pairs}
	return []peer{
		{name: "nats", title: "NATS", tcp: true, promises: core, install: installNATS, version: natsVersion, measure: driven("nats", launchNATS(""))},
		{
			name: "nats-jetstream", title: "NATS, JetStream as it ships", only: both, promises: stream, install: installNATS, version: natsVersion,
			measure: driven("nats", launchNATS("2m")),
		},
		{
			name: "nats-jetstream-fsync", title: "NATS, JetStream with `sync_interval: always`", only: both, promises: synced,
			install: installNATS, version: natsVersion, measure: driven("nats", launchNATS("always")),
		},
	}
}

func installNATS(ctx context.Context, r *rig) error { return r.install(ctx, "nats") }

// natsProgram is the release that Halley embeds.
func natsProgram(ctx context.Context, r *rig) (string, error) {
	return r.command(ctx, filepath.Join(r.repository, "deploy", "local", "nats.sh"), "fetch")
}

func natsVersion(ctx context.Context, r *rig) (string, error) {
	path, err := natsProgram(ctx, r)
	if err != nil {
		return "", err
	}
	text, err := r.command(ctx, path, "--version")
	return strings.TrimPrefix(text, "nats-server: "), err
}

// launchNATS starts it, with a stream over all subjects if sync says how that is synced.
func launchNATS(sync string) func(context.Context, *rig, scenario, string) (*server, wire, error) {
	return func(ctx context.Context, r *rig, s scenario, dir string) (*server, wire, error) {
		path, err := natsProgram(ctx, r)
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
		conf := fmt.Sprintf("listen: %q\nwebsocket { listen: %q, no_tls: true }\nauthorization { user: bench, password: %q }\n",
			address(ports[0]), address(ports[1]), password)
		if sync != "" {
			conf += fmt.Sprintf("jetstream { store_dir: %q, sync_interval: %q }\n", filepath.Join(dir, "js"), sync)
		}
		file, err := write(dir, "nats.conf", conf)
		if err != nil {
			return nil, wire{}, err
		}
		running, err := r.start("nats-server", dir, nil, path, "-c", file)
		if err != nil {
			return nil, wire{}, err
		}
		if err := running.listens(ctx, ports...); err != nil {
			return running, wire{}, err
		}
		if sync != "" {
			if err := running.until(ctx, func() error { return makeStream(ctx, address(ports[0]), password) }); err != nil {
				return running, wire{}, err
			}
		}
		w := wire{transport: generator.WebSocket, target: address(ports[1]), path: "/", acks: sync != ""}
		if s.TCP {
			w.transport, w.target = generator.Bytes, address(ports[0])
		}
		w.speak = func(c *client) session { return &nats{c: c, password: password, acks: w.acks} }
		return running, w, nil
	}
}

// makeStream creates the stream that takes every message.
func makeStream(ctx context.Context, target, password string) error {
	conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", target)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is left to be written.
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	const ask = `{"name":"BENCH","subjects":["chat.>"],"storage":"file","retention":"limits"}`
	if _, err := fmt.Fprintf(conn, "%sSUB made 1\r\nPUB $JS.API.STREAM.CREATE.BENCH made %d\r\n%s\r\n", natsConnect("setup", password), len(ask), ask); err != nil {
		return err
	}
	var told []byte
	for buf := make([]byte, 4096); !bytes.Contains(told, []byte("MSG made")) || !bytes.HasSuffix(told, []byte("}\r\n")); {
		n, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("create the stream: %w", err)
		}
		told = append(told, buf[:n]...)
	}
	if bytes.Contains(told, []byte(`"error"`)) {
		return errors.New("create the stream: " + lastLine(string(told)))
	}
	return nil
}

func natsConnect(name, password string) string {
	return fmt.Sprintf(`CONNECT {"verbose":false,"pedantic":false,"user":"bench","pass":%q,"name":%q,"lang":"go","version":"1","protocol":1,"echo":false}`+"\r\n",
		password, name)
}

// nats is the client's side of the NATS protocol. Subscription 1 is where the client listens, 2 the answers to what it sent.
type nats struct {
	tail
	c        *client
	password string
	acks     bool
}

// open waits: the server speaks first.
func (n *nats) open() {}

func (n *nats) hello() {
	b := []byte(natsConnect(n.c.user, n.password))
	if n.c.listen != "" {
		b = fmt.Appendf(b, "SUB chat.%s 1\r\n", n.c.listen)
	}
	if n.acks {
		b = fmt.Appendf(b, "SUB _INBOX.%s.* 2\r\n", n.c.user)
	}
	n.c.send(append(b, "PING\r\n"...))
}

func (n *nats) publish(to string, slot uint32, text []byte) {
	b := n.c.part.scratch[:0]
	b = append(b, "PUB chat."...)
	b = append(b, to...)
	if n.acks {
		b = append(append(b, " _INBOX."...), n.c.user...)
		b = strconv.AppendUint(append(b, '.'), uint64(slot), 10)
	}
	b = strconv.AppendInt(append(b, ' '), int64(len(text)), 10)
	b = append(append(append(b, "\r\n"...), text...), "\r\n"...)
	n.c.part.scratch = b
	n.c.send(b)
}

func (n *nats) read(p []byte) error { return n.feed(p, n.next) }

// next takes one operation.
func (n *nats) next(b []byte) (int, error) {
	end := bytes.IndexByte(b, '\n')
	if end < 1 {
		return 0, nil
	}
	line, length := b[:end-1], end+1 // Without CR LF.
	word, arguments, _ := bytes.Cut(line, []byte{' '})
	switch string(word) {
	case "MSG":
		return n.message(arguments, b, length)
	case "INFO":
		if !n.c.up {
			n.hello()
		}
	case "PING":
		n.c.send([]byte("PONG\r\n"))
	case "PONG":
		n.c.ready()
	case "+OK":
	default:
		return 0, fmt.Errorf("nats-server says %q", line)
	}
	return length, nil
}

// message takes MSG subject sid [reply] size; its text begins at head.
func (n *nats) message(arguments, b []byte, head int) (int, error) {
	fields := [4][]byte{}
	count := 0
	for f := range bytes.FieldsSeq(arguments) {
		if count == len(fields) {
			return 0, fmt.Errorf("MSG %s", arguments)
		}
		fields[count] = f
		count++
	}
	if count < 3 {
		return 0, fmt.Errorf("MSG %s", arguments)
	}
	size, err := strconv.Atoi(string(fields[count-1]))
	if err != nil || size < 0 || size > maxTail {
		return 0, fmt.Errorf("MSG %s", arguments)
	}
	if len(b) < head+size+2 {
		return 0, nil
	}
	text := b[head : head+size]
	if string(fields[1]) == "1" {
		n.c.deliver(text)
		return head + size + 2, nil
	}
	subject := string(fields[0])
	slot, err := strconv.ParseUint(subject[strings.LastIndexByte(subject, '.')+1:], 10, 32)
	if err != nil || bytes.Contains(text, []byte(`"error"`)) {
		return 0, fmt.Errorf("the stream answers %s: %s", subject, text)
	}
	n.c.acked(uint32(slot))
	return head + size + 2, nil
}

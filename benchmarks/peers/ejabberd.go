package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/halley-im/halley/benchmarks/generator"
)

func ejabberds() []peer {
	plain := promises{
		Ack: "none in 1:1; in a room the copy that comes back", Stored: "no", Order: "of each sender; of the room", History: "none", Dedup: "none",
		Login: "JWT (HS256), presence",
	}
	archive := plain
	archive.Stored, archive.History = "Mnesia, written in the background without fsync", "all (XEP-0313)"
	install := func(ctx context.Context, r *rig) error { return r.install(ctx, "ejabberd") }
	version := func(ctx context.Context, r *rig) (string, error) {
		if _, err := ejabberdFolder(); err != nil {
			return "", err
		}
		return packageVersion(ctx, r, "ejabberd")
	}
	return []peer{{
		name: "ejabberd", title: "ejabberd", tcp: true, promises: plain, install: install, version: version,
		measure: driven("ejabberd", launchEjabberd("")),
	}, {
		name: "ejabberd-archive", title: "ejabberd with its archive", only: []kind{pairs}, promises: archive, install: install, version: version,
		measure: driven("ejabberd", launchEjabberd("  mod_mam: {default: always}\n")),
	}}
}

// ejabberdFolder is where the package has put the program.
func ejabberdFolder() (string, error) {
	found, err := filepath.Glob("/usr/lib/*/ejabberd-*/ebin")
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("no ejabberd below %s", "/usr/lib")
	}
	if err != nil {
		return "", err
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// ejabberdConf loads what chat needs and nothing beside. In a room of thousands nobody is told who comes and goes.
const ejabberdConf = `hosts: [localhost]
loglevel: error
auth_method: [jwt]
jwt_key: %q
disable_sasl_mechanisms: [digest-md5, scram-sha-1, scram-sha-256, scram-sha-512, x-oauth2]
listen:
  - {port: %d, ip: "127.0.0.1", module: ejabberd_c2s, starttls: false, backlog: 1000}
  - {port: %d, ip: "127.0.0.1", module: ejabberd_http, backlog: 1000, request_handlers: {/ws: ejabberd_http_ws}}
modules:
  mod_roster: {}
  mod_muc:
    max_users: 20000
    default_room_options: {max_users: 20000, presence_broadcast: [], mam: false}
%s`

func launchEjabberd(modules string) func(context.Context, *rig, scenario, string) (*server, wire, error) {
	return func(ctx context.Context, r *rig, s scenario, dir string) (*server, wire, error) {
		folder, err := ejabberdFolder()
		if err != nil {
			return nil, wire{}, err
		}
		ports, err := r.ports(2)
		if err != nil {
			return nil, wire{}, err
		}
		secret, err := newSecret()
		if err != nil {
			return nil, wire{}, err
		}
		key, err := json.Marshal(map[string]string{"kty": "oct", "alg": "HS256", "k": base64.RawURLEncoding.EncodeToString([]byte(secret))})
		if err != nil {
			return nil, wire{}, err
		}
		keyFile, err := write(dir, "key.jwk", string(key))
		if err != nil {
			return nil, wire{}, err
		}
		conf, err := write(dir, "ejabberd.yml", fmt.Sprintf(ejabberdConf, keyFile, ports[0], ports[1], modules))
		if err != nil {
			return nil, wire{}, err
		}
		// As ejabberdctl starts it, but without a name in a cluster, which would leave epmd behind, and without busy waiting, which
		// would count as CPU.
		running, err := r.start("ejabberd", dir, []string{
			"ERL_LIBS=" + filepath.Dir(folder), "EJABBERD_CONFIG_PATH=" + conf, "EJABBERD_LOG_PATH=" + filepath.Join(dir, "ejabberd.log"),
			"HOME=" + dir, "ERL_CRASH_DUMP_BYTES=0", "ERL_MAX_PORTS=65536",
		}, "erl", "+K", "true", "+P", "250000", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none", "-noinput",
			"-mnesia", "dir", fmt.Sprintf("%q", filepath.Join(dir, "mnesia")), "-s", "ejabberd")
		if err != nil {
			return nil, wire{}, err
		}
		w := wire{
			transport: generator.WebSocket, target: address(ports[1]), path: "/ws", protocol: "xmpp", text: true,
			speak: func(c *client) session { return &xmpp{c: c, stream: s.TCP} }, acks: s.Kind == room,
			token: tokens([]byte(secret), func(user string, expires int64) any {
				return map[string]any{"jid": user + "@" + xmppHost, "exp": expires}
			}),
		}
		if s.TCP {
			w.transport, w.target = generator.Bytes, address(ports[0])
		}
		return running, w, running.listens(ctx, ports...)
	}
}

const (
	xmppHost  = "localhost"
	xmppRooms = "conference." + xmppHost
)

// xmpp is the client's side of XMPP, over WebSocket (RFC 7395) or, without messages, over TCP.
type xmpp struct {
	c      *client
	stream bool
	step   int
	kept   []byte // What came of the answer that it waits for.
}

// answers end the steps of the login, one after the other; the last stands where there is a room.
var answers = [...]string{"</stream:features>", "<success", "</stream:features>", "</iq>", "id='r'", "<subject"}

func (x *xmpp) begin() string {
	if x.stream {
		return `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='` + xmppHost + `' version='1.0'>`
	}
	return `<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='` + xmppHost + `' version='1.0'/>`
}

func (x *xmpp) say(stanza string) { x.c.send([]byte(stanza)) }

func (x *xmpp) open() { x.say(x.begin()) }

func (x *xmpp) read(p []byte) error {
	if x.c.up {
		x.stanza(p)
		return nil
	}
	if bytes.Contains(p, []byte("<failure")) || bytes.Contains(p, []byte("<stream:error")) {
		return fmt.Errorf("ejabberd says %q", p)
	}
	x.kept = append(x.kept, p...)
	if len(x.kept) > maxTail {
		return fmt.Errorf("ejabberd does not say %s", answers[x.step])
	}
	if !bytes.Contains(x.kept, []byte(answers[x.step])) {
		return nil
	}
	x.kept = x.kept[:0]
	x.next()
	return nil
}

// next follows the answer to a step.
func (x *xmpp) next() {
	x.step++
	switch x.step {
	case 1:
		secret := base64.StdEncoding.EncodeToString([]byte("\x00" + x.c.user + "\x00" + x.c.token))
		x.say(`<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>` + secret + `</auth>`)
	case 2:
		x.say(x.begin())
	case 3:
		x.say(`<iq xmlns='jabber:client' type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>bench</resource></bind></iq>`)
	case 4: // What every client does before it chats: it is there, and asks for its contacts.
		x.say(`<presence xmlns='jabber:client'/>`)
		x.say(`<iq xmlns='jabber:client' type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>`)
	case 5:
		if x.c.room == "" {
			x.ready()
			return
		}
		x.say(`<presence xmlns='jabber:client' to='` + x.c.room + `@` + xmppRooms + `/` + x.c.user +
			`'><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x></presence>`)
	default:
		x.ready()
	}
}

func (x *xmpp) ready() {
	x.kept = nil
	x.c.ready()
}

func (x *xmpp) publish(to string, _ uint32, text []byte) {
	b := x.c.part.scratch[:0]
	b = append(b, "<message xmlns='jabber:client' to='"...)
	b = append(append(b, to...), '@')
	if x.c.room != "" {
		b = append(b, xmppRooms+"' type='groupchat'><body>"...)
	} else {
		b = append(b, xmppHost+"' type='chat'><body>"...)
	}
	b = append(append(b, text...), "</body></message>"...)
	x.c.part.scratch = b
	x.c.send(b)
}

// stanza takes the text from a message; texts hold nothing that XML would have to escape.
func (x *xmpp) stanza(p []byte) {
	if !bytes.HasPrefix(p, []byte("<message")) {
		return
	}
	from := bytes.Index(p, []byte("<body>"))
	to := bytes.Index(p, []byte("</body>"))
	if from < 0 || to < from {
		return
	}
	if x.c.room != "" && x.c.listen == "" && bytes.Contains(p[:from], []byte("/"+x.c.user+"'")) {
		x.c.acked(0) // The writer's own copy.
		return
	}
	x.c.deliver(p[from+len("<body>") : to])
}

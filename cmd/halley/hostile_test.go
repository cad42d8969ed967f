package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	messagev1 "github.com/halley-im/halley/protocol/halley/message/v1"
)

// hostileWorld is a halley serve in a process of its own, among clients who mean it ill and one who does not. What an attack
// leaves behind is read where an operator would: from the metrics, and from the process's descriptors.
type hostileWorld struct {
	*served
	key    auth.Key
	ws     string // host:port
	tcp    string
	idle   residue // before the attacks
	friend *comettest.Client
}

// Nothing of the server's own may grow so much that it hides what an attack leaves, so caches are small.
var hostileSettings = []string{
	"comet.sessions_per_user=1000", "auth.leeway_s=0", "comet.linger_ms=300", "pebble.memtable_bytes=2097152", "pebble.cache_bytes=1048576", "log.level=error",
}

func startHostile(t *testing.T, settings ...string) *hostileWorld {
	t.Helper()
	dir := t.TempDir()
	var args []string
	for _, s := range append(hostileSettings, settings...) {
		args = append(args, "--set", s)
	}
	w := &hostileWorld{served: serve(t, dir, args...)}
	keys, err := auth.LoadKeys(filepath.Join(dir, defaultDataDir, tokenKeysName))
	if err != nil {
		t.Fatal(err)
	}
	e := w.endpoints()
	at, err := url.Parse(e.WS)
	if err != nil {
		t.Fatal(err)
	}
	w.key, w.ws, w.tcp = keys[0], at.Host, e.TCP
	w.until("the demo's own device is connected", func() error { return w.connections(demoDevices) })
	for _, wire := range comettest.Wires() { // What the first use of a thing makes and keeps is no residue.
		c := w.connect(wire, "warm", wire.Transport)
		w.refused(c, &envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONVERSATION_HISTORY, RequestId: 2, Conversation: "g:none"}, protocol.CodeNotFound)
		_ = c.Close()
	}
	w.until("the warm-up is over", func() error { return w.connections(demoDevices) })
	w.idle = w.residue()
	w.friend = w.connect(comettest.TCP(), "friend", "phone")
	return w
}

// over ends an attack: the friend was never disturbed, and everything is as it was before.
func (w *hostileWorld) over() {
	w.t.Helper()
	_ = w.friend.SetDeadline(time.Now().Add(patience))
	w.friend.Ping()
	_ = w.friend.Close()
	w.until("nothing is left of the attack", func() error {
		if err := w.connections(demoDevices); err != nil {
			return err
		}
		return w.residue().beyond(w.idle)
	})
	if code, _ := w.get(w.endpoints().Admin + "/readyz"); code != http.StatusOK {
		w.t.Errorf("/readyz: %d", code)
	}
	if log := w.errs.String(); strings.Contains(log, `"level":"ERROR"`) || strings.Contains(log, "panic") {
		w.t.Errorf("the attack made the server complain:\n%s", log)
	}
}

// demoDevices are connected to every serve: the bot of the chat demo.
const demoDevices = 1

// residue is what an attack could leave behind.
type residue struct {
	goroutines, sockets, heap, watches, backlog float64
}

// Of the server's own work at any moment: goroutines that compact or append, and what the store keeps in memory of records.
const (
	ownGoroutines = 20
	ownHeap       = 12 << 20
)

func (r residue) beyond(idle residue) error {
	switch {
	case r.sockets > idle.sockets:
		return fmt.Errorf("%.0f sockets, %.0f before", r.sockets, idle.sockets)
	case r.goroutines > idle.goroutines+ownGoroutines:
		return fmt.Errorf("%.0f goroutines, %.0f before", r.goroutines, idle.goroutines)
	case r.heap > idle.heap+ownHeap:
		return fmt.Errorf("%.1f MiB of heap, %.1f before", r.heap/(1<<20), idle.heap/(1<<20))
	case r.watches > 0:
		return fmt.Errorf("%.0f users are watched", r.watches)
	case r.backlog > 0:
		return fmt.Errorf("%.0f bytes wait for readers", r.backlog)
	}
	return nil
}

func (w *hostileWorld) residue() residue {
	w.t.Helper()
	w.fetch(w.endpoints().Admin + "/debug/pprof/heap?gc=1") // collects first
	m := w.metrics()
	return residue{
		goroutines: m.sum("go_goroutines"), heap: m.sum("go_memstats_heap_alloc_bytes"), sockets: w.sockets(),
		watches: m.sum("halley_logic_watches"), backlog: m.sum("halley_comet_outbox_bytes"),
	}
}

// sockets counts those of the server's process, this test's own question to it aside.
func (w *hostileWorld) sockets() (n float64) {
	w.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", w.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		w.t.Skipf("no /proc: %v", err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

func (w *hostileWorld) connections(want float64) error {
	if n := w.metrics().sum("halley_comet_connections"); n != want {
		return fmt.Errorf("%.0f connections, want %.0f", n, want)
	}
	return nil
}

// exposition is a scrape, line by line.
type exposition []string

func (w *hostileWorld) metrics() exposition {
	w.t.Helper()
	return strings.Split(w.fetch(w.endpoints().Admin+"/metrics"), "\n")
}

// fetch leaves no connection behind that would be counted.
func (w *hostileWorld) fetch(from string) string {
	w.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	res, err := client.Get(from)
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.errs)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

// sum adds up a metric over the series that have all of the labels, given as `name="value"`.
func (e exposition) sum(name string, labels ...string) (sum float64) {
next:
	for _, line := range e {
		series, value, _ := strings.Cut(line, " ")
		found, rest, _ := strings.Cut(series, "{")
		if found != name {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(","+strings.TrimSuffix(rest, "}")+",", ","+l+",") {
				continue next
			}
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			sum += v
		}
	}
	return sum
}

// count is a counter of comet with one label: "disconnects_total", "code", "too_large".
func (w *hostileWorld) count(name, label, value string) float64 {
	w.t.Helper()
	return w.metrics().sum("halley_comet_"+name, label+`="`+value+`"`)
}

// counted runs fn and sees that the counter went up by so much.
func (w *hostileWorld) counted(by int, name, label, value string, fn func()) {
	w.t.Helper()
	before := w.count(name, label, value)
	fn()
	w.until(fmt.Sprintf("%s{%s=%q} is up by %d", name, label, value, by), func() error {
		if up := w.count(name, label, value) - before; up != float64(by) {
			return fmt.Errorf("it is up by %.0f", up)
		}
		return nil
	})
}

func (w *hostileWorld) until(what string, check func() error) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for err := check(); err != nil; err = check() {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not in time: %v\n%s", what, err, w.errs)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func (w *hostileWorld) address(wire comettest.Wire) string {
	if wire.Transport == "tcp" {
		return w.tcp
	}
	return w.ws
}

func (w *hostileWorld) dial(wire comettest.Wire) *comettest.Client {
	w.t.Helper()
	c, err := comettest.DialTo(w.t, wire, w.address(wire))
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.errs)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// patience is for machines that have other things to do.
const patience = 3 * time.Minute

// bare connects and opens nothing.
func (w *hostileWorld) bare(address string) net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// connect opens a session in the app main.
func (w *hostileWorld) connect(wire comettest.Wire, user, device string) *comettest.Client {
	w.t.Helper()
	return w.connectTo("main", wire, user, device)
}

func (w *hostileWorld) connectTo(app string, wire comettest.Wire, user, device string) *comettest.Client {
	w.t.Helper()
	c := w.dial(wire)
	if c.Hello(w.token(map[string]any{"app": app, "sub": user, "dev": device})) == nil {
		w.t.Fatalf("no hello for %s of %s\n%s", user, app, w.errs)
	}
	return c
}

// token is a good one, but for the claims that are given.
func (w *hostileWorld) token(claims map[string]any) string {
	return forge(map[string]any{"alg": "HS256", "typ": "JWT", "kid": w.key.ID}, claims, w.key.Secret)
}

// forge signs whatever it is given, as an issuer gone wrong or an attacker would. A claim of nil is left out.
func forge(header, claims map[string]any, secret []byte) string {
	all := map[string]any{
		"app": "main", "sub": "mallory", "dev": "phone", "aud": auth.DefaultAudience, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	for name, value := range claims {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	text := part(header) + "." + part(all)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// ask sends a request and returns its answer, past whatever is pushed meanwhile.
func (w *hostileWorld) ask(c *comettest.Client, f *envelopev1.Frame) *envelopev1.Frame {
	w.t.Helper()
	c.Send(f)
	for {
		if got := c.Recv(); got.RequestId == f.RequestId {
			return got
		}
	}
}

// answered asks until the answer is final, and opens its body.
func (w *hostileWorld) answered(c *comettest.Client, f *envelopev1.Frame, body protocol.Message) {
	w.t.Helper()
	for {
		got := w.ask(c, f)
		if got.Error != nil && got.Error.Retryable {
			<-time.After(time.Duration(got.Error.RetryAfterMs+20) * time.Millisecond)
			continue
		}
		if got.Error != nil {
			w.t.Fatalf("%v in %s: %v", f.Command, f.Conversation, got.Error)
		}
		c.OpenBody(got, body)
		return
	}
}

// refused asks, and wants the code.
func (w *hostileWorld) refused(c *comettest.Client, f *envelopev1.Frame, want protocol.Code) {
	w.t.Helper()
	for {
		got := w.ask(c, f)
		if got.Error.GetCode() == string(protocol.CodeRetry) && want != protocol.CodeRetry {
			continue // A partition that is just being taken over.
		}
		if got.Error.GetCode() != string(want) || len(got.Body) > 0 {
			w.t.Errorf("%v in %q is answered with %v, want %s", f.Command, f.Conversation, got, want)
		}
		return
	}
}

// closedWith reads to the end, and wants the code and what it says of coming back.
func (w *hostileWorld) closedWith(c *comettest.Client, code protocol.CloseCode) {
	w.t.Helper()
	got := c.Closed()
	if want := protocol.Closings[code]; got.Code != uint32(code) || got.Reason != want.Reason || got.Reconnect != want.Reconnect {
		w.t.Errorf("closed with %v, want %d %s", got, code, want.Reason)
	}
}

func textMessage(text string) *messagev1.Message {
	return &messagev1.Message{Content: &messagev1.Message_Text{Text: &messagev1.Text{Text: text}}}
}

// fetchFile is a file of the server's folder.
func (w *hostileWorld) fetchFile(name string) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, defaultDataDir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

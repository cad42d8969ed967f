//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	aliceBob  = "d:alice:bob"
	aliceEcho = "d:alice:echo"
	bobEcho   = "d:bob:echo"
	// What a person would call at once; a browser on a busy machine gets more.
	shownWithin = 30 * time.Second
	// The page waits longer and longer between its tries to come back.
	backWithin = 90 * time.Second
)

// What the chat demo promises to whoever looks at it, in a real browser: two people and a bot talk, see each other type and
// read, and go on writing while the server is killed as hard as can be. When it is back, nothing is missing or doubled.
func TestChromiumDemo(t *testing.T) {
	built := clone(t)
	if out, err := goAlone(t, built, "make", "build").CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	ports, err := freePorts(4)
	if err != nil {
		t.Fatal(err)
	}
	dir, api := t.TempDir(), "http://"+address(ports[2])
	start := func() *serve {
		return startServe(t, goAlone(t, dir, filepath.Join(built, "halley"), "serve", "--websocket", address(ports[0]),
			"--tcp", address(ports[1]), "--api", address(ports[2]), "--admin", address(ports[3])))
	}
	s := start()
	p := openPage(t, s, api+"/demo/")
	p.until("both are online", shownWithin, `["alice", "bob"].every((u) => pane(u).querySelector(".state").textContent === "Online")`)

	p.talk()
	w := p.startWriting()
	w.waitFor(t, 20)
	s.kill(t)
	p.until("the page says that it reconnects", shownWithin, `/Reconnecting in \d+ s/.test(pane("alice").textContent)`)
	w.waitFor(t, 20)
	s = start()
	p.server = s
	p.until("both are back", backWithin, `["alice", "bob"].every((u) => pane(u).querySelector(".state").textContent === "Online")`)
	w.waitFor(t, 20)
	written := w.stop(t)
	p.until("nothing waits", backWithin, `document.querySelectorAll(".pending .bubble").length === 0`)

	history := &historyReader{t: t, api: api, key: apiKey(t, s)}
	history.untilWritten(written)
	for _, conversation := range []string{aliceBob, aliceEcho} {
		history.checkTexts(conversation, written)
	}
	p.compare(history)
	p.reload(history)
	p.checkNarrow()
}

// talk is a first conversation: typing, delivery, ticks, unread counts, the bot.
func (p *demoPage) talk() {
	p.eval(`say("alice", "` + aliceBob + `", "Good morning")`) // A conversation begins with its first message.
	p.until("bob has the first message", shownWithin, `texts("bob", "`+aliceBob+`").includes("Good morning")`)
	p.typeInto("alice", "Hello, Bob")
	p.until("bob sees alice type", shownWithin, `pane("bob").querySelector(".typing").textContent === "Alice is typing…"`)
	p.typeInto("alice", "\r")
	p.until("bob has the message", shownWithin, `texts("bob", "`+aliceBob+`").includes("Hello, Bob")`)
	p.until("nobody types any more", shownWithin, `pane("bob").querySelector(".typing").textContent === ""`)
	p.until("alice sees that it was read", shownWithin, `tick("alice", "`+aliceBob+`", "Hello, Bob") === "read"`)

	p.open("bob", bobEcho)
	p.eval(`say("alice", "` + aliceBob + `", "Are you there?")`)
	p.until("bob, elsewhere, has one unread", shownWithin, `unread("bob", "`+aliceBob+`") === 1`)
	p.until("alice sees that it was stored", shownWithin, `tick("alice", "`+aliceBob+`", "Are you there?") === "stored"`)
	p.typeInto("bob", "Is this on?\r")
	p.until("the bot answers", shownWithin, `texts("bob", "`+bobEcho+`").filter((t) => t === "Is this on?").length === 2`)
	p.until("the bot has read it", shownWithin, `tick("bob", "`+bobEcho+`", "Is this on?") === "read"`)
	p.open("bob", aliceBob)
	p.until("bob has read all", shownWithin, `unread("bob", "`+aliceBob+`") === 0 && tick("alice", "`+aliceBob+`", "Are you there?") === "read"`)
}

// writer has both people write without pause, and alice to the bot as well.
type writer struct {
	cancel context.CancelFunc
	done   chan error
	rounds chan int

	count int // Rounds that waitFor has seen; owned by the test.
}

func (p *demoPage) startWriting() *writer {
	ctx, cancel := context.WithCancel(p.ctx)
	w := &writer{cancel: cancel, done: make(chan error, 1), rounds: make(chan int, 10_000)}
	go func() {
		ticker := time.NewTicker(40 * time.Millisecond)
		defer ticker.Stop()
		for i := 1; ; i++ {
			// Under the page's own context: a round is written as a whole or not at all.
			err := p.try(p.ctx, fmt.Sprintf(
				`say("alice", %q, "a%d"); say("bob", %q, "b%d"); say("alice", %q, "e%d")`, aliceBob, i, aliceBob, i, aliceEcho, i))
			if err != nil {
				w.done <- err
				close(w.rounds)
				return
			}
			w.rounds <- i
			select {
			case <-ctx.Done():
				w.done <- nil
				close(w.rounds)
				return
			case <-ticker.C:
			}
		}
	}()
	return w
}

// waitFor lets n more rounds pass.
func (w *writer) waitFor(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(shownWithin)
	for len(w.rounds) > 0 { // Those that are past.
		w.count = <-w.rounds
	}
	for until := w.count + n; w.count < until; {
		select {
		case i, ok := <-w.rounds:
			if !ok {
				t.Fatalf("the page takes no more: %v", <-w.done)
			}
			w.count = i
		case <-deadline:
			t.Fatalf("%d rounds, waiting for %d", w.count, until)
		}
	}
}

// stop ends it and returns how many rounds were written.
func (w *writer) stop(t *testing.T) int {
	t.Helper()
	w.cancel()
	for i := range w.rounds {
		w.count = i
	}
	if err := <-w.done; err != nil {
		t.Fatal(err)
	}
	return w.count
}

// shown is a message as history has it and as a pane shows it.
type shown struct {
	Seq  uint64
	Text string
}

// compare holds both panes against the server's records.
func (p *demoPage) compare(history *historyReader) {
	p.t.Helper()
	for _, view := range []struct{ user, conversation string }{
		{"alice", aliceBob}, {"bob", aliceBob}, {"alice", aliceEcho}, {"bob", bobEcho},
	} {
		var want []shown
		for _, r := range history.read(view.conversation) {
			want = append(want, shown{r.Seq, r.Body.Text.Text})
		}
		p.until(fmt.Sprintf("%s has all %d of %s", view.user, len(want), view.conversation), shownWithin,
			fmt.Sprintf("bubbles(%q, %q).length >= %d", view.user, view.conversation, len(want)))
		have := value[[]shown](p, fmt.Sprintf(
			`bubbles(%q, %q).map((b) => ({Seq: Number(b.dataset.seq), Text: b.querySelector(".text").textContent}))`,
			view.user, view.conversation))
		if !slices.Equal(have, want) {
			p.t.Errorf("%s sees in %s\n%v\nthe server has\n%v", view.user, view.conversation, have, want)
		}
	}
}

// reload begins from nothing, with the newest messages and then the earlier ones.
func (p *demoPage) reload(history *historyReader) {
	p.t.Helper()
	p.again()
	for _, view := range []struct{ user, conversation string }{{"alice", aliceBob}, {"bob", aliceBob}, {"alice", aliceEcho}} {
		total := len(history.read(view.conversation))
		p.until("a window is there", shownWithin, fmt.Sprintf("bubbles(%q, %q).length >= 50", view.user, view.conversation))
		p.open(view.user, view.conversation)
		p.until("all earlier ones are there", shownWithin, fmt.Sprintf(
			`pane(%q).querySelector(".earlier").click(), bubbles(%q, %q).length >= %d && pane(%q).querySelector(".earlier").hidden`,
			view.user, view.user, view.conversation, total, view.user))
	}
	p.compare(history)
}

var bearer = regexp.MustCompile(`Bearer (hk_\w+)`)

func apiKey(t *testing.T, s *serve) string {
	t.Helper()
	m := bearer.FindStringSubmatch(s.curl)
	if m == nil {
		t.Fatalf("no API key in %s", s.curl)
	}
	return m[1]
}

// historyReader reads conversations as the app's server does, by the HTTP API.
type historyReader struct {
	t        *testing.T
	api, key string
}

type historyRecord struct {
	Seq    uint64
	Sender string
	Body   struct{ Text struct{ Text string } }
}

func (h *historyReader) read(conversation string) []historyRecord {
	h.t.Helper()
	var all []historyRecord
	for {
		after := uint64(0)
		if len(all) > 0 {
			after = all[len(all)-1].Seq
		}
		url := fmt.Sprintf("%s/v1/conversations/%s/records?limit=200&after_seq=%d", h.api, conversation, after)
		request, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, url, nil)
		if err != nil {
			h.t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+h.key)
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			h.t.Fatal(err)
		}
		var page struct {
			Data []historyRecord
			More bool
		}
		err = json.NewDecoder(answer.Body).Decode(&page)
		_ = answer.Body.Close() // All of it was read.
		if err != nil || answer.StatusCode != http.StatusOK {
			h.t.Fatalf("GET %s: %s %v", url, answer.Status, err)
		}
		all = append(all, page.Data...)
		if !page.More || len(page.Data) == 0 {
			return all
		}
	}
}

// untilWritten waits for the bot's last answers.
func (h *historyReader) untilWritten(rounds int) {
	h.t.Helper()
	deadline := time.After(shownWithin)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for len(h.read(aliceEcho)) < 2*rounds {
		select {
		case <-ticker.C:
		case <-deadline:
			h.t.Fatalf("%d rounds, and the conversation with the bot has %d records", rounds, len(h.read(aliceEcho)))
		}
	}
}

// checkTexts: without holes, and each sender's rounds once and in order.
func (h *historyReader) checkTexts(conversation string, rounds int) {
	h.t.Helper()
	texts := map[string][]string{}
	for i, r := range h.read(conversation) {
		if r.Seq != uint64(i)+1 {
			h.t.Errorf("%s: record %d has seq %d", conversation, i+1, r.Seq)
		}
		if text := r.Body.Text.Text; !strings.Contains(text, " ") { // A round, not the talk before.
			texts[r.Sender] = append(texts[r.Sender], text)
		}
	}
	prefixes := map[string]string{"alice": "a", "bob": "b"}
	if conversation == aliceEcho {
		prefixes = map[string]string{"alice": "e", "echo": "e"}
	}
	for sender, prefix := range prefixes {
		var want []string
		for i := range rounds {
			want = append(want, fmt.Sprintf("%s%d", prefix, i+1))
		}
		if !slices.Equal(texts[sender], want) {
			h.t.Errorf("%s: %s wrote %d rounds, and the server has\n%v", conversation, sender, rounds, texts[sender])
		}
	}
}

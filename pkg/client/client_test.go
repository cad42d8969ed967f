package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/halley-im/halley/protocol"
	conversationv1 "github.com/halley-im/halley/protocol/halley/conversation/v1"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// view is what an application saw.
type view struct {
	mu      sync.Mutex
	records map[string][]Record
	states  []State
	others  []Event
	slow    time.Duration
}

func (v *view) handle(e Event) {
	v.mu.Lock()
	switch e := e.(type) {
	case Record:
		v.records[e.Conversation] = append(v.records[e.Conversation], e)
	case State:
		v.states = append(v.states, e)
	default:
		v.others = append(v.others, e)
	}
	slow := v.slow
	v.mu.Unlock()
	if slow > 0 {
		<-time.After(slow) // The slowness is the subject, not a wait for something.
	}
}

func (v *view) seqs(id string) []uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []uint64
	for _, r := range v.records[id] {
		out = append(out, r.Seq)
	}
	return out
}

func (v *view) texts(id string) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []string
	for _, r := range v.records[id] {
		if m := r.GetMessage(); m != nil {
			out = append(out, m.GetText().GetText())
		}
	}
	return out
}

func (v *view) last() State {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.states) == 0 {
		return State{}
	}
	return v.states[len(v.states)-1]
}

type running struct {
	*Client
	*view
	stop func() error
}

// start runs a client; its device is user/device.
func start(t *testing.T, s *server, device string, change ...func(*Options)) *running {
	t.Helper()
	v := &view{records: map[string][]Record{}}
	opts := Options{
		URL: s.url(), Handler: v.handle, Start: StartAtJoin,
		Token: func(context.Context) (string, error) { return device + "/" + fmt.Sprint(time.Now().UnixNano()), nil },
		Limits: Limits{
			AnswerTimeout: 300 * time.Millisecond, BackOffFirst: 5 * time.Millisecond, BackOffMost: 40 * time.Millisecond,
			GapGrace: 20 * time.Millisecond,
		},
	}
	for _, f := range change {
		f(&opts)
	}
	c, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	r := &running{Client: c, view: v}
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = r.stop() })
	return r
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func upTo(n uint64) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(i) + 1
	}
	return out
}

// sees waits until the application saw the conversation as the server has it: all of it, once, in order.
func (r *running) sees(t *testing.T, s *server, id string) {
	t.Helper()
	eventually(t, "all of "+id, func() bool { return len(r.seqs(id)) >= int(s.head(id)) })
	if got, want := r.seqs(id), upTo(s.head(id)); !slices.Equal(got, want) {
		t.Fatalf("%s: saw %v, want %v", id, got, want)
	}
	if got, want := r.texts(id), s.texts(id); !slices.Equal(got, want) {
		t.Fatalf("%s: saw %q, the server has %q", id, got, want)
	}
}

const chat = "d:alice:bob"

func TestTwoPeopleTalk(t *testing.T) {
	s := newServer(t, 1)
	alice, bob := start(t, s, "alice/phone"), start(t, s, "bob/phone")
	for i := range 5 {
		ack, err := alice.Send(within(t), chat, Text(fmt.Sprint("a", i)))
		if err != nil || ack.Conversation != chat || ack.Seq != uint64(2*i+1) {
			t.Fatal(ack, err)
		}
		if _, err := bob.Send(within(t), chat, Text(fmt.Sprint("b", i))); err != nil {
			t.Fatal(err)
		}
	}
	alice.sees(t, s, chat)
	bob.sees(t, s, chat)
	alice.sees(t, s, "u:alice")
	eventually(t, "recovered", func() bool { return alice.last() == State{Connected: true, Recovered: true} })
	if err := alice.Typing(chat, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "typing", func() bool {
		bob.view.mu.Lock()
		defer bob.view.mu.Unlock()
		return slices.ContainsFunc(bob.others, func(e Event) bool { ty, ok := e.(Typing); return ok && ty.User == "alice" })
	})
}

func TestEveryRecordOnceWhateverTheServerDoes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for name, f := range map[string]faults{
		"put off":         {refuse: 0.3},
		"lost acks":       {killAfter: 0.05, muteAck: 0.03},
		"kills":           {killFirst: 0.03},
		"lost pushes":     {drop: 0.3},
		"doubled pushes":  {double: 0.3, late: 0.3},
		"heads for pulls": {headOnly: 0.5},
		"everything":      {refuse: 0.1, killFirst: 0.01, killAfter: 0.02, muteAck: 0.01, drop: 0.1, double: 0.1, late: 0.1, headOnly: 0.1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, seed)
			talk(t, s, f)
		})
	}
}

// talk has three devices of two users write at once in two conversations, under faults, and compares.
func talk(t *testing.T, s *server, f faults) {
	const each = 40
	devices := map[string]*running{}
	for _, name := range []string{"alice/phone", "alice/laptop", "bob/phone"} {
		devices[name] = start(t, s, name)
	}
	created, err := devices["bob/phone"].CreateGroup(within(t), "team", "alice")
	if err != nil {
		t.Fatal(err)
	}
	s.set(f)
	var writers sync.WaitGroup
	for name, d := range devices {
		for _, id := range []string{chat, created.Conversation} {
			writers.Go(func() {
				var pending []*Pending
				for i := range each {
					p, err := d.SendAsync(id, Text(fmt.Sprintf("%s %03d", name, i)))
					if err != nil {
						t.Error(err)
						return
					}
					pending = append(pending, p)
				}
				last := uint64(0)
				for _, p := range pending {
					ack, err := p.Wait(within(t))
					if err != nil || ack.Seq <= last {
						t.Errorf("%s: ack %v after %d, %v", name, ack, last, err)
						return
					}
					last = ack.Seq
				}
			})
		}
	}
	writers.Wait()
	s.release()
	for _, id := range []string{chat, created.Conversation} {
		stored := s.texts(id)
		for name := range devices {
			var want, got []string
			for i := range each {
				want = append(want, fmt.Sprintf("%s %03d", name, i))
			}
			for _, text := range stored {
				if strings.HasPrefix(text, name) {
					got = append(got, text)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s in %s is stored as %q", name, id, got)
			}
		}
		for _, d := range devices {
			d.sees(t, s, id)
		}
	}
	for _, d := range devices {
		eventually(t, "an empty outbox", func() bool { _, writes, _ := d.opts.Store.Load(); return len(writes) == 0 })
	}
}

func TestAFinalRefusalIsToldAndBlocksNothing(t *testing.T) {
	s := newServer(t, 1)
	alice := start(t, s, "alice/phone")
	var pending []*Pending
	for _, text := range []string{"one", "forbidden", "two", "three"} {
		p, err := alice.SendAsync(chat, Text(text))
		if err != nil {
			t.Fatal(err)
		}
		pending = append(pending, p)
	}
	for i, p := range pending {
		_, err := p.Wait(within(t))
		var refusal *protocol.Error
		if i == 1 && (!errors.As(err, &refusal) || refusal.Code != protocol.CodeForbidden) || i != 1 && err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	if got := s.texts(chat); !slices.Equal(got, []string{"one", "two", "three"}) {
		t.Errorf("stored %q", got)
	}
	alice.sees(t, s, chat)
	if _, err := alice.Send(within(t), chat, Text(strings.Repeat("x", 33<<10))); err == nil || !strings.Contains(err.Error(), "too_large") {
		t.Errorf("beyond the limit: %v", err)
	}
	if _, err := alice.Send(within(t), "alice", Text("x")); err == nil {
		t.Error("no conversation")
	}
}

func TestTheNextProcessGoesOn(t *testing.T) {
	s := newServer(t, 1)
	store := NewMemoryStore()
	sameStore := func(o *Options) { o.Store = store }
	first := start(t, s, "alice/phone", sameStore)
	if _, err := first.Send(within(t), chat, Text("one")); err != nil {
		t.Fatal(err)
	}
	first.sees(t, s, chat)
	eventually(t, "the cursor is stored", func() bool { cursors, _, _ := store.Load(); return cursors[chat] == 1 })
	s.set(faults{muteAck: 1}) // Stored, and never answered.
	p, err := first.SendAsync(chat, Text("two"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is stored", func() bool { return s.head(chat) == 2 })
	_ = first.stop()
	if _, err := p.Wait(within(t)); !errors.Is(err, ErrStopped) {
		t.Errorf("at the end: %v", err)
	}
	s.set(faults{})
	s.inject(chat, "bob", "three")

	second := start(t, s, "alice/phone", sameStore)
	eventually(t, "what the first did not show", func() bool { return slices.Equal(second.seqs(chat), []uint64{2, 3}) })
	eventually(t, "an empty outbox", func() bool { _, writes, _ := store.Load(); return len(writes) == 0 })
	if got := s.texts(chat); !slices.Equal(got, []string{"one", "two", "three"}) {
		t.Errorf("stored %q", got)
	}
}

func TestWhereAViewBegins(t *testing.T) {
	s := newServer(t, 1)
	for i := range 300 {
		s.inject(chat, "bob", fmt.Sprint(i))
	}
	whole := start(t, s, "alice/phone")
	newOnly := start(t, s, "alice/laptop", func(o *Options) { o.Start = StartAtHead })
	whole.sees(t, s, chat)
	eventually(t, "recovered", func() bool { return newOnly.last().Recovered })
	if got := newOnly.seqs(chat); len(got) != 0 {
		t.Errorf("saw %v", got)
	}
	s.inject(chat, "bob", "new")
	s.inject("d:alice:carol", "carol", "hello") // Joined since: shown from its beginning.
	eventually(t, "the new ones", func() bool {
		return slices.Equal(newOnly.seqs(chat), []uint64{301}) && slices.Equal(newOnly.seqs("d:alice:carol"), []uint64{1})
	})
	reply, err := newOnly.History(within(t), chat, &conversationv1.HistoryRequest{Limit: 2})
	if err != nil || len(reply.Records) != 2 || !reply.More {
		t.Errorf("%v, %v", reply, err)
	}
}

func TestWhatHappenedWhileAwayIsShownAndSaid(t *testing.T) {
	s := newServer(t, 1)
	alice := start(t, s, "alice/phone")
	s.inject(chat, "bob", "before")
	alice.sees(t, s, chat)
	s.mu.Lock()
	s.refuse = func(string) *envelopev1.Close { return protocol.CloseFrame(protocol.CloseOverloaded, time.Millisecond) }
	s.mu.Unlock()
	s.killAll()
	eventually(t, "it is said", func() bool { return !alice.last().Connected && alice.last().Err != nil })
	for i := range 250 {
		s.inject(chat, "bob", fmt.Sprint(i))
	}
	s.inject("d:alice:carol", "carol", "hello")
	s.mu.Lock()
	s.refuse = nil
	s.mu.Unlock()
	eventually(t, "recovered", func() bool { return alice.last().Recovered })
	if n := len(alice.seqs(chat)); n != 251 { // All shown, or waiting in front of the handler, by the time it is said.
		t.Errorf("recovered was said after %d of 251", n)
	}
	alice.sees(t, s, chat)
	alice.sees(t, s, "d:alice:carol")
}

func TestASlowHandlerHoldsUpNobodyAndLosesNothing(t *testing.T) {
	s := newServer(t, 1)
	alice := start(t, s, "alice/phone", func(o *Options) { o.Limits.Events = 8 })
	alice.view.mu.Lock()
	alice.slow = time.Millisecond
	alice.view.mu.Unlock()
	for i := range 200 {
		s.inject(chat, "bob", fmt.Sprint(i))
		s.inject("d:alice:carol", "carol", fmt.Sprint(i))
	}
	began := time.Now()
	if _, err := alice.Send(within(t), "d:alice:dave", Text("meanwhile")); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a write waited %v for the handler", took)
	}
	alice.sees(t, s, chat)
	alice.sees(t, s, "d:alice:carol")
	alice.sees(t, s, "d:alice:dave")
}

func TestTheHandlerMayCallTheClient(t *testing.T) {
	s := newServer(t, 1)
	var bot *running
	ready := make(chan struct{})
	bot = start(t, s, "bot/one", func(o *Options) {
		o.Limits.Events = 4
		o.Handler = func(e Event) {
			<-ready
			if r, ok := e.(Record); ok && r.GetMessage() != nil && r.Sender != "bot" {
				if _, err := bot.Send(context.Background(), r.Conversation, Text("echo "+r.GetMessage().GetText().GetText())); err != nil && !errors.Is(err, ErrStopped) {
					t.Error(err)
				}
			}
		}
	})
	close(ready)
	alice := start(t, s, "alice/phone")
	for i := range 20 {
		if _, err := alice.SendAsync("d:alice:bot", Text(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "twenty echoes", func() bool {
		n := 0
		for _, text := range alice.texts("d:alice:bot") {
			if strings.HasPrefix(text, "echo ") {
				n++
			}
		}
		return n == 20
	})
	alice.sees(t, s, "d:alice:bot")
}

func TestWhatIsSentBeforeTheFirstConnectIsSentOnce(t *testing.T) {
	s := newServer(t, 1)
	store := NewMemoryStore()
	c, err := New(Options{
		URL: s.url(), Handler: func(Event) {}, Store: store,
		Token: func(context.Context) (string, error) { return "alice/phone/1", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.SendAsync(chat, Text("early"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	if _, err := p.Wait(within(t)); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := s.count(envelopev1.Command_COMMAND_MESSAGE_SEND); n != 1 {
		t.Errorf("sent %d times", n)
	}
	if _, writes, _ := store.Load(); len(writes) != 0 {
		t.Errorf("still in the outbox: %v", writes)
	}
}

// One conversation whose owner is away does not hold up the others, and is asked for until it is back.
func TestAConversationWithoutAHeadHoldsUpNoOther(t *testing.T) {
	s := newServer(t, 1)
	bob := start(t, s, "bob/phone")
	for _, id := range []string{chat, "d:bob:carol"} {
		if _, err := bob.Send(within(t), id, Text("hello")); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	s.unanswered = map[string]bool{chat: true}
	s.mu.Unlock()
	store := NewMemoryStore()
	for _, id := range []string{chat, "d:bob:carol"} { // The program was on this device before.
		if err := store.SetCursor(id, 0); err != nil {
			t.Fatal(err)
		}
	}
	again := start(t, s, "bob/tablet", func(o *Options) { o.Store = store })
	if _, err := again.Send(within(t), "d:bob:carol", Text("meanwhile")); err != nil {
		t.Fatal(err)
	}
	waiting, err := again.SendAsync(chat, Text("later"))
	if err != nil {
		t.Fatal(err)
	}
	again.sees(t, s, "d:bob:carol")
	select {
	case <-waiting.Done():
		t.Error("sent without knowing the head")
	default:
	}
	if again.last().Recovered {
		t.Error("said to have recovered")
	}
	s.mu.Lock()
	s.unanswered = nil
	s.mu.Unlock()
	if _, err := waiting.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	again.sees(t, s, chat)
	if heads, err := again.Heads(within(t), chat, "d:bob:carol"); err != nil || len(heads) != 2 {
		t.Errorf("%v, %v", heads, err)
	}
}

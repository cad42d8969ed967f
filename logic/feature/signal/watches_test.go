package signal_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/halley-im/halley/logic/feature/signal"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

func TestEachChangeIsToldOnce(t *testing.T) {
	inBubble(t, func(w *world) {
		chat := group("d:alice:bob", "alice", "bob")
		alice := w.connect("alice", "comet-1", link.CodecProto)
		alice.sees(chat, "bob", "bob offline")
		w.expect("nothing happens", nil)
		phone := w.connect("bob", "comet-2", link.CodecProto)
		w.expect("bob connects", map[*device]string{alice: "bob online"})
		laptop := w.connect("bob", "comet-1", link.CodecProto)
		phone.disconnect()
		w.expect("bob takes another device", nil)
		laptop.disconnect()
		w.expect("bob goes", map[*device]string{alice: "bob offline"})
		w.expect("nothing happens", nil)
	})
}

func TestOneFrameForEachCodec(t *testing.T) {
	inBubble(t, func(w *world) {
		team := group("g:1", "alice", "bob", "carol", "dave", "erin")
		watchers := []*device{
			w.connect("alice", "comet-1", link.CodecProto), w.connect("carol", "comet-2", link.CodecJSON),
			w.connect("dave", "comet-2", link.CodecProto), w.connect("erin", "comet-1", link.CodecJSON),
		}
		for _, d := range watchers {
			d.sees(team, "bob", "bob offline")
		}
		w.expect("nothing happens", nil)
		w.connect("bob", "comet-1", link.CodecProto)
		time.Sleep(someTime)
		frames := map[*byte]int{}
		conns := map[uint64]string{}
		for range watchers {
			p := <-w.pushes
			frames[p.frame]++
			conns[p.conn] = p.node + " " + p.text
		}
		for _, d := range watchers {
			if got := conns[d.reg.Entry.Conn]; got != d.reg.Entry.Node+" bob online" {
				t.Errorf("%s was told %q", d.user, got)
			}
		}
		if len(frames) != 2 {
			t.Errorf("%d frames were made for two codecs", len(frames))
		}
	})
}

func TestAWatchEndsUnlessRenewed(t *testing.T) {
	inBubble(t, func(w *world) {
		chat := group("d:alice:bob", "alice", "bob")
		alice := w.connect("alice", "comet-1", link.CodecProto)
		alice.sees(chat, "bob", "bob offline")
		time.Sleep(signal.Lasts / 2)
		alice.sees(chat, "bob", "bob offline")
		time.Sleep(signal.Lasts - 2*someTime)
		bob := w.connect("bob", "comet-1", link.CodecProto)
		w.expect("within the renewed time", map[*device]string{alice: "bob online"})
		time.Sleep(2 * someTime)
		bob.disconnect()
		w.expect("after it", nil)
		if n := w.watches(); n != 0 {
			t.Errorf("%d watches are left", n)
		}
	})
}

func TestAWatchEndsWhilePresenceIsSilent(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.connect("alice", "comet-1", link.CodecProto)
		alice.sees(group("d:alice:bob", "alice", "bob"), "bob", "bob offline")
		w.registry.silent.Store(true)
		time.Sleep(signal.Lasts + someTime)
		if n := w.watches(); n != 0 {
			t.Errorf("%d watches are left", n)
		}
	})
}

func TestUnwatchEndsWhatItsConversationGave(t *testing.T) {
	inBubble(t, func(w *world) {
		chat, team := group("d:alice:bob", "alice", "bob"), group("g:1", "alice", "bob")
		alice := w.connect("alice", "comet-1", link.CodecJSON)
		alice.sees(chat, "bob", "bob offline")
		alice.sees(team, "bob", "bob offline")
		w.expect("nothing happens", nil)
		alice.unwatch(chat, "bob")
		bob := w.connect("bob", "comet-1", link.CodecProto)
		w.expect("watched in the group", map[*device]string{alice: "bob online"})
		alice.unwatch(team, "bob")
		alice.unwatch(team, "bob")
		bob.disconnect()
		w.expect("watched nowhere", nil)
		if n := w.watches(); n != 0 {
			t.Errorf("%d watches are left", n)
		}
		if _, err := w.ask(chat, alice.request(chat, envelopev1.Command_COMMAND_SIGNAL_UNWATCH, &signalv1.UnwatchRequest{})); err == nil || err.Code != protocol.CodeInvalid {
			t.Errorf("nobody named: %v", err)
		}
	})
}

func TestASessionTakesItsWatchesWithIt(t *testing.T) {
	inBubble(t, func(w *world) {
		chat := group("d:alice:bob", "alice", "bob")
		phone, laptop := w.connect("alice", "comet-1", link.CodecProto), w.connect("alice", "comet-2", link.CodecProto)
		phone.sees(chat, "bob", "bob offline")
		laptop.sees(chat, "bob", "bob offline")
		w.expect("nothing happens", nil)
		phone.disconnect()
		w.expect("the phone goes", nil)
		if n := w.watches(); n != 1 {
			t.Errorf("%d watches are left", n)
		}
		phone.reg.Entry.Generation = 0 // Another session, under the number that was the first one's.
		phone.register()
		w.connect("bob", "comet-1", link.CodecProto)
		w.expect("bob connects", map[*device]string{laptop: "bob online"})
	})
}

func TestASessionThatPresenceLearnsOfLate(t *testing.T) {
	inBubble(t, func(w *world) {
		chat := group("d:alice:bob", "alice", "bob")
		alice := w.connect("alice", "comet-1", link.CodecProto)
		alice.disconnect()
		alice.sees(chat, "bob", "bob offline")
		w.connect("bob", "comet-1", link.CodecProto)
		w.expect("nobody knows where alice is", nil)
		alice.register()
		w.expect("she is known", map[*device]string{alice: "bob online"})
	})
}

func TestSilentPresenceIsSaidOnce(t *testing.T) {
	inBubble(t, func(w *world) {
		team := group("g:1", "alice", "bob", "carol")
		alice := w.connect("alice", "comet-1", link.CodecProto)
		bob := w.connect("bob", "comet-1", link.CodecProto)
		alice.sees(team, "bob", "bob online")
		w.expect("nothing happens", nil)
		w.registry.silent.Store(true)
		bob.disconnect()
		w.expect("nobody knows", map[*device]string{alice: "bob online?"})
		w.expect("nobody knows still", nil)
		alice.sees(team, "carol", "carol offline?")
		alice.sees(team, "bob", "bob online?")
		w.registry.silent.Store(false)
		got := w.told()[alice.reg.Entry.Conn]
		if len(got) != 2 || got[0] == got[1] {
			t.Errorf("known again: %q", got)
		}
		for _, text := range got {
			if text != "bob offline" && text != "carol offline" {
				t.Errorf("known again: %q", got)
			}
		}
	})
}

func TestOneFailedLookUpIsNoNews(t *testing.T) {
	inBubble(t, func(w *world) {
		alice := w.connect("alice", "comet-1", link.CodecProto)
		alice.sees(group("d:alice:bob", "alice", "bob"), "bob", "bob offline")
		w.expect("nothing happens", nil) // It is 5 s now; polls are at 6, 8, …
		w.registry.silent.Store(true)
		time.Sleep(2 * time.Second)
		w.registry.silent.Store(false)
		w.expect("it was one", nil)
	})
}

func TestOnlyMembersAreWatched(t *testing.T) {
	inBubble(t, func(w *world) {
		team := group("g:1", "alice", "bob")
		alice := w.connect("alice", "comet-1", link.CodecProto)
		if _, err := alice.watch(team, "bob", "mallory"); err == nil || err.Code != protocol.CodeNotFound {
			t.Errorf("a stranger: %v", err)
		}
		if n := w.watches(); n != 0 {
			t.Errorf("%d watches after a refusal", n)
		}
		alice.sees(team, "bob", "bob offline")
		team.ApplyMembers(&logv1.Record{App: app, Conversation: team.ID, Seq: 2, Left: []string{"bob"}})
		if _, err := alice.watch(team, "bob"); err == nil || err.Code != protocol.CodeNotFound {
			t.Errorf("one who left: %v", err)
		}
		time.Sleep(signal.Lasts + someTime)
		w.connect("bob", "comet-1", link.CodecProto)
		w.expect("the watch was not renewed", nil)
	})
}

func TestAServerKeyIsAnsweredOnce(t *testing.T) {
	inBubble(t, func(w *world) {
		team := group("g:1", "alice", "bob")
		alice := w.connect("alice", "comet-1", link.CodecProto)
		r := alice.request(team, envelopev1.Command_COMMAND_SIGNAL_WATCH, &signalv1.WatchRequest{Users: []string{"bob"}})
		r.Server = true
		reply, err := w.ask(team, r)
		if err != nil || len(reply.Presences) != 1 || reply.ExpiresMs != 0 || w.watches() != 0 {
			t.Errorf("%v, %v; %d watches", reply, err, w.watches())
		}
	})
}

// A device that connects, watches and goes, again and again, before presence could tell of it: its sessions are missed after a while,
// and until then they take no more room than a user has.
func TestADeviceThatComesAndGoesTakesNobodysRoom(t *testing.T) {
	inBubble(t, func(w *world) {
		var members []string
		for i := range 100 {
			members = append(members, fmt.Sprint("user-", i))
		}
		team := group("g:1", members...)
		refused := 0
		for range 80 {
			d := w.connect("user-0", "comet-1", link.CodecProto)
			if _, err := d.watch(team, members...); err != nil {
				if refused++; err.Code != protocol.CodeBusy {
					t.Fatal(err)
				}
			}
			d.disconnect()
		}
		if n := w.watches(); n != 5_000 || refused != 30 {
			t.Errorf("%d users are watched, %d requests were refused", n, refused)
		}
		if _, err := w.connect("user-1", "comet-1", link.CodecProto).watch(team, members...); err != nil {
			t.Errorf("another user: %v", err)
		}
		time.Sleep(3 * someTime)
		if n := w.watches(); n != 100 {
			t.Errorf("%d users are watched after the sessions went", n)
		}
		if _, err := w.connect("user-0", "comet-1", link.CodecProto).watch(team, members...); err != nil {
			t.Errorf("the same user, later: %v", err)
		}
	})
}

func TestWatchesAreBounded(t *testing.T) {
	inBubble(t, func(w *world) {
		var members []string
		for i := range 1_001 {
			members = append(members, fmt.Sprint("user-", i))
		}
		team := group("g:1", members...)
		code := func(d *device, users ...string) protocol.Code {
			if _, err := d.watch(team, users...); err != nil {
				return err.Code
			}
			return ""
		}
		all := func(d *device) {
			for i := 0; i < 1_000; i += 100 {
				if got := code(d, members[i:i+100]...); got != "" {
					t.Fatalf("watch %d: %s", i, got)
				}
			}
		}
		first := w.connect("user-0", "comet-1", link.CodecProto)
		if got := code(first, members[:101]...); got != protocol.CodeInvalid {
			t.Errorf("101 in one request: %q", got)
		}
		all(first)
		if got := code(first, "user-1000"); got != protocol.CodeBusy {
			t.Errorf("the 1,001st of a session: %q", got)
		}
		if got := code(first, members[:100]...); got != "" {
			t.Errorf("a renewal at the bound: %q", got)
		}
		for i := range 99 {
			all(w.connect(fmt.Sprint("user-", 10+i/5), "comet-2", link.CodecProto))
		}
		if n := w.watches(); n != 100_000 {
			t.Fatalf("%d watches", n)
		}
		last := w.connect("user-2", "comet-1", link.CodecProto)
		if got := code(last, "user-1"); got != protocol.CodeBusy {
			t.Errorf("the 100,001st of the process: %q", got)
		}
		if got := code(first, members[:100]...); got != "" {
			t.Errorf("a renewal at the bound: %q", got)
		}
		first.unwatch(team, "user-3")
		if got := code(last, "user-1"); got != "" {
			t.Errorf("after room was made: %q", got)
		}
		w.told()
		if got := w.registry.largest.Load(); got > 512 {
			t.Errorf("%d look-ups at once", got)
		}
		time.Sleep(signal.Lasts + someTime)
		if n := w.watches(); n != 0 {
			t.Errorf("%d watches are left", n)
		}
	})
}

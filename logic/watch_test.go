package logic_test

import (
	"errors"
	"testing"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

func TestWatchersAreToldWhoComes(t *testing.T) {
	w := newWorld(t)
	w.ready("logic-1")
	comet := w.comet()
	alice := comet.connect(w, "alice", "phone")
	const chat = "d:alice:bob"
	watch := request{
		command: envelopev1.Command_COMMAND_SIGNAL_WATCH, conversation: chat, body: &signalv1.WatchRequest{Users: []string{"bob"}},
	}
	alice.refused(protocol.CodeNotFound, watch) // They share no conversation yet.
	alice.say(chat, "1", 0, "hello")
	reply := &signalv1.WatchReply{}
	if f := alice.ask(watch); f.Error != nil || reply.UnmarshalVT(f.Body) != nil || reply.Presences[0].Online || reply.ExpiresMs == 0 {
		t.Fatalf("the answer: %v, %v", f, reply)
	}
	comet.connect(w, "mallory", "phone").refused(protocol.CodeNotFound, watch)
	comet.connect(w, "bob", "phone")
	eventually(t, func() error {
		alice.mu.Lock()
		defer alice.mu.Unlock()
		for _, f := range alice.pushes {
			if f.Command != envelopev1.Command_COMMAND_PRESENCE {
				continue
			}
			p := &signalv1.Presence{}
			if err := p.UnmarshalVT(f.Body); err != nil || p.User != "bob" || !p.Online {
				t.Fatalf("pushed: %v, %v", p, err)
			}
			return nil
		}
		return errors.New("nobody was told")
	})
	unwatch := request{
		command: envelopev1.Command_COMMAND_SIGNAL_UNWATCH, conversation: chat, body: &signalv1.UnwatchRequest{Users: []string{"bob"}},
	}
	if f := alice.ask(unwatch); f.Error != nil || len(f.Body) != 0 {
		t.Errorf("unwatch: %v", f)
	}
}

package client

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
	signalv1 "github.com/halley-im/halley/protocol/halley/signal/v1"
)

// presences is what the application was told of a user.
func (v *view) presences(user string) []bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []bool
	for _, e := range v.others {
		if p, ok := e.(Presence); ok && p.User == user {
			out = append(out, p.Online)
		}
	}
	return out
}

// lives changes what the server knows of presence, and says nothing of it to anybody.
func (s *server) lives(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func TestAWatchIsRenewedWhileItIsWanted(t *testing.T) {
	s := newServer(t, 1)
	s.watchLasts = 100 * time.Millisecond
	alice := start(t, s, "alice/phone")
	eventually(t, "connected", func() bool { return alice.last().Connected })
	if _, err := alice.Watch(within(t), chat, "bob"); err != nil {
		t.Fatal(err)
	}
	watches := func() int { return s.count(envelopev1.Command_COMMAND_SIGNAL_WATCH) }
	began := time.Now()
	eventually(t, "renewed three times", func() bool { return watches() >= 4 })
	if took := time.Since(began); took < 3*40*time.Millisecond {
		t.Errorf("three renewals in %v", took)
	}
	if got := alice.presences("bob"); len(got) != 0 {
		t.Errorf("told what it knew: %v", got)
	}
	s.lives(func() { s.offline["bob"] = true }) // The push is lost; the next answer brings it.
	eventually(t, "bob is gone", func() bool { return slices.Equal(alice.presences("bob"), []bool{false}) })
	if err := alice.Unwatch(within(t), chat, "bob"); err != nil {
		t.Fatal(err)
	}
	n := watches()
	quiet := time.Now().Add(2 * s.watchLasts)
	eventually(t, "time passes", func() bool { return time.Now().After(quiet) })
	if got := watches(); got > n {
		t.Errorf("renewed %d times after the end", got-n)
	}
}

func TestEachPresenceIsToldOnce(t *testing.T) {
	s := newServer(t, 1)
	alice := start(t, s, "alice/phone")
	eventually(t, "connected", func() bool { return alice.last().Connected })
	for _, conversation := range []string{chat, "g:1"} {
		if _, err := alice.Watch(within(t), conversation, "bob"); err != nil {
			t.Fatal(err)
		}
	}
	push := func(user string, online bool) {
		s.lives(func() {
			for session := range s.sessions {
				session.push("", envelopev1.Command_COMMAND_PRESENCE, &signalv1.Presence{User: user, Online: online})
			}
		})
	}
	for _, online := range []bool{true, false, false, true} {
		push("bob", online)
	}
	push("carol", true)
	want := func(n int) func() bool {
		return func() bool { return slices.Equal(alice.presences("bob"), []bool{false, true, false}[:n]) }
	}
	eventually(t, "once each", want(2))
	if err := alice.Unwatch(within(t), chat, "bob"); err != nil {
		t.Fatal(err)
	}
	push("bob", false)
	eventually(t, "still watched in the group", want(3))
	if err := alice.Unwatch(within(t), "g:1", "bob"); err != nil {
		t.Fatal(err)
	}
	push("bob", true)
	if err := alice.Unwatch(within(t), "g:1", "bob"); err != nil { // Its answer follows the push.
		t.Fatal(err)
	}
	if !want(3)() || len(alice.presences("carol")) != 0 {
		t.Errorf("bob %v, carol %v", alice.presences("bob"), alice.presences("carol"))
	}
}

func TestOneWhoIsNoMemberAnyMoreDoesNotEndTheOthersWatches(t *testing.T) {
	s := newServer(t, 1)
	alice := start(t, s, "alice/phone")
	eventually(t, "connected", func() bool { return alice.last().Connected })
	var team []string
	for i := range 70 {
		team = append(team, fmt.Sprint("user-", i))
	}
	if _, err := alice.Watch(within(t), "g:1", team...); err != nil {
		t.Fatal(err)
	}
	s.lives(func() {
		s.strange["user-7"], s.strange["user-42"] = true, true
		for _, user := range team {
			s.offline[user] = true
		}
	})
	s.killAll()
	eventually(t, "all but two are told", func() bool {
		told := 0
		for _, user := range team {
			told += len(alice.presences(user))
		}
		return told == len(team)-2
	})
	s.lives(func() { clear(s.strange); clear(s.offline) })
	s.killAll()
	eventually(t, "they are watched no more", func() bool { return len(alice.presences("user-0")) == 2 })
	if n := len(alice.presences("user-7")) + len(alice.presences("user-42")); n != 0 {
		t.Errorf("told %d times of strangers", n)
	}
}

func TestAWatchThatIsRefusedIsNotWanted(t *testing.T) {
	s := newServer(t, 1)
	s.strange["mallory"] = true
	alice := start(t, s, "alice/phone")
	eventually(t, "connected", func() bool { return alice.last().Connected })
	if _, err := alice.Watch(within(t), chat, "bob"); err != nil {
		t.Fatal(err)
	}
	var refusal *protocol.Error
	if _, err := alice.Watch(within(t), chat, "bob", "mallory"); !errors.As(err, &refusal) || refusal.Code != protocol.CodeNotFound {
		t.Fatalf("a stranger: %v", err)
	}
	s.lives(func() { clear(s.strange); s.offline["bob"], s.offline["mallory"] = true, true })
	s.killAll()
	eventually(t, "bob is still watched", func() bool { return len(alice.presences("bob")) == 1 })
	if got := alice.presences("mallory"); len(got) != 0 {
		t.Errorf("told of a stranger: %v", got)
	}
}

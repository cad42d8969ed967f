package protocol_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/halley-im/halley/protocol"
)

func TestKindOfTakesCanonicalIDsOnly(t *testing.T) {
	long := strings.Repeat("x", 64)
	for id, want := range map[string]protocol.Kind{
		"d:alice:bob":                 protocol.KindDirect,
		"d:" + long + ":y" + long[1:]: protocol.KindDirect,
		"d:bob:alice":                 protocol.KindInvalid, // unsorted
		"d:bob:bob":                   protocol.KindInvalid, // equal
		"d:alice":                     protocol.KindInvalid,
		"d:alice:":                    protocol.KindInvalid,
		"d::bob":                      protocol.KindInvalid,
		"d:a:b:c":                     protocol.KindInvalid,
		"d:a b:c":                     protocol.KindInvalid,
		"d:a:b" + long:                protocol.KindInvalid,
		"g:7":                         protocol.KindGroup,
		"g:" + long:                   protocol.KindGroup,
		"g:" + long + "x":             protocol.KindInvalid,
		"g:":                          protocol.KindInvalid,
		"g:a:b":                       protocol.KindInvalid,
		"g:é":                         protocol.KindInvalid,
		"u:alice":                     protocol.KindUser,
		"u:" + long + "x":             protocol.KindInvalid,
		"u:a*":                        protocol.KindInvalid,
		"x:alice":                     protocol.KindInvalid,
		"alice":                       protocol.KindInvalid,
		"":                            protocol.KindInvalid,
		"d":                           protocol.KindInvalid,
		"G:7":                         protocol.KindInvalid,
		"g:7\n":                       protocol.KindInvalid,
	} {
		if got := protocol.KindOf(id); got != want {
			t.Errorf("KindOf(%q) = %q, want %q", id, got, want)
		}
	}
}

func TestNamesOfConversations(t *testing.T) {
	if a, b := protocol.Direct("bob", "alice"), protocol.Direct("alice", "bob"); a != b || a != "d:alice:bob" {
		t.Errorf("Direct: %q, %q", a, b)
	}
	if a, b := protocol.Peers("d:alice:bob"); a != "alice" || b != "bob" {
		t.Errorf("Peers: %q, %q", a, b)
	}
	if id := protocol.UserLog("alice"); protocol.KindOf(id) != protocol.KindUser {
		t.Errorf("UserLog: %q", id)
	}
	id := protocol.Group("main", "alice", "c1")
	if protocol.KindOf(id) != protocol.KindGroup {
		t.Errorf("Group: %q", id)
	}
	if id != protocol.Group("main", "alice", "c1") {
		t.Error("a retried create is another group")
	}
	for _, other := range []string{
		protocol.Group("main", "alice", "c2"), protocol.Group("main", "bob", "c1"), protocol.Group("other", "alice", "c1"),
		protocol.Group("main", "alic", "ec1"),
	} {
		if other == id {
			t.Errorf("two creates, one group: %q", id)
		}
	}
}

func TestValidNames(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "A.b_c@d-9": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a:b": false, "a b": false, "ä": false, "a\x00": false, "a/b": false, "a*": false, ">": false,
	} {
		if protocol.ValidUser(s) != want || protocol.ValidDevice(s) != want {
			t.Errorf("user or device %q: want %v", s, want)
		}
	}
	for s, want := range map[string]bool{
		"main": true, "a-1": true, strings.Repeat("x", 32): true,
		"": false, strings.Repeat("x", 33): false, "Main": false, "a.b": false, "a_b": false,
	} {
		if protocol.ValidApp(s) != want {
			t.Errorf("app %q: want %v", s, want)
		}
	}
	for s, want := range map[string]bool{
		"0198c9f2-58a1-7c3e-9d55-0e8f2b6c1a77": true, "~!": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a b": false, "a\n": false, "é": false, "\x7f": false,
	} {
		if protocol.ValidClientID(s) != want {
			t.Errorf("client id %q: want %v", s, want)
		}
	}
}

// The partition of a conversation is where its log is: another function would lose every conversation of every cluster.
func TestPartitionNeverChanges(t *testing.T) {
	for _, c := range []struct {
		app, conversation string
		of16, of256       int
	}{
		{"main", "d:alice:bob", 13, 61},
		{"main", "g:7", 10, 74},
		{"main", "u:alice", 7, 71},
		{"other", "d:alice:bob", 14, 126},
		{"a", "bc", 1, 161},
		{"ab", "c", 4, 228},
	} {
		if got := protocol.Partition(c.app, c.conversation, 16); got != c.of16 {
			t.Errorf("Partition(%s, %s, 16) = %d, want %d", c.app, c.conversation, got, c.of16)
		}
		if got := protocol.Partition(c.app, c.conversation, 256); got != c.of256 {
			t.Errorf("Partition(%s, %s, 256) = %d, want %d", c.app, c.conversation, got, c.of256)
		}
	}
}

func TestPartitionsAreEven(t *testing.T) {
	const conversations, n = 64_000, 64
	var counts [n]int
	for i := range conversations {
		counts[protocol.Partition("main", "g:"+strconv.Itoa(i), n)]++
	}
	for p, count := range counts { // Six standard deviations of a fair choice.
		if mean := conversations / n; count < mean-190 || count > mean+190 {
			t.Errorf("partition %d has %d conversations of a mean of %d", p, count, mean)
		}
	}
}

func FuzzKindOf(f *testing.F) {
	for _, seed := range []string{"d:alice:bob", "g:7", "u:alice", "d:b:a", "d:a:b:c", "::", "\xff:"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		switch protocol.KindOf(id) {
		case protocol.KindDirect:
			if a, b := protocol.Peers(id); protocol.Direct(b, a) != id || !protocol.ValidUser(a) || !protocol.ValidUser(b) {
				t.Errorf("%q is not the canonical 1:1 of %q and %q", id, a, b)
			}
		case protocol.KindGroup:
			if !strings.HasPrefix(id, "g:") {
				t.Errorf("%q is a group", id)
			}
		case protocol.KindUser:
			if protocol.UserLog(id[2:]) != id || !protocol.ValidUser(id[2:]) {
				t.Errorf("%q is no user's log", id)
			}
		}
		if protocol.KindOf(id) != protocol.KindInvalid && (strings.ContainsAny(id, "*> \t\n/") || len(id) > protocol.MaxConversationLen) {
			t.Errorf("%q would mean more than a name in a subject or a path", id)
		}
	})
}

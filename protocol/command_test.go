package protocol_test

import (
	"strings"
	"testing"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

func TestEveryCommandHasTheWordOfItsEnumName(t *testing.T) {
	for number, name := range envelopev1.Command_name {
		c := envelopev1.Command(number)
		if c == envelopev1.Command_COMMAND_UNSPECIFIED {
			continue
		}
		want := strings.Replace(strings.ToLower(strings.TrimPrefix(name, "COMMAND_")), "_", ".", 1)
		if got := protocol.CommandWord(c); got != want {
			t.Errorf("CommandWord(%s) = %q, want %q", name, got, want)
		}
		if back, ok := protocol.ParseCommand(want); !ok || back != c {
			t.Errorf("ParseCommand(%q) = %v, %v, want %v", want, back, ok, c)
		}
	}
}

func TestEveryCommandHasTheBodiesOfItsSide(t *testing.T) {
	for number, name := range envelopev1.Command_name {
		c := envelopev1.Command(number)
		request, reply := protocol.NewRequest(c), protocol.NewReply(c)
		switch {
		case c == 0, c == envelopev1.Command_COMMAND_PING, c == envelopev1.Command_COMMAND_PONG:
			if request != nil || reply != nil {
				t.Errorf("%s carries a body", name)
			}
		case c == envelopev1.Command_COMMAND_CLOSE, c == envelopev1.Command_COMMAND_RESYNC, c >= protocol.FirstPush:
			if request != nil || reply == nil {
				t.Errorf("%s is the server's: request %T, reply %T", name, request, reply)
			}
		default:
			if request == nil || reply == nil {
				t.Errorf("%s: request %T, reply %T; want both", name, request, reply)
			}
		}
	}
}

func TestNoDeviceHasAWordForTheInternalCommand(t *testing.T) {
	if w := protocol.CommandWord(protocol.CommandStanding); w != "" {
		t.Errorf("CommandStanding has the word %q", w)
	}
	if protocol.CommandStanding < protocol.FirstPush {
		t.Error("CommandStanding lies among the requests of devices")
	}
}

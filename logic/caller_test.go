package logic_test

import (
	"errors"
	"testing"

	"github.com/halley-im/halley/logic"
	"github.com/halley-im/halley/logic/partition"
	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// overtaken is a link to an owner in epoch 7 that takes no write from one who has not heard of it.
type overtaken struct {
	to    link.Node
	asked []uint64
}

func (*overtaken) Partitions() int { return 1 }

func (o *overtaken) Route(_ int, r link.Request) *protocol.Error {
	o.asked = append(o.asked, r.Epoch)
	var err *protocol.Error
	if r.Epoch < 7 {
		err = protocol.Errorf(protocol.CodeResend, "not heard")
	} else {
		err = protocol.Errorf(protocol.CodeConflict, "heard")
	}
	frame := partition.EncodeError(r.Codec, r.Command, r.RequestID, r.Conversation, err)
	o.to.Deliver(&link.Batch{Epoch: 7, Deliveries: []link.Delivery{{Conn: r.Conn, Frame: frame, Answers: r.RequestID}}})
	return nil
}

// Neither an app's server nor a follower in job hears that a node did not know the owner.
func TestACallerThatHasNotHeardOfTheOwnerAsksAgainByItself(t *testing.T) {
	o := &overtaken{}
	c := logic.NewCaller("caller", o)
	o.to = c
	for range 2 {
		err := c.One(t.Context(), link.Request{App: "main", Conversation: "u:alice", ClientID: "w"}, &recordv1.Ack{})
		var refusal *protocol.Error
		if !errors.As(err, &refusal) || refusal.Code != protocol.CodeConflict {
			t.Errorf("%v", err)
		}
	}
	if len(o.asked) != 3 || o.asked[0] != 0 || o.asked[1] != 7 || o.asked[2] != 7 {
		t.Errorf("asked with the epochs %v", o.asked)
	}
}

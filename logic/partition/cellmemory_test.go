package partition

import (
	"fmt"
	"testing"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/protocol"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// Most bytes in memory of what there is one of for each user, for each pair, and for each of their newest messages. halley plan
// reckons with the figures that this test prints.
const (
	userLogBytes = 1300 // With its first record.
	directBytes  = 1550 // With its first message.
	recordBytes  = 520  // With a text of 100.
)

func TestConversationsFitTheirBudget(t *testing.T) {
	const n = 10_000
	standing, err := (&recordv1.Standing{Conversation: "g:0123456789abcdef", Seq: 10, JoinedSeq: 10, Member: true, Large: true}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	logs := measured(t, n, 1, func(i, _ int) link.Request {
		user := fmt.Sprintf("user-%07d", i)
		r := send(user, protocol.UserLog(user), "s-0123456789abcdefghijklmnop-10", "", 1<<60)
		r.Command, r.Server, r.Body = protocol.CommandStanding, true, append([]byte(nil), standing...)
		return r
	})
	message := func(i, k int) link.Request {
		r := send("alice", protocol.Direct("alice", fmt.Sprintf("user-%07d", i)), fmt.Sprintf("0190a5e2-7b1c-7def-8a90-%012d", k), "", 0)
		r.Body = words(100)
		return r
	}
	pairs := measured(t, n, 1, message)
	window := Default().WindowRecords
	full := measured(t, n/10, 2*window, message)
	record := (full - pairs) / (window - 1)
	t.Logf("log of a member of a large group %d bytes; a pair with a message %d, with %d messages %d: %d for each", logs, pairs, window, full, record)
	if logs > userLogBytes || pairs > directBytes || record > recordBytes {
		t.Errorf("above %d, %d or %d", userLogBytes, directBytes, recordBytes)
	}
}

// measured is what each of n conversations takes in which so many records were written, one in a block of each.
func measured(t *testing.T, n, records int, request func(i, k int) link.Request) int {
	o, _ := hot(t, 1)
	clear(o.cells)
	before := observetest.Heap()
	for k := range records {
		for i := 0; i < n; i += 100 {
			requests := make([]link.Request, 100)
			for j := range requests {
				r := request(i+j, k)
				r.App, r.Codec, r.Epoch = "main", link.CodecProto, 1
				c := o.cells[key{r.App, r.Conversation}]
				if c == nil {
					c = o.newCell(r.App, r.Conversation)
					c.loaded = true
				}
				r.Since = max(r.Since, c.Head.Seq)
				requests[j] = r
			}
			if err := o.work(t.Context(), requests); err != nil {
				t.Fatal(err)
			}
			o.noteFloor(o.last) // History keeps up, and so does delivery.
			for range len(o.stage.parcels) {
				<-o.stage.parcels
			}
		}
	}
	each := int(observetest.Heap()-before) / n
	for _, c := range o.cells {
		if c.Head.Seq != uint64(records) {
			t.Fatalf("%s has %d records, not %d", c.ID, c.Head.Seq, records)
		}
	}
	return each
}

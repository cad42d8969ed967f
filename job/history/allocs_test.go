//go:build !race

// The race detector allocates on its own account.

package history

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/logblock"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// mostAllocs per record from the log's bytes to what the store gets: the record, which points into those bytes.
const mostAllocs = 1.1

func TestARecordCostsHistoryOneAllocation(t *testing.T) {
	b := &logv1.Block{Kind: logv1.Kind_KIND_DATA, Epoch: 1, Owner: "logic-1", Nonce: make([]byte, 16)}
	for i := range uint64(500) {
		b.Records = append(b.Records, &logv1.Record{
			App: "main", Conversation: fmt.Sprintf("d:alice:u%d", i), Seq: i + 1, Count: i + 1, Id: i + 1, Sender: "alice", Device: "phone",
			ClientId: "0190a5e2-7b1c-7def-8a90-000000000001", TimeUs: 1, Type: 16, Body: bytes.Repeat([]byte("x"), 104),
		})
	}
	data, err := logblock.Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	d := bus.NewDelivery(bus.Message{Seq: 1, Data: data}, 0, nil)
	got := testing.AllocsPerRun(20, func() {
		records, err := decode(d)
		if err != nil || len(records) != 500 {
			t.Fatalf("%d records, %v", len(records), err)
		}
	}) / 500
	if got > mostAllocs {
		t.Errorf("%v allocations for each record, at most %v", got, mostAllocs)
	}
}

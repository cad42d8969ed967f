// Package linktest is the suite that every link passes. It never tests what lies behind a link's ends.
package linktest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/protocol"
)

// Harness makes the ends of one fresh link. Its functions fail the test themselves and tidy up with t.Cleanup.
type Harness struct {
	// Owner joins a logic process to the link.
	Owner func(t *testing.T, process string) Owner
	// Node joins a node; leave takes it away at once, as a crash would.
	Node func(t *testing.T, node string, n link.Node) (r link.Router, leave func())
}

// Owner is a logic process on the link.
type Owner struct {
	link.Sender
	// Attach owns a partition until detach.
	Attach func(partition int, in link.Inbox) (detach func())
}

// Partitions is how many partitions the suite's links have.
const Partitions = 4

// Patience is how long the suite waits for what must come.
const Patience = 15 * time.Second

// Run runs the suite; fresh is called once for each test.
func Run(t *testing.T, fresh func(t *testing.T) Harness) {
	tests := []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"Requests/EveryFieldArrives", requestFields},
		{"Requests/OrderPerPartition", requestOrder},
		{"Requests/FullInboxAnswersBusy", fullInbox},
		{"Requests/NoOwnerAnswersRetry", noOwner},
		{"Requests/OwnerMoves", ownerMoves},
		{"Deliveries/EveryFieldArrives", deliveryFields},
		{"Deliveries/OrderAndFramesUnchanged", deliveryOrder},
		{"Deliveries/NodeGone", nodeGone},
		{"Deliveries/NodeComesBack", nodeBack},
		{"Deliveries/SkipReachesEveryNode", skip},
		{"Deliveries/SkipUsersReachesEveryNode", skipUsers},
		{"Both/EverythingAtOnce", echo},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
}

// EncodeError encodes a refusal as a Protobuf frame, for links that need to be told how.
func EncodeError(_ link.Codec, c envelopev1.Command, id uint64, conversation string, err *protocol.Error) []byte {
	b, e := (&envelopev1.Frame{Command: c, RequestId: id, Conversation: conversation, Error: err.Wire()}).MarshalVT()
	if e != nil {
		panic(e)
	}
	return b
}

// Inbox keeps what reaches an owner.
type Inbox struct {
	mu       sync.Mutex
	requests []link.Request
	refuse   *protocol.Error
	then     func(link.Request)
}

// Enqueue keeps r, unless the inbox refuses.
func (in *Inbox) Enqueue(r link.Request) *protocol.Error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.refuse != nil {
		return in.refuse
	}
	in.requests = append(in.requests, r)
	if in.then != nil {
		in.then(r)
	}
	return nil
}

// Requests is what came so far.
func (in *Inbox) Requests() []link.Request {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.requests[:len(in.requests):len(in.requests)]
}

// Got is one delivery that reached a node.
type Got struct {
	link.Delivery
	Partition int
	Epoch     uint64
}

// Node keeps what reaches a node.
type Node struct {
	mu   sync.Mutex
	got  []Got
	lost int
	to   []link.Users
}

// Deliver keeps the batch.
func (n *Node) Deliver(b *link.Batch) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range b.Deliveries {
		n.got = append(n.got, Got{d, b.Partition, b.Epoch})
	}
}

// Lost counts.
func (n *Node) Lost() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lost++
}

// LostTo keeps the users.
func (n *Node) LostTo(users link.Users) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.to = append(n.to, users)
}

// LossesTo is whom LostTo was called for.
func (n *Node) LossesTo() []link.Users {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.to)
}

// Deliveries is what came so far.
func (n *Node) Deliveries() []Got {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.got[:len(n.got):len(n.got)]
}

// Losses is how often Lost was called.
func (n *Node) Losses() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lost
}

// Until polls until ok, and fails the test when Patience has run out.
func Until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain: %s", Patience, what)
		}
	}
}

// Answer is how a request ended: refused at once, or by an error frame later.
func Answer(t *testing.T, r link.Router, n *Node, partition int, q link.Request) protocol.Code {
	t.Helper()
	if err := r.Route(partition, q); err != nil {
		return err.Code
	}
	var code protocol.Code
	Until(t, fmt.Sprintf("an error frame for request %d", q.RequestID), func() bool {
		for _, d := range n.Deliveries() {
			var f envelopev1.Frame
			if err := f.UnmarshalVT(d.Frame); err != nil || f.Error == nil || f.RequestId != q.RequestID || d.Conn != q.Conn {
				continue
			}
			if f.Command != q.Command || f.Conversation != q.Conversation {
				t.Fatalf("the error frame %v does not belong to request %+v", &f, q)
			}
			code = protocol.Code(f.Error.Code)
			return true
		}
		return false
	})
	return code
}

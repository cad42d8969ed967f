package link_test

import (
	"sync"
	"testing"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/link/linktest"
	"github.com/halley-im/halley/protocol"
)

func TestLocal(t *testing.T) {
	linktest.Run(t, func(*testing.T) linktest.Harness {
		l := link.NewLocal(linktest.Partitions)
		return linktest.Harness{
			Owner: func(*testing.T, string) linktest.Owner {
				return linktest.Owner{Sender: l, Attach: func(p int, in link.Inbox) func() { return l.Attach(p, 1, in) }}
			},
			Node: func(_ *testing.T, node string, n link.Node) (link.Router, func()) {
				return l, l.Register(node, n)
			},
		}
	})
}

func TestLocalNodesAndOwnersComeAndGoUnderLoad(t *testing.T) {
	l := link.NewLocal(1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			b := &link.Batch{Deliveries: []link.Delivery{{Conn: 1}}}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := l.Route(0, link.Request{}); err != nil && err.Code != protocol.CodeRetry {
					t.Errorf("Route = %v", err)
				}
				l.Send("comet-1", b)
			}
		})
	}
	for range 500 {
		detach := l.Attach(0, 1, sink{})
		remove := l.Register("comet-1", sink{})
		detach()
		remove()
	}
	close(stop)
	wg.Wait()
	if err := l.Route(0, link.Request{}); err == nil {
		t.Error("the last detach left an owner behind")
	}
}

type sink struct{}

func (sink) Enqueue(link.Request) *protocol.Error { return nil }
func (sink) Deliver(*link.Batch)                  {}
func (sink) Lost()                                {}
func (sink) LostTo(link.Users)                    {}

func TestLocalHotPathAllocatesNothing(t *testing.T) {
	l := link.NewLocal(1)
	l.Attach(0, 1, sink{})
	l.Register("comet-1", sink{})
	b := &link.Batch{Deliveries: make([]link.Delivery, 3)}
	q := link.Request{Node: "comet-1"}
	if n := testing.AllocsPerRun(1000, func() {
		_ = l.Route(0, q)
		l.Send("comet-1", b)
	}); n != 0 {
		t.Fatalf("%v allocations per request and batch, want none", n)
	}
}

func BenchmarkLocalRoute(b *testing.B) {
	l := link.NewLocal(16)
	l.Attach(3, 1, sink{})
	q := link.Request{Node: "comet-1", App: "main", User: "alice", Conversation: "d:alice:bob"}
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Route(3, q)
	}
}

func BenchmarkLocalSend(b *testing.B) {
	l := link.NewLocal(16)
	l.Register("comet-1", sink{})
	batch := &link.Batch{Deliveries: make([]link.Delivery, 3)}
	b.ReportAllocs()
	for b.Loop() {
		l.Send("comet-1", batch)
	}
}

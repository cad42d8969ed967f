package main

import (
	"context"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
)

// ownersOf opens the owners of a log on a server in this process.
func ownersOf(t *testing.T, partitions int) *owners {
	t.Helper()
	conn := bustest.Connect(t, bustest.StartEmbedded(t))
	cfg := bus.LogConfig{Partitions: partitions, Replicas: 1, MaxBytes: natsLogBytes}
	if err := bus.CreateLogs(t.Context(), conn, cfg); err != nil {
		t.Fatal(err)
	}
	o, err := openOwners(t.Context(), conn, "run", partitions)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.close)
	return o
}

// write has the owners talk until they have so many more acks.
func write(t *testing.T, o *owners, acks int) {
	t.Helper()
	settling, settled := context.WithTimeout(t.Context(), 5*time.Minute)
	defer settled()
	talking, hush := context.WithCancel(settling)
	done := make(chan struct{})
	go func() { o.talk(talking, settling); close(done) }()
	e := experiment{within: 5 * time.Minute}
	err := e.acked(t.Context(), o, o.ledger.acks()+acks)
	hush()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.audit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestWhatOwnersWroteIsTheLog(t *testing.T) {
	o := ownersOf(t, 2)
	write(t, o, 50)
	write(t, o, 50)
	if got := o.ledger.result(0); !got.kept() || got.acked < 100 {
		t.Errorf("%v\n%s", got, o.ledger.examples(5))
	}
}

func TestABlockOfAnotherInTheLogIsAViolation(t *testing.T) {
	o := ownersOf(t, 1)
	write(t, o, 10)
	one := o.each[0]
	if _, err := one.log.Append(t.Context(), []byte("another's"), false, one.last); err != nil {
		t.Fatal(err)
	}
	o.talk(t.Context(), t.Context()) // Ends by itself: the owner sees that it is not the only one.
	if _, err := o.audit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := o.ledger.result(0); got.violations < 2 || got.lost != 0 {
		t.Errorf("%v\n%s", got, o.ledger.examples(5))
	}
}

func TestTheEndOfALogThatIsGoneIsALoss(t *testing.T) {
	o := ownersOf(t, 1)
	write(t, o, 10)
	one := o.each[0]
	// As if three more had been acknowledged before the power went.
	for range 3 {
		one.written++
		text := "gone " + string(rune('0'+one.written%10))
		o.ledger.sends(text, message{conversation: one.name, sender: one.name, number: one.written})
		one.last++
		o.ledger.ack(text, one.last, 0)
	}
	if _, err := o.audit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := o.ledger.result(0); got.lost != 3 {
		t.Errorf("%v\n%s", got, o.ledger.examples(5))
	}
}

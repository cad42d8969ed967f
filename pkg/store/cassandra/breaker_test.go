package cassandra

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gocql/gocql"

	"github.com/halley-im/halley/pkg/observe/observetest"
	"github.com/halley-im/halley/pkg/store"
)

// While Cassandra does not answer, calls fail at once instead of each waiting for its time-out, and one now and then finds out whether
// it is back.
func TestCallsFailAtOnceWhileCassandraDoesNotAnswer(t *testing.T) {
	cfg := Default()
	cfg.BreakerFailures, cfg.BreakerOpenMs = 3, 50
	var lines observetest.Lines
	s := &Store{cfg: cfg, slots: make(chan struct{}, 1), breaker: newBreaker(cfg, lines.Logger())}
	asked := 0
	call := func(with error) error {
		return s.call(t.Context(), "range", func(context.Context) error {
			asked++
			return with
		})
	}
	// What is no fault of Cassandra's does not count, and an answer begins the count anew.
	for _, err := range []error{gocql.ErrTimeoutNoResponse, gocql.ErrTimeoutNoResponse, gocql.ErrNotFound, gocql.ErrTimeoutNoResponse, context.Canceled, gocql.ErrTimeoutNoResponse} {
		if got := call(err); !errors.Is(got, err) {
			t.Fatalf("%v, want %v", got, err)
		}
	}
	if call(gocql.ErrTimeoutNoResponse); asked != 7 {
		t.Fatalf("asked %d times", asked)
	}
	for range 100 {
		if err := call(nil); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("%v, want that the store is unavailable", err)
		}
	}
	if asked != 7 {
		t.Fatalf("asked %d times although nothing is answered", asked)
	}
	if !lines.Have("level=WARN", "Cassandra's breaker", "to=open") {
		t.Error("the log does not say so")
	}
	for deadline := time.Now().Add(10 * time.Second); call(nil) != nil; {
		if time.Now().After(deadline) {
			t.Fatal("it is never asked again")
		}
		<-time.After(time.Millisecond)
	}
	if err := call(nil); err != nil || asked != 9 {
		t.Fatalf("%v, asked %d times", err, asked)
	}
}

package observed_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/pkg/store/observed"
	"github.com/halley-im/halley/pkg/store/pebble"
	"github.com/halley-im/halley/pkg/store/storetest"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

func open(t *testing.T, reg prometheus.Registerer) *observed.Store {
	t.Helper()
	p, err := pebble.Open(t.TempDir(), pebble.Default(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s, err := observed.New(p, reg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnObservedStoreIsStillAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, prometheus.NewRegistry()) })
}

func TestCallsAreCountedByOperationAndResult(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := open(t, reg)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	c := store.Conversation{App: "main", ID: "g:x"}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	record := func(seq uint64) *logv1.Record { return &logv1.Record{App: c.App, Conversation: c.ID, Seq: seq} }
	for _, call := range []struct {
		ctx     context.Context
		records []*logv1.Record
	}{
		{t.Context(), []*logv1.Record{record(1), record(2)}}, {t.Context(), []*logv1.Record{record(3)}},
		{t.Context(), []*logv1.Record{record(0)}}, {cancelled, []*logv1.Record{record(4)}},
	} {
		_ = s.Append(call.ctx, call.records)
	}
	if _, err := s.Range(t.Context(), c, 1, 2, 10, false); err != nil {
		t.Fatal(err)
	}
	calls, records := map[string]uint64{}, map[string]float64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			key := ""
			for _, l := range m.Label {
				key += l.GetValue() + " "
			}
			switch f.GetName() {
			case "halley_store_seconds":
				calls[key] = m.Histogram.GetSampleCount()
			case "halley_store_records_total":
				records[key] = m.Counter.GetValue()
			}
		}
	}
	for key, want := range map[string]uint64{"append ok ": 2, "append invalid ": 1, "append cancelled ": 1, "range ok ": 1} {
		if calls[key] != want {
			t.Errorf("calls %q: %d, want %d", key, calls[key], want)
		}
	}
	if records["append "] != 3 || records["range "] != 2 {
		t.Errorf("records: %v", records)
	}
}

package bus_test

import (
	"errors"
	"testing"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
)

func TestALookAtTheBus(t *testing.T) {
	cluster := bustest.StartCluster(t, 3)
	cfg := bus.Config{URLs: cluster.URLs(), Name: "look"}
	s, err := bus.Look(t.Context(), cfg, bustest.Log(t))
	if !errors.Is(err, bus.ErrNotCreated) {
		t.Fatalf("before the cluster was created: %v", err)
	}
	if s.Version == "" || s.Name == "" || s.Cluster == "" || s.Servers != 3 || s.RoundTrip <= 0 || s.Encrypted {
		t.Errorf("the look tells %+v", s)
	}
	bustest.Create(t, cluster.Connect(), bus.LogConfig{Partitions: 2, Replicas: 3, MaxBytes: 1 << 20})
	if s, err = bus.Look(t.Context(), cfg, bustest.Log(t)); err != nil || s.Partitions != 2 {
		t.Errorf("after it: %+v, %v", s, err)
	}
}

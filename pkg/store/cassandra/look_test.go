//go:build integration

package cassandra

import (
	"errors"
	"testing"
	"time"
)

func TestALookAtCassandra(t *testing.T) {
	cfg := testConfig(t)
	dropAfter(t, cfg)
	s, err := Look(t.Context(), cfg, quiet())
	if err == nil || s.Version == "" || s.Datacenter == "" || s.RoundTrip <= 0 || s.Ahead.Abs() > time.Second {
		t.Errorf("without the keyspace the look tells %+v, %v", s, err)
	}
	admin(t, cfg, "CREATE KEYSPACE "+cfg.Keyspace+" WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}")
	if _, err = Look(t.Context(), cfg, quiet()); !errors.Is(err, ErrSchema) {
		t.Errorf("without a schema: %v", err)
	}
	if err := Migrate(t.Context(), cfg, quiet()); err != nil {
		t.Fatal(err)
	}
	if _, err = Look(t.Context(), cfg, quiet()); err != nil {
		t.Errorf("with everything: %v", err)
	}
}

//go:build integration

package redis

import (
	"testing"
	"time"
)

func TestALookAtRedis(t *testing.T) {
	s, err := Look(t.Context(), theRedis(t))
	if err != nil {
		t.Fatal(err)
	}
	if s.Version == "" || s.Role != "master" || s.Eviction != "noeviction" || s.RoundTrip <= 0 || s.Ahead.Abs() > time.Second {
		t.Errorf("the look tells %+v", s)
	}
}

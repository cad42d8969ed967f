//go:build integration

package integration

import "testing"

// The suites that the memory and Pebble implementations pass inside `make test`, on the real servers.

func TestStoreOnCassandra(t *testing.T) {
	goTest(t, []string{"TEST_CASSANDRA=" + servers.cassandra}, "./pkg/store/cassandra")
}

// The network of `make chaos` in true namespaces.
func TestNetworkOfChaos(t *testing.T) {
	goTest(t, nil, "./benchmarks/chaos/network")
}

func TestPresenceOnRedis(t *testing.T) {
	goTest(t, []string{"TEST_REDIS=" + servers.redis}, "./pkg/presence/redis")
}

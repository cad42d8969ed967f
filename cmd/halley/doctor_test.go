package main

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/pkg/doctor"
)

// nobody is an address at which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func examined(t *testing.T, stdout, check string) doctor.Finding {
	t.Helper()
	var all []doctor.Finding
	if err := json.Unmarshal([]byte(stdout), &all); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	for _, f := range all {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("%s was not looked at: %s", check, stdout)
	return doctor.Finding{}
}

func TestTheDoctorSaysWhichServiceIsMissing(t *testing.T) {
	cluster := bustest.StartCluster(t, 3)
	dead := nobody(t)
	args := []string{
		"doctor", "--json", "--tier", "logic", "--set", "nats.urls=" + strings.Join(cluster.URLs(), ","),
		"--set", "redis.addresses=" + dead, "--set", "cassandra.hosts=" + dead,
	}
	stdout, stderr, code := call(t, args...)
	if code != exitFailure || stderr != "" {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	if f := examined(t, stdout, "NATS"); f.State != doctor.Fail || !strings.Contains(f.Advice, "cluster create") {
		t.Errorf("NATS without logs: %+v", f)
	}
	for _, check := range []string{"Redis", "Cassandra"} {
		if f := examined(t, stdout, check); f.State != doctor.Fail || !strings.Contains(f.Found, "refused") || f.Advice == "" {
			t.Errorf("%s is away: %+v", check, f)
		}
	}
	bustest.Create(t, cluster.Connect(), bus.LogConfig{Partitions: 2, Replicas: 3, MaxBytes: 1 << 20})
	stdout, _, _ = call(t, args...)
	if f := examined(t, stdout, "NATS"); f.State != doctor.OK || !strings.Contains(f.Found, "2 partitions") {
		t.Errorf("NATS: %+v", f)
	}
}

func TestTheDoctorFailsAMachineThatIsTooSmall(t *testing.T) {
	stdout, _, code := call(t, "doctor", "--json", "--connections", "1000000000")
	if f := examined(t, stdout, "open files of a process"); code != exitFailure || f.State != doctor.Fail {
		t.Errorf("exit code %d, %+v", code, f)
	}
	if stdout, _, code = call(t, "doctor", "--connections", "10"); code != exitOK || !strings.HasPrefix(stdout, "ok ") {
		t.Errorf("exit code %d, %s", code, stdout)
	}
	if _, stderr, code := call(t, "doctor", "--connections=-1"); code == exitOK || !strings.Contains(stderr, "negative") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

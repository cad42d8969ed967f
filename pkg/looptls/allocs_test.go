//go:build !race

package looptls_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/looptls"
)

func TestAllocations(t *testing.T) {
	s := newSetup(t, 8, 10*time.Second)
	server, client := s.connect(t, 1<<20)
	const rounds = 500
	text := bytes.Repeat([]byte("x"), 100)
	var records [][]byte
	for range 2 * rounds {
		_, _ = client.Write(text)
		records = append(records, client.sent())
	}
	buf := make([]byte, 4096)
	server.writes = make([][]byte, 0, 4*rounds)
	next := 0
	got := testing.AllocsPerRun(rounds, func() {
		server.in = records[next]
		next++
		if n, err := server.Read(buf); n != 100 || err != nil {
			t.Fatal(n, err)
		}
		if _, err := server.Read(buf); !errors.Is(err, looptls.ErrAgain) {
			t.Fatal(err)
		}
	})
	if got > 2 { // crypto/tls takes 32 bytes for each look at the socket: one finds the record, one that there is no other
		t.Errorf("reading a record allocates %v times", got)
	}
	got = testing.AllocsPerRun(rounds, func() {
		if _, err := server.Write(text); err != nil {
			t.Fatal(err)
		}
	})
	if got > 1 { // the test's own socket keeps a copy
		t.Errorf("writing a record allocates %v times", got)
	}
}

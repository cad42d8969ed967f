package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
	"github.com/halley-im/halley/protocol"
)

func TestStormsCutUntilTheyEnd(t *testing.T) {
	g, err := openGate([]string{echo(t, "alive")})
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", g.address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if who, err := ask(c); who != "alive\n" {
			t.Fatalf("%q, %v", who, err)
		}
		return c
	}
	s := &storms{gates: []*gate{g}}
	first := dial()
	if err := s.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := waitForEnd(first); err != nil {
		t.Fatalf("the first storm: %v", err)
	}
	if err := waitForEnd(dial()); err != nil {
		t.Fatalf("the second storm: %v", err)
	}
	if err := s.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := dial()
	if err := last.SetReadDeadline(time.Now().Add(2 * stormEvery)); err != nil {
		t.Fatal(err)
	}
	if err := waitForEnd(last); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("cut after the end of the storms: %v", err)
	}
}

// waitForEnd returns nil when the other side has closed the connection.
func waitForEnd(c net.Conn) error {
	_, err := c.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// Nothing of a log changes but its limit, and nothing is dropped.
func TestALogIsFilledByItsLimit(t *testing.T) {
	conn := bustest.Logs(t, 1)
	state := func() bus.LogState {
		s, err := bustest.OpenLog(t, conn, 0).State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := state()
	for _, most := range []int64{before.Bytes + 1000, before.MaxBytes} {
		err := limitLog(t.Context(), conn, protocol.StreamLog(0), func(used int64) int64 {
			if used != before.Bytes {
				t.Errorf("%d bytes are used, not %d", used, before.Bytes)
			}
			return most
		})
		if err != nil {
			t.Fatal(err)
		}
		want := before
		want.MaxBytes = most
		if now := state(); now != want {
			t.Errorf("%+v, want %+v", now, want)
		}
	}
	if err := limitLog(t.Context(), conn, "LOG_none", func(int64) int64 { return 1 }); err == nil {
		t.Error("a log that is not there was limited")
	}
}

func TestAClockIsSetRightAgain(t *testing.T) {
	dir := t.TempDir()
	offs := map[string]bool{}
	k := clockWrong(3, dir, "logic-1")
	for range 8 {
		if err := k.Fault.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		off := strings.TrimSpace(fileText(t, filepath.Join(dir, "clock-logic-1")))
		offs[off] = true
		if err := k.Fault.End(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := fileText(t, filepath.Join(dir, "clock-logic-1")); off == "0" || got != "0\n" {
			t.Errorf("stepped by %q, set right to %q", off, got)
		}
	}
	forth, back := 0, 0
	for off := range offs {
		if strings.HasPrefix(off, "-") {
			back++
		} else {
			forth++
		}
	}
	if back == 0 || forth == 0 {
		t.Errorf("%v: only one way", offs)
	}
	if !steps([]Kind{killed("a", nil), k}) || steps([]Kind{killed("a", nil)}) {
		t.Error("which kinds need a program of their own")
	}
}

func fileText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

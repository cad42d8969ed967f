package partition

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestWhatEveryRequestWouldSayIsSaidOnceASecond(t *testing.T) {
	var log bytes.Buffer
	o := &owner{Partition: &Partition{Deps: Deps{Logger: slog.New(slog.NewTextHandler(&log, nil))}}}
	for range 100 {
		o.complain("read failed", "err", "no store")
	}
	o.tick++
	o.complain("read failed", "err", "no store")
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[0], `err="no store" unsaid=0`) || !strings.HasSuffix(lines[1], "unsaid=99") {
		t.Errorf("%q", lines)
	}
}

package pebble

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

func TestReadOnlyStoreWalksAllRecordsAndRefusesWrites(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	w, err := Open(dir, small(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	var records []*logv1.Record
	for _, c := range []string{"g:b", "g:a", "g:aa"} {
		for _, seq := range []uint64{300, 1, 2} {
			records = append(records, &logv1.Record{App: "main", Conversation: c, Seq: seq, Body: []byte(c)})
		}
	}
	if err := errors.Join(w.Append(ctx, records), w.Close()); err != nil {
		t.Fatal(err)
	}

	s, err := OpenReadOnly(dir, small(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	var got []string
	without := func(c store.Conversation) bool { return c.ID != "g:aa" }
	note := func(c store.Conversation, seq uint64, r *logv1.Record) error {
		got = append(got, fmt.Sprintf("%s/%s %d %d %s", c.App, c.ID, seq, r.Seq, r.Body))
		return nil
	}
	if err := s.WalkRecords(ctx, without, note); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"main/g:a 1 1 g:a", "main/g:a 2 2 g:a", "main/g:a 300 300 g:a",
		"main/g:b 1 1 g:b", "main/g:b 2 2 g:b", "main/g:b 300 300 g:b",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if err := s.Append(ctx, records); err == nil {
		t.Error("a store that was opened for reading takes a record")
	}
	stop := errors.New("enough")
	all := func(store.Conversation) bool { return true }
	if err := s.WalkRecords(ctx, all, func(store.Conversation, uint64, *logv1.Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v, want the walker's own error", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.WalkRecords(gone, all, note); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
}

func TestReadOnlyStoreMakesNoFolder(t *testing.T) {
	dir := t.TempDir() + "/none"
	if _, err := OpenReadOnly(dir, small(), quiet()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
}

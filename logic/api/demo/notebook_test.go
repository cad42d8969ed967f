package demo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/halley-im/halley/pkg/client"
)

const chat = "d:alice:echo"

// reopened is what a process finds after the one before it was killed.
func reopened(t *testing.T, path string) notes {
	t.Helper()
	n, err := openNotebook(path)
	if err != nil {
		t.Fatal(err)
	}
	cursors, writes, err := n.Load()
	if err != nil {
		t.Fatal(err)
	}
	return notes{cursors, writes}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The story of one answer, with a kill after each step: the message is shown again until its answer is in the file, and
// from then on never.
func TestAnswerAndCursorReachTheFileTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bot.json")
	n, err := openNotebook(path)
	must(t, err)
	must(t, n.SetCursor(chat, 6)) // A message of its own: nothing to answer.
	n.begin(chat, 7)
	if diff := cmp.Diff(notes{map[string]uint64{}, nil}, reopened(t, path)); diff != "" {
		t.Errorf("killed before the answer was stored, it must be shown the message again:\n%s", diff)
	}

	w := client.Write{ClientID: "c1", Conversation: chat, Body: []byte{1}}
	must(t, n.PutWrite(w))
	want := notes{map[string]uint64{chat: 7}, []client.Write{w}}
	if diff := cmp.Diff(want, reopened(t, path)); diff != "" {
		t.Errorf("killed after the answer was stored:\n%s", diff)
	}

	w.Sent, w.Since = true, 7
	must(t, n.PutWrite(w))
	n.end()
	want.Writes = []client.Write{w}
	if diff := cmp.Diff(want, reopened(t, path)); diff != "" {
		t.Errorf("killed after the answer was sent, it must be sent again as the same:\n%s", diff)
	}

	must(t, n.DropWrite("c1"))
	must(t, n.SetCursor(chat, 8))
	n.begin(chat, 9)
	next := client.Write{ClientID: "c2", Conversation: chat}
	must(t, n.PutWrite(next))
	want = notes{map[string]uint64{chat: 9}, []client.Write{next}}
	if diff := cmp.Diff(want, reopened(t, path)); diff != "" {
		t.Errorf("the next answer:\n%s", diff)
	}
}

func TestNotebookThatCannotWriteChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	n, err := openNotebook(filepath.Join(dir, "bot.json"))
	must(t, err)
	n.begin(chat, 7)
	if err := n.PutWrite(client.Write{ClientID: "c1", Conversation: chat}); err == nil {
		t.Fatal("it was written into a folder that does not exist")
	}
	cursors, writes, err := n.Load()
	must(t, err)
	if len(cursors) > 0 || len(writes) > 0 {
		t.Errorf("%v %v: the answer would be taken for given", cursors, writes)
	}
}

func TestBrokenStateIsNoEmptyState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bot.json")
	must(t, os.WriteFile(path, []byte(`{"cursors":`), 0o600))
	if _, err := openNotebook(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v: all would be answered again, and nobody told why", err)
	}
}

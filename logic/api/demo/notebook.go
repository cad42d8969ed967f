package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/halley-im/halley/pkg/client"
)

// notebook is a client.Store in a file, for one who answers. A client's cursor moves when its handler has returned, and an
// answer is stored before that; a crash in between would show the message again and have it answered twice. So the two
// reach the file together: an answer is written with the cursor behind the message that it answers.
//
// All else may be lost in a crash: a cursor behind what needed no answer, for it is shown again and ignored; and that an
// answer was acknowledged, for it is sent again under its client id and gets the same ack.
type notebook struct {
	path string

	mu    sync.Mutex
	notes notes
	// The message that is being answered; conversation is empty where none is.
	conversation string
	seq          uint64
}

type notes struct {
	Cursors map[string]uint64 `json:"cursors"`
	Writes  []client.Write    `json:"writes"`
}

func openNotebook(path string) (*notebook, error) {
	n := &notebook{path: path, notes: notes{Cursors: map[string]uint64{}}}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &n.notes); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if n.notes.Cursors == nil {
		n.notes.Cursors = map[string]uint64{}
	}
	return n, nil
}

// begin says which message the writes until end answer.
func (n *notebook) begin(conversation string, seq uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conversation, n.seq = conversation, seq
}

func (n *notebook) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conversation, n.seq = "", 0
}

// Load implements client.Store.
func (n *notebook) Load() (map[string]uint64, []client.Write, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.notes.Cursors), slices.Clone(n.notes.Writes), nil
}

// SetCursor implements client.Store; the next write takes the cursor to the file.
func (n *notebook) SetCursor(conversation string, seq uint64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notes.Cursors[conversation] = max(seq, n.notes.Cursors[conversation])
	return nil
}

// PutWrite implements client.Store. Where it fails, nothing is changed.
func (n *notebook) PutWrite(w client.Write) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := notes{Cursors: n.notes.Cursors, Writes: slices.Clone(n.notes.Writes)}
	if i := index(next.Writes, w.ClientID); i >= 0 {
		next.Writes[i] = w
	} else {
		next.Writes = append(next.Writes, w)
	}
	if n.conversation != "" && n.seq > next.Cursors[n.conversation] {
		next.Cursors = maps.Clone(next.Cursors)
		next.Cursors[n.conversation] = n.seq
	}
	if err := save(n.path, next); err != nil {
		return err
	}
	n.notes = next
	return nil
}

// DropWrite implements client.Store; the next write takes it out of the file.
func (n *notebook) DropWrite(clientID string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i := index(n.notes.Writes, clientID); i >= 0 {
		n.notes.Writes = slices.Delete(n.notes.Writes, i, i+1)
	}
	return nil
}

func index(writes []client.Write, clientID string) int {
	return slices.IndexFunc(writes, func(w client.Write) bool { return w.ClientID == clientID })
}

// save replaces the file at once; what it returns nil for survives a power cut.
func save(path string, what notes) error {
	data, err := json.Marshal(what)
	if err != nil {
		return err
	}
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

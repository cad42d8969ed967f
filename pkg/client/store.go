package client

import (
	"maps"
	"slices"
	"sync"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// Write is a command that becomes a record, from when the application gives it until the server answers.
type Write struct {
	ClientID     string
	Conversation string
	Command      envelopev1.Command
	Body         []byte
	// Since is the head that the device knew when it first transmitted the write; it is set, with Sent, before that.
	Since uint64
	Sent  bool
}

// Store keeps what must outlive a process for the next to go on without loss: for each conversation the seq of the last record
// that was handled, and the writes that were not answered. Its methods are called from several goroutines and should be
// quick; what PutWrite was given must survive as soon as it returns.
type Store interface {
	// Load returns the cursors, and the writes in the order in which they were first put.
	Load() (cursors map[string]uint64, writes []Write, err error)
	SetCursor(conversation string, seq uint64) error
	// PutWrite adds a write, or replaces the one with its client id in its place.
	PutWrite(Write) error
	// DropWrite forgets a write that was answered.
	DropWrite(clientID string) error
}

// MemoryStore is a Store that lives as long as the process.
type MemoryStore struct {
	mu      sync.Mutex
	cursors map[string]uint64
	writes  []Write
}

// NewMemoryStore makes an empty one.
func NewMemoryStore() *MemoryStore { return &MemoryStore{cursors: map[string]uint64{}} }

// Load implements Store.
func (s *MemoryStore) Load() (map[string]uint64, []Write, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.cursors), slices.Clone(s.writes), nil
}

// SetCursor implements Store.
func (s *MemoryStore) SetCursor(conversation string, seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursors[conversation] = seq
	return nil
}

// PutWrite implements Store.
func (s *MemoryStore) PutWrite(w Write) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.index(w.ClientID); i >= 0 {
		s.writes[i] = w
		return nil
	}
	s.writes = append(s.writes, w)
	return nil
}

// DropWrite implements Store.
func (s *MemoryStore) DropWrite(clientID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.index(clientID); i >= 0 {
		s.writes = slices.Delete(s.writes, i, i+1)
	}
	return nil
}

func (s *MemoryStore) index(clientID string) int {
	return slices.IndexFunc(s.writes, func(w Write) bool { return w.ClientID == clientID })
}

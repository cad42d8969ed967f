package main

import (
	"fmt"
	"sync"
)

// message is one that a device sent: its text is its name.
type message struct {
	conversation, sender string
	number               int // Rises with each message of the sender in the conversation.

	acked   bool
	seq, id uint64
	lost    bool
}

// place is a device's view of a conversation.
type place struct{ user, conversation string }

// ledger is what the devices sent, were answered and were shown. It is outside the machine whose power is cut.
type ledger struct {
	mu       sync.Mutex
	messages map[string]*message
	acked    int
	shown    map[string]map[uint64]uint64 // conversation → seq → id, to any device
	last     map[place]uint64             // The last seq that the device was shown.
	broken   map[string]bool              // What should not be, in words; each once.
}

func newLedger() *ledger {
	return &ledger{
		messages: map[string]*message{}, shown: map[string]map[uint64]uint64{},
		last: map[place]uint64{}, broken: map[string]bool{},
	}
}

func (l *ledger) sends(text string, m message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages[text] = &m
}

func (l *ledger) ack(text string, seq, id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.messages[text]
	m.acked, m.seq, m.id = true, seq, id
	l.acked++
}

// show notes what a device's application was given.
func (l *ledger) show(at place, seq, id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if want := l.last[at] + 1; seq != want {
		l.breaks("%s was shown %d of %s after %d", at.user, seq, at.conversation, want-1)
	}
	l.last[at] = seq
	seqs := l.shown[at.conversation]
	if seqs == nil {
		seqs = map[uint64]uint64{}
		l.shown[at.conversation] = seqs
	}
	if before, ok := seqs[seq]; ok && before != id {
		l.breaks("%d of %s was shown as record %d and as %d", seq, at.conversation, before, id)
	}
	seqs[seq] = id
}

// breaks is called with the lock held.
func (l *ledger) breaks(format string, args ...any) { l.broken[fmt.Sprintf(format, args...)] = true }

// stands is the last seq that the device was shown.
func (l *ledger) stands(at place) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[at]
}

func (l *ledger) acks() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

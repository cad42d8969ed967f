package audit

import (
	"fmt"
	"strings"
	"sync"
)

// Kind is what a violation breaks.
type Kind string

// The kinds of violation.
const (
	KindLog      Kind = "log"       // the stream lacks blocks
	KindBlock    Kind = "block"     // a block cannot be read, or does not follow the one before it
	KindEpoch    Kind = "epoch"     // an owner wrote after it was fenced off, or without a fence of its own
	KindPlace    Kind = "partition" // a conversation stands in a partition that is not its own
	KindRecord   Kind = "record"    // a record that nobody can hold
	KindSeq      Kind = "seq"       // seqs of a conversation do not run 1, 2, 3 …
	KindCount    Kind = "count"     // the number of messages does not follow from the record before
	KindOrder    Kind = "order"     // times or ids do not rise
	KindClientID Kind = "client id" // one write of a device has two seqs
	KindMissing  Kind = "missing"   // the store lacks a record
	KindDiffers  Kind = "differs"   // the store has another record than the log, or one that the log does not have
)

// Violation is one broken promise and where.
type Violation struct {
	Kind         Kind   `json:"kind"`
	Partition    int    `json:"partition"`
	Block        uint64 `json:"block,omitempty"`
	App          string `json:"app,omitempty"`
	Conversation string `json:"conversation,omitempty"`
	Seq          uint64 `json:"seq,omitempty"`
	Detail       string `json:"detail"`
}

// String is the violation for a person.
func (v Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: partition %d", v.Kind, v.Partition)
	if v.Block != 0 {
		fmt.Fprintf(&b, ", block %d", v.Block)
	}
	if v.Conversation != "" {
		fmt.Fprintf(&b, ", app %s, conversation %s", v.App, v.Conversation)
	}
	if v.Seq != 0 {
		fmt.Fprintf(&b, ", seq %d", v.Seq)
	}
	return b.String() + ": " + v.Detail
}

// Partition is what was found in one log.
type Partition struct {
	Partition     int    `json:"partition"`
	First         uint64 `json:"first"` // blocks
	Last          uint64 `json:"last"`
	Floor         uint64 `json:"floor"` // up to here the store must have everything
	Epoch         uint64 `json:"epoch"`
	Blocks        uint64 `json:"blocks"`
	Fences        uint64 `json:"fences"`
	Records       uint64 `json:"records"`
	Conversations uint64 `json:"conversations"` // in the log, and beyond it in a store that can name them
	StoreRecords  uint64 `json:"store_records"` // read from the store and checked
	Unstored      uint64 `json:"unstored"`      // records above the floor that the store does not have yet
	Violations    uint64 `json:"violations"`

	kinds map[Kind]uint64
	found []Violation
}

// String is the partition for a person.
func (p *Partition) String() string {
	return fmt.Sprintf("partition %d: blocks %d to %d (%d, of them %d fences; epoch %d), floor %d, %d records of %d conversations; of the store %d records; above the floor %d not stored yet",
		p.Partition, p.First, p.Last, p.Blocks, p.Fences, p.Epoch, p.Floor, p.Records, p.Conversations, p.StoreRecords, p.Unstored)
}

// Record is where a write stands in the logs.
type Record struct {
	Partition    int    `json:"partition"`
	Block        uint64 `json:"block"`
	App          string `json:"app"`
	Conversation string `json:"conversation"`
	Seq          uint64 `json:"seq"`
	Sender       string `json:"sender,omitempty"`
	Device       string `json:"device,omitempty"`
	ClientID     string `json:"client_id,omitempty"`
}

// Report is the whole result.
type Report struct {
	Violations    uint64          `json:"violations"`
	Kinds         map[Kind]uint64 `json:"kinds"`
	Records       uint64          `json:"records"`
	Conversations uint64          `json:"conversations"`
	Partitions    int             `json:"partitions"`
	Blocks        uint64          `json:"blocks"`
	StoreRecords  uint64          `json:"store_records"`
	Unstored      uint64          `json:"unstored"`
	Logs          []Partition     `json:"logs"`
	Found         []Violation     `json:"found"` // the first of them
}

// String is the last line for a person and for a program that reads no JSON.
func (r *Report) String() string {
	return fmt.Sprintf("violations=%d records=%d conversations=%d partitions=%d", r.Violations, r.Records, r.Conversations, r.Partitions)
}

// Event is one thing that became known; exactly one field is set. As JSON it is a line of a running audit.
type Event struct {
	Record    *Record    `json:"record,omitempty"`
	Violation *Violation `json:"violation,omitempty"`
	Partition *Partition `json:"partition,omitempty"`
	Report    *Report    `json:"report,omitempty"`
	// Error says that the audit could not be finished.
	Error string `json:"error,omitempty"`
}

// findings collects violations; safe for concurrent use.
type findings struct {
	mu    sync.Mutex
	limit int
	// guarded by mu
	count uint64
	kinds map[Kind]uint64
	first []Violation
}

func (f *findings) add(v Violation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	f.kinds[v.Kind]++
	if len(f.first) < f.limit {
		f.first = append(f.first, v)
	}
}

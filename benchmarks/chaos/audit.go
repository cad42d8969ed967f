package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/halley-im/halley/benchmarks/oracle"
	"github.com/halley-im/halley/protocol"
)

// audited is what halley audit said: what it found, and what the logs hold.
type audited struct {
	violations []string
	count      uint64
	partitions int
	records    map[string][]oracle.Logged
	trimmed    map[int]bool // By partition.
}

// auditEvent is a line of halley audit --json --records.
type auditEvent struct {
	Record *struct {
		App, Conversation, Sender string
		Seq                       uint64
		ClientID                  string `json:"client_id"`
	}
	Violation json.RawMessage
	Partition *struct {
		Partition int
		First     uint64
	}
	Report *struct {
		Violations uint64
		Partitions int
	}
}

const (
	auditLine  = 64 << 20 // Bound of one line.
	auditFound = 1        // The exit code where it found something.
)

// runAudit has the program under test audit a system.
func runAudit(ctx context.Context, binary string, args ...string) (*audited, error) {
	cmd := exec.CommandContext(ctx, binary, append([]string{"audit", "--json", "--records"}, args...)...)
	said, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var why tail
	cmd.Stderr = &why
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	a, readErr := readAudit(said)
	_, _ = io.Copy(io.Discard, said) // It must be able to end.
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != auditFound) {
		return nil, fmt.Errorf("halley audit: %w: %s", err, lastLine(why))
	}
	return a, readErr
}

// tail keeps the end of what is written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-1<<10):]
	return len(p), nil
}

func readAudit(from io.Reader) (*audited, error) {
	a := &audited{records: map[string][]oracle.Logged{}, trimmed: map[int]bool{}}
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, auditLine)
	for lines.Scan() {
		var e auditEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("halley audit: %w", err)
		}
		switch {
		case e.Record != nil && e.Record.App == protocol.DefaultApp:
			r := e.Record
			a.records[r.Conversation] = append(a.records[r.Conversation], oracle.Logged{Seq: r.Seq, ClientID: r.ClientID, Sender: r.Sender})
		case e.Violation != nil:
			a.violations = append(a.violations, string(e.Violation))
		case e.Partition != nil:
			a.trimmed[e.Partition.Partition] = e.Partition.First > 1
		case e.Report != nil:
			a.count, a.partitions = e.Report.Violations, e.Report.Partitions
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("halley audit: %w", err)
	}
	if a.partitions == 0 {
		return nil, errors.New("halley audit ended without a report")
	}
	return a, nil
}

// of is what the logs hold of a conversation.
func (a *audited) of(conversation string) *oracle.Log {
	home := protocol.Partition(protocol.DefaultApp, conversation, a.partitions)
	return &oracle.Log{Records: a.records[conversation], Whole: !a.trimmed[home]}
}

// audit counts what halley audit finds, and holds what devices were told to what it says of the logs.
func (r *run) audit(ctx context.Context, when string, e *evidence) error {
	a, err := runAudit(ctx, r.binary, r.sys.audits()...)
	if err != nil {
		return fmt.Errorf("%s: %w", when, err)
	}
	for _, v := range a.violations {
		r.broken("audit, %s: %s", when, v)
	}
	if told := uint64(len(a.violations)); a.count > told {
		r.broken("audit, %s: %d violations more", when, a.count-told)
	}
	records := 0
	for i := range e.transcripts {
		log := a.of(e.transcripts[i].Conversation)
		records += len(log.Records)
		r.tell(e.transcripts[i].Logged(log))
	}
	r.say("audit, %s: %d violations, %d records in the logs", when, a.count, records)
	return nil
}

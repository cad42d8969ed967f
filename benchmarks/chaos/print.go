package main

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/halley-im/halley/benchmarks/oracle"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// said is what a record says, whichever way it came: pushed, read by a device, or read over HTTP.
type said struct {
	seq, count, id, target uint64
	timeUs                 int64
	sender, clientID       string
	joined, left           []string
	text                   string
}

// print is the record's fingerprint.
func (s *said) print() uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %d %d %d %d %q %q %q %q %q", s.seq, s.count, s.id, s.target, s.timeUs, s.sender, s.clientID,
		strings.Join(s.joined, " "), strings.Join(s.left, " "), s.text)
	return h.Sum64()
}

func shownOf(r *recordv1.Record) oracle.Shown {
	s := said{
		seq: r.Seq, count: r.Count, id: r.Id, target: r.Target, timeUs: r.TimeUs, sender: r.Sender, clientID: r.ClientId,
		joined: r.Joined, left: r.Left, text: r.GetMessage().GetText().GetText(),
	}
	return oracle.Shown{Seq: r.Seq, ClientID: r.ClientId, Print: s.print()}
}

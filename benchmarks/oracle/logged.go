package oracle

import "github.com/halley-im/halley/protocol"

// Logged is a record as the log has it.
type Logged struct {
	Seq      uint64
	ClientID string
	Sender   string
}

// Log is what the logs hold of one conversation.
type Log struct {
	Records []Logged
	// Whole says that nothing was ever trimmed: it begins with the first record.
	Whole bool
}

// Logged holds what devices were told, and history, to what the log has: as far back as it goes, all of it. The log must have been read
// after history, and nothing written between.
func (t *Transcript) Logged(log *Log) []Violation {
	j := &judge{Transcript: t}
	have := map[uint64]Logged{}
	first, head := uint64(1), uint64(0)
	for i, r := range log.Records {
		if other, twice := have[r.Seq]; twice && other != r {
			j.broken(RuleConflict, "%d is both %s and %s in the log", r.Seq, other.ClientID, r.ClientID)
		}
		have[r.Seq] = r
		if !log.Whole && (i == 0 || r.Seq < first) {
			first = r.Seq
		}
		head = max(head, r.Seq)
	}
	if len(have) == 0 && !log.Whole {
		return nil // It may have been trimmed.
	}
	for _, w := range t.Writers {
		for _, s := range w.Sent {
			if s.Outcome != Acked || s.Seq < first {
				continue
			}
			if r, logged := have[s.Seq]; !logged || r.Sender != w.User || s.ClientID != "" && s.ClientID != r.ClientID {
				j.broken(RuleLost, "%s's %s was acknowledged as %d, where the log has %q of %q", w.Name, s.ClientID, s.Seq, r.ClientID, r.Sender)
			}
		}
	}
	for i := range t.History {
		e := &t.History[i]
		if r, logged := have[e.Seq]; e.Seq >= first && (!logged || r.ClientID != e.ClientID || r.Sender != e.Sender) {
			j.broken(RuleConflict, "%d is %q in history and %q in the log", e.Seq, e.ClientID, r.ClientID)
		}
	}
	// Users' own logs are written behind the conversations, and may still grow.
	if last := j.head(); protocol.KindOf(t.Conversation) != protocol.KindUser && head > last {
		j.broken(RuleLost, "the log goes up to %d, history to %d", head, last)
	}
	return j.found
}

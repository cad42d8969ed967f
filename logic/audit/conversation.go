package audit

import (
	"fmt"

	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// conversation is what the log says of one conversation.
type conversation struct {
	first, last place
	block       uint64 // of the newest record
	seen        bool   // the store has something of it
}

// place is where a record stands in its conversation.
type place struct {
	seq, count, id uint64
	timeUs         int64
	message        bool
}

func placeOf(r *logv1.Record) place {
	return place{seq: r.Seq, count: r.Count, id: r.Id, timeUs: r.TimeUs, message: r.Type == protocol.TypeMessage}
}

type fault struct {
	kind   Kind
	detail string
}

// follow says what is wrong with next as the record after p; the zero place stands before the first record.
func (p place) follow(next place) []fault {
	switch {
	case next.seq == p.seq+1:
	case p.seq == 0:
		return []fault{{KindSeq, fmt.Sprintf("the first record of the conversation has seq %d", next.seq)}}
	case next.seq <= p.seq:
		return []fault{{KindSeq, fmt.Sprintf("seq %d is given a second time, behind seq %d", next.seq, p.seq)}}
	default:
		return []fault{{KindSeq, fmt.Sprintf("seq %d follows seq %d", next.seq, p.seq)}}
	}
	var out []fault
	// A message counts; whether anything else does is its feature's business.
	if next.count != p.count+1 && (next.message || next.count != p.count) {
		out = append(out, fault{KindCount, fmt.Sprintf("count %d follows count %d", next.count, p.count)})
	}
	if next.id <= p.id {
		out = append(out, fault{KindOrder, fmt.Sprintf("id %d follows id %d", next.id, p.id)})
	}
	if next.timeUs <= p.timeUs {
		out = append(out, fault{KindOrder, fmt.Sprintf("time %d follows time %d", next.timeUs, p.timeUs)})
	}
	return out
}

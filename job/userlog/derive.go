package userlog

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/halley-im/halley/pkg/store"
	"github.com/halley-im/halley/protocol"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
	recordv1 "github.com/halley-im/halley/protocol/halley/record/v1"
)

// notice is one record that a user's log is owed, or has.
type notice struct {
	app, user string
	standing  store.Standing
}

// derive returns what follows from a block for users: records that their logs are owed, and rows of their lists. The rows follow from
// users' own logs, from which no notice follows, or each would be followed by another. In blocks of owners before since, the
// standings of users who leave, or whose conversation became large or ceased to be, lack JoinedSeq.
func derive(b *logv1.Block) (notices []notice, rows map[string][]store.UserStanding, touches map[string][]store.Touch, err error) {
	rows, touches = map[string][]store.UserStanding{}, map[string][]store.Touch{}
	for _, r := range b.Records {
		minute := r.TimeUs - r.TimeUs%time.Minute.Microseconds()
		if protocol.KindOf(r.Conversation) == protocol.KindUser {
			if r.Type == protocol.TypeStanding {
				row, err := told(r, minute)
				if err != nil {
					return nil, nil, nil, err
				}
				rows[r.App] = append(rows[r.App], row)
			}
			continue
		}
		for _, user := range r.Joined {
			notices = append(notices, notice{r.App, user, store.Standing{
				Conversation: r.Conversation, Seq: r.Seq, Member: true, JoinedSeq: r.Seq, Large: r.Large,
			}})
		}
		changed := len(r.Joined)+len(r.Left) > 0
		if changed {
			for _, i := range crossers(r) {
				notices = append(notices, notice{r.App, r.Active[i], store.Standing{
					Conversation: r.Conversation, Seq: r.Seq, Member: true, JoinedSeq: at(r.Since.GetActive(), i), Large: r.Large,
				}})
			}
		}
		for i, user := range r.Left {
			notices = append(notices, notice{r.App, user, store.Standing{
				Conversation: r.Conversation, Seq: r.Seq, JoinedSeq: at(r.Since.GetLeft(), i), LeftSeq: r.Seq,
			}})
		}
		if !changed { // Else it is not who was active, but whom the crossing of the line concerns.
			for _, user := range r.Active {
				touches[r.App] = append(touches[r.App], store.Touch{User: user, Conversation: r.Conversation, MinuteUs: minute})
			}
		}
	}
	return notices, rows, touches, nil
}

// told is what a record of a user's log tells of a conversation. Who joins finds it at the top of the list, whether or not anybody writes there.
func told(r *logv1.Record, minute int64) (store.UserStanding, error) {
	s := &recordv1.Standing{}
	if err := s.UnmarshalVT(r.Body); err != nil {
		return store.UserStanding{}, fmt.Errorf("%d of %s: %w", r.Seq, r.Conversation, err)
	}
	row := store.UserStanding{User: r.Conversation[len("u:"):], Standing: store.Standing{
		Conversation: s.Conversation, Seq: s.Seq, Member: s.Member, JoinedSeq: s.JoinedSeq, LeftSeq: s.LeftSeq, Large: s.Large,
	}}
	if s.Member && s.JoinedSeq == s.Seq {
		row.MinuteUs = minute
	}
	return row, nil
}

// at is 0 where a record of an owner before the field has no seqs.
func at(seqs []uint64, i int) uint64 {
	if i < len(seqs) {
		return seqs[i]
	}
	return 0
}

// crossers are the places in active of those who neither join nor leave by a record: with it their conversation crossed the line.
func crossers(r *logv1.Record) []int {
	if len(r.Active) == 0 {
		return nil
	}
	joined := make(map[string]struct{}, len(r.Joined))
	for _, user := range r.Joined {
		joined[user] = struct{}{}
	}
	var out []int
	for i, user := range r.Active {
		if _, ok := joined[user]; !ok {
			out = append(out, i)
		}
	}
	return out
}

// clientID is the same whenever and wherever the notice is derived, so the owner writes it once.
func (n notice) clientID() string {
	sum := sha256.Sum256([]byte(n.app + "\x00" + n.standing.Conversation))
	hash := strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
	return "s-" + hash + "-" + strconv.FormatUint(n.standing.Seq, 10)
}

// joinedBefore is the start of the interval that ends with seq; 0 if intervals has none.
func joinedBefore(intervals []store.Interval, seq uint64) uint64 {
	for _, i := range intervals {
		// To is 0 where the store has the join and not yet the leave.
		if i.From != 0 && i.From <= seq && (i.To == 0 || i.To >= seq) {
			return i.From
		}
	}
	return 0
}

package store

import (
	"fmt"
	"math"

	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// Bounds that all backends share. They are wider than the protocol's, which callers check.
const (
	// MaxName is the longest app, conversation or user, in bytes: keys give a length one byte.
	MaxName = 255
	// MaxSeq is the highest seq and count: CQL's bigint is signed.
	MaxSeq = math.MaxInt64
)

// CheckName refuses a name that cannot stand in a key.
func CheckName(what, name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("%w: %s of %d bytes", ErrInvalid, what, len(name))
	}
	return nil
}

// Check refuses a conversation that cannot stand in a key.
func (c Conversation) Check() error {
	if err := CheckName("app", c.App); err != nil {
		return err
	}
	return CheckName("conversation", c.ID)
}

// CheckRecord refuses a record that no backend can hold.
func CheckRecord(r *logv1.Record) error {
	if r == nil {
		return fmt.Errorf("%w: nil record", ErrInvalid)
	}
	if err := (Conversation{App: r.App, ID: r.Conversation}).Check(); err != nil {
		return err
	}
	if r.Seq == 0 || r.Seq > MaxSeq {
		return fmt.Errorf("%w: seq %d in %s", ErrInvalid, r.Seq, r.Conversation)
	}
	if r.TimeUs < 0 {
		return fmt.Errorf("%w: time %d of record %d in %s", ErrInvalid, r.TimeUs, r.Seq, r.Conversation)
	}
	for _, users := range [][]string{r.Joined, r.Left} {
		for _, u := range users {
			if err := CheckName("user", u); err != nil {
				return err
			}
		}
	}
	return nil
}

// Check refuses a cursor that no backend can hold.
func (c Cursor) Check() error {
	if c.Seq > MaxSeq || c.Count > MaxSeq {
		return fmt.Errorf("%w: cursor %d (count %d)", ErrInvalid, c.Seq, c.Count)
	}
	return CheckName("user", c.User)
}

// Check refuses a standing that no backend can hold.
func (s Standing) Check() error {
	if max(s.Seq, s.JoinedSeq, s.LeftSeq) > MaxSeq {
		return fmt.Errorf("%w: standing at seq %d in %s", ErrInvalid, s.Seq, s.Conversation)
	}
	return CheckName("conversation", s.Conversation)
}

// Check refuses a user's standing that no backend can hold.
func (s UserStanding) Check() error {
	if s.MinuteUs < 0 {
		return fmt.Errorf("%w: minute %d", ErrInvalid, s.MinuteUs)
	}
	if err := CheckName("user", s.User); err != nil {
		return err
	}
	return s.Standing.Check()
}

// Check refuses a touch that no backend can hold.
func (t Touch) Check() error {
	if t.MinuteUs <= 0 {
		return fmt.Errorf("%w: minute %d", ErrInvalid, t.MinuteUs)
	}
	if err := CheckName("user", t.User); err != nil {
		return err
	}
	return CheckName("conversation", t.Conversation)
}

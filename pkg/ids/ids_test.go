package ids

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/halley-im/halley/protocol"
)

func TestTheEpochIs2026(t *testing.T) {
	if want := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro(); epochUs != want {
		t.Fatalf("epoch %d, want %d: every id ever given would change", epochUs, want)
	}
	if id := MessageID(epochUs, 0); id != 0 {
		t.Errorf("id at the epoch: %d", id)
	}
}

func TestMessageIDsNeverChange(t *testing.T) {
	// 2026-11-22T16:40:02.123456Z in partition 13: 28,140,002,123 ms after the epoch, 456 µs.
	at := time.Date(2026, 11, 22, 16, 40, 2, 123_456_000, time.UTC)
	want := uint64(at.UnixMilli()-1_767_225_600_000)<<22 | 456<<10 | 13
	if got := MessageID(at.UnixMicro(), 13); got != want {
		t.Errorf("MessageID = %d, want %d", got, want)
	}
}

func TestIDsRiseWithTimeAndTellPartitionsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Int64Range(epochUs, epochUs+spanUs-2).Draw(t, "time")
		b := rapid.Int64Range(a+1, epochUs+spanUs-1).Draw(t, "later")
		p := rapid.IntRange(0, MaxPartitions-1).Draw(t, "partition")
		q := rapid.IntRange(0, MaxPartitions-1).Draw(t, "another")
		if MessageID(a, p) >= MessageID(b, q) {
			t.Fatal("a later record has a lower id")
		}
		if p != q && MessageID(a, p) == MessageID(a, q) {
			t.Fatal("two partitions, one id")
		}
		if timeUs, partition := Parts(MessageID(a, p)); timeUs != a || partition != p {
			t.Fatalf("parts %d, %d", timeUs, partition)
		}
		if MessageID(a, p)>>63 != 0 {
			t.Fatal("an id has 64 bits; signed readers would see a negative one")
		}
	})
}

func TestAWrongClockStillGivesDistinctIDs(t *testing.T) {
	y2000 := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	last := MessageID(y2000, 5)
	for us := y2000 + 1; us < y2000+5000; us++ {
		id := MessageID(us, 5)
		if id <= last {
			t.Fatalf("at %d: %d after %d", us, id, last)
		}
		last = id
	}
}

func TestAPartitionBeyondTheBitsIsAProgramError(t *testing.T) {
	for _, partition := range []int{-1, MaxPartitions} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("partition %d has an id", partition)
				}
			}()
			MessageID(epochUs, partition)
		}()
	}
}

func TestClientIDs(t *testing.T) {
	a, b := NewClientID(), NewClientID()
	for _, id := range []string{a, b} {
		if u, err := uuid.Parse(id); err != nil || u.Version() != 7 || !protocol.ValidClientID(id) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if a >= b {
		t.Errorf("%s is not below %s", a, b)
	}
}

func BenchmarkMessageID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		MessageID(epochUs+123_456_789_012, 13)
	}
}

package oracle

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestViewIsASet compares the view, a mark and a window, with the plain set that it stands for.
func TestViewIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.Uint64Range(0, 1000).Draw(t, "base")
		var v View
		v.Start(base)
		has := map[uint64]bool{}
		for _, offset := range rapid.SliceOfN(rapid.Uint64Range(1, 300), 0, 400).Draw(t, "seqs") {
			seq := base + offset
			if v.Add(seq) == has[seq] {
				t.Fatalf("Add(%d) when had = %v", seq, has[seq])
			}
			has[seq] = true
		}
		low, missing := base, int64(0)
		for has[low+1] {
			low++
		}
		for seq := base + 1; seq <= base+400; seq++ {
			if v.Has(seq) != has[seq] {
				t.Fatalf("Has(%d) = %v", seq, v.Has(seq))
			}
			if !has[seq] {
				missing++
			}
		}
		if v.Low() != low || v.missing(base+400) != missing || v.Whole() != (int64(low-base) == int64(len(has))) {
			t.Fatalf("low %d, missing %d, whole %v; want %d, %d", v.Low(), v.missing(base+400), v.Whole(), low, missing)
		}
	})
}

func TestPushesOutOfOrder(t *testing.T) {
	var v View
	v.Start(10)
	v.Push(11, false)
	v.Add(13) // The device's own: its ack came before the push of 12.
	v.Push(12, false)
	if v.behind != 0 {
		t.Error("an ack that overtook a push was taken for disorder")
	}
	v.Push(15, false)
	v.Push(14, false)
	if v.behind != 1 {
		t.Errorf("%d out of order, want 1", v.behind)
	}
	v.Push(17, false)
	v.Push(16, true)
	if v.behind != 1 {
		t.Error("what came while the device repaired was taken for disorder")
	}
}

// story is one conversation of two members, of which only 0 sends, told from what server and devices did.
type story struct {
	ledger *Ledger
	views  [2]View
}

func newStory(base uint64) *story {
	s := &story{ledger: NewLedger(2, base)}
	for i := range s.views {
		s.views[i].Start(base)
	}
	return s
}

func (s *story) acked(counter uint32, seq uint64) {
	if s.ledger.Acked(MakeID(0, counter), seq) {
		s.views[0].Add(seq)
	}
}

func (s *story) pushed(counter uint32, seq uint64) {
	if s.ledger.Record(seq, MakeID(0, counter)) {
		s.views[1].Push(seq, false)
	}
}

func TestVerdicts(t *testing.T) {
	tests := []struct {
		name string
		tell func(s *story)
		want Verdict
	}{
		{"nothing wrong", func(s *story) { s.acked(1, 8); s.pushed(1, 8); s.pushed(2, 9); s.acked(2, 9) }, Verdict{}},
		{"delivered, never acked", func(s *story) { s.pushed(1, 8); s.views[0].Add(8) }, Verdict{}},
		{"the same ack twice", func(s *story) { s.acked(1, 8); s.acked(1, 8); s.pushed(1, 8) }, Verdict{}},
		{"acked, never delivered", func(s *story) { s.acked(1, 8) }, Verdict{Lost: 1, Gaps: 1}},
		{"acked under a seq that another message has", func(s *story) {
			s.acked(1, 8)
			s.acked(2, 8)
			s.pushed(2, 8)
		}, Verdict{Lost: 1}},
		{"acked under a seq from before the run", func(s *story) { s.acked(1, 3) }, Verdict{Lost: 1}},
		{"acked under two seqs", func(s *story) { s.acked(1, 8); s.acked(1, 9); s.pushed(1, 8); s.pushed(2, 9) }, Verdict{Duplicated: 1}},
		{"delivered under two seqs", func(s *story) {
			s.acked(1, 8)
			s.pushed(1, 8)
			s.pushed(1, 9)
			s.views[0].Add(9)
		}, Verdict{Duplicated: 1}},
		{"two messages under one seq", func(s *story) { s.acked(1, 8); s.pushed(1, 8); s.pushed(2, 8) }, Verdict{Duplicated: 1}},
		{"the sender's order turned round", func(s *story) {
			s.acked(2, 8)
			s.pushed(2, 8)
			s.acked(1, 9)
			s.pushed(1, 9)
		}, Verdict{Reordered: 1}},
		{"a hole", func(s *story) { s.acked(1, 8); s.pushed(1, 8); s.acked(2, 10); s.pushed(2, 10) }, Verdict{Gaps: 2}},
		{"an absurd seq", func(s *story) { s.pushed(1, 1<<60); s.acked(1, 1<<60) }, Verdict{Duplicated: 2}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newStory(7)
			test.tell(s)
			if got := s.ledger.Judge([]*View{&s.views[0], &s.views[1]}); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

func TestPayloadsProveThemselves(t *testing.T) {
	for _, size := range []int{MinPayload, 33, 100, 20_000} {
		p := NewPayloads(0xfeed, 1, size)
		text := p.Append(nil, 7, 9)
		if len(text) != size || !p.Check(string(text), 7, 9) {
			t.Fatalf("size %d: %q does not hold", size, text)
		}
		if p.Check(string(text), 8, 9) || p.Check(string(text), 7, 10) || NewPayloads(0xbeef, 1, size).Check(string(text), 7, 9) {
			t.Errorf("size %d: holds for another message", size)
		}
		if p.Check(string(text[:size-1]), 7, 9) {
			t.Errorf("size %d: holds when cut off", size)
		}
		for i := range text {
			changed := slices.Clone(text)
			changed[i] ^= 1
			if p.Check(string(changed), 7, 9) {
				t.Fatalf("size %d: holds with byte %d changed", size, i)
			}
		}
	}
}

func TestTheHotPathDoesNotAllocate(t *testing.T) {
	p := NewPayloads(1, 1, 100)
	buf := make([]byte, 0, 200)
	text := string(p.Append(nil, 1, 1))
	var v View
	v.Start(0)
	l := NewLedger(2, 0)
	l.ids = make([]ID, 0, 4096)
	seq := uint64(0)
	if n := testing.AllocsPerRun(1000, func() {
		buf = p.Append(buf[:0], 1, 1)
		p.Check(text, 1, 1)
		seq++
		l.Record(seq, MakeID(1, uint32(seq)))
		v.Push(seq, false)
	}); n != 0 {
		t.Errorf("%v allocations for each message", n)
	}
}

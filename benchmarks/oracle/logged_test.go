package oracle

import (
	"slices"
	"testing"
	"time"
)

func logOf(t *Transcript) *Log {
	l := &Log{Whole: true}
	for _, e := range t.History {
		l.Records = append(l.Records, Logged{Seq: e.Seq, ClientID: e.ClientID, Sender: e.Sender})
	}
	return l
}

func TestEachDifferenceOfTheLogIsSeen(t *testing.T) {
	tests := []struct {
		name  string
		plant func(t *Transcript, l *Log)
		want  string
	}{
		{"none", func(*Transcript, *Log) {}, ""},
		{"a part was trimmed", func(_ *Transcript, l *Log) { l.Records, l.Whole = l.Records[5:], false }, ""},
		{"all was trimmed", func(_ *Transcript, l *Log) { l.Records, l.Whole = nil, false }, ""},
		{"told twice, as of a log trimmed meanwhile", func(_ *Transcript, l *Log) { l.Records = append(l.Records, l.Records...) }, ""},
		{"an acknowledged write is missing", func(t *Transcript, l *Log) {
			l.Records = slices.Delete(l.Records, 4, 5)
		}, "conflict 1, lost 1"},
		{"all is missing, and nothing was trimmed", func(_ *Transcript, l *Log) { l.Records = nil }, "conflict 8, lost 7"},
		{"another write stands there", func(_ *Transcript, l *Log) { l.Records[4].ClientID = "z" }, "conflict 1, lost 1"},
		{"somebody else's", func(_ *Transcript, l *Log) { l.Records[4].Sender = "bob" }, "conflict 1, lost 1"},
		{"one seq, two writes", func(_ *Transcript, l *Log) {
			l.Records = slices.Insert(l.Records, 0, Logged{Seq: 2, ClientID: "z", Sender: "bob"})
		}, "conflict 1"},
		{"the end is not in history", func(_ *Transcript, l *Log) {
			l.Records = append(l.Records, Logged{Seq: 9, ClientID: "z", Sender: "bob"})
		}, "lost 1"},
		{"a user's own log has grown", func(t *Transcript, l *Log) {
			t.Conversation = "u:alice"
			l.Records = append(l.Records, Logged{Seq: 9, ClientID: "z", Sender: "bob"})
		}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tr := group()
			l := logOf(tr)
			test.plant(tr, l)
			if got := Count(tr.Logged(l)); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestDelaysCountWhileADeviceIsConnected(t *testing.T) {
	tr := timed() // n is acknowledged at n seconds, and shown half a second later; the last at 8.5.
	tr.Devices = tr.Devices[:2]
	tr.Devices[0].Sessions = []Span{{From: 0, To: 4 * second}, {From: 5 * second, To: Open}}
	tr.Devices[1].Shown = nil
	delays, late := tr.Delays(10 * second)
	// 4 was shown between two connections, 5 half a second into the second one.
	want := []time.Duration{second / 2, second / 2, second / 2, second / 2, second / 2, second / 2, 0}
	if !slices.Equal(delays, want) || len(late) > 0 {
		t.Errorf("%v, %v", delays, late)
	}
	tr.Devices[0].Shown[6].At = 20 * second // 7, though it was written by 7 s.
	tr.Devices[0].Shown[7].At = 20 * second // 8 is seen by nobody before.
	if _, late := tr.Delays(10 * second); Count(late) != "hidden 1" {
		t.Errorf("%v", late)
	}
	if got := Quantiles([]time.Duration{3 * second, second, 2 * second}); got != "p50 2.000 s, p99 2.000 s, max 3.000 s" {
		t.Error(got)
	}
}

func TestAForeignPageIsSeen(t *testing.T) {
	tr := group()
	tr.Devices[carol0].Paged = []Shown{tr.History[4].Shown, tr.History[3].Shown}
	if found := tr.Judge(); len(found) > 0 {
		t.Errorf("%v", found)
	}
	tr.Devices[carol0].Paged = append(tr.Devices[carol0].Paged, tr.History[7].Shown)
	if got := Count(tr.Judge()); got != "foreign 1" {
		t.Error(got)
	}
}

package storetest

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// model is the contract written down naively, for the random walk to compare with.
type model struct {
	records map[store.Conversation]map[uint64]*logv1.Record
	cursors map[memberKey]store.Cursor
	lists   map[userKey]map[string]store.Listing
}

type memberKey struct {
	c    store.Conversation
	user string
}

type userKey struct{ app, user string }

func newModel() *model {
	return &model{
		records: map[store.Conversation]map[uint64]*logv1.Record{},
		cursors: map[memberKey]store.Cursor{},
		lists:   map[userKey]map[string]store.Listing{},
	}
}

func (m *model) append(rs []*logv1.Record) {
	for _, r := range rs {
		c := store.Conversation{App: r.App, ID: r.Conversation}
		if m.records[c] == nil {
			m.records[c] = map[uint64]*logv1.Record{}
		}
		m.records[c][r.Seq] = r
	}
}

func (m *model) rangeOf(c store.Conversation, from, to uint64, limit int, newest bool) []*logv1.Record {
	var out []*logv1.Record
	for _, seq := range slices.Sorted(maps.Keys(m.records[c])) {
		if from <= seq && seq <= to {
			out = append(out, m.records[c][seq])
		}
	}
	n := min(limit, len(out))
	if newest {
		return out[len(out)-n:]
	}
	return out[:n]
}

func (m *model) head(c store.Conversation) *logv1.Record {
	if len(m.records[c]) == 0 {
		return nil
	}
	head := proto.CloneOf(m.records[c][slices.Max(slices.Collect(maps.Keys(m.records[c])))])
	head.Body = nil
	return head
}

// intervals replays the records in order, where store.Intervals sorts events: two ways to the same answer.
func (m *model) intervals(c store.Conversation, user string) []store.Interval {
	var out []store.Interval
	in := false
	for _, r := range m.rangeOf(c, 0, store.MaxSeq, 1<<30, false) {
		if !in && slices.Contains(r.Joined, user) {
			out = append(out, store.Interval{From: r.Seq})
			in = true
		}
		if in && slices.Contains(r.Left, user) {
			out[len(out)-1].To = r.Seq
			in = false
		}
	}
	return out
}

func (m *model) members(c store.Conversation, users []string) []store.Member {
	var out []store.Member
	for _, u := range slices.Sorted(slices.Values(users)) {
		if in := m.intervals(c, u); in != nil {
			out = append(out, store.Member{User: u, Intervals: in, Cursor: m.cursors[memberKey{c, u}]})
		}
	}
	return out
}

func (m *model) setCursors(c store.Conversation, cursors []store.Cursor) {
	for _, cur := range cursors {
		if k := (memberKey{c, cur.User}); cur.Seq > m.cursors[k].Seq {
			m.cursors[k] = cur
		}
	}
}

func (m *model) row(app, user, conversation string, change func(*store.Listing)) {
	k := userKey{app, user}
	if m.lists[k] == nil {
		m.lists[k] = map[string]store.Listing{}
	}
	l := m.lists[k][conversation]
	l.Conversation = conversation
	change(&l)
	m.lists[k][conversation] = l
}

func (m *model) put(app string, standings []store.UserStanding) {
	for _, st := range standings {
		m.row(app, st.User, st.Conversation, func(l *store.Listing) {
			if st.Seq > l.Seq {
				l.Standing = st.Standing
			}
			l.ActiveUs = max(l.ActiveUs, st.MinuteUs)
		})
	}
}

func (m *model) touch(app string, touches []store.Touch) {
	for _, tc := range touches {
		m.row(app, tc.User, tc.Conversation, func(l *store.Listing) { l.ActiveUs = max(l.ActiveUs, tc.MinuteUs) })
	}
}

func (m *model) list(app, user string) []store.Listing {
	rows := m.lists[userKey{app, user}]
	var out []store.Listing
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		out = append(out, rows[id])
	}
	return out
}

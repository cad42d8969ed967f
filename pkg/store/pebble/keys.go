package pebble

import "encoding/binary"

// A key is a table's byte, then names, each after its length in one byte, then numbers, big-endian. With the lengths no
// name runs into the next, whatever its bytes, and all keys under a prefix are exactly the rows of what the prefix names.
//
//	r app conversation seq             → halley.log.v1.Record
//	m app conversation user  0         → cursor: seq, count        (maximum)
//	m app conversation user  1 seq     → nothing: joined at seq
//	m app conversation user  2 seq     → nothing: left at seq
//	u app user conversation  0         → standing: seq, bits, joined, left     (maximum)
//	u app user conversation  1         → last activity: minute     (maximum)
//
// The head of a conversation is its last r: kept nowhere else, it cannot be wrong.
const (
	tableMeta    = 0
	tableRecords = 'r'
	tableMembers = 'm'
	tableUsers   = 'u'

	memberCursor = 0
	memberJoined = 1
	memberLeft   = 2

	userStanding = 0
	userActive   = 1
)

var (
	keyFormat = []byte{tableMeta, 'f'}
	keyPing   = []byte{tableMeta, 'p'}
)

const seqLen = 8

// keyLen is the length of a key with the names and n bytes after them.
func keyLen(n int, names ...string) int {
	n++
	for _, name := range names {
		n += 1 + len(name)
	}
	return n
}

// appendKey appends a table and names, none longer than store.MaxName.
func appendKey(b []byte, table byte, names ...string) []byte {
	b = append(b, table)
	for _, name := range names {
		b = append(b, byte(len(name)))
		b = append(b, name...)
	}
	return b
}

// after is the first key behind all that begin with the prefix. Every prefix begins with a table's byte below 0xff.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; ; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
}

// cutName is the reverse of appendKey for one name.
func cutName(b []byte) (name, rest []byte, ok bool) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return nil, nil, false
	}
	return b[1 : 1+int(b[0])], b[1+int(b[0]):], true
}

func appendSeq(b []byte, seq uint64) []byte { return binary.BigEndian.AppendUint64(b, seq) }

package traffic

import (
	"strconv"
	"strings"

	"github.com/halley-im/halley/benchmarks/oracle"
)

// Request ids carry all that is needed to understand an answer: what was asked, for which message, and in which
// transmission.
const (
	askSend uint64 = iota + 1
	askHeads
	askHistory
	askSetup

	askShift     = 56
	counterShift = 16
)

func sendRequest(counter uint32, epoch uint16) uint64 {
	return askSend<<askShift | uint64(counter)<<counterShift | uint64(epoch)
}

func request(ask uint64, n uint32) uint64 { return ask<<askShift | uint64(n)<<counterShift }

func splitRequest(id uint64) (ask uint64, counter uint32, epoch uint16) {
	return id >> askShift, uint32(id >> counterShift), uint16(id)
}

// appendClientID writes <run>.<sender>.<counter>, all but the run in base 36.
func appendClientID(b []byte, run string, sender, counter uint32) []byte {
	b = append(b, run...)
	b = append(b, '.')
	b = strconv.AppendUint(b, uint64(sender), 36)
	b = append(b, '.')
	return strconv.AppendUint(b, uint64(counter), 36)
}

// parseClientID is the reverse; false where the id is not of this run.
func parseClientID(id, run string) (sender, counter uint32, ok bool) {
	rest, ok := strings.CutPrefix(id, run)
	if !ok || rest == "" || rest[0] != '.' {
		return 0, 0, false
	}
	i := strings.IndexByte(rest[1:], '.') + 1
	if i <= 1 {
		return 0, 0, false
	}
	sender, ok1 := parse36(rest[1:i])
	counter, ok2 := parse36(rest[i+1:])
	return sender, counter, ok1 && ok2 && counter > 0
}

func parse36(s string) (uint32, bool) {
	if s == "" || len(s) > 7 {
		return 0, false
	}
	var v uint64
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			v = v*36 + uint64(c-'0')
		case c >= 'a' && c <= 'z':
			v = v*36 + uint64(c-'a') + 10
		default:
			return 0, false
		}
	}
	return uint32(v), v < 1<<32
}

// identify names the message behind a client id, seen from a conversation whose members are first..first+n−1.
func identify(clientID, run string, first uint32, n int) oracle.ID {
	sender, counter, ok := parseClientID(clientID, run)
	if !ok || sender < first || sender-first >= uint32(n) {
		return oracle.Foreign
	}
	return oracle.MakeID(sender-first, counter)
}

package protocol

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// Bounds of names, in bytes.
const (
	MaxAppLen          = 32
	MaxUserLen         = 64
	MaxDeviceLen       = 64
	MaxClientIDLen     = 64
	MaxConversationLen = 160
)

// Kind is what the prefix of a conversation's id says.
type Kind byte

// The kinds of conversation.
const (
	KindInvalid Kind = 0
	KindDirect  Kind = 'd' // d:alice:bob, users sorted; exists without being created.
	KindGroup   Kind = 'g' // g:<id>
	KindUser    Kind = 'u' // u:alice, the user's own log.
)

// KindOf parses a conversation id. It returns KindInvalid for anything that is not in canonical form, a 1:1 whose users
// are unsorted or equal included.
func KindOf(conversation string) Kind {
	if len(conversation) < 3 || len(conversation) > MaxConversationLen || conversation[1] != ':' {
		return KindInvalid
	}
	switch rest := conversation[2:]; Kind(conversation[0]) {
	case KindDirect:
		a, b, ok := strings.Cut(rest, ":")
		if ok && a < b && ValidUser(a) && ValidUser(b) {
			return KindDirect
		}
	case KindGroup:
		if len(rest) <= MaxUserLen && validName(rest) {
			return KindGroup
		}
	case KindUser:
		if ValidUser(rest) {
			return KindUser
		}
	}
	return KindInvalid
}

// Direct is the 1:1 conversation of two users.
func Direct(a, b string) string {
	if a > b {
		a, b = b, a
	}
	return "d:" + a + ":" + b
}

// Peers returns the two users of a 1:1 conversation that KindOf accepts.
func Peers(conversation string) (a, b string) {
	a, b, _ = strings.Cut(conversation[2:], ":")
	return a, b
}

// UserLog is the user's own conversation.
func UserLog(user string) string { return "u:" + user }

// Group is the id of the group that this create makes. It depends on nothing else, so a retried create is the same group.
func Group(app, creator, clientID string) string {
	sum := sha256.Sum256([]byte(app + "\x00" + creator + "\x00" + clientID))
	return "g:" + strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// ValidUser reports whether s is [A-Za-z0-9._@-]{1,64}.
func ValidUser(s string) bool { return len(s) <= MaxUserLen && validName(s) }

// ValidDevice reports whether s is [A-Za-z0-9._@-]{1,64}.
func ValidDevice(s string) bool { return len(s) <= MaxDeviceLen && validName(s) }

// ValidApp reports whether s is [a-z0-9-]{1,32}.
func ValidApp(s string) bool {
	if s == "" || len(s) > MaxAppLen {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ValidClientID reports whether s is 1 to 64 bytes of printable ASCII without spaces.
func ValidClientID(s string) bool {
	if s == "" || len(s) > MaxClientIDLen {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func validName(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '@' && c != '-' {
			return false
		}
	}
	return true
}

// Partition is the partition of a conversation among n. It never changes for the life of a cluster: FNV-1a over app,
// a zero byte and conversation, folded so that the low bits depend on all.
func Partition(app, conversation string, n int) int {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(app) {
		h = (h ^ uint64(app[i])) * prime
	}
	h *= prime
	for i := range len(conversation) {
		h = (h ^ uint64(conversation[i])) * prime
	}
	h ^= h >> 32
	return int(h % uint64(n))
}

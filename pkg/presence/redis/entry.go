package redis

import (
	"strconv"
	"strings"

	"github.com/halley-im/halley/pkg/link"
	"github.com/halley-im/halley/pkg/presence"
)

// Names allow neither '/' nor braces nor '|' (protocol.ValidUser, ValidApp), so keys and entries cannot be confused.
func userKey(u presence.User) string { return "p:{" + u.App + "/" + u.User + "}" }
func nodeKey(node string) string     { return "node:{" + node + "}" }
func lastKey(node string) string     { return "node-last:{" + node + "}" }

// An entry is text, so that a person can read it in redis-cli, and its generation comes first and in decimal, where scripts
// find it. The rest is in base 36: 100 million of them are kept.
func packTail(e *presence.Entry) string {
	b := make([]byte, 0, 64)
	b = append(b, '|')
	b = strconv.AppendUint(b, e.Epoch, 36)
	b = append(b, '|')
	b = strconv.AppendUint(b, e.Conn, 36)
	b = append(b, '|')
	b = strconv.AppendUint(b, uint64(e.Codec), 36)
	b = append(b, '|')
	return string(append(b, e.Node...))
}

// unpack reports false for what packTail never made.
func unpack(device, s string) (e presence.Entry, ok bool) {
	e.Device = device
	ok = true
	number := func(base int) (n uint64) {
		head, rest, found := strings.Cut(s, "|")
		n, err := strconv.ParseUint(head, base, 64)
		ok = ok && found && err == nil
		s = rest
		return n
	}
	e.Generation = number(10)
	e.Epoch = number(36)
	e.Conn = number(36)
	e.Codec = link.Codec(number(36))
	e.Node = s
	return e, ok
}

package websocket

import "unicode/utf8"

// UTF-8 that arrives in pieces (RFC 6455, 8.1). The state between two pieces is one byte, so that a connection in the middle
// of a message keeps next to nothing: how many continuation bytes are missing, and what the next one may be.
type utf8State = uint8

const (
	utf8Start   utf8State = iota
	utf8One               // one continuation byte to come
	utf8Two               // two
	utf8Three             // three
	utf8AfterE0           // second byte of three, A0..BF: no overlong form
	utf8AfterED           // second byte of three, 80..9F: no surrogate
	utf8AfterF0           // second byte of four, 90..BF: no overlong form
	utf8AfterF4           // second byte of four, 80..8F: nothing above U+10FFFF
	utf8Invalid
)

// validate goes on with data in state and returns the state after it. It is utf8Invalid as soon as no further byte can make
// the text valid, and utf8Start where the text may end.
func validate(state utf8State, data []byte) utf8State {
	i := 0
	for state != utf8Start && i < len(data) {
		if state = step(state, data[i]); state == utf8Invalid {
			return state
		}
		i++
	}
	if state != utf8Start {
		return state
	}
	rest := data[i:]
	if utf8.Valid(rest) { // the common case, eight bytes at a time
		return utf8Start
	}
	for _, c := range rest {
		if state = step(state, c); state == utf8Invalid {
			break
		}
	}
	return state
}

func step(state utf8State, c byte) utf8State {
	low, high := byte(0x80), byte(0xBF)
	next := utf8Start
	switch state {
	case utf8Start:
		return first(c)
	case utf8Two:
		next = utf8One
	case utf8Three:
		next = utf8Two
	case utf8AfterE0:
		low, next = 0xA0, utf8One
	case utf8AfterED:
		high, next = 0x9F, utf8One
	case utf8AfterF0:
		low, next = 0x90, utf8Two
	case utf8AfterF4:
		high, next = 0x8F, utf8Two
	}
	if c < low || c > high {
		return utf8Invalid
	}
	return next
}

func first(c byte) utf8State {
	switch {
	case c < 0x80:
		return utf8Start
	case c < 0xC2: // a continuation byte, or an overlong form of ASCII
		return utf8Invalid
	case c < 0xE0:
		return utf8One
	case c == 0xE0:
		return utf8AfterE0
	case c == 0xED:
		return utf8AfterED
	case c < 0xF0:
		return utf8Two
	case c == 0xF0:
		return utf8AfterF0
	case c < 0xF4:
		return utf8Three
	case c == 0xF4:
		return utf8AfterF4
	}
	return utf8Invalid
}

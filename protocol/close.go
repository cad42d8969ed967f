package protocol

import (
	"strconv"
	"time"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// CloseCode says why the server closes a connection. Over WebSocket it is the status code of the close frame as well;
// values of 4000 and above are ours, lower ones are RFC 6455's.
type CloseCode uint16

// The close codes. Closing maps each to what the device shall do.
const (
	CloseNormal         CloseCode = 1000 // The device said goodbye.
	CloseProtocol       CloseCode = 1002 // Broken framing.
	CloseUnsupported    CloseCode = 1003 // A text frame on the Protobuf subprotocol, or the reverse.
	CloseBadUTF8        CloseCode = 1007 // Text that is not UTF-8.
	CloseTooLarge       CloseCode = 1009 // A frame beyond the limit.
	CloseDraining       CloseCode = 4000 // The node is leaving; come back after the delay, elsewhere.
	CloseReplaced       CloseCode = 4001 // The same device connected again.
	CloseUnauthorized   CloseCode = 4002 // The token does not hold.
	CloseTokenExpired   CloseCode = 4003 // The token ended and was not refreshed.
	CloseKicked         CloseCode = 4004 // The app's server ended the session.
	CloseHelloTimeout   CloseCode = 4005 // No Connect within the time allowed.
	CloseHeartbeat      CloseCode = 4006 // Nothing heard for longer than the heartbeat allows.
	CloseSlow           CloseCode = 4007 // The device reads slower than it is written to.
	CloseRateLimited    CloseCode = 4008 // Far beyond the rate limit, or too many connections from the address.
	CloseOverloaded     CloseCode = 4009 // The node takes no more connections until it has room.
	CloseTooManySession CloseCode = 4010 // The user has as many sessions as it may.
	CloseUnavailable    CloseCode = 4011 // A part behind the node does not answer.
	CloseRebalanced     CloseCode = 4012 // Another node may take the session now: come back.
)

// Closing says what a device shall do after a close.
type Closing struct {
	Reason    string
	Reconnect envelopev1.Reconnect
}

// Closings lists every code; a code of RFC 6455 that is missing here means the same as CloseNormal.
var Closings = map[CloseCode]Closing{
	CloseNormal:         {"normal", envelopev1.Reconnect_RECONNECT_YES},
	CloseProtocol:       {"protocol_error", envelopev1.Reconnect_RECONNECT_NO},
	CloseUnsupported:    {"unsupported_data", envelopev1.Reconnect_RECONNECT_NO},
	CloseBadUTF8:        {"bad_utf8", envelopev1.Reconnect_RECONNECT_NO},
	CloseTooLarge:       {"too_large", envelopev1.Reconnect_RECONNECT_NO},
	CloseDraining:       {"draining", envelopev1.Reconnect_RECONNECT_YES},
	CloseReplaced:       {"replaced", envelopev1.Reconnect_RECONNECT_NO},
	CloseUnauthorized:   {"unauthorized", envelopev1.Reconnect_RECONNECT_NEW_TOKEN},
	CloseTokenExpired:   {"token_expired", envelopev1.Reconnect_RECONNECT_NEW_TOKEN},
	CloseKicked:         {"kicked", envelopev1.Reconnect_RECONNECT_NO},
	CloseHelloTimeout:   {"hello_timeout", envelopev1.Reconnect_RECONNECT_YES},
	CloseHeartbeat:      {"heartbeat_timeout", envelopev1.Reconnect_RECONNECT_YES},
	CloseSlow:           {"slow_reader", envelopev1.Reconnect_RECONNECT_YES},
	CloseRateLimited:    {"rate_limited", envelopev1.Reconnect_RECONNECT_YES},
	CloseOverloaded:     {"overloaded", envelopev1.Reconnect_RECONNECT_YES},
	CloseTooManySession: {"too_many_sessions", envelopev1.Reconnect_RECONNECT_NO},
	CloseUnavailable:    {"unavailable", envelopev1.Reconnect_RECONNECT_YES},
	CloseRebalanced:     {"rebalanced", envelopev1.Reconnect_RECONNECT_YES},
}

// CloseFrame is the frame that announces a close.
func CloseFrame(code CloseCode, retryAfter time.Duration) *envelopev1.Close {
	c := Closings[code]
	return &envelopev1.Close{
		Code: uint32(code), Reason: c.Reason, Reconnect: c.Reconnect,
		RetryAfterMs: uint32(retryAfter / time.Millisecond),
	}
}

// longestAway is the longest that an HTTP answer, which may be a proxy's, keeps a device away, in seconds.
const longestAway = 600

// RefusedHandshake is what the answer to a WebSocket handshake says that lets nobody in yet, by its status and Retry-After; false: it says something
// else. A proxy may give no time, or a date: then the device comes back as soon as it likes.
func RefusedHandshake(status int, retryAfter string) (code CloseCode, after time.Duration, ok bool) {
	switch status {
	case 503: // Service Unavailable
		code = CloseOverloaded
	case 429: // Too Many Requests
		code = CloseRateLimited
	default:
		return 0, 0, false
	}
	seconds, _ := strconv.Atoi(retryAfter) // Where it is no number, 0, or the largest.
	return code, time.Duration(min(max(seconds, 0), longestAway)) * time.Second, true
}

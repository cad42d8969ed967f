package protocol

import (
	"fmt"
	"time"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// Code is a stable word for why a request was refused. Codes are part of the protocol: they are never renamed.
type Code string

// The codes. CodeRetryable says which of them a device may send again.
const (
	CodeInvalid         Code = "invalid"         // A field is malformed; the message names it.
	CodeUnknownCommand  Code = "unknown_command" // This server does not know the command.
	CodeTooLarge        Code = "too_large"       // Beyond a limit of the hello.
	CodeUnauthenticated Code = "unauthenticated" // No token, or one that does not hold.
	CodeForbidden       Code = "forbidden"       // The caller may not do this here.
	CodeNotFound        Code = "not_found"       // No such conversation, or none of the caller's: the two are not told apart.
	CodeConflict        Code = "conflict"        // The request contradicts what is there.
	CodeRateLimited     Code = "rate_limited"    // Faster than the limits of the hello.
	CodeBusy            Code = "busy"            // A queue or the log is full; nothing was stored.
	CodeRetry           Code = "retry"           // The outcome is unknown or the owner is changing; send the same again.
	CodeResend          Code = "resend"          // The write named in `after` is not here, or the owner is new: start again from the oldest unanswered.
	CodeExpired         Code = "expired"         // Too old to be judged a retry or not; it will never be stored.
	CodeInternal        Code = "internal"        // A fault of the server, logged there.
)

// Retryable reports whether a request refused with c may succeed when sent again unchanged.
func (c Code) Retryable() bool {
	switch c {
	case CodeRateLimited, CodeBusy, CodeRetry, CodeResend:
		return true
	}
	return false
}

// Error is what a client sees of a refusal. Anything that is not an *Error is internal: it is logged and becomes
// CodeInternal at the edge.
type Error struct {
	Code    Code
	Message string // One sentence in English, for the developer; it names the field at fault.
	// RetryAfter is how long to wait at least before a retry; 0 where the code says nothing.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalid makes a CodeInvalid error that names the field.
func Invalid(field, format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Message: field + ": " + fmt.Sprintf(format, args...)}
}

// Wire is the error as it stands in a frame.
func (e *Error) Wire() *envelopev1.Error {
	return &envelopev1.Error{
		Code:         string(e.Code),
		Message:      e.Message,
		RetryAfterMs: uint32(e.RetryAfter / time.Millisecond),
		Retryable:    e.Code.Retryable(),
	}
}

// FromWire is the reverse of Wire.
func FromWire(w *envelopev1.Error) *Error {
	return &Error{Code: Code(w.Code), Message: w.Message, RetryAfter: time.Duration(w.RetryAfterMs) * time.Millisecond}
}

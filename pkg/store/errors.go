package store

import "errors"

// What backends answer beside the errors of a context. Both are wrapped: use errors.Is.
var (
	// ErrUnavailable: the backend did not answer, or not enough of it. Of a write, nothing is known; the same call may
	// succeed later.
	ErrUnavailable = errors.New("store: backend unavailable")
	// ErrInvalid: the caller asks for what no backend can hold. Trying again is useless. Nothing was written.
	ErrInvalid = errors.New("store: invalid argument")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store: closed")
)

package comet

import (
	"time"

	"github.com/halley-im/halley/protocol"
)

// Identity is what a token says.
type Identity struct {
	App, User, Device string
	TokenID           string
	// Expires ends the session unless it is refreshed; zero: never.
	Expires time.Time
}

// Authenticator judges tokens.
type Authenticator interface {
	// Verify is called from several goroutines at once, never from an event loop: it may wait, bounded by its own time-outs.
	// CodeRetry and CodeBusy say that nothing is known about the token; every other code refuses it.
	Verify(token string) (Identity, *protocol.Error)
}

// check holds an authenticator to the bounds that sessions rely on.
func (i *Identity) check() *protocol.Error {
	switch {
	case !protocol.ValidApp(i.App):
		return protocol.Errorf(protocol.CodeUnauthenticated, "the token's app is not [a-z0-9-]{1,32}")
	case !protocol.ValidUser(i.User):
		return protocol.Errorf(protocol.CodeUnauthenticated, "the token's user is not [A-Za-z0-9._@-]{1,64}")
	case !protocol.ValidDevice(i.Device):
		return protocol.Errorf(protocol.CodeUnauthenticated, "the token's device is not [A-Za-z0-9._@-]{1,64}")
	}
	return nil
}

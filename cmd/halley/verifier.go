package main

import (
	"errors"
	"time"

	"github.com/halley-im/halley/comet"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/protocol"
)

// verifier lets comet judge tokens by a keyring: comet knows what a token says, not how it is signed.
type verifier struct{ keyring *auth.Keyring }

var _ comet.Authenticator = verifier{}

// Verify implements comet.Authenticator.
func (v verifier) Verify(token string) (comet.Identity, *protocol.Error) {
	c, err := v.keyring.Verify(token, time.Now())
	if err != nil {
		var refused *auth.Error
		if errors.As(err, &refused) {
			return comet.Identity{}, refused.Wire()
		}
		return comet.Identity{}, protocol.Errorf(protocol.CodeInternal, "the token cannot be judged")
	}
	return comet.Identity{App: c.App, User: c.User, Device: c.Device, TokenID: c.TokenID, Expires: c.Expires}, nil
}

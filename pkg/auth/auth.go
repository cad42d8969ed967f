// Package auth decides who a caller is: a device by the token its app's server issued, an app's server by its API key. It
// never decides what the caller may do, and it keeps no sessions.
package auth

import (
	"fmt"
	"time"

	"github.com/halley-im/halley/protocol"
)

// Claims is what a token says once it holds.
type Claims struct {
	App    string
	User   string
	Device string
	// TokenID is the token's jti, by which it can be revoked; empty where the issuer gave none.
	TokenID string
	// Audience is the one that the verifier asked for.
	Audience string
	// IssuedAt and NotBefore are zero where the token does not have them.
	IssuedAt  time.Time
	NotBefore time.Time
	Expires   time.Time
}

// Reason is why a token or a key does not hold.
type Reason string

// The reasons.
const (
	Malformed     Reason = "malformed"
	BadAlgorithm  Reason = "bad_algorithm"
	UnknownKey    Reason = "unknown_key"
	BadSignature  Reason = "bad_signature"
	WrongAudience Reason = "wrong_audience"
	NoExpiry      Reason = "no_expiry"
	Expired       Reason = "expired"
	NotYetValid   Reason = "not_yet_valid"
	TooLongLived  Reason = "too_long_lived"
	BadName       Reason = "bad_name"
)

// Error says why, in a sentence for whoever wrote the program that made the token. It never holds a secret.
type Error struct {
	Reason  Reason
	Message string
}

func (e *Error) Error() string { return e.Message }

// Wire is the error as a client sees it.
func (e *Error) Wire() *protocol.Error {
	return &protocol.Error{Code: protocol.CodeUnauthenticated, Message: "token: " + e.Message}
}

func refuse(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// DefaultAudience is the aud of tokens for Halley.
const DefaultAudience = "halley"

// Config says which tokens hold.
type Config struct {
	// Audience must be among a token's aud.
	Audience string
	// MaxLifetime bounds exp − iat, or exp − now in a token without iat: a stolen token that lives for years cannot be
	// waited out.
	MaxLifetime time.Duration
	// Leeway is how far the issuer's clock may be off.
	Leeway time.Duration
}

// Default is the configuration of a cluster that says nothing.
func Default() Config {
	return Config{Audience: DefaultAudience, MaxLifetime: 30 * 24 * time.Hour, Leeway: 30 * time.Second}
}

// Validate reports the first field that cannot work.
func (c Config) Validate() error {
	switch {
	case c.Audience == "":
		return fmt.Errorf("audience: must not be empty")
	case c.MaxLifetime < time.Minute:
		return fmt.Errorf("max_lifetime: %v is below a minute; devices would refresh all the time", c.MaxLifetime)
	case c.Leeway < 0 || c.Leeway > 10*time.Minute:
		return fmt.Errorf("leeway: %v is not within 0 to 10 minutes", c.Leeway)
	}
	return nil
}

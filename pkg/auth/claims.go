package auth

import (
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halley-im/halley/protocol"
)

const maxTokenIDLen = 128

// payload is a token's second part as it stands there. Times are pointers: 0 is not absent.
type payload struct {
	Subject   string   `json:"sub"`
	App       string   `json:"app,omitempty"`
	Device    string   `json:"dev"`
	TokenID   string   `json:"jti,omitempty"`
	Audience  audience `json:"aud"`
	Expires   *float64 `json:"exp,omitempty"`
	IssuedAt  *float64 `json:"iat,omitempty"`
	NotBefore *float64 `json:"nbf,omitempty"`
}

// UnmarshalJSON takes the claims by their exact names (RFC 7519, section 4: they are case-sensitive), which encoding/json
// by itself does not: "eXp" would be exp here, and nothing to the library that issued it.
func (p *payload) UnmarshalJSON(data []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return err
	}
	*p = payload{}
	for name, into := range map[string]any{
		"sub": &p.Subject, "app": &p.App, "dev": &p.Device, "jti": &p.TokenID, "aud": &p.Audience,
		"exp": &p.Expires, "iat": &p.IssuedAt, "nbf": &p.NotBefore,
	} {
		if value, ok := members[name]; ok {
			if err := json.Unmarshal(value, into); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// audience is one string or a list of them (RFC 7519, section 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var one string
		if err := json.Unmarshal(data, &one); err != nil {
			return err
		}
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// maxUnix is the end of the year 9999: later times come from milliseconds taken for seconds.
const maxUnix = 253402300799

func timeOf(seconds *float64) time.Time {
	if seconds == nil {
		return time.Time{}
	}
	whole, fraction := math.Modf(*seconds)
	return time.Unix(int64(whole), int64(fraction*1e9))
}

func (p *payload) claims(cfg Config) Claims {
	c := Claims{
		App: p.App, User: p.Subject, Device: p.Device, TokenID: p.TokenID, Audience: cfg.Audience,
		IssuedAt: timeOf(p.IssuedAt), NotBefore: timeOf(p.NotBefore), Expires: timeOf(p.Expires),
	}
	if c.App == "" {
		c.App = protocol.DefaultApp
	}
	return c
}

// faults yields everything wrong with the claims. Verify stops at the first, Inspect shows all.
func (p *payload) faults(cfg Config, now time.Time) iter.Seq[*Error] {
	return func(yield func(*Error) bool) {
		for _, check := range [...]func(*payload, Config, time.Time) *Error{checkAudience, checkTimes, checkNames} {
			if err := check(p, cfg, now); err != nil && !yield(err) {
				return
			}
		}
	}
}

func checkAudience(p *payload, cfg Config, _ time.Time) *Error {
	for _, a := range p.Audience {
		if a == cfg.Audience {
			return nil
		}
	}
	if len(p.Audience) == 0 {
		return refuse(WrongAudience, "aud is missing; it must be %q", cfg.Audience)
	}
	return refuse(WrongAudience, "aud is %q; it must be %q", []string(p.Audience), cfg.Audience)
}

func checkTimes(p *payload, cfg Config, now time.Time) *Error {
	if p.Expires == nil {
		return refuse(NoExpiry, "exp is missing; a token must end")
	}
	for _, claim := range [...]struct {
		name    string
		seconds *float64
	}{{"exp", p.Expires}, {"iat", p.IssuedAt}, {"nbf", p.NotBefore}} {
		if s := claim.seconds; s != nil && (*s < 0 || *s > maxUnix) {
			return refuse(Malformed, "%s is %.0f; it must be seconds since 1970, not milliseconds", claim.name, *s)
		}
	}
	expires, issued, notBefore := timeOf(p.Expires), timeOf(p.IssuedAt), timeOf(p.NotBefore)
	switch {
	case !now.Before(expires.Add(cfg.Leeway)):
		return refuse(Expired, "it expired at %s, %s ago", stamp(expires), span(now.Sub(expires)))
	case p.NotBefore != nil && now.Add(cfg.Leeway).Before(notBefore):
		return refuse(NotYetValid, "nbf is %s, in %s; check the clocks of issuer and server", stamp(notBefore), span(notBefore.Sub(now)))
	case p.IssuedAt != nil && now.Add(cfg.Leeway).Before(issued):
		return refuse(NotYetValid, "iat is %s, in %s; check the clocks of issuer and server", stamp(issued), span(issued.Sub(now)))
	}
	from := now
	if p.IssuedAt != nil {
		from = issued
	}
	if life := expires.Sub(from); life > cfg.MaxLifetime+cfg.Leeway {
		return refuse(TooLongLived, "it lives for %s; this server allows %s (auth.max_lifetime)", span(life), span(cfg.MaxLifetime))
	}
	return nil
}

func checkNames(p *payload, _ Config, _ time.Time) *Error {
	switch {
	case p.Subject == "":
		return refuse(BadName, "sub is missing; it names the user")
	case !protocol.ValidUser(p.Subject):
		return refuse(BadName, "sub is %s; a user is 1 to %d of A-Z a-z 0-9 . _ @ -", quote(p.Subject), protocol.MaxUserLen)
	case p.Device == "":
		return refuse(BadName, "dev is missing; it names the device, and one device has one session")
	case !protocol.ValidDevice(p.Device):
		return refuse(BadName, "dev is %s; a device is 1 to %d of A-Z a-z 0-9 . _ @ -", quote(p.Device), protocol.MaxDeviceLen)
	case p.App != "" && !protocol.ValidApp(p.App):
		return refuse(BadName, "app is %s; an app is 1 to %d of a-z 0-9 -", quote(p.App), protocol.MaxAppLen)
	case len(p.TokenID) > maxTokenIDLen:
		return refuse(BadName, "jti has %d bytes; %d are allowed", len(p.TokenID), maxTokenIDLen)
	}
	return nil
}

// payload is also jwt.Claims, so that the library reads and writes it. The library's own checks are switched off in favour
// of the ones above, whose words explain.

func (p *payload) GetExpirationTime() (*jwt.NumericDate, error) { return numericDate(p.Expires), nil }
func (p *payload) GetIssuedAt() (*jwt.NumericDate, error)       { return numericDate(p.IssuedAt), nil }
func (p *payload) GetNotBefore() (*jwt.NumericDate, error)      { return numericDate(p.NotBefore), nil }
func (p *payload) GetIssuer() (string, error)                   { return "", nil }
func (p *payload) GetSubject() (string, error)                  { return p.Subject, nil }
func (p *payload) GetAudience() (jwt.ClaimStrings, error)       { return jwt.ClaimStrings(p.Audience), nil }

func numericDate(seconds *float64) *jwt.NumericDate {
	if seconds == nil {
		return nil
	}
	return jwt.NewNumericDate(timeOf(seconds))
}

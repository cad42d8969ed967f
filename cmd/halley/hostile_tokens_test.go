package main

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/comet/comettest"
	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// badTokens are what an attacker, or an issuer gone wrong, has in place of a token.
func (w *hostileWorld) badTokens() map[string]string {
	header := map[string]any{"alg": "HS256", "typ": "JWT", "kid": w.key.ID}
	good := w.token(nil)
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"` + w.key.ID + `"}`))
	return map[string]string{
		"nothing":               "",
		"garbage":               "\x00\x01 not a token",
		"alg none":              none + "." + parts[1] + ".",
		"alg none, signed":      none + "." + parts[1] + "." + parts[2],
		"another algorithm":     forge(map[string]any{"alg": "HS512", "kid": w.key.ID}, nil, w.key.Secret),
		"another's key":         forge(header, nil, auth.NewKey().Secret),
		"an unknown key":        forge(map[string]any{"alg": "HS256", "kid": "k0"}, nil, w.key.Secret),
		"a cut signature":       good[:len(good)-4],
		"another's claims":      parts[0] + "." + strings.Split(w.token(map[string]any{"sub": "alice"}), ".")[1] + "." + parts[2],
		"another audience":      w.token(map[string]any{"aud": "payments"}),
		"no audience":           w.token(map[string]any{"aud": nil}),
		"expired":               w.token(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}),
		"no end":                w.token(map[string]any{"exp": nil}),
		"an end in ten years":   w.token(map[string]any{"exp": time.Now().AddDate(10, 0, 0).Unix()}),
		"not valid yet":         w.token(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}),
		"no user":               w.token(map[string]any{"sub": nil}),
		"a user of two":         w.token(map[string]any{"sub": "alice:bob"}),
		"no device":             w.token(map[string]any{"dev": nil}),
		"an app with a slash":   w.token(map[string]any{"app": "main/other"}),
		"longer than any token": strings.Repeat("x", 8000),
	}
}

// Whoever has no good token hears why, is told to get one, and is counted; it never becomes a session.
func TestHostileTokens(t *testing.T) {
	t.Parallel()
	w := startHostile(t)
	for _, wire := range comettest.Wires() {
		bad := w.badTokens()
		w.counted(len(bad), "disconnects_total", "code", "unauthorized", func() {
			w.counted(len(bad), "accepts_total", "result", "unauthorized", func() {
				for _, token := range bad {
					c := w.dial(wire)
					w.refused(c, connectWith(c, token), protocol.CodeUnauthenticated)
					w.closedWith(c, protocol.CloseUnauthorized)
				}
			})
		})
	}
	w.over()
}

func connectWith(c *comettest.Client, token string) *envelopev1.Frame {
	return &envelopev1.Frame{Command: envelopev1.Command_COMMAND_CONNECT, RequestId: 9, Body: c.Body(&envelopev1.Connect{Token: token})}
}

// A token is good until it ends: then its session is closed, and whoever has recorded it cannot use it again. A token of
// somebody else does not prolong a session.
func TestHostileReplays(t *testing.T) {
	t.Parallel()
	w := startHostile(t)
	for name, wire := range comettest.Wires() {
		token := w.token(map[string]any{"dev": wire.Transport, "exp": time.Now().Add(3 * time.Second).Unix()})
		w.counted(1, "disconnects_total", "code", "token_expired", func() {
			c := w.dial(wire)
			if c.Hello(token) == nil {
				t.Fatalf("%s: no hello", name)
			}
			for what, other := range map[protocol.Code]string{
				protocol.CodeForbidden:       w.token(map[string]any{"sub": "alice", "dev": wire.Transport}),
				protocol.CodeUnauthenticated: w.token(map[string]any{"dev": wire.Transport, "aud": "payments"}),
			} {
				w.refused(c, &envelopev1.Frame{
					Command: envelopev1.Command_COMMAND_REFRESH, RequestId: 5, Body: c.Body(&envelopev1.Refresh{Token: other}),
				}, what)
			}
			w.closedWith(c, protocol.CloseTokenExpired)
		})
		w.counted(1, "disconnects_total", "code", "unauthorized", func() {
			c := w.dial(wire)
			w.refused(c, connectWith(c, token), protocol.CodeUnauthenticated)
			w.closedWith(c, protocol.CloseUnauthorized)
		})
	}
	w.over()
}

// A ticket is worth nothing without the token that it was given for, to nobody else, and not longer than that.
func TestHostileTickets(t *testing.T) {
	t.Parallel()
	w := startHostile(t)
	tickets := func(what string) float64 { return w.metrics().sum("halley_comet_" + what + "_total") }
	for name, wire := range comettest.Wires() {
		claims := func(more map[string]any) map[string]any {
			c := map[string]any{"jti": "1", "dev": wire.Transport, "exp": time.Now().Add(3 * time.Second).Unix()}
			for k, v := range more {
				c[k] = v
			}
			return c
		}
		token := w.token(claims(nil))
		c := w.dial(wire)
		hello := c.Hello(token)
		if hello == nil || len(hello.Ticket) == 0 {
			t.Fatalf("%s: hello %v", name, hello)
		}
		others := []map[string]any{{"dev": "another"}, {"sub": "somebody"}, {"app": "other"}, {"jti": "2"}, {"jti": nil}}
		before := tickets("tickets_refused")
		for _, other := range others {
			if w.dial(wire).Resume(w.token(claims(other)), hello.Ticket) == nil {
				t.Errorf("%s: no hello for %v", name, other)
			}
		}
		if n := tickets("tickets_refused") - before; n != float64(len(others)) {
			t.Errorf("%s: %.0f of %d tickets were refused", name, n, len(others))
		}
		before = tickets("resumed")
		again := w.dial(wire)
		if again.Resume(token, hello.Ticket) == nil || tickets("resumed") != before+1 {
			t.Errorf("%s: the ticket does not hold for its own device", name)
		}
		w.closedWith(again, protocol.CloseTokenExpired)
		late := w.dial(wire)
		w.refused(late, &envelopev1.Frame{
			Command: envelopev1.Command_COMMAND_CONNECT, RequestId: 9, Body: late.Body(&envelopev1.Connect{Token: token, Ticket: hello.Ticket}),
		}, protocol.CodeUnauthenticated)
		w.closedWith(late, protocol.CloseUnauthorized)
	}
	w.over()
}

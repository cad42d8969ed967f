package auth

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// maxTokenLen bounds what is decoded for someone who has proved nothing yet.
const maxTokenLen = 4096

// segments is base64url without padding, and without the spare bits that would let one token be written several ways.
var segments = base64.RawURLEncoding.Strict()

// Issue signs a token for c. User, Device and Expires must be set; a missing TokenID is made up, an empty Audience is
// DefaultAudience, other fields are left out where they are empty.
func Issue(key Key, c Claims) (string, error) {
	if err := key.validate(); err != nil {
		return "", err
	}
	p := &payload{
		Subject: c.User, App: c.App, Device: c.Device, TokenID: c.TokenID, Audience: []string{c.Audience},
		Expires: unix(c.Expires), IssuedAt: unix(c.IssuedAt), NotBefore: unix(c.NotBefore),
	}
	if c.Audience == "" {
		p.Audience = []string{DefaultAudience}
	}
	if p.TokenID == "" {
		p.TokenID = uuid.NewString()
	}
	if err := checkNames(p, Config{}, time.Time{}); err != nil {
		return "", err
	}
	if p.Expires == nil {
		return "", refuse(NoExpiry, "exp is missing; a token must end")
	}
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, p)
	token.Header["kid"] = key.ID
	return token.SignedString(key.Secret)
}

func unix(t time.Time) *float64 {
	if t.IsZero() {
		return nil
	}
	seconds := float64(t.Unix())
	return &seconds
}

// Verify returns the claims of a token that holds now. Every error is an *Error.
func (k *Keyring) Verify(token string, now time.Time) (Claims, error) {
	p, err := k.signed(token)
	if err != nil {
		return Claims{}, err
	}
	for fault := range p.faults(k.cfg, now) {
		return Claims{}, fault
	}
	return p.claims(k.cfg), nil
}

// signed returns the payload of a token that one of the keys signed.
func (k *Keyring) signed(token string) (*payload, *Error) {
	if len(token) > maxTokenLen {
		return nil, refuse(Malformed, "it has %d bytes; %d are allowed", len(token), maxTokenLen)
	}
	if strings.ContainsAny(token, "\r\n") { // The base64 decoder would skip them.
		return nil, refuse(Malformed, "it contains a line break")
	}
	set := k.keys.Load()
	if strings.Count(token, ".") != 2 {
		return nil, notThreeParts()
	}
	header, _, _ := strings.Cut(token, ".")
	if key := (*set.headers.Load())[header]; key != nil {
		return key.verify(token)
	}
	p, key, err := k.parse(set, token)
	if err == nil {
		set.remember(header, key)
	}
	return p, err
}

// verify is parse for a token of three parts whose header is known to name this key and HS256. A test holds the two to the same answers.
func (s *signer) verify(token string) (*payload, *Error) {
	dot := strings.LastIndexByte(token, '.')
	text := token[:dot]
	_, claims, _ := strings.Cut(text, ".")
	var space [sha256.Size + 1]byte // One more, so that a longer signature is seen to be longer.
	signature := token[dot+1:]
	if segments.DecodedLen(len(signature)) > len(space) {
		return nil, badSignature()
	}
	n, err := segments.Decode(space[:], []byte(signature))
	if err != nil || !s.signed(text, space[:n]) {
		return nil, badSignature()
	}
	data, err := segments.DecodeString(claims)
	if err != nil {
		return nil, badPayload(err)
	}
	p := &payload{}
	if err := p.read(data); err != nil {
		return nil, badPayload(err)
	}
	return p, nil
}

// parse reads any token of three parts, with the library.
func (k *Keyring) parse(set *keySet, token string) (*payload, *signer, *Error) {
	p := &payload{}
	var key *signer
	_, err := k.parser.ParseWithClaims(token, p, func(t *jwt.Token) (any, error) {
		id, ok := t.Header["kid"].(string)
		if !ok {
			return nil, refuse(UnknownKey, "its header has no kid; it must name one of this server's keys")
		}
		if t.Header["crit"] != nil { // The library knows no extension, and does not say so (RFC 7515, section 4.1.11).
			return nil, refuse(BadAlgorithm, "its header has crit, an extension that this server does not know")
		}
		if key = set.byID[id]; key == nil {
			return nil, refuse(UnknownKey, "its kid is %s; this server has no such key", quote(id))
		}
		return key.secret, nil
	})
	if err != nil {
		return nil, nil, explain(token, err)
	}
	return p, key, nil
}

// explain turns the library's error into ours.
func explain(token string, err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	alg, algErr := algorithm(token)
	switch {
	case algErr != nil:
		return refuse(Malformed, "its first part is not a base64url JSON header: %v", algErr)
	case alg != jwt.SigningMethodHS256.Alg():
		return refuse(BadAlgorithm, "its alg is %s; this server takes HS256 only", quote(alg))
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return badSignature()
	}
	signature := token[strings.LastIndexByte(token, '.')+1:]
	if _, err := segments.DecodeString(signature); err != nil {
		return badSignature()
	}
	return badPayload(err)
}

func algorithm(token string) (string, error) {
	header, _, _ := strings.Cut(token, ".")
	data, err := segments.DecodeString(header)
	if err != nil {
		return "", err
	}
	var h struct {
		Algorithm string `json:"alg"`
	}
	return h.Algorithm, json.Unmarshal(data, &h)
}

func notThreeParts() *Error {
	return refuse(Malformed, "it is not a JWT: three parts with two dots between them are expected")
}

func badSignature() *Error {
	return refuse(BadSignature, "its signature is not this server's: the secret differs, or the token was changed or cut off")
}

func badPayload(err error) *Error {
	return refuse(Malformed, "its claims cannot be read: %s", fmt.Sprint(err))
}

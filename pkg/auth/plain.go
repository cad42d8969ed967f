package auth

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// read fills p from JSON. Nearly every token has only plain strings and whole numbers under known names, which readPlain
// reads at a quarter of the cost; whatever is not so plain goes to UnmarshalJSON, whose answer is the one that counts.
func (p *payload) read(data []byte) error {
	if p.readPlain(data) {
		return nil
	}
	return json.Unmarshal(data, p)
}

// Members in the order of the bits that mark them as seen.
const (
	sawSubject = 1 << iota
	sawApp
	sawDevice
	sawTokenID
	sawAudience
	sawExpires
	sawIssuedAt
	sawNotBefore
)

// readPlain reports whether it could read data; if not, p holds a part.
func (p *payload) readPlain(data []byte) bool {
	s := scanner{rest: data}
	if !s.take('{') {
		return false
	}
	seen := 0
	var times [3]float64
	for {
		name, ok := s.text()
		if !ok || !s.take(':') {
			return false
		}
		bit := 0
		switch string(name) {
		case "sub":
			bit, ok = sawSubject, s.string(&p.Subject)
		case "app":
			bit, ok = sawApp, s.string(&p.App)
		case "dev":
			bit, ok = sawDevice, s.string(&p.Device)
		case "jti":
			bit, ok = sawTokenID, s.string(&p.TokenID)
		case "aud":
			bit, ok = sawAudience, s.audience(&p.Audience)
		case "exp":
			p.Expires = &times[0]
			bit, ok = sawExpires, s.number(p.Expires)
		case "iat":
			p.IssuedAt = &times[1]
			bit, ok = sawIssuedAt, s.number(p.IssuedAt)
		case "nbf":
			p.NotBefore = &times[2]
			bit, ok = sawNotBefore, s.number(p.NotBefore)
		default:
			return false
		}
		if !ok || seen&bit != 0 {
			return false
		}
		seen |= bit
		if s.take(',') {
			continue
		}
		return s.take('}') && len(s.rest) == 0
	}
}

// scanner takes tokens off plain JSON: no white space, no escapes, no byte beyond ASCII, no sign, fraction or exponent.
type scanner struct{ rest []byte }

func (s *scanner) take(c byte) bool {
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *scanner) text() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	end := bytes.IndexByte(s.rest, '"')
	if end < 0 {
		return nil, false
	}
	text := s.rest[:end]
	for _, c := range text {
		if c < ' ' || c > '~' || c == '\\' {
			return nil, false
		}
	}
	s.rest = s.rest[end+1:]
	return text, true
}

func (s *scanner) string(into *string) bool {
	text, ok := s.text()
	*into = string(text)
	return ok
}

func (s *scanner) audience(into *audience) bool {
	list := s.take('[')
	var one string
	if !s.string(&one) || list && !s.take(']') {
		return false
	}
	*into = audience{one}
	return true
}

// number reads up to 15 digits, which a float64 holds exactly.
func (s *scanner) number(into *float64) bool {
	n := 0
	for n < len(s.rest) && s.rest[n] >= '0' && s.rest[n] <= '9' {
		n++
	}
	if n == 0 || n > 15 || n > 1 && s.rest[0] == '0' {
		return false
	}
	v, err := strconv.ParseInt(string(s.rest[:n]), 10, 64)
	*into = float64(v)
	s.rest = s.rest[n:]
	return err == nil
}

package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Report is what a token says and everything wrong with it.
type Report struct {
	// Valid tells whether Verify accepts it.
	Valid bool
	// Header and Claims are the token's own words, unverified; nil where they cannot be read.
	Header map[string]any
	Claims map[string]any
	// Faults are sentences: each what is wrong and, where that can be told, what to do.
	Faults []string
}

// Inspect explains a token, or what someone took for one. It never prints the signature, so a report can be shown to others
// once the token has expired.
func Inspect(token string, keyring *Keyring, now time.Time) Report {
	var r Report
	cleaned := clean(token)
	if cleaned != token {
		r.Faults = append(r.Faults, "there is more than the token: white space, quotes or the word Bearer around it; pass the token alone")
	}
	if fault := shape(cleaned); fault != "" {
		r.Faults = append(r.Faults, fault)
		return r
	}
	header, rest, _ := strings.Cut(cleaned, ".")
	body, _, _ := strings.Cut(rest, ".")
	r.Header, r.Claims = decode(header), decode(body)

	p, err := keyring.signed(cleaned)
	if err != nil {
		r.Faults = append(r.Faults, err.Message+keyring.hint(cleaned, r.Header, err))
		if p = unverified(body); p == nil {
			return r
		}
	}
	for fault := range p.faults(keyring.cfg, now) {
		r.Faults = append(r.Faults, fault.Message)
	}
	r.Valid = len(r.Faults) == 0
	return r
}

func clean(token string) string {
	token = strings.TrimSpace(token)
	if len(token) > 7 && strings.EqualFold(token[:7], "bearer ") {
		token = strings.TrimSpace(token[7:])
	}
	return strings.Trim(token, `"'`)
}

func shape(token string) string {
	switch dots := strings.Count(token, "."); {
	case token == "":
		return "it is empty"
	case strings.HasPrefix(token, apiKeyMark):
		return "it is a server's API key, not a device's token; API keys go to the HTTP API, and a token is made with a signing key"
	case dots == 4:
		return "it is an encrypted token (JWE, five parts); this server takes signed ones (JWS, three parts)"
	case dots != 2:
		return notThreeParts().Message
	}
	return ""
}

// hint names the mistake behind a signature or key error where it is one of the common ones.
func (k *Keyring) hint(token string, header map[string]any, err *Error) string {
	switch err.Reason {
	case UnknownKey:
		return "; keys of this server: " + strings.Join(k.IDs(), ", ")
	case BadSignature:
		id, _ := header["kid"].(string)
		key := k.keys.Load().byID[id]
		dot := strings.LastIndexByte(token, '.')
		signature, decodeErr := segments.DecodeString(token[dot+1:])
		if key == nil || decodeErr != nil {
			return ""
		}
		for _, e := range []*base64.Encoding{base64.RawURLEncoding, base64.URLEncoding, base64.RawStdEncoding, base64.StdEncoding} {
			mac := hmac.New(sha256.New, []byte(e.EncodeToString(key.secret)))
			mac.Write([]byte(token[:dot]))
			if hmac.Equal(mac.Sum(nil), signature) {
				return "; it was signed with the base64 text of the secret: decode the text first and sign with the bytes"
			}
		}
	case Malformed:
		if strings.Contains(token, "=") || strings.ContainsAny(token, "+/") {
			return "; its parts must be base64url without padding (no +, / or =)"
		}
	}
	return ""
}

func decode(segment string) map[string]any {
	data, err := segments.DecodeString(segment)
	if err != nil {
		return nil
	}
	var m map[string]any
	if json.Unmarshal(data, &m) != nil {
		return nil
	}
	return m
}

func unverified(segment string) *payload {
	data, err := segments.DecodeString(segment)
	if err != nil {
		return nil
	}
	p := &payload{}
	if json.Unmarshal(data, p) != nil {
		return nil
	}
	return p
}

// String is the report for a terminal.
func (r Report) String() string {
	var b strings.Builder
	if r.Valid {
		b.WriteString("The token holds.\n")
	} else {
		b.WriteString("The token does not hold:\n")
		for _, fault := range r.Faults {
			fmt.Fprintf(&b, "  - %s\n", fault)
		}
	}
	for _, part := range []struct {
		name   string
		values map[string]any
	}{{"header", r.Header}, {"claims", r.Claims}} {
		if part.values == nil {
			continue
		}
		for _, name := range []string{"exp", "iat", "nbf"} {
			if seconds, ok := part.values[name].(float64); ok && seconds >= 0 && seconds <= maxUnix {
				fmt.Fprintf(&b, "%s: %s\n", name, stamp(timeOf(&seconds)))
			}
		}
		data, err := json.Marshal(part.values)
		if err == nil {
			fmt.Fprintf(&b, "%s: %s\n", part.name, data)
		}
	}
	return b.String()
}

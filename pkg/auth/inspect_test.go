package auth

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"
)

func TestInspectExplains(t *testing.T) {
	k := keyring(t)
	header := map[string]any{"kid": "k1"}
	token := sign(t, header, good(), first.Secret)
	for name, c := range map[string]struct {
		token string
		says  []string
	}{
		"quoted":                {`"` + token + `"`, []string{"quotes"}},
		"with Bearer":           {"Bearer " + token, []string{"Bearer"}},
		"empty":                 {" ", []string{"it is empty"}},
		"an API key":            {"hk_abcdefgh_x", []string{"API key"}},
		"encrypted":             {"a.b.c.d.e", []string{"JWE"}},
		"padded":                {strings.Replace(token, ".", "=.", 1), []string{"without padding"}},
		"signed with the text":  {sign(t, header, good(), []byte(base64.RawURLEncoding.EncodeToString(first.Secret))), []string{"decode the text first"}},
		"signed with the other": {sign(t, header, good(), second.Secret), []string{"signature is not this server's"}},
		"unknown key":           {sign(t, map[string]any{"kid": "zz"}, good(), first.Secret), []string{`"zz"`, "k1, k2"}},
		"everything wrong": {
			sign(t, map[string]any{"kid": "zz"}, with(map[string]any{"aud": "x", "exp": now.Add(-48 * time.Hour).Unix(), "sub": "a:b"}), first.Secret),
			[]string{`"zz"`, `aud is ["x"]`, "2 days ago", `"a:b"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := Inspect(c.token, k, now)
			if r.Valid || len(r.Faults) < len(c.says)-1 {
				t.Errorf("%+v", r)
			}
			for _, words := range c.says {
				if !strings.Contains(r.String(), words) {
					t.Errorf("%s\ndoes not say %q", r, words)
				}
			}
		})
	}
}

func TestInspectOfAGoodToken(t *testing.T) {
	token := sign(t, map[string]any{"kid": "k1"}, good(), first.Secret)
	r := Inspect(token, keyring(t), now)
	if !r.Valid || len(r.Faults) != 0 || r.Claims["sub"] != "alice" || r.Header["kid"] != "k1" {
		t.Fatalf("%+v", r)
	}
	s := r.String()
	for _, words := range []string{"The token holds.", "exp: 2026-11-22T13:00:00Z", `"sub":"alice"`} {
		if !strings.Contains(s, words) {
			t.Errorf("%s\ndoes not say %q", s, words)
		}
	}
	if signature := token[strings.LastIndexByte(token, '.')+1:]; strings.Contains(s, signature) {
		t.Error("the report shows the signature")
	}
}

func TestSpansReadLikeSpeech(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "less than a second", time.Second: "1 second", 90 * time.Second: "90 seconds", 3 * time.Minute: "3 minutes",
		119 * time.Minute: "119 minutes", 26 * time.Hour: "26 hours", 72 * time.Hour: "3 days",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}

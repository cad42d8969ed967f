package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

var (
	now    = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	first  = Key{ID: "k1", Secret: bytes.Repeat([]byte{1}, 32)}
	second = Key{ID: "k2", Secret: bytes.Repeat([]byte{2}, 64)}
	alice  = Claims{App: "main", User: "alice", Device: "phone", TokenID: "t1", IssuedAt: now, NotBefore: now, Expires: now.Add(time.Hour)}
)

func keyring(t testing.TB, keys ...Key) *Keyring {
	t.Helper()
	if keys == nil {
		keys = []Key{first, second}
	}
	k, err := NewKeyring(Default(), keys...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sign makes a token as another program would, with any header and claims.
func sign(t testing.TB, header, claims map[string]any, secret []byte) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(claims))
	for name, value := range header {
		if token.Header[name] = value; value == nil {
			delete(token.Header, name)
		}
	}
	text, err := token.SigningString()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := jwt.SigningMethodHS256.Sign(text, secret)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func good() map[string]any {
	return map[string]any{"sub": "alice", "app": "main", "dev": "phone", "aud": "halley", "exp": now.Add(time.Hour).Unix(), "iat": now.Unix()}
}

func with(changes map[string]any) map[string]any {
	claims := good()
	for name, value := range changes {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return claims
}

func TestAnIssuedTokenHolds(t *testing.T) {
	k := keyring(t)
	for _, key := range []Key{first, second} {
		token, err := Issue(key, alice)
		if err != nil {
			t.Fatal(err)
		}
		want := alice
		want.Audience = DefaultAudience
		for range 2 { // The second time over the fast path.
			got, err := k.Verify(token, now)
			if err != nil {
				t.Fatal(err)
			}
			if !got.Expires.Equal(want.Expires) || !got.IssuedAt.Equal(want.IssuedAt) || !got.NotBefore.Equal(want.NotBefore) {
				t.Errorf("times %v, want %v", got, want)
			}
			got.Expires, got.IssuedAt, got.NotBefore = want.Expires, want.IssuedAt, want.NotBefore
			if got != want {
				t.Errorf("claims %v, want %v", got, want)
			}
		}
	}
}

func TestWhatATokenMayLeaveOut(t *testing.T) {
	k := keyring(t)
	got, err := k.Verify(sign(t, map[string]any{"kid": "k1", "typ": nil}, with(map[string]any{"app": nil, "iat": nil, "aud": []string{"other", "halley"}}), first.Secret), now)
	if err != nil {
		t.Fatal(err)
	}
	if got.App != "main" || !got.IssuedAt.IsZero() || got.TokenID != "" {
		t.Errorf("%+v", got)
	}
	token, err := Issue(first, Claims{User: "alice", Device: "phone", Expires: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if got, err = k.Verify(token, now); err != nil || got.TokenID == "" {
		t.Errorf("%+v, %v: a token without an id cannot be revoked", got, err)
	}
}

func TestWhyTokensDoNotHold(t *testing.T) {
	header := map[string]any{"kid": "k1"}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"k1"}`)) + "." + strings.Split(sign(t, header, good(), first.Secret), ".")[1] + "."
	cases := map[string]struct {
		token  string
		reason Reason
		says   string
	}{
		"expired":            {sign(t, header, with(map[string]any{"exp": now.Add(-time.Hour).Unix()}), first.Secret), Expired, "60 minutes ago"},
		"expired this long":  {sign(t, header, with(map[string]any{"exp": now.Add(-30 * time.Second).Unix()}), first.Secret), Expired, "30 seconds ago"},
		"no exp":             {sign(t, header, with(map[string]any{"exp": nil}), first.Secret), NoExpiry, "exp is missing"},
		"exp in ms":          {sign(t, header, with(map[string]any{"exp": now.UnixMilli()}), first.Secret), Malformed, "not milliseconds"},
		"exp as text":        {sign(t, header, with(map[string]any{"exp": "tomorrow"}), first.Secret), Malformed, "exp"},
		"not before":         {sign(t, header, with(map[string]any{"nbf": now.Add(time.Minute).Unix()}), first.Secret), NotYetValid, "nbf"},
		"issued tomorrow":    {sign(t, header, with(map[string]any{"iat": now.Add(time.Minute).Unix()}), first.Secret), NotYetValid, "clocks"},
		"too long":           {sign(t, header, with(map[string]any{"exp": now.Add(31 * 24 * time.Hour).Unix()}), first.Secret), TooLongLived, "31 days"},
		"too long, no iat":   {sign(t, header, with(map[string]any{"exp": now.Add(31 * 24 * time.Hour).Unix(), "iat": nil}), first.Secret), TooLongLived, "30 days"},
		"wrong aud":          {sign(t, header, with(map[string]any{"aud": "other"}), first.Secret), WrongAudience, `"other"`},
		"no aud":             {sign(t, header, with(map[string]any{"aud": nil}), first.Secret), WrongAudience, "aud is missing"},
		"no user":            {sign(t, header, with(map[string]any{"sub": nil}), first.Secret), BadName, "sub is missing"},
		"a bad user":         {sign(t, header, with(map[string]any{"sub": "a:b"}), first.Secret), BadName, `"a:b"`},
		"no device":          {sign(t, header, with(map[string]any{"dev": nil}), first.Secret), BadName, "dev is missing"},
		"a bad device":       {sign(t, header, with(map[string]any{"dev": "a b"}), first.Secret), BadName, "dev"},
		"a bad app":          {sign(t, header, with(map[string]any{"app": "Main"}), first.Secret), BadName, `"Main"`},
		"a long jti":         {sign(t, header, with(map[string]any{"jti": strings.Repeat("x", 129)}), first.Secret), BadName, "jti"},
		"sub as a number":    {sign(t, header, with(map[string]any{"sub": 5}), first.Secret), Malformed, "sub"},
		"unknown kid":        {sign(t, map[string]any{"kid": "k9"}, good(), first.Secret), UnknownKey, `"k9"`},
		"no kid":             {sign(t, nil, good(), first.Secret), UnknownKey, "no kid"},
		"a kid of no string": {sign(t, map[string]any{"kid": 1}, good(), first.Secret), UnknownKey, "no kid"},
		"another's key":      {sign(t, header, good(), second.Secret), BadSignature, "secret differs"},
		"no signature":       {sign(t, header, good(), first.Secret)[:100], Malformed, ""},
		"alg none":           {none, BadAlgorithm, `"none"`},
		"another alg":        {sign(t, map[string]any{"kid": "k1", "alg": "HS384"}, good(), first.Secret), BadAlgorithm, `"HS384"`},
		"alg in lower case":  {sign(t, map[string]any{"kid": "k1", "alg": "hs256"}, good(), first.Secret), BadAlgorithm, `"hs256"`},
		"an extension":       {sign(t, map[string]any{"kid": "k1", "crit": []string{"b64"}}, good(), first.Secret), BadAlgorithm, "crit"},
		"not a token":        {"hello", Malformed, "three parts"},
		"nothing":            {"", Malformed, "three parts"},
		"four parts":         {"a.b.c.d", Malformed, "three parts"},
		"no header":          {"!.e30.x", Malformed, "header"},
		"too long a token":   {strings.Repeat("x", 5000), Malformed, "5000 bytes"},
		"a line break":       {sign(t, header, good(), first.Secret) + "\n", Malformed, "line break"},
	}
	cold := func() *Keyring { return keyring(t) }
	warm := func() *Keyring { // Its fast path knows the header of k1.
		k := keyring(t)
		if _, err := k.Verify(sign(t, header, good(), first.Secret), now); err != nil {
			t.Fatal(err)
		}
		return k
	}
	for name, c := range cases {
		for path, k := range map[string]*Keyring{"library": cold(), "fast path": warm()} {
			claims, err := k.Verify(c.token, now)
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%s, %s: %v, error %v", name, path, claims, err)
				continue
			}
			if e.Reason != c.reason || !strings.Contains(e.Message, c.says) {
				t.Errorf("%s, %s: %s: %s; want %s with %q", name, path, e.Reason, e.Message, c.reason, c.says)
			}
			if w := e.Wire(); w.Code != "unauthenticated" || !strings.HasPrefix(w.Message, "token: ") {
				t.Errorf("%s: %v", name, w)
			}
			if r := Inspect(c.token, k, now); r.Valid {
				t.Errorf("%s, %s: Inspect says that it holds", name, path)
			}
		}
	}
}

func TestTheIssuersClockMayBeALittleOff(t *testing.T) {
	k := keyring(t)
	token := sign(t, map[string]any{"kid": "k1"}, with(map[string]any{"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Minute).Unix()}), first.Secret)
	for at, want := range map[time.Duration]bool{
		-31 * time.Second: false, -30 * time.Second: true, 0: true, 89 * time.Second: true, 90 * time.Second: false,
	} {
		if _, err := k.Verify(token, now.Add(at)); (err == nil) != want {
			t.Errorf("at %v: %v", at, err)
		}
	}
}

func TestKeysComeAndGo(t *testing.T) {
	k := keyring(t, first)
	token := sign(t, map[string]any{"kid": "k1"}, good(), first.Secret)
	newer := sign(t, map[string]any{"kid": "k2"}, good(), second.Secret)
	holds := func(token string) bool { _, err := k.Verify(token, now); return err == nil }
	if !holds(token) || holds(newer) {
		t.Fatal("first key alone")
	}
	if err := k.Replace(first, second); err != nil || !holds(token) || !holds(newer) {
		t.Fatalf("both keys: %v", err)
	}
	if err := k.Replace(second); err != nil || holds(token) || !holds(newer) {
		t.Fatalf("second key alone: %v", err) // The fast path must have forgotten the first.
	}
	for name, keys := range map[string][]Key{
		"none": {}, "short": {{ID: "a", Secret: make([]byte, 31)}}, "twice": {first, first}, "unnamed": {{Secret: make([]byte, 32)}}, "oddly named": {{ID: "a b", Secret: make([]byte, 32)}},
	} {
		if err := k.Replace(keys...); err == nil || holds(token) || !holds(newer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The fast path and the library must agree on every token: here on thousands of damaged ones.
func TestTheFastPathAgreesWithTheLibrary(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	warm := keyring(t)
	var tokens []string
	for i := range 50 {
		key := []Key{first, second}[i%2]
		claims := with(map[string]any{"jti": fmt.Sprint(i), "exp": now.Add(time.Duration(r.IntN(7200)-600) * time.Second).Unix(), "x": strings.Repeat("é", r.IntN(5))})
		token := sign(t, map[string]any{"kid": key.ID}, claims, key.Secret)
		_, _ = warm.Verify(token, now)
		tokens = append(tokens, token)
	}
	if n := len(*warm.keys.Load().headers.Load()); n != 2 {
		t.Fatalf("%d headers known", n)
	}
	accepted := 0
	for range 5000 {
		token := []byte(tokens[r.IntN(len(tokens))])
		other := tokens[r.IntN(len(tokens))]
		switch r.IntN(6) {
		case 0: // as it is
		case 1:
			token[r.IntN(len(token))] = "abcXYZ019-_.="[r.IntN(13)]
		case 2:
			token = token[:r.IntN(len(token))]
		case 3:
			token = append(token, "AB=."[r.IntN(4)])
		case 4:
			i := r.IntN(len(token))
			token = append(token[:i:i], token[i+1:]...)
		case 5: // one token's header on another's rest
			_, rest, _ := strings.Cut(other, ".")
			header, _, _ := strings.Cut(string(token), ".")
			token = []byte(header + "." + rest)
		}
		sameAsLibrary(t, warm, string(token), &accepted)
	}
	if accepted < 500 {
		t.Errorf("only %d tokens were good: nothing was compared", accepted)
	}
}

func sameAsLibrary(t *testing.T, warm *Keyring, token string, accepted *int) {
	t.Helper()
	got, gotErr := warm.Verify(token, now)
	want, wantErr := keyring(t).Verify(token, now) // Nothing learnt: through the library.
	if (gotErr == nil) != (wantErr == nil) || got != want {
		t.Fatalf("token %s: fast path %v (%v), library %v (%v)", token, got, gotErr, want, wantErr)
	}
	// And against the library's own idea of a good token.
	_, err := jwt.Parse(token, func(t *jwt.Token) (any, error) {
		switch t.Header["kid"] {
		case "k1":
			return first.Secret, nil
		case "k2":
			return second.Secret, nil
		}
		return nil, errors.New("unknown")
	}, jwt.WithValidMethods([]string{"HS256"}), jwt.WithAudience("halley"), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(30*time.Second), jwt.WithTimeFunc(func() time.Time { return now }), jwt.WithStrictDecoding())
	if gotErr == nil && err != nil {
		t.Fatalf("token %s: held, but the library says %v", token, err)
	}
	if gotErr == nil {
		*accepted++
	}
}

func FuzzVerify(f *testing.F) {
	warm := keyring(f)
	for _, claims := range []map[string]any{good(), with(map[string]any{"aud": []string{"x", "halley"}}), with(map[string]any{"exp": 1})} {
		token := sign(f, map[string]any{"kid": "k1"}, claims, first.Secret)
		_, _ = warm.Verify(token, now)
		f.Add(token)
	}
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		accepted := 0
		sameAsLibrary(t, warm, token, &accepted)
		Inspect(token, warm, now)
	})
}

// FuzzClaims signs whatever it is given: the claims' reader meets it as from an issuer gone wrong.
func FuzzClaims(f *testing.F) {
	warm := keyring(f)
	_, _ = warm.Verify(sign(f, map[string]any{"kid": "k1"}, good(), first.Secret), now)
	data, _ := json.Marshal(good())
	for _, seed := range []string{string(data), `{"exp":1e400}`, `{"aud":{}}`, `null`, `{"exp":-1,"aud":"halley"}`, `{"sub":"a","SUB":"b"}`} {
		f.Add([]byte(seed))
	}
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","kid":"k1","typ":"JWT"}`))
	f.Fuzz(func(t *testing.T, claims []byte) {
		text := header + "." + base64.RawURLEncoding.EncodeToString(claims)
		signature, err := jwt.SigningMethodHS256.Sign(text, first.Secret)
		if err != nil {
			t.Fatal(err)
		}
		token := text + "." + base64.RawURLEncoding.EncodeToString(signature)
		accepted := 0
		sameAsLibrary(t, warm, token, &accepted)
	})
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	k := keyring(t)
	for i := range 2 * maxHeaders {
		token := sign(t, map[string]any{"kid": "k1", "n": i}, good(), first.Secret)
		if _, err := k.Verify(token, now); err != nil {
			t.Fatal(err)
		}
		_, _ = k.Verify(sign(t, map[string]any{"kid": "k1", "bad": i}, good(), second.Secret), now)
	}
	headers := *k.keys.Load().headers.Load()
	if len(headers) != maxHeaders {
		t.Errorf("%d headers", len(headers))
	}
	for header := range headers {
		data, _ := base64.RawURLEncoding.DecodeString(header)
		if bytes.Contains(data, []byte("bad")) {
			t.Error("a header of a token that did not hold is remembered: anyone could fill the table")
		}
	}
}

func TestVerifyWhileKeysChange(t *testing.T) {
	k := keyring(t)
	token := sign(t, map[string]any{"kid": "k1"}, good(), first.Secret)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				if _, err := k.Verify(token, now); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 100 {
		if err := k.Replace(first, second); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

func TestIssueRefusesWhatVerifyWould(t *testing.T) {
	for name, c := range map[string]struct {
		key    Key
		claims Claims
	}{
		"short secret": {Key{ID: "k", Secret: make([]byte, 31)}, alice},
		"no user":      {first, Claims{Device: "d", Expires: now}},
		"bad device":   {first, Claims{User: "a", Device: "d d", Expires: now}},
		"no end":       {first, Claims{User: "a", Device: "d"}},
	} {
		if token, err := Issue(c.key, c.claims); err == nil {
			t.Errorf("%s: %s", name, token)
		}
	}
}

func TestVerifyAllocatesLittle(t *testing.T) {
	k := keyring(t)
	token, _ := Issue(first, alice)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := k.Verify(token, now); err != nil {
			t.Fatal(err)
		}
	}); n > 20 {
		t.Errorf("%v allocations for each connect", n)
	}
}

func BenchmarkVerify(b *testing.B) {
	k := keyring(b)
	token, _ := Issue(first, alice)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Verify(token, now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyByLibrary(b *testing.B) {
	k := keyring(b)
	token, _ := Issue(first, alice)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := k.parse(k.keys.Load(), token); err != nil {
			b.Fatal(err)
		}
	}
}

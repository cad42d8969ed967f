package auth

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func openKeys(t *testing.T) (*Keys, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api-keys.json")
	k, err := OpenKeys(path)
	if err != nil {
		t.Fatal(err)
	}
	return k, path
}

func TestAnAPIKeyFromItsMakingToItsEnd(t *testing.T) {
	k, path := openKeys(t)
	secret, key, err := k.Add(APIKey{App: "main", Name: "billing", Scopes: []string{"messages.write"}}, now)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(secret, key.Prefix()+"_") || !key.Allows("messages.write") || key.Allows("users.write") {
		t.Errorf("%s, %+v", secret, key)
	}
	data, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(data), secret[len(key.Prefix())+1:]) {
		t.Errorf("the file shows the secret, or %v", err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	other, err := OpenKeys(path) // Another process.
	if err != nil {
		t.Fatal(err)
	}
	if got, err := other.Verify(secret, now); err != nil || got.ID != key.ID || got.App != "main" {
		t.Errorf("%+v, %v", got, err)
	}
	if err := k.Remove(key.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Verify(secret, now); err == nil {
		t.Error("a removed key holds")
	}
	if err := other.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Verify(secret, now); err == nil {
		t.Error("a removed key holds in the other process after its reload")
	}
	if err := k.Remove(key.ID); !errors.Is(err, ErrNoKey) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestWhyAPIKeysDoNotHold(t *testing.T) {
	k, _ := openKeys(t)
	secret, key, err := k.Add(APIKey{App: "main", Scopes: []string{"*"}, Expires: now.Add(time.Hour)}, now)
	if err != nil || !key.Allows("anything") {
		t.Fatal(err)
	}
	last := "a"
	if strings.HasSuffix(secret, last) {
		last = "b"
	}
	for name, c := range map[string]struct {
		secret string
		at     time.Time
		reason Reason
	}{
		"empty":          {"", now, Malformed},
		"a token":        {"a.b.c", now, Malformed},
		"the prefix":     {key.Prefix(), now, Malformed},
		"cut off":        {secret[:len(secret)-1], now, Malformed},
		"another secret": {secret[:len(secret)-1] + last, now, UnknownKey},
		"another id":     {"hk_aaaaaaaa_" + secret[len(key.Prefix())+1:], now, UnknownKey},
		"expired":        {secret, now.Add(time.Hour), Expired},
	} {
		got, err := k.Verify(c.secret, c.at)
		var e *Error
		if !errors.As(err, &e) || e.Reason != c.reason {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := k.Verify(secret, now.Add(time.Hour-1)); err != nil {
		t.Errorf("until its end: %v", err)
	}
}

func TestAPIKeysThatCannotBe(t *testing.T) {
	k, path := openKeys(t)
	for name, key := range map[string]APIKey{
		"no app": {Scopes: []string{"*"}}, "a bad app": {App: "Main", Scopes: []string{"*"}}, "no scope": {App: "main"}, "two in one": {App: "main", Scopes: []string{"a b"}},
	} {
		if secret, _, err := k.Add(key, now); err == nil || secret != "" {
			t.Errorf("%s: %q, %v", name, secret, err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused key was written: %v", err)
	}
	secret, _, err := k.Add(APIKey{App: "main", Scopes: []string{"*"}}, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range []string{"{", `{"keys":[{"id":"x"}]}`, `{"keys":[{"id":"abcdefgh","app":"main","scopes":["*"],"sha256":"00"}]}`} {
		if err := os.WriteFile(path, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := k.Reload(); err == nil {
			t.Errorf("loaded: %s", broken)
		}
		if _, err := k.Verify(secret, now); err != nil {
			t.Errorf("a broken file ended a good key: %v", err)
		}
	}
}

func TestAPIKeysAtOnce(t *testing.T) {
	k, _ := openKeys(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			secret, key, err := k.Add(APIKey{App: "main", Scopes: []string{"*"}}, now)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := k.Verify(secret, now); err != nil {
				t.Errorf("%s: %v", key.ID, err)
			}
		})
	}
	wg.Wait()
	if n := len(k.List()); n != 8 {
		t.Errorf("%d keys", n)
	}
}

func BenchmarkVerifyAPIKey(b *testing.B) {
	k, err := OpenKeys(filepath.Join(b.TempDir(), "k"))
	if err != nil {
		b.Fatal(err)
	}
	secret, _, err := k.Add(APIKey{App: "main", Scopes: []string{"*"}}, now)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Verify(secret, now); err != nil {
			b.Fatal(err)
		}
	}
}

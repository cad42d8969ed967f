package auth

import (
	"os"
	"path/filepath"
	"testing"
)

// A file of keys that an operator has spoilt is refused; one that is read holds keys that may be used.
func FuzzKeyFiles(f *testing.F) {
	f.Add([]byte("k1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n# a comment\n"))
	f.Add([]byte(`{"keys":[{"id":"aaaaaaaa","app":"main","scopes":["*"],"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}`))
	f.Add([]byte("k1 short\nk1 short"))
	f.Add([]byte("\x00\xff"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "keys")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if keys, err := LoadKeys(path); err == nil {
			if _, err := NewKeyring(Default(), keys...); err != nil {
				t.Errorf("%q: read, and refused by the keyring: %v", data, err)
			}
		}
		if list, err := OpenKeys(path); err == nil {
			for _, k := range list.List() {
				if err := k.validate(); err != nil {
					t.Errorf("%q: %v", data, err)
				}
			}
		}
	})
}

// No secret that was not given out is taken for a key.
func FuzzVerifyAPIKey(f *testing.F) {
	keys, err := OpenKeys(filepath.Join(f.TempDir(), "keys"))
	if err != nil {
		f.Fatal(err)
	}
	secret, _, err := keys.Add(APIKey{App: "main", Scopes: []string{"*"}}, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(secret)
	f.Add(secret[:len(secret)-1])
	f.Add("hk__")
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := keys.Verify(text, now); err == nil && text != secret {
			t.Errorf("%q is taken for %v", text, k)
		}
	})
}

package auth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGeneratedKeysAreLoaded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	made, err := GenerateKeys(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	loaded, err := LoadKeys(path)
	if err != nil || len(loaded) != 1 || loaded[0].ID != made[0].ID || !bytes.Equal(loaded[0].Secret, made[0].Secret) || len(made[0].Secret) < MinSecretLen {
		t.Errorf("made %v, loaded %v, %v", made, loaded, err)
	}
	if _, err := GenerateKeys(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second time: %v", err)
	}
	if again, _ := LoadKeys(path); !bytes.Equal(again[0].Secret, made[0].Secret) {
		t.Error("the key was overwritten: every session of the app would end")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestKeyFiles(t *testing.T) {
	secret := base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, 32))
	for name, c := range map[string]struct {
		text string
		ids  string // of the keys, or
		says string // the error
	}{
		"one":                 {"a " + secret + "\n", "a", ""},
		"two and a remark":    {"# new\nb " + secret + " # signs\n\na\t" + secret + "\r\n", "b a", ""},
		"padded":              {"a " + secret + "=\n", "a", ""},
		"no line end":         {"a " + secret, "a", ""},
		"empty":               {"# nothing\n", "", "holds no key"},
		"a word too many":     {"a b " + secret, "", "line 1: a line is an id"},
		"a secret alone":      {"\n" + secret, "", "line 2"},
		"not base64":          {"a !!!!", "", "not base64url"},
		"standard base64":     {"a ++//" + secret[4:], "", "not base64url"},
		"too short":           {"a " + secret[:40], "", "30 bytes"},
		"an odd id":           {"a:b " + secret, "", `"a:b"`},
		"the same id twice":   {"a " + secret + "\na " + secret, "", "line 2: key a: given twice"},
		"a line without ends": {"a " + strings.Repeat("x", 1<<17), "", "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			keys, err := LoadKeys(path)
			var ids []string
			for _, k := range keys {
				ids = append(ids, k.ID)
			}
			switch {
			case c.says == "" && (err != nil || strings.Join(ids, " ") != c.ids):
				t.Errorf("%v, %v", ids, err)
			case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("error %v; want %q", err, c.says)
			}
			if err != nil && strings.Contains(err.Error(), secret[:20]) {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
	if _, err := LoadKeys(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

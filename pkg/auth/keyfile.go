package auth

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A key file has one key per line: its id, a space, its secret in base64url. Empty lines and lines from # on are skipped.
// The first key is the one to sign with.

// NewKey makes a key of 32 random bytes.
func NewKey() Key {
	id := make([]byte, 4)
	secret := make([]byte, MinSecretLen)
	rand.Read(id) // crypto/rand.Read never fails: it ends the process instead.
	rand.Read(secret)
	return Key{ID: "k" + hex.EncodeToString(id), Secret: secret}
}

// LoadKeys reads a key file. Errors name the line and never the secret.
func LoadKeys(path string) ([]Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	var keys []Key
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		key, err := parseKey(fields)
		if err == nil && seen[key.ID] {
			err = fmt.Errorf("key %s: given twice", key.ID)
		}
		if err != nil {
			return nil, fmt.Errorf("key file %s, line %d: %w", path, n, err)
		}
		seen[key.ID] = true
		keys = append(keys, key)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("key file %s: it holds no key", path)
	}
	return keys, nil
}

func parseKey(fields []string) (Key, error) {
	if len(fields) != 2 {
		return Key{}, fmt.Errorf("a line is an id, a space and a secret; this one has %d words", len(fields))
	}
	secret, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(fields[1], "="))
	if err != nil {
		return Key{}, fmt.Errorf("key %s: the secret is not base64url", quote(fields[0]))
	}
	key := Key{ID: fields[0], Secret: secret}
	return key, key.validate()
}

// GenerateKeys writes a new key file with one key, readable by its owner alone. A file that is there already is left as it
// is, with an error that is os.ErrExist: overwriting it would end every session.
func GenerateKeys(path string) ([]Key, error) {
	key := NewKey()
	line := key.ID + " " + base64.RawURLEncoding.EncodeToString(key.Secret) + "\n"
	if err := createFile(path, []byte("# Halley's token signing keys: id secret. The first one signs, all verify.\n"+line)); err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	return []Key{key}, nil
}

// createFile makes the file appear at once, whole and on disk, or not at all; it never replaces one.
func createFile(path string, data []byte) error {
	return place(path, data, os.Link)
}

// replaceFile is createFile for a file that may be there.
func replaceFile(path string, data []byte) error {
	return place(path, data, os.Rename)
}

func place(path string, data []byte, move func(from, to string) error) error {
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // Mode 0600.
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }() // After a rename there is nothing to remove.
	_, err = temp.Write(data)
	if err == nil {
		err = temp.Sync()
	}
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = move(temp.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/halley-im/halley/protocol"
)

// apiKeyMark begins every API key, so that people and secret scanners know one when they see it.
const apiKeyMark = "hk_"

// A secret has 256 random bits, so a plain SHA-256 hides it: there is nothing to guess that a slow hash would protect.
const apiSecretLen = 32

const apiIDLen = 8

// lower is base32 in lower case without padding: no character that a shell, a URL or a double click would split.
var lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// APIKey is a server's key as it is kept: without its secret.
type APIKey struct {
	ID  string `json:"id"`
	App string `json:"app"`
	// Name is for people: which server uses it.
	Name string `json:"name,omitempty"`
	// Scopes are what it may do, "*" is everything.
	Scopes  []string  `json:"scopes"`
	Created time.Time `json:"created"`
	// Expires is zero for a key that does not end.
	Expires time.Time `json:"expires,omitzero"`
	// SHA256 is the hash of the secret part, in hex.
	SHA256 string `json:"sha256"`
}

// Prefix is what may be shown of the key.
func (k APIKey) Prefix() string { return apiKeyMark + k.ID }

// Allows reports whether the key has the scope.
func (k APIKey) Allows(scope string) bool {
	return slices.Contains(k.Scopes, scope) || slices.Contains(k.Scopes, "*")
}

// ErrNoKey means that no API key has the id.
var ErrNoKey = errors.New("no such API key")

// Keys is the list of API keys in a file. It is safe for concurrent use within a process; Reload brings in what another
// process changed.
type Keys struct {
	path string

	mu   sync.RWMutex
	byID map[string]APIKey
}

type keyList struct {
	Keys []APIKey `json:"keys"`
}

// OpenKeys reads the list; a file that is not there is an empty list.
func OpenKeys(path string) (*Keys, error) {
	k := &Keys{path: path}
	return k, k.Reload()
}

// Reload reads the file again. On an error the list stays as it was.
func (k *Keys) Reload() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.load()
}

func (k *Keys) load() error {
	data, err := os.ReadFile(k.path)
	if errors.Is(err, os.ErrNotExist) {
		data, err = []byte(`{}`), nil
	}
	if err != nil {
		return fmt.Errorf("API keys: %w", err)
	}
	var list keyList
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("API keys: %s: %w", k.path, err)
	}
	byID := make(map[string]APIKey, len(list.Keys))
	for _, key := range list.Keys {
		if err := key.validate(); err != nil {
			return fmt.Errorf("API keys: %s: key %s: %w", k.path, quote(key.ID), err)
		}
		if _, twice := byID[key.ID]; twice {
			return fmt.Errorf("API keys: %s: key %s: given twice", k.path, key.ID)
		}
		byID[key.ID] = key
	}
	k.byID = byID
	return nil
}

func (k APIKey) validate() error {
	hash, err := hex.DecodeString(k.SHA256)
	switch {
	case !validAPIID(k.ID):
		return fmt.Errorf("an id is %d characters of a-z 2-7", apiIDLen)
	case !protocol.ValidApp(k.App):
		return fmt.Errorf("app is %s; an app is 1 to %d of a-z 0-9 -", quote(k.App), protocol.MaxAppLen)
	case err != nil || len(hash) != sha256.Size:
		return errors.New("sha256 is not the hex of a hash")
	case len(k.Scopes) == 0:
		return errors.New("scopes is empty: the key could do nothing")
	}
	for _, scope := range k.Scopes {
		if scope == "" || strings.ContainsAny(scope, " \t\n,") {
			return fmt.Errorf("scope %s: a scope is one word", quote(scope))
		}
	}
	return nil
}

func validAPIID(id string) bool {
	return len(id) == apiIDLen && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// Verify returns the key that secret is. Every error is an *Error, the same for an unknown id and a wrong secret.
func (k *Keys) Verify(secret string, now time.Time) (APIKey, error) {
	rest, ok := strings.CutPrefix(secret, apiKeyMark)
	id, random, cut := strings.Cut(rest, "_")
	if !ok || !cut || len(random) != lower.EncodedLen(apiSecretLen) {
		return APIKey{}, refuse(Malformed, "it is not an API key: hk_<id>_<secret> is expected")
	}
	k.mu.RLock()
	key, known := k.byID[id]
	k.mu.RUnlock()
	var want [sha256.Size]byte
	if known {
		if _, err := hex.Decode(want[:], []byte(key.SHA256)); err != nil {
			known = false
		}
	}
	got := sha256.Sum256([]byte(random))
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 || !known {
		return APIKey{}, refuse(UnknownKey, "this server has no such API key; it may have been removed")
	}
	if !key.Expires.IsZero() && !now.Before(key.Expires) {
		return APIKey{}, refuse(Expired, "the API key %s expired at %s", key.Prefix(), stamp(key.Expires))
	}
	return key, nil
}

// Add makes a key and writes the list. The secret is returned here and nowhere else, ever.
func (k *Keys) Add(key APIKey, now time.Time) (secret string, added APIKey, err error) {
	id, random := make([]byte, apiIDLen*5/8), make([]byte, apiSecretLen)
	rand.Read(id)
	rand.Read(random)
	text := lower.EncodeToString(random)
	hash := sha256.Sum256([]byte(text))
	key.ID, key.SHA256, key.Created = lower.EncodeToString(id), hex.EncodeToString(hash[:]), now.UTC().Truncate(time.Second)
	key.Scopes = slices.Clone(key.Scopes)
	if err := key.validate(); err != nil {
		return "", APIKey{}, err
	}
	err = k.change(func() error {
		k.byID[key.ID] = key
		return nil
	})
	if err != nil {
		return "", APIKey{}, err
	}
	return apiKeyMark + key.ID + "_" + text, key, nil
}

// Remove takes a key off the list; requests with it fail from then on.
func (k *Keys) Remove(id string) error {
	return k.change(func() error {
		if _, ok := k.byID[id]; !ok {
			return fmt.Errorf("%w: %s", ErrNoKey, quote(id))
		}
		delete(k.byID, id)
		return nil
	})
}

// change applies fn to the list as it is on disk and writes it back.
func (k *Keys) change(fn func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	data, err := json.MarshalIndent(keyList{Keys: k.sorted()}, "", "  ")
	if err != nil {
		return err
	}
	if err := replaceFile(k.path, append(data, '\n')); err != nil {
		if loadErr := k.load(); loadErr != nil { // What is in memory must be what is on disk.
			err = errors.Join(err, loadErr)
		}
		return fmt.Errorf("API keys: %w", err)
	}
	return nil
}

// List returns all keys, oldest first.
func (k *Keys) List() []APIKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.sorted()
}

func (k *Keys) sorted() []APIKey {
	list := make([]APIKey, 0, len(k.byID))
	for _, key := range k.byID {
		list = append(list, key)
	}
	slices.SortFunc(list, func(a, b APIKey) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

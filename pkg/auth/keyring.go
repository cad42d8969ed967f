package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/golang-jwt/jwt/v5"
)

// MinSecretLen is how many bytes a secret has at least: as many as HS256's hash (RFC 7518, section 3.2).
const MinSecretLen = 32

// Key signs and verifies tokens with HS256. ID is the kid in their header.
type Key struct {
	ID     string
	Secret []byte
}

// Keyring verifies tokens by any of its keys; several at once let a new key come in before the old one goes. It is safe
// for concurrent use.
type Keyring struct {
	cfg    Config
	parser *jwt.Parser
	keys   atomic.Pointer[keySet]
}

// keySet is one generation of keys. It is replaced as a whole, with what was learnt under it.
type keySet struct {
	byID map[string]*signer
	// Of what nodes seal: the same ids, and the one that signs.
	seals map[string]*signer
	first string

	// Headers seen on tokens that held, to their key. An issuer writes the same few bytes on every token, so Verify need
	// not decode them again. Guarded by mu for writing; the map itself never changes.
	headers atomic.Pointer[map[string]*signer]
	mu      sync.Mutex
}

// maxHeaders bounds what is remembered: one for each key and issuing library.
const maxHeaders = 64

// NewKeyring makes a keyring of the keys.
func NewKeyring(cfg Config, keys ...Key) (*Keyring, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	k := &Keyring{
		cfg: cfg,
		parser: jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithStrictDecoding(),
			jwt.WithoutClaimsValidation()), // payload.faults does that, in words.
	}
	return k, k.Replace(keys...)
}

// Replace exchanges all keys at once; tokens of a key that is gone no longer hold. On an error the old keys stay.
func (k *Keyring) Replace(keys ...Key) error {
	if len(keys) == 0 {
		return errors.New("no keys: no token could hold")
	}
	set := &keySet{byID: make(map[string]*signer, len(keys)), seals: make(map[string]*signer, len(keys)), first: keys[0].ID}
	for _, key := range keys {
		if err := key.validate(); err != nil {
			return err
		}
		if set.byID[key.ID] != nil {
			return fmt.Errorf("key %s: given twice", key.ID)
		}
		set.byID[key.ID] = newSigner(key)
		set.seals[key.ID] = newSigner(Key{ID: key.ID, Secret: sealKey(key)})
	}
	set.headers.Store(&map[string]*signer{})
	k.keys.Store(set)
	return nil
}

// IDs are the ids of the keys, sorted.
func (k *Keyring) IDs() []string { return slices.Sorted(maps.Keys(k.keys.Load().byID)) }

func (k Key) validate() error {
	if !validKeyID(k.ID) {
		return fmt.Errorf("key %s: an id is 1 to 64 of A-Z a-z 0-9 . _ -", quote(k.ID))
	}
	if len(k.Secret) < MinSecretLen {
		return fmt.Errorf("key %s: the secret has %d bytes; HS256 needs %d", k.ID, len(k.Secret), MinSecretLen)
	}
	return nil
}

func validKeyID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return id != "" && len(id) <= 64
}

func (s *keySet) remember(header string, key *signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.headers.Load()
	if len(old) >= maxHeaders {
		return
	}
	grown := maps.Clone(old)
	grown[header] = key
	s.headers.Store(&grown)
}

// signer is a key with its HMAC states at hand: setting one up costs as much as using it.
type signer struct {
	secret []byte
	states sync.Pool
}

type hmacState struct {
	hash hash.Hash
	buf  []byte
	sum  []byte
}

func newSigner(key Key) *signer {
	s := &signer{secret: slices.Clone(key.Secret)}
	s.states.New = func() any {
		return &hmacState{hash: hmac.New(sha256.New, s.secret), sum: make([]byte, 0, sha256.Size)}
	}
	return s
}

// signed reports whether signature is the key's over text.
func (s *signer) signed(text string, signature []byte) bool {
	state := s.states.Get().(*hmacState)
	defer s.states.Put(state)
	state.hash.Reset()
	state.buf = append(state.buf[:0], text...)
	state.hash.Write(state.buf)
	state.sum = state.hash.Sum(state.sum[:0])
	return hmac.Equal(state.sum, signature)
}

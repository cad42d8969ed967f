package auth

import (
	"crypto/hmac"
	"crypto/sha256"
)

// What Halley's own nodes give to devices, to get it back later on any node, is sealed: signed with a key that derives from the token
// keys, so that every node that verifies tokens opens it, and none of the two can be passed off as the other.
//
//	sealed = len(key id) | key id | HMAC-SHA256(seal key, data) | data

// sealLabel derives the seal keys. Another format gets another label.
const sealLabel = "halley seal 1"

func sealKey(key Key) []byte {
	mac := hmac.New(sha256.New, key.Secret)
	mac.Write([]byte(sealLabel))
	return mac.Sum(nil)
}

// Seal signs data with the first of the keys. The data stays readable.
func (k *Keyring) Seal(data []byte) []byte {
	set := k.keys.Load()
	seal := set.seals[set.first]
	out := make([]byte, 0, 1+len(set.first)+sha256.Size+len(data))
	out = append(append(out, byte(len(set.first))), set.first...)
	return append(seal.sign(out, data), data...)
}

// Open returns the data of what any node sealed with one of the keys; it is a part of sealed.
func (k *Keyring) Open(sealed []byte) ([]byte, bool) {
	if len(sealed) == 0 {
		return nil, false
	}
	n := 1 + int(sealed[0])
	if len(sealed) < n+sha256.Size {
		return nil, false
	}
	seal := k.keys.Load().seals[string(sealed[1:n])]
	if seal == nil {
		return nil, false
	}
	data := sealed[n+sha256.Size:]
	return data, seal.signed(string(data), sealed[n:n+sha256.Size])
}

// sign appends the key's signature of data.
func (s *signer) sign(dst, data []byte) []byte {
	state := s.states.Get().(*hmacState)
	defer s.states.Put(state)
	state.hash.Reset()
	state.hash.Write(data)
	return state.hash.Sum(dst)
}

package auth

import (
	"bytes"
	"testing"
	"time"
)

func TestWhatIsSealedOpensOnEveryNodeThatHasTheKey(t *testing.T) {
	first, second := NewKey(), NewKey()
	here, err := NewKeyring(Default(), first, second)
	if err != nil {
		t.Fatal(err)
	}
	there, err := NewKeyring(Default(), second, first) // in the middle of a rotation
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{nil, []byte("a ticket")} {
		for _, from := range []*Keyring{here, there} {
			for _, to := range []*Keyring{here, there} {
				if got, ok := to.Open(from.Seal(data)); !ok || !bytes.Equal(got, data) {
					t.Errorf("%q opened as %q, %v", data, got, ok)
				}
			}
		}
	}
	sealed := here.Seal([]byte("a ticket"))
	if err := here.Replace(second); err != nil {
		t.Fatal(err)
	}
	if _, ok := here.Open(sealed); ok {
		t.Error("opened by a key that is gone")
	}
	if _, ok := here.Open(there.Seal([]byte("a ticket"))); !ok {
		t.Error("not opened by the key that is left")
	}
}

func TestASealThatWasChangedDoesNotOpen(t *testing.T) {
	key := NewKey()
	ring, err := NewKeyring(Default(), key)
	if err != nil {
		t.Fatal(err)
	}
	sealed := ring.Seal([]byte("a ticket"))
	for i := range sealed {
		for bit := range 8 {
			forged := bytes.Clone(sealed)
			forged[i] ^= 1 << bit
			if _, ok := ring.Open(forged); ok {
				t.Errorf("opened with bit %d of byte %d flipped", bit, i)
			}
		}
	}
	for n := range sealed {
		if _, ok := ring.Open(sealed[:n]); ok {
			t.Errorf("opened though cut off after %d bytes", n)
		}
	}
	// A token's signature is no seal, though both are HMACs of one secret.
	token, err := Issue(key, Claims{User: "alice", Device: "phone", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	signer := newSigner(key)
	forged := append([]byte{byte(len(key.ID))}, key.ID...)
	forged = append(signer.sign(forged, []byte(token)), token...)
	if _, ok := ring.Open(forged); ok {
		t.Error("opened what the token key signed")
	}
}

func FuzzOpen(f *testing.F) {
	ring, err := NewKeyring(Default(), Key{ID: "k", Secret: bytes.Repeat([]byte("s"), MinSecretLen)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ring.Seal([]byte("a ticket")))
	f.Add(ring.Seal(nil))
	f.Add([]byte{0xff, 'k'})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if data, ok := ring.Open(sealed); ok && !bytes.Equal(ring.Seal(data), sealed) {
			t.Errorf("%x opened, and was not sealed", sealed)
		}
	})
}

package auth

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlainClaimsAreReadPlainly(t *testing.T) {
	for _, data := range []string{
		`{"sub":"alice","app":"main","dev":"phone","jti":"t1","aud":"halley","exp":1,"iat":0,"nbf":999999999999999}`,
		`{"aud":["halley"],"sub":""}`,
	} {
		comparePlain(t, []byte(data), true)
	}
	for _, data := range []string{
		``, `{}`, `{ "sub":"alice"}`, `{"sub":"al\u0069ce"}`, `{"sub":"é"}`, `{"exp":1.5}`, `{"exp":01}`, `{"exp":-1}`, `{"exp":1e3}`,
		`{"exp":null}`, `{"Sub":"alice"}`, `{"eXp":1}`, `{"sub":"a","sub":"b"}`, `{"aud":["a","b"]}`, `{"aud":[]}`, `{"iss":"x"}`, `{"sub":"a"}x`,
		`{"sub":"a",}`, `{"sub":"a"`, `{"sub"`, `{"exp":}`, `{"exp":1234567890123456}`, `[]`, "{\"sub\":\"a\x00\"}", `{"aud":["a"}`,
	} {
		comparePlain(t, []byte(data), false)
	}
}

// comparePlain holds readPlain to UnmarshalJSON: what it reads, it reads the same.
func comparePlain(t *testing.T, data []byte, mustRead bool) {
	t.Helper()
	var got, want payload
	if !got.readPlain(data) {
		if mustRead {
			t.Errorf("%s is not read", data)
		}
		return
	}
	if err := json.Unmarshal(data, &want); err != nil {
		t.Errorf("%s is read, but is %v", data, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", data, diff)
	}
}

func FuzzReadPlain(f *testing.F) {
	for _, seed := range []string{
		`{"sub":"alice","app":"main","dev":"phone","jti":"t1","aud":["halley"],"exp":1700000000,"iat":0,"nbf":5}`, `{"aud":"a","exp":01}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) { comparePlain(t, data, false) })
}

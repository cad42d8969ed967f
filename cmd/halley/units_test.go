package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/config"
	"github.com/halley-im/halley/protocol"
)

func TestIsLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:7070": true, "127.8.8.8:1": true, "[::1]:7070": true, "localhost:7070": true,
		":7070": false, "0.0.0.0:7070": false, "[::]:7070": false, "192.168.1.2:7070": false, "example.com:7070": false, "7070": false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

// The guard looks at what was set, wherever it was set, and names every address that is open.
func TestGuardAddresses(t *testing.T) {
	open := map[string]string{"comet.tcp_address": "0.0.0.0:7071", "api.address": "127.0.0.1:7080", "comet.websocket_address": ""}
	both := config.Origins{"auth.keys_file": "HALLEY_AUTH_KEYS_FILE", "auth.api_keys_file": "halley.yaml:3"}
	one := config.Origins{"auth.keys_file": "--set auth.keys_file"}
	if err := guardAddresses(both, open); err != nil {
		t.Error(err)
	}
	for _, origins := range []config.Origins{one, {}} {
		err := guardAddresses(origins, open)
		if err == nil || !strings.HasPrefix(err.Error(), "comet.tcp_address is 0.0.0.0:7071, which") {
			t.Errorf("%v: %v", origins, err)
		}
	}
}

func TestNodeNamesAreTokensAndNeverTheSame(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		name, err := nodeName("comet 1.example.com/" + strings.Repeat("x", 100))
		if err != nil || seen[name] || !strings.HasPrefix(name, "comet-1-example-com-x") || len(name) > 64 || strings.ContainsAny(name, ". */>") {
			t.Fatalf("%q %v", name, err)
		}
		seen[name] = true
	}
}

func TestNormalizeTakesHelpInBothSpellings(t *testing.T) {
	got := normalize([]string{"token", "inspect", "-help", "--", "-help"})
	if strings.Join(got, " ") != "token inspect --help -- -help" {
		t.Errorf("%q", got)
	}
}

// A key that was taken off the list, or whose file is gone, is replaced: the banner's line must work at every start.
func TestDevelopmentKeyIsMadeAgainWhenItNoLongerHolds(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	open := func() *secrets {
		t.Helper()
		s, err := openSecrets(defaultAuth(), dir, now)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := open()
	if again := open(); again.devKey != first.devKey || again.keys[0].ID != first.keys[0].ID {
		t.Error("the second start has other secrets")
	}
	key, err := first.apiKeys.Verify(first.devKey, now)
	if err != nil || key.App != protocol.DefaultApp {
		t.Fatalf("%+v %v", key, err)
	}
	if err := first.apiKeys.Remove(key.ID); err != nil {
		t.Fatal(err)
	}
	second := open()
	if _, err := second.apiKeys.Verify(second.devKey, now); err != nil || second.devKey == first.devKey {
		t.Errorf("after its removal: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, devAPIKeyName)); err != nil {
		t.Fatal(err)
	}
	third := open()
	if _, err := third.apiKeys.Verify(third.devKey, now); err != nil {
		t.Errorf("after the loss of its file: %v", err)
	}
}

func TestTiersNeedNamedKeys(t *testing.T) {
	if _, err := openSecrets(defaultAuth(), "", time.Now()); err == nil || !strings.Contains(err.Error(), "auth.keys_file is not set") {
		t.Errorf("%v", err)
	}
}

func TestVerifierTellsWhyATokenIsRefused(t *testing.T) {
	key := auth.NewKey()
	keyring, err := auth.NewKeyring(auth.Default(), key)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(expires time.Duration) string {
		t.Helper()
		now := time.Now()
		token, err := auth.Issue(key, auth.Claims{App: "shop", User: "alice", Device: "phone", IssuedAt: now.Add(-time.Hour), Expires: now.Add(expires)})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	v := verifier{keyring}
	who, refused := v.Verify(issue(time.Hour))
	if refused != nil || who.App != "shop" || who.User != "alice" || who.Device != "phone" || who.TokenID == "" || who.Expires.IsZero() {
		t.Errorf("%+v %v", who, refused)
	}
	if _, refused := v.Verify(issue(-10 * time.Minute)); refused == nil || refused.Code != protocol.CodeUnauthenticated || !strings.Contains(refused.Message, "expired") {
		t.Errorf("%v", refused)
	}
}

func TestRaiseDescriptorsReachesTheHardLimit(t *testing.T) {
	got, err := raiseDescriptors()
	if err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || got != limit.Max || limit.Cur != limit.Max {
		t.Errorf("%d, %+v, %v", got, limit, err)
	}
}

func TestSecondClaimOfAFolderFailsWhileTheFirstHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	first, err := openDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDataDir(path); err == nil || !strings.Contains(err.Error(), "another halley serve") {
		t.Errorf("%v", err)
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	second, err := openDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	second.close()
}

func TestClosersRunInReverseAndAllOfThem(t *testing.T) {
	var order []string
	p := &process{log: discard()}
	boom := errors.New("disk")
	p.onClose("bus", func() error { order = append(order, "bus"); return nil })
	p.onClose("store", func() error { order = append(order, "store"); return boom })
	if err := p.close(); !errors.Is(err, boom) || strings.Join(order, " ") != "store bus" {
		t.Errorf("%v %v", order, err)
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

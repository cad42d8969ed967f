package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/halley-im/halley/pkg/auth"
	"github.com/halley-im/halley/pkg/config"
	"github.com/halley-im/halley/protocol"
)

// Names of the secrets within the data folder.
const (
	tokenKeysName = "token-keys"
	apiKeysName   = "api-keys.json"
	// The development key stands here in full, so that every start can print a line that works; the list holds its hash.
	devAPIKeyName = "development-api-key"
)

// authSettings say who is let in.
type authSettings struct {
	KeysFile     string `koanf:"keys_file" doc:"File of the keys that sign devices' tokens: one per line, id and base64url of 32 bytes or more; the first signs, all verify. Empty: serve makes one in its data folder."`
	APIKeysFile  string `koanf:"api_keys_file" doc:"File of the API keys of the apps' servers, hashed. Empty: serve makes one in its data folder, with a key for development."`
	Audience     string `koanf:"audience" doc:"What must be among the aud of a token."`
	MaxLifetimeS int    `koanf:"max_lifetime_s" doc:"Longest life of a token: a stolen one that lives for years cannot be waited out."`
	LeewayS      int    `koanf:"leeway_s" doc:"How far the clock of a token's issuer may be off."`
}

func defaultAuth() authSettings {
	d := auth.Default()
	return authSettings{Audience: d.Audience, MaxLifetimeS: int(d.MaxLifetime / time.Second), LeewayS: int(d.Leeway / time.Second)}
}

func (s authSettings) config() auth.Config {
	return auth.Config{
		Audience: s.Audience, MaxLifetime: time.Duration(s.MaxLifetimeS) * time.Second, Leeway: time.Duration(s.LeewayS) * time.Second,
	}
}

// Validate gives the words of pkg/auth the names that the settings have here.
func (s authSettings) Validate() error {
	err := s.config().Validate()
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, name := range []string{"max_lifetime", "leeway"} {
		text = strings.Replace(text, name+":", name+"_s:", 1)
	}
	return errors.New(text)
}

// secrets is what a process holds to know its callers.
type secrets struct {
	keysFile string // absolute
	keys     []auth.Key
	keyring  *auth.Keyring
	apiKeys  *auth.Keys
	// devKey is the API key for development in full; empty where the list was configured.
	devKey string
}

// openSecrets reads the secrets that the settings name. Where they name none and dir is a data folder, they are made there
// on the first start, readable by their owner alone; without a folder they must be named.
func openSecrets(s authSettings, dir string, now time.Time) (*secrets, error) {
	keysFile, apiKeysFile := s.KeysFile, s.APIKeysFile
	if keysFile == "" {
		if dir == "" {
			return nil, errors.New("auth.keys_file is not set: every tier must have the same keys")
		}
		keysFile = filepath.Join(dir, tokenKeysName)
		if _, err := auth.GenerateKeys(keysFile); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	if apiKeysFile == "" && dir != "" {
		apiKeysFile = filepath.Join(dir, apiKeysName)
	}
	out := &secrets{}
	var err error
	if out.keysFile, err = filepath.Abs(keysFile); err != nil {
		return nil, err
	}
	if out.keys, err = auth.LoadKeys(keysFile); err != nil {
		return nil, err
	}
	if out.keyring, err = auth.NewKeyring(s.config(), out.keys...); err != nil {
		return nil, err
	}
	if apiKeysFile == "" {
		return out, nil // A comet knows devices only.
	}
	if out.apiKeys, err = auth.OpenKeys(apiKeysFile); err != nil {
		return nil, err
	}
	if s.APIKeysFile == "" {
		out.devKey, err = developmentKey(filepath.Join(dir, devAPIKeyName), out.apiKeys, now)
	}
	return out, err
}

// developmentKey returns the API key that stands in the file, and makes one where there is none that still holds.
func developmentKey(path string, keys *auth.Keys, now time.Time) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	key := strings.TrimSpace(string(data))
	if _, err := keys.Verify(key, now); err == nil {
		return key, nil
	}
	key, _, err = keys.Add(auth.APIKey{App: protocol.DefaultApp, Name: "local development", Scopes: []string{"*"}}, now)
	if err != nil {
		return "", err
	}
	return key, writePrivate(path, []byte(key+"\n"))
}

// writePrivate replaces the file at once, readable by its owner alone.
func writePrivate(path string, data []byte) error {
	temp := path + ".new"
	// A file left from before might have another mode, which WriteFile would keep.
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// guardAddresses refuses an address that others can reach while the secrets are those that were made for this machine
// alone: whoever opens a server to the world says with which keys.
func guardAddresses(origins config.Origins, addresses map[string]string) error {
	if origins.Set("auth.keys_file") && origins.Set("auth.api_keys_file") {
		return nil
	}
	var open []string
	for key, address := range addresses {
		if address != "" && !isLoopback(address) {
			open = append(open, fmt.Sprintf("%s is %s", key, address))
		}
	}
	if len(open) == 0 {
		return nil
	}
	return fmt.Errorf("%s, which other machines can reach: set auth.keys_file and auth.api_keys_file to secrets of your own first, or keep to 127.0.0.1",
		strings.Join(open, " and "))
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/halley-im/halley/pkg/auth"
)

type tokenCmd struct {
	Issue   tokenIssueCmd   `cmd:"" help:"Sign a token for a device and print it."`
	Inspect tokenInspectCmd `cmd:"" help:"Explain a token, and in words why it does not hold."`
}

// tokenFlags find the keys: in the file named, in the settings, or where a serve in this folder has made them.
type tokenFlags struct {
	settingsFlags
	SecretFile string `name:"secret-file" placeholder:"FILE" help:"File of the signing keys, instead of the one in the data folder."`
}

func (f tokenFlags) open(p *program) (authSettings, []auth.Key, error) {
	in, err := f.input(p)
	if err != nil {
		return authSettings{}, nil, err
	}
	s, _, err := loadSettings(tierNone, in)
	if err != nil {
		return authSettings{}, nil, err
	}
	path := f.SecretFile
	if path == "" {
		path = s.Auth.KeysFile
	}
	if path == "" {
		path = filepath.Join(s.DataDir, tokenKeysName)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return authSettings{}, nil, fmt.Errorf("no signing keys at %s; run halley serve in this folder first, or name them with --secret-file", path)
		}
	}
	keys, err := auth.LoadKeys(path)
	return s.Auth, keys, err
}

type tokenIssueCmd struct {
	tokenFlags
	User   string        `required:"" placeholder:"NAME" help:"The user."`
	Device string        `default:"phone" placeholder:"NAME" help:"The device; one device has one session (${default})."`
	App    string        `default:"main" placeholder:"NAME" help:"The app (${default})."`
	TTL    time.Duration `name:"ttl" default:"24h" help:"How long the token holds."`
}

// Run prints the token alone, so that a script can take it.
func (c tokenIssueCmd) Run(p *program) error {
	settings, keys, err := c.open(p)
	if err != nil {
		return err
	}
	now := time.Now()
	if limit := settings.config().MaxLifetime; c.TTL <= 0 || c.TTL > limit {
		return fmt.Errorf("--ttl %v: want above 0 and at most %v (auth.max_lifetime_s)", c.TTL, limit)
	}
	token, err := auth.Issue(keys[0], auth.Claims{
		Audience: settings.Audience, App: c.App, User: c.User, Device: c.Device, IssuedAt: now, Expires: now.Add(c.TTL),
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.stdout, token)
	return err
}

type tokenInspectCmd struct {
	tokenFlags
	Token string `arg:"" help:"The token; - for standard input."`
}

// maxTokenInput bounds what is read from standard input: far more than a token may have.
const maxTokenInput = 64 << 10

// Run ends with exit code 1 where the token does not hold.
func (c tokenInspectCmd) Run(p *program) error {
	settings, keys, err := c.open(p)
	if err != nil {
		return err
	}
	keyring, err := auth.NewKeyring(settings.config(), keys...)
	if err != nil {
		return err
	}
	token := c.Token
	if token == "-" {
		data, err := io.ReadAll(io.LimitReader(p.stdin, maxTokenInput))
		if err != nil {
			return err
		}
		token = strings.TrimRight(string(data), "\r\n")
	}
	report := auth.Inspect(token, keyring, time.Now())
	if _, err := io.WriteString(p.stdout, report.String()); err != nil {
		return err
	}
	if !report.Valid {
		return errSilent
	}
	return nil
}

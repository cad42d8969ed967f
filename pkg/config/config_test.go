package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

type nodeConfig struct {
	Name  string   `koanf:"name" doc:"Name of the node."`
	Comet comet    `koanf:"comet" doc:"The tier of connections."`
	Redis redis    `koanf:"redis"`
	Seeds []string `koanf:"seeds" doc:"Where to look first."`
	inner int
	Hook  func()
}

type comet struct {
	MaxConnections int     `koanf:"max_connections" doc:"Most connections held."`
	Ratio          float64 `koanf:"ratio"`
	Port           uint16  `koanf:"port"`
	Mode           mode    `koanf:"mode"`
	Limits         limits  `koanf:"limits"`
}

type limits struct {
	FrameBytes int  `koanf:"frame_bytes"`
	Strict     bool `koanf:"strict"`
}

type redis struct {
	Password string `koanf:"password" doc:"Of the tier's own user."`
}

type mode string

func (l limits) Validate() error {
	if l.FrameBytes < 10 {
		return fmt.Errorf("limits: frame_bytes: must be 10 or more, got %d", l.FrameBytes)
	}
	return nil
}

func (c *comet) Validate() error {
	if c.MaxConnections < 1 {
		return errors.Join(errors.New("max_connections must be above 0"), errors.New("cannot work so"))
	}
	// As those below report it themselves: it must not be said twice.
	if err := c.Limits.Validate(); err != nil {
		return fmt.Errorf("comet: %w", err)
	}
	return nil
}

func defaults() nodeConfig {
	return nodeConfig{
		Name: "n1", Seeds: []string{"a", "b", "c"}, inner: 7,
		Comet: comet{MaxConnections: 100, Ratio: 0.5, Port: 7070, Mode: "fast", Limits: limits{FrameBytes: 1000, Strict: true}},
	}
}

func set(t *testing.T, pairs ...string) []Flag {
	t.Helper()
	var flags []Flag
	for _, pair := range pairs {
		f, err := ParseFlag("--set", pair)
		if err != nil {
			t.Fatal(err)
		}
		flags = append(flags, f)
	}
	return flags
}

// load runs Load on the text of a file and reports the errors with the file's name only.
func load(t *testing.T, text string, in Input) (nodeConfig, Origins, error) {
	t.Helper()
	cfg := defaults()
	dir := t.TempDir()
	if text != "" {
		in.File = filepath.Join(dir, "halley.yaml")
		if err := os.WriteFile(in.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	origins, err := NewSchema("HALLEY_", defaults()).Load(&cfg, in)
	if err != nil {
		err = errors.New(strings.ReplaceAll(err.Error(), dir+"/", ""))
	}
	return cfg, origins, err
}

func TestLaterSourcesWinOverEarlierOnes(t *testing.T) {
	cfg, origins, err := load(t, `
name: from file
comet:
  max_connections: 1_000
  ratio: 2
  limits: {strict: false}
seeds: [x]
`, Input{
		Environ: []string{"HALLEY_COMET_RATIO=3.5", "HALLEY_COMET_PORT=1", "PATH=/bin", "HALLEY_COMET_MODE=slow"},
		Flags:   set(t, "comet.port=65535", "redis.password=a=b"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Name, want.Seeds, want.Redis.Password = "from file", []string{"x"}, "a=b"
	want.Comet = comet{MaxConnections: 1000, Ratio: 3.5, Port: 65535, Mode: "slow", Limits: limits{FrameBytes: 1000}}
	if d := cmp.Diff(want, cfg, cmp.AllowUnexported(nodeConfig{})); d != "" {
		t.Error(d)
	}
	for key, suffix := range map[string]string{
		"comet.max_connections": "halley.yaml:4", "comet.ratio": "HALLEY_COMET_RATIO", "comet.port": "--set comet.port",
		"comet.limits.strict": "halley.yaml:6",
	} {
		if !strings.HasSuffix(origins[key], suffix) {
			t.Errorf("%s comes from %q, want %q", key, origins[key], suffix)
		}
	}
	if origins.Set("comet.limits.frame_bytes") || !origins.Set("comet.limits") || origins.Set("com") {
		t.Error("Set is wrong")
	}
}

func TestEverythingThatIsWrongIsSaidAtOnce(t *testing.T) {
	_, _, err := load(t, `name: [1]
comet:
  max_conections: 5
  port: 70000
  ratio: high
  limits: 7
  limits: {}
commet:
  anything: 1
frame_bytes: 9
redis:
  password: {a: b}
seeds: one
`, Input{
		Environ: []string{"HALLEY_COMET_PROT=1", "HALLEY_COMET_LIMITS_STRICT=maybe"},
		Flags:   set(t, "comet.limits.frame_bytes=1e3", "name.x=1"),
	})
	want := `halley.yaml:1: name: want a string, got a list
halley.yaml:3: unknown key comet.max_conections (did you mean comet.max_connections?)
halley.yaml:4: comet.port: 70000 is too large
halley.yaml:5: comet.ratio: want a number, got "high"
halley.yaml:6: comet.limits: want a section of settings, got "7"
halley.yaml:7: comet.limits: is set twice
halley.yaml:8: unknown key commet (did you mean comet?)
halley.yaml:10: unknown key frame_bytes (did you mean comet.limits.frame_bytes?)
halley.yaml:12: redis.password: want a string, got something else
halley.yaml:13: seeds: want a list of strings, got "one"
HALLEY_COMET_LIMITS_STRICT: comet.limits.strict: want true or false, got "maybe"
unknown variable HALLEY_COMET_PROT (did you mean HALLEY_COMET_PORT?)
--set comet.limits.frame_bytes: comet.limits.frame_bytes: want an integer, got "1e3"
--set name.x: unknown key name.x (did you mean name?)`
	if err == nil {
		t.Fatal("accepted")
	}
	if d := cmp.Diff(want, err.Error()); d != "" {
		t.Error(d)
	}
}

func TestListsOfTheDefaultAreNotWrittenInto(t *testing.T) {
	base := defaults()
	cfg := base
	if _, err := NewSchema("HALLEY_", base).Load(&cfg, Input{Flags: set(t, "seeds=x,y")}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(defaults().Seeds, base.Seeds); d != "" || len(cfg.Seeds) != 2 {
		t.Errorf("%v %s", cfg.Seeds, d)
	}
}

func TestNothingIsChangedByAFileThatIsRefused(t *testing.T) {
	cfg, _, err := load(t, "name: other\nnmae: x\n", Input{})
	if err == nil || cfg.Name != "n1" {
		t.Errorf("err %v, name %q", err, cfg.Name)
	}
}

func TestFilesThatAreNoSettings(t *testing.T) {
	for text, want := range map[string]string{
		"name: a\n---\nname: b\n": "halley.yaml: holds more than one document",
		"just text":               `halley.yaml:1: want a section of settings, got "just text"`,
		"name: 'open":             "halley.yaml: line 1: did not find", // what the parser says
		"# nothing\n":             "",
		"comet:\n":                "",
	} {
		_, _, err := load(t, text, Input{})
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(strings.Replace(err.Error(), "found unexpected end of stream", "line 1: did not find", 1), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestSecretsMayComeFromFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte("hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, origins, err := load(t, "redis:\n  password_file: "+path+"\n", Input{})
	if err != nil || cfg.Redis.Password != "hush" || !strings.HasSuffix(origins["redis.password"], "halley.yaml:2") {
		t.Errorf("%v %q %v", err, cfg.Redis.Password, origins)
	}
	cfg, _, err = load(t, "redis:\n  password: low\n", Input{Environ: []string{"HALLEY_REDIS_PASSWORD_FILE=" + path}})
	if err != nil || cfg.Redis.Password != "hush" {
		t.Errorf("a file of a later source must win: %v %q", err, cfg.Redis.Password)
	}
	_, _, err = load(t, "redis:\n  password_file: "+path+"\n  password: x\n", Input{})
	if err == nil || !strings.Contains(err.Error(), "only one of the two") {
		t.Errorf("both: %v", err)
	}
	_, _, err = load(t, "redis:\n  password_file: /does/not/exist\n", Input{})
	if err == nil || !strings.Contains(err.Error(), "halley.yaml:2: redis.password_file: open /does/not/exist") {
		t.Errorf("missing: %v", err)
	}
}

func TestFlagWithoutAValueIsRefused(t *testing.T) {
	for _, pair := range []string{"comet.port", "=1", ""} {
		if f, err := ParseFlag("--set", pair); err == nil {
			t.Errorf("%q: %v", pair, f)
		}
	}
}

// A service called halley gives every pod beside it these variables.
func TestServiceLinksOfKubernetesAreNoSettings(t *testing.T) {
	_, _, err := load(t, "", Input{Environ: []string{
		"HALLEY_SERVICE_HOST=10.0.0.1", "HALLEY_SERVICE_PORT=7070", "HALLEY_SERVICE_PORT_WEBSOCKET=7070", "HALLEY_PORT=tcp://10.0.0.1:7070",
		"HALLEY_PORT_7070_TCP=tcp://10.0.0.1:7070", "HALLEY_PORT_7070_TCP_ADDR=10.0.0.1", "HALLEY_CONFIG=/etc/halley.yaml",
	}})
	if err != nil {
		t.Error(err)
	}
}

func TestValidateNamesKeysInFullAndWhereTheyWereSet(t *testing.T) {
	s := NewSchema("HALLEY_", defaults())
	cfg := defaults()
	origins, err := s.Load(&cfg, Input{Flags: set(t, "comet.limits.frame_bytes=3"), Environ: []string{"HALLEY_COMET_MAX_CONNECTIONS=0"}})
	if err != nil {
		t.Fatal(err)
	}
	want := `comet: cannot work so
--set comet.limits.frame_bytes: comet.limits.frame_bytes: must be 10 or more, got 3
HALLEY_COMET_MAX_CONNECTIONS: comet.max_connections: must be above 0`
	if err := s.Validate(&cfg, origins, nil); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if err := s.Validate(&cfg, origins, func(section string) bool { return section != "comet" && section != "comet.limits" }); err != nil {
		t.Errorf("sections that are not used: %v", err)
	}
}

func TestPrintedDefaultIsAcceptedAndChangesNothing(t *testing.T) {
	s := NewSchema("HALLEY_", defaults())
	var text bytes.Buffer
	if err := s.WriteDefault(&text); err != nil {
		t.Fatal(err)
	}
	cfg := nodeConfig{inner: 7}
	if _, err := s.Load(&cfg, Input{File: "-", Stdin: text.Bytes()}); err != nil {
		t.Fatalf("%v\n%s", err, &text)
	}
	if d := cmp.Diff(defaults(), cfg, cmp.AllowUnexported(nodeConfig{})); d != "" {
		t.Errorf("%s\n%s", d, &text)
	}
	if !strings.Contains(text.String(), "  # Most connections held.\n  max_connections: 100\n") {
		t.Errorf("no comment in\n%s", &text)
	}
}

func TestSchemaRefusesStructsThatCannotBeOne(t *testing.T) {
	for name, v := range map[string]any{
		"type": struct {
			A chan int `koanf:"a"`
		}{},
		"twice": struct {
			A, B int `koanf:"a"`
		}{},
		"variable": struct {
			A struct {
				B int `koanf:"b"`
			} `koanf:"a"`
			C int `koanf:"a_b"`
		}{},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: accepted", name)
				}
			}()
			NewSchema("X_", v)
		}()
	}
}

func TestEditsIsADistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "ab", 1}, {"abc", "xabc", 1}, {"kitten", "sitting", 3}} {
		if got := edits(c.a, c.b); got != c.want {
			t.Errorf("edits(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[abc]{0,6}`)
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		d := edits(a, b)
		if d != edits(b, a) || (d == 0) != (a == b) || d > max(len(a), len(b)) || d < max(len(a), len(b))-min(len(a), len(b)) {
			t.Fatalf("edits(%q, %q) = %d", a, b, d)
		}
	})
}

func FuzzLoadNeverPanics(f *testing.F) {
	f.Add("comet: {limits: {strict: true}}")
	f.Add("a: &x {b: *x}")
	f.Add("? [1]\n: 2")
	f.Fuzz(func(t *testing.T, text string) {
		cfg := defaults()
		_, _ = NewSchema("HALLEY_", defaults()).Load(&cfg, Input{File: "-", Stdin: []byte(text)})
	})
}

// FuzzTexts: what the environment and the flags say is read or refused by name, whatever it is.
func FuzzTexts(f *testing.F) {
	f.Add("HALLEY_COMET_LIMITS_STRICT=true", "comet.limits.strict=1")
	f.Add("HALLEY_=x", "=")
	f.Add("HALLEY_COMET", "a=b=c")
	f.Fuzz(func(t *testing.T, variable, pair string) {
		in := Input{Environ: []string{variable}}
		if flag, err := ParseFlag("--set", pair); err == nil {
			in.Flags = []Flag{flag}
		}
		cfg := defaults()
		origins, err := NewSchema("HALLEY_", defaults()).Load(&cfg, in)
		var problems Problems
		if err != nil && (!errors.As(err, &problems) || len(problems) == 0 || err.Error() == "") {
			t.Errorf("%q, %q: %v names nothing", variable, pair, err)
		}
		if err == nil && len(in.Flags) > 0 && !origins.Set(in.Flags[0].Key) {
			t.Errorf("%q: taken, and set nowhere", pair)
		}
	})
}

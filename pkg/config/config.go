// Package config fills a struct from its defaults, a YAML file, the environment and flags, the later over the earlier, and
// refuses every key it does not know. It never knows what a setting means: names, types, texts and checks are those of the
// struct.
//
// A field is a setting if it has a `koanf:"snake_case"` tag; `doc:"…"` is its text, and a struct within the struct is a
// section. A string tagged `secret:"true"`, or named password, secret or token, may be given as NAME_file as well.
package config

import (
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/knadh/koanf/v2"
)

// Input is where settings come from.
type Input struct {
	// File is the path of a YAML file; empty for none, "-" for Stdin.
	File  string
	Stdin []byte
	// Environ is a list of NAME=value as os.Environ returns it; names without the schema's prefix are not looked at.
	Environ []string
	Flags   []Flag
}

// Flag is a setting given on the command line.
type Flag struct {
	Name string // as the user typed it, for messages.
	Key  string
	Text string
}

// ParseFlag reads the key=value that followed the flag called name.
func ParseFlag(name, pair string) (Flag, error) {
	key, text, found := strings.Cut(pair, "=")
	if !found || key == "" {
		return Flag{}, problemf(name+" "+pair, "", "want KEY=VALUE")
	}
	return Flag{Name: name + " " + key, Key: key, Text: text}, nil
}

// Origins says for each key that was set where: "halley.yaml:12", the name of a variable, or "--set". A key that is missing
// has its default.
type Origins map[string]string

// Set reports whether the key, or any key below it, was set anywhere.
func (o Origins) Set(key string) bool {
	if _, ok := o[key]; ok {
		return true
	}
	for k := range o {
		if strings.HasPrefix(k, key+".") {
			return true
		}
	}
	return false
}

// layer is what one source sets.
type layer struct {
	values   map[string]any
	origins  Origins
	problems Problems
}

func newLayer() *layer { return &layer{values: map[string]any{}, origins: Origins{}} }

func (l *layer) problem(where, key, format string, args ...any) {
	l.problems = append(l.problems, problemf(where, key, format, args...))
}

// Load puts file, environment and flags over what *into holds, which must be what the schema was made from. It reports all
// that is wrong at once, as Problems; *into is then as it was.
func (s *Schema) Load(into any, in Input) (Origins, error) {
	var layers []*layer
	var problems Problems
	if in.File != "" {
		data, err := in.Stdin, error(nil)
		if in.File != "-" {
			data, err = os.ReadFile(in.File)
		}
		if err != nil {
			return nil, Problems{problemf("", "", "%v", err)}
		}
		layers = append(layers, s.fileLayer(in.File, data))
	}
	layers = append(layers, s.environLayer(in.Environ), s.flagLayer(in.Flags))

	k := koanf.New(delimiter)
	origins := Origins{}
	for _, l := range layers {
		s.readSecretFiles(l)
		problems = append(problems, l.problems...)
		for path, value := range l.values {
			if err := k.Set(path, value); err != nil {
				return nil, err
			}
			origins[path] = l.origins[path]
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	result := reflect.New(reflect.TypeOf(into).Elem())
	result.Elem().Set(reflect.ValueOf(into).Elem())
	for path := range origins {
		// Decoded into a list that is there, values would land in the default's own array.
		if key := s.byPath[path]; key.Kind == KindList {
			result.Elem().FieldByIndex(key.index).SetZero()
		}
	}
	if err := k.UnmarshalWithConf("", result.Interface(), koanf.UnmarshalConf{Tag: tagName}); err != nil {
		return nil, err
	}
	reflect.ValueOf(into).Elem().Set(result.Elem())
	return origins, nil
}

// readSecretFiles replaces each NAME_file of a layer by NAME with the file's content.
func (s *Schema) readSecretFiles(l *layer) {
	for _, key := range s.Keys {
		if !key.Secret {
			continue
		}
		name := key.Path + fileSuffix
		path, ok := l.values[name]
		if !ok {
			continue
		}
		where := l.origins[name]
		delete(l.values, name)
		delete(l.origins, name)
		if _, both := l.values[key.Path]; both {
			l.problem(where, name, "set together with %s: only one of the two may be", key.Path)
			continue
		}
		data, err := os.ReadFile(path.(string))
		if err != nil {
			l.problem(where, name, "%v", err)
			continue
		}
		l.values[key.Path] = strings.TrimRight(string(data), "\r\n")
		l.origins[key.Path] = where
	}
}

// Validator is what a section that has rules of its own provides. Each line of the error should begin with the key at fault.
type Validator interface{ Validate() error }

// Validate runs Validate of cfg and of each of its sections for which use answers true (all of them if use is nil), and
// reports everything at once, with keys in full and where they were set.
func (s *Schema) Validate(cfg any, origins Origins, use func(section string) bool) error {
	var problems Problems
	v := reflect.Indirect(reflect.ValueOf(cfg))
	for _, section := range s.Sections {
		if use != nil && !use(section.Path) {
			continue
		}
		target := v.FieldByIndex(section.index)
		validator, ok := target.Interface().(Validator)
		if !ok && target.CanAddr() {
			validator, ok = target.Addr().Interface().(Validator)
		}
		if !ok {
			continue
		}
		if err := validator.Validate(); err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				// A section may report what those below it report themselves.
				if p := s.place(section.Path, line, origins); !slices.Contains(problems, p) {
					problems = append(problems, p)
				}
			}
		}
	}
	if len(problems) == 0 {
		return nil
	}
	sort.SliceStable(problems, func(i, j int) bool { return problems[i].Key < problems[j].Key })
	return problems
}

// place finds the key that a line of a section's Validate is about: the words before its colons may name sections below, and
// then a key, in full or within the section.
func (s *Schema) place(section, line string, origins Origins) Problem {
	at := section
	for rest := line; ; {
		word, after, found := strings.Cut(rest, ":")
		if !found {
			word, after, _ = strings.Cut(strings.TrimSpace(rest), " ")
		}
		word = strings.TrimSpace(word)
		for _, path := range []string{join(at, word), word} {
			if key, ok := s.byPath[path]; ok {
				return Problem{Where: origins[key.Path], Key: key.Path, Text: strings.TrimSpace(after)}
			}
		}
		if !found {
			return Problem{Key: section, Text: line}
		}
		if s.isPath[join(at, word)] {
			at = join(at, word)
		}
		rest = after
	}
}

package config

import (
	"fmt"
	"reflect"
	"strings"
)

const (
	tagName    = "koanf"
	delimiter  = "."
	fileSuffix = "_file"
)

// Key is one setting.
type Key struct {
	Path    string // comet.write_timeout_ms
	Env     string // HALLEY_COMET_WRITE_TIMEOUT_MS
	Doc     string
	Kind    Kind
	Default any
	// Secret settings are strings that may be given as a file, and whose value is never printed.
	Secret bool
	// FileOf is set in the NAME_file of a secret: the path of the setting whose value the file holds.
	FileOf string

	index []int
}

// Name is the last part of the path.
func (k Key) Name() string { return k.Path[strings.LastIndex(k.Path, delimiter)+1:] }

// Section is a struct of settings. The root's path is empty.
type Section struct {
	Path string
	Doc  string

	index []int
}

// Schema is what may be set.
type Schema struct {
	Sections []Section // in the order of the struct, a parent before its children.
	Keys     []Key     // in the order of the struct.

	prefix string
	byPath map[string]*Key
	byEnv  map[string]*Key
	isPath map[string]bool // of a section
}

// NewSchema reads the settings of a struct, with the values it holds as defaults. prefix begins the name of each variable
// of the environment; "HALLEY_" for instance. It panics on a struct that cannot be a schema, for that is a mistake in the
// program: a type it does not know, or two settings with one name.
func NewSchema(prefix string, defaults any) *Schema {
	s := &Schema{prefix: prefix, byPath: map[string]*Key{}, byEnv: map[string]*Key{}, isPath: map[string]bool{}}
	s.walk(reflect.Indirect(reflect.ValueOf(defaults)), "", "", nil)
	for i := range s.Keys {
		k := &s.Keys[i]
		if s.byPath[k.Path] != nil || s.byEnv[k.Env] != nil {
			panic("config: two settings are called " + k.Path + " or " + k.Env)
		}
		s.byPath[k.Path], s.byEnv[k.Env] = k, k
	}
	return s
}

// Key returns the setting at the path.
func (s *Schema) Key(path string) (Key, bool) {
	k, ok := s.byPath[path]
	if !ok {
		return Key{}, false
	}
	return *k, true
}

func (s *Schema) walk(v reflect.Value, path, doc string, index []int) {
	s.Sections = append(s.Sections, Section{Path: path, Doc: doc, index: index})
	s.isPath[path] = true
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name, _, _ := strings.Cut(field.Tag.Get(tagName), ",")
		if name == "" || name == "-" {
			continue
		}
		at := append(append([]int(nil), index...), i)
		full := join(path, name)
		kind := kindOf(field.Type)
		if kind == kindSection {
			s.walk(v.Field(i), full, field.Tag.Get("doc"), at)
			continue
		}
		if kind == kindUnknown {
			panic(fmt.Sprintf("config: %s is a %s, which no setting can be", full, field.Type))
		}
		key := Key{
			Path: full, Env: s.envName(full), Doc: field.Tag.Get("doc"), Kind: kind, Default: v.Field(i).Interface(),
			Secret: kind == KindString && isSecret(name, field.Tag), index: at,
		}
		s.Keys = append(s.Keys, key)
		if key.Secret {
			s.Keys = append(s.Keys, Key{
				Path: full + fileSuffix, Env: s.envName(full + fileSuffix), Kind: KindString, Default: "", FileOf: full,
				Doc: "Path of a file that holds " + name + ", in its stead.",
			})
		}
	}
}

func (s *Schema) envName(path string) string {
	return s.prefix + strings.ToUpper(strings.ReplaceAll(path, delimiter, "_"))
}

func isSecret(name string, tag reflect.StructTag) bool {
	switch tag.Get("secret") {
	case "true":
		return true
	case "false":
		return false
	}
	switch name[strings.LastIndexByte(name, '_')+1:] {
	case "password", "secret", "token":
		return true
	}
	return false
}

func join(section, name string) string {
	if section == "" {
		return name
	}
	return section + delimiter + name
}

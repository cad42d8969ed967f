package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fileLayer reads a YAML document. It walks the nodes itself, for a map would have lost lines and doubled keys.
func (s *Schema) fileLayer(name string, data []byte) *layer {
	l := newLayer()
	if name == "-" {
		name = "stdin"
	}
	var doc yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return l
	case err != nil:
		l.problem(name, "", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		return l
	}
	if decoder.Decode(new(yaml.Node)) == nil {
		l.problem(name, "", "holds more than one document")
		return l
	}
	s.section(l, name, "", doc.Content[0])
	return l
}

func (s *Schema) section(l *layer, file, path string, n *yaml.Node) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // A section with all its keys commented out.
	}
	if n.Kind != yaml.MappingNode {
		l.problem(at(file, n), path, "want a section of settings, got %s", describe(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		full, where := join(path, name.Value), at(file, name)
		if seen[full] {
			l.problem(where, full, "is set twice")
			continue
		}
		seen[full] = true
		if s.isPath[full] {
			s.section(l, file, full, value)
			continue
		}
		key, ok := s.byPath[full]
		if !ok {
			l.problem(where, "", "unknown key %s%s", full, s.didYouMean(full))
			continue
		}
		parsed, err := key.parseYAML(value)
		if err != nil {
			l.problem(where, full, "%v", err)
			continue
		}
		l.values[full], l.origins[full] = parsed, where
	}
}

func at(file string, n *yaml.Node) string { return fmt.Sprintf("%s:%d", file, n.Line) }

// serviceLink matches the variables that Kubernetes and Docker set for a neighbour; a service that is called halley must not
// keep its own pods from starting.
var serviceLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// environLayer reads the variables that begin with the prefix.
func (s *Schema) environLayer(environ []string) *layer {
	l := newLayer()
	environ = append([]string(nil), environ...)
	sort.Strings(environ)
	for _, pair := range environ {
		name, text, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, s.prefix) || name == s.FileVariable() {
			continue
		}
		key, ok := s.byEnv[name]
		if !ok {
			if !serviceLink.MatchString(name) {
				l.problem("", "", "unknown variable %s%s", name, s.didYouMeanVariable(name))
			}
			continue
		}
		l.set(key, name, text)
	}
	return l
}

// FileVariable is the variable that names the file to read; it is no setting itself.
func (s *Schema) FileVariable() string { return s.prefix + "CONFIG" }

// flagLayer reads the command line.
func (s *Schema) flagLayer(flags []Flag) *layer {
	l := newLayer()
	for _, f := range flags {
		key, ok := s.byPath[f.Key]
		if !ok {
			l.problem(f.Name, "", "unknown key %s%s", f.Key, s.didYouMean(f.Key))
			continue
		}
		l.set(key, f.Name, f.Text)
	}
	return l
}

func (l *layer) set(key *Key, where, text string) {
	value, err := key.parse(text)
	if err != nil {
		l.problem(where, key.Path, "%v", err)
		return
	}
	l.values[key.Path], l.origins[key.Path] = value, where
}

package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Kind is the type of a setting, in the words of the reference.
type Kind string

// The kinds.
const (
	KindString  Kind = "string"
	KindInteger Kind = "integer"
	KindNumber  Kind = "number"
	KindBool    Kind = "true or false"
	KindList    Kind = "list of strings"

	kindSection Kind = "section"
	kindUnknown Kind = ""
)

func kindOf(t reflect.Type) Kind {
	switch t.Kind() {
	case reflect.String:
		return KindString
	case reflect.Bool:
		return KindBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return KindInteger
	case reflect.Float32, reflect.Float64:
		return KindNumber
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return KindList
		}
	case reflect.Struct:
		return kindSection
	}
	return kindUnknown
}

// article is the kind as it follows "want".
func (k Kind) article() string {
	switch k {
	case KindInteger:
		return "an integer"
	case KindBool:
		return "true or false"
	}
	return "a " + string(k)
}

// parse reads a value as written in the environment or after a flag. Lists are separated by commas.
func (k *Key) parse(text string) (any, error) {
	switch k.Kind {
	case KindString:
		return text, nil
	case KindBool:
		if b, err := strconv.ParseBool(text); err == nil {
			return b, nil
		}
	case KindInteger:
		return k.integer(text)
	case KindNumber:
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return f, nil
		}
	case KindList:
		list := []string{}
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		return list, nil
	}
	return nil, k.want(text)
}

// integer takes 10000 and 10_000; what does not fit into the field is an error, not a wrap-around.
func (k *Key) integer(text string) (any, error) {
	field := reflect.New(reflect.TypeOf(k.Default)).Elem()
	digits := strings.ReplaceAll(text, "_", "")
	if field.CanUint() {
		u, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			return nil, k.want(text)
		}
		if field.OverflowUint(u) {
			return nil, fmt.Errorf("%s is too large", text)
		}
		return u, nil
	}
	i, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return nil, k.want(text)
	}
	if field.OverflowInt(i) {
		return nil, fmt.Errorf("%s is too large", text)
	}
	return i, nil
}

// parseYAML reads a value of a YAML document. Strings may stand without quotes; everything else must be what YAML calls it.
func (k *Key) parseYAML(n *yaml.Node) (any, error) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if k.Kind == KindList && n.Kind == yaml.SequenceNode {
		list := make([]string, 0, len(n.Content))
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
				return nil, fmt.Errorf("want a list of strings, one item is %s", describe(item))
			}
			list = append(list, item.Value)
		}
		return list, nil
	}
	fits := n.Kind == yaml.ScalarNode
	switch k.Kind {
	case KindString:
		fits = fits && n.Tag != "!!null"
	case KindInteger:
		fits = fits && n.Tag == "!!int"
	case KindNumber:
		fits = fits && (n.Tag == "!!int" || n.Tag == "!!float")
	case KindBool:
		fits = fits && n.Tag == "!!bool"
	case KindList:
		fits = false
	}
	if !fits {
		return nil, fmt.Errorf("want %s, got %s", k.Kind.article(), k.mask(describe(n)))
	}
	return k.parse(n.Value)
}

func (k *Key) want(text string) error {
	return fmt.Errorf("want %s, got %s", k.Kind.article(), k.mask(strconv.Quote(text)))
}

func (k *Key) mask(text string) string {
	if k.Secret {
		return "something else"
	}
	return text
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Tag == "!!null" {
		return "nothing"
	}
	return strconv.Quote(n.Value)
}

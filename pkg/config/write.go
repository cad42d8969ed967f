package config

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// WriteDefault writes every setting with its default as a YAML file that Load accepts, each under its text.
func (s *Schema) WriteDefault(w io.Writer) error {
	var b strings.Builder
	for _, section := range s.Sections {
		indent := strings.Repeat("  ", depth(section.Path))
		if section.Path != "" {
			b.WriteByte('\n')
			writeComment(&b, indent[2:], section.Doc)
			fmt.Fprintf(&b, "%s%s:\n", indent[2:], section.Path[strings.LastIndex(section.Path, delimiter)+1:])
		}
		for _, k := range s.keysOf(section.Path) {
			if k.FileOf != "" {
				// Empty it would be a file that is not there.
				fmt.Fprintf(&b, "%s# %s: /path/to/file\n", indent, k.Name())
				continue
			}
			writeComment(&b, indent, k.Doc)
			fmt.Fprintf(&b, "%s%s: %s\n", indent, k.Name(), literal(k.Default))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteMarkdown writes the reference: a table per section.
func (s *Schema) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	for _, section := range s.Sections {
		keys := s.keysOf(section.Path)
		if section.Path != "" {
			fmt.Fprintf(&b, "\n## %s\n\n", section.Path)
			if section.Doc != "" {
				b.WriteString(section.Doc + "\n\n")
			}
		}
		if len(keys) == 0 {
			continue
		}
		b.WriteString("| key | type | default | variable | |\n|---|---|---|---|---|\n")
		for _, k := range keys {
			fmt.Fprintf(&b, "| `%s` | %s | `%s` | `%s` | %s |\n", k.Path, k.Kind, literal(k.Default), k.Env, strings.ReplaceAll(k.Doc, "|", `\|`))
		}
	}
	_, err := io.WriteString(w, strings.TrimLeft(b.String(), "\n"))
	return err
}

func (s *Schema) keysOf(section string) []Key {
	var keys []Key
	for _, k := range s.Keys {
		if join(section, k.Name()) == k.Path {
			keys = append(keys, k)
		}
	}
	return keys
}

func depth(path string) int {
	if path == "" {
		return 0
	}
	return 1 + strings.Count(path, delimiter)
}

// literal is a value as YAML; it also reads well as text.
func literal(v any) string {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.String:
		return strconv.Quote(r.String())
	case reflect.Slice:
		items := make([]string, r.Len())
		for i := range items {
			items[i] = strconv.Quote(r.Index(i).String())
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return fmt.Sprint(v)
}

// commentWidth is where comments of the printed default are folded.
const commentWidth = 100

func writeComment(b *strings.Builder, indent, text string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(indent)+len(line)+len(word)+3 > commentWidth {
			fmt.Fprintf(b, "%s# %s\n", indent, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		fmt.Fprintf(b, "%s# %s\n", indent, line)
	}
}

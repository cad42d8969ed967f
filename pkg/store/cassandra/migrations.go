package cassandra

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// ErrSchema: the keyspace holds a schema that this build does not know, or not yet. Trying again does not help.
var ErrSchema = errors.New("unknown schema")

// files are the migrations of this build.
//
//go:embed migrations/*.cql
var files embed.FS

// migration is one file: NNNN_name.cql, statements that each end a line with a semicolon, comments on lines of their own.
type migration struct {
	version    int
	name       string
	checksum   string
	statements []string
}

// load reads the files in order and insists on versions 1, 2, 3 …
func load(fsys fs.FS) ([]migration, error) {
	names, err := fs.Glob(fsys, "migrations/*.cql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var out []migration
	for i, name := range names {
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		number, _, _ := strings.Cut(path.Base(name), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("%s: want number %04d", name, i+1)
		}
		sum := sha256.Sum256(text)
		m := migration{version: version, name: path.Base(name), checksum: hex.EncodeToString(sum[:])}
		if m.statements, err = split(string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func split(text string) ([]string, error) {
	var out []string
	var stmt strings.Builder
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || strings.HasPrefix(trimmed, "--") {
			continue
		}
		stmt.WriteString(line)
		if strings.HasSuffix(trimmed, ";") {
			out = append(out, strings.TrimSuffix(strings.TrimSpace(stmt.String()), ";"))
			stmt.Reset()
		}
	}
	if stmt.Len() > 0 {
		return nil, fmt.Errorf("no semicolon ends %q", strings.TrimSpace(stmt.String()))
	}
	return out, nil
}

// compare returns the known migrations that are not applied yet, and refuses a schema that is not a beginning of ours.
func compare(known []migration, applied map[int]migration) (missing []migration, err error) {
	for _, a := range applied {
		if a.version > len(known) || a.version < 1 {
			return nil, fmt.Errorf("%w: version %d (%s) is newer than this build, which knows %d; use the newer build", ErrSchema, a.version, a.name, len(known))
		}
	}
	for _, k := range known {
		a, ok := applied[k.version]
		switch {
		case !ok:
			missing = append(missing, k)
		case a.checksum != k.checksum:
			return nil, fmt.Errorf("%w: version %d was applied as %s with checksum %.12s, this build has %s with %.12s: it was changed afterwards, or is another program's",
				ErrSchema, k.version, a.name, a.checksum, k.name, k.checksum)
		case len(missing) > 0:
			return nil, fmt.Errorf("%w: version %d is applied but %d is not", ErrSchema, k.version, missing[0].version)
		}
	}
	return missing, nil
}

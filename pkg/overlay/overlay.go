// Package overlay has the go command build this repository's programs with mistakes in them, for those who show that a test finds
// them out. It never changes a file of the tree, and the product knows nothing of it.
package overlay

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Patch replaces what stands exactly once in a file. Where the source has moved on, so must the patch: it is refused.
type Patch struct {
	File     string // From the root of the repository.
	Old, New string
}

// Write puts the changed files into dir, and beside them the list that go build and go test take after -overlay.
func Write(root, dir string, patches ...Patch) (list string, err error) {
	if root, err = filepath.Abs(root); err != nil {
		return "", err
	}
	sources := map[string]string{} // By path in the repository.
	for _, p := range patches {
		if _, read := sources[p.File]; !read {
			source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(p.File)))
			if err != nil {
				return "", fmt.Errorf("overlay: %w", err)
			}
			sources[p.File] = string(source)
		}
		if n := strings.Count(sources[p.File], p.Old); n != 1 {
			return "", fmt.Errorf("overlay: %s has %q %d times, not once: the patch must follow the source", p.File, p.Old, n)
		}
		sources[p.File] = strings.Replace(sources[p.File], p.Old, p.New, 1)
	}
	replace := map[string]string{}
	for file, source := range sources {
		changed := filepath.Join(dir, strings.ReplaceAll(file, "/", "-"))
		if err := os.WriteFile(changed, []byte(source), 0o600); err != nil {
			return "", fmt.Errorf("overlay: %w", err)
		}
		replace[filepath.Join(root, filepath.FromSlash(file))] = changed
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", fmt.Errorf("overlay: %w", err)
	}
	list = filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, data, 0o600); err != nil {
		return "", fmt.Errorf("overlay: %w", err)
	}
	return list, nil
}

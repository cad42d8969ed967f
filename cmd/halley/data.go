package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Names within the data folder.
const (
	lockName      = "lock"
	endpointsName = "endpoints.json"
	storeName     = "store"
	natsName      = "nats"
)

// defaultDataDir is where serve keeps everything, and where bench and token look for it.
const defaultDataDir = "halley-data"

// dataDir is the folder of a serve, held by this process alone until close.
type dataDir struct {
	path string
	lock *os.File
}

// errInUse: a process works in the folder.
var errInUse = errors.New("another halley serve")

// openDataDir creates the folder if need be and takes its lock.
func openDataDir(path string) (*dataDir, error) {
	if err := claim(path); err != nil {
		return nil, err
	}
	return lockDataDir(path)
}

// holdDataDir takes the lock of a folder in which serve has worked.
func holdDataDir(path string) (*dataDir, error) {
	for _, name := range []string{lockName, natsName, storeName} {
		if _, err := os.Stat(filepath.Join(path, name)); err != nil {
			return nil, fmt.Errorf("no halley serve has worked in %s: %w", path, err)
		}
	}
	return lockDataDir(path)
}

// lockDataDir takes the lock. It is the kernel's, on an open file: it cannot outlive the process, however that ends.
func lockDataDir(path string) (*dataDir, error) {
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer lock.Close() //nolint:errcheck // opened for its lock only.
		if errors.Is(err, syscall.EWOULDBLOCK) {
			pid, _ := io.ReadAll(io.LimitReader(lock, 16)) // Without it the message says a little less.
			return nil, fmt.Errorf("%w (pid %s) works in %s; stop it, or give this one a folder of its own with --data-dir",
				errInUse, strings.TrimSpace(string(pid)), path)
		}
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	d := &dataDir{path: path, lock: lock}
	if err := errors.Join(lock.Truncate(0), writeAt(lock, fmt.Sprintln(os.Getpid()))); err != nil {
		return nil, errors.Join(fmt.Errorf("data folder: %w", err), d.close())
	}
	return d, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// claim makes the folder this program's: new, or one that it made before. Of any other it would change the permissions.
func claim(path string) error {
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return os.MkdirAll(path, 0o700)
	case err != nil:
		return fmt.Errorf("data folder: %w", err)
	}
	ours := len(entries) == 0
	for _, e := range entries {
		ours = ours || e.Name() == lockName
	}
	if !ours {
		return fmt.Errorf("%s holds files, and none that halley serve has made; name another folder with --data-dir", path)
	}
	// It holds secrets and everybody's messages.
	if err := os.Chmod(path, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	return nil
}

func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

// close gives the folder free.
func (d *dataDir) close() error { return d.lock.Close() }

// endpoints is how the tools in the same folder find a running serve.
type endpoints struct {
	PID        int       `json:"pid"`
	Started    time.Time `json:"started"`
	TCP        string    `json:"tcp"`         // host:port
	WS         string    `json:"ws"`          // ws://…
	TLS        string    `json:"tls"`         // host:port
	WSS        string    `json:"wss"`         // wss://…
	API        string    `json:"api"`         // http://… or https://…
	Admin      string    `json:"admin"`       // http://…
	SecretFile string    `json:"secret_file"` // absolute
}

// writeEndpoints replaces the file at once, so that a reader finds all of it or nothing.
func (d *dataDir) writeEndpoints(e endpoints) error {
	data, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	return writePrivate(d.file(endpointsName), append(data, '\n'))
}

func (d *dataDir) removeEndpoints() error { return os.Remove(d.file(endpointsName)) }

// readEndpoints finds the serve that runs on the folder.
func readEndpoints(dir string) (endpoints, error) {
	var e endpoints
	path := filepath.Join(dir, endpointsName)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return e, fmt.Errorf("no halley serve runs on %s; start one here, or say where to go with --target and --secret-file", dir)
	}
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("%s: %w", path, err)
	}
	// A serve that was killed leaves the file behind.
	if err := syscall.Kill(e.PID, 0); errors.Is(err, syscall.ESRCH) {
		return e, fmt.Errorf("no halley serve runs on %s: the last one (pid %d) is gone", dir, e.PID)
	}
	return e, nil
}

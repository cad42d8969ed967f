package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
)

// runtimeSettings are those of the Go runtime.
type runtimeSettings struct {
	GCPercent        int   `koanf:"gc_percent" doc:"How much the heap may grow over what is live before it is collected, in percent; 0 leaves it to GOGC or, without that, is 60."`
	MemoryLimitBytes int64 `koanf:"memory_limit_bytes" doc:"Above this the collector works harder, whatever gc_percent says; 0 leaves it to GOMEMLIMIT or, without that, takes nine tenths of the limit of the process's cgroup."`
}

func (s runtimeSettings) Validate() error {
	var errs []error
	if s.GCPercent < 0 {
		errs = append(errs, fmt.Errorf("gc_percent: must not be negative, got %d", s.GCPercent))
	}
	if s.MemoryLimitBytes < 0 {
		errs = append(errs, fmt.Errorf("memory_limit_bytes: must not be negative, got %d", s.MemoryLimitBytes))
	}
	return errors.Join(errs...)
}

// gcPercent costs 2 % more processor time under a full load of messages than Go's 100, and an idle connection a sixth less memory.
const gcPercent = 60

// apply sets the garbage collector.
func (s runtimeSettings) apply(log *slog.Logger) {
	percent := s.GCPercent
	if percent == 0 && os.Getenv("GOGC") == "" {
		percent = gcPercent
	}
	if percent > 0 {
		debug.SetGCPercent(percent)
	}
	limit := s.MemoryLimitBytes
	if limit == 0 && os.Getenv("GOMEMLIMIT") == "" {
		limit = cgroupMemory() / 10 * 9
	}
	if limit > 0 {
		debug.SetMemoryLimit(limit)
		log.Debug("memory limit", "bytes", limit)
	}
}

// cgroupMemory is the memory limit of the cgroup (version 2) that is the root of this container, or 0.
func cgroupMemory() int64 {
	data, err := os.ReadFile("/sys/fs/cgroup/memory.max")
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0 // "max"
	}
	return n
}

// reservedDescriptors is what the process needs beside its clients' connections: files of the store and the log, sockets
// to other servers.
const reservedDescriptors = 700

// raiseDescriptors raises the soft limit of open files to the hard one and returns it.
func raiseDescriptors() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	if limit.Cur < limit.Max {
		limit.Cur = limit.Max
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return 0, fmt.Errorf("raise the limit of open files: %w", err)
		}
	}
	return limit.Cur, nil
}

// checkDescriptors warns where the process may not hold as many connections as it is configured to.
func checkDescriptors(log *slog.Logger, maxConnections int) {
	limit, err := raiseDescriptors()
	if err != nil {
		log.Warn("cannot raise the limit of open files", "err", err)
		return
	}
	if want := uint64(maxConnections) + reservedDescriptors; limit < want && limit < math.MaxInt64 {
		log.Warn("the limit of open files is below what max_connections needs; raise it with ulimit -n",
			"limit", limit, "needed", want)
	}
}

// isLoopback reports whether only this machine can reach the address. A name counts if it is localhost: what others
// resolve to may change.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

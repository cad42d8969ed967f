package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTicks is USER_HZ: in it the kernel tells programs of times, whatever its own clock does.
const clockTicks = 100

// usage is what processes have spent and hold.
type usage struct {
	at       time.Time
	cpu      float64 // Seconds, user and system.
	resident float64 // Bytes.
}

// process is one line of /proc/PID/stat.
type process struct {
	pid, parent int
	ticks       int64 // Of its own and of its children that have ended.
	pages       int64 // Resident.
}

// parseStat reads it; see proc_pid_stat(5). The name may hold spaces and parentheses.
func parseStat(line string) (p process, err error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return p, fmt.Errorf("no name in %q", line)
	}
	if p.pid, err = strconv.Atoi(strings.TrimSpace(line[:open])); err != nil {
		return p, err
	}
	fields := strings.Fields(line[end+1:]) // The first is field 3.
	if len(fields) < 22 {
		return p, fmt.Errorf("%d fields after the name", len(fields))
	}
	at := func(field int) int64 {
		n, e := strconv.ParseInt(fields[field-3], 10, 64)
		err = errors.Join(err, e)
		return n
	}
	p.parent = int(at(4))
	p.ticks = at(14) + at(15) + at(16) + at(17)
	p.pages = at(24)
	return p, err
}

// family picks a process and all below it.
func family(all []process, root int) (members []process) {
	known := map[int]bool{root: true}
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if known[p.parent] && !known[p.pid] {
				known[p.pid], grown = true, true
			}
		}
	}
	for _, p := range all {
		if known[p.pid] {
			members = append(members, p)
		}
	}
	return members
}

// spentBy sums a process and all below it.
func spentBy(root int) (usage, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return usage{}, err
	}
	var all []process
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // It has just ended.
		}
		p, err := parseStat(string(line))
		if err != nil {
			return usage{}, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, p)
	}
	u := usage{at: time.Now()}
	members := family(all, root)
	if len(members) == 0 {
		return u, fmt.Errorf("no process %d", root)
	}
	for _, p := range members {
		u.cpu += float64(p.ticks) / clockTicks
		u.resident += float64(p.pages) * float64(os.Getpagesize())
	}
	return u, nil
}

// spentHere is the processor time of this process, in seconds.
func spentHere() float64 {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds()
}

// parseCores reads a list of the kernel's: 0-2,5.
func parseCores(list string) (cores []int, err error) {
	for span := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, ranged := strings.Cut(span, "-")
		if !ranged {
			last = first
		}
		from, err := strconv.Atoi(first)
		if err != nil {
			return nil, fmt.Errorf("cores %q: %w", list, err)
		}
		to, err := strconv.Atoi(last)
		if err != nil {
			return nil, fmt.Errorf("cores %q: %w", list, err)
		}
		for n := from; n <= to; n++ {
			cores = append(cores, n)
		}
	}
	return cores, nil
}

// allowedCores are those on which this process may run.
func allowedCores() ([]int, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(status)) {
		if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
			return parseCores(list)
		}
	}
	return nil, errors.New("/proc/self/status has no Cpus_allowed_list")
}

// raiseDescriptors raises the soft limit of open files to the hard one, for the servers too, and returns it.
func raiseDescriptors() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("raise the limit of open files: %w", err)
	}
	return int(min(limit.Cur, 1<<30)), nil
}

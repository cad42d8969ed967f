package benchmarks

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
)

// plan is one run, or the part of it that one process holds.
type plan struct {
	Verb   string
	Config Config // Connections are those of the part.
	Load   Load
	// Members of a conversation live in one process: connections come in such numbers.
	Members int
	Senders int
	Group   bool

	First int // Number of the part's first connection in the whole run.
	Part  int // Which part this is, of how many.
	Parts int
}

const (
	// descriptorsBeside are what a process of the generator needs beside its connections.
	descriptorsBeside = 100
	maxProcesses      = 512
)

// descriptors is how many connections one process may hold.
func descriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 1<<30 {
		return 1 << 30
	}
	return int(limit.Cur) - descriptorsBeside
}

// split cuts the run into the parts that processes hold, of nearly one size: as many as were asked for, or as most connections
// in one process demand.
func (p plan) split(most int) ([]plan, error) {
	n, units := p.Config.Connections, p.Config.Connections/p.Members
	if p.Members > most {
		return nil, fmt.Errorf("-n: a conversation of %d members needs more than the %d connections that one process may hold (ulimit -n)",
			p.Members, most)
	}
	perProcess := most / p.Members
	parts := p.Config.Processes
	if parts == 0 {
		parts = (units + perProcess - 1) / perProcess
	}
	parts = min(parts, units)
	switch {
	case (units+parts-1)/parts > perProcess:
		return nil, fmt.Errorf("--processes: %d connections in %d processes are more than the descriptors of each allow (ulimit -n): %d",
			n, parts, most)
	case parts > maxProcesses:
		return nil, fmt.Errorf("-n: %d connections need %d processes; at most %d are started", n, parts, maxProcesses)
	case parts > 1 && len(p.Config.Worker) == 0:
		return nil, errors.New("more than one process needs the command that runs a worker")
	}
	list := make([]plan, parts)
	first := 0
	for i := range list {
		part := p
		mine := units / parts
		if i < units%parts {
			mine++
		}
		part.First, part.Part, part.Parts = first, i, parts
		part.Config.Connections = mine * p.Members
		part.Config.Workers = max(1, p.Config.workers()/parts)
		part.Load = p.Load.scaled(float64(mine) / float64(units))
		first += part.Config.Connections
		list[i] = part
	}
	return list, nil
}

// loops is how many event loops the parts have, and what of them can run at once.
func loops(parts []plan) (all, atOnce int) {
	for _, p := range parts {
		all += p.Config.Workers
	}
	return all, min(all, runtime.GOMAXPROCS(0))
}

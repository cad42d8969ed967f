package main

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"

	"github.com/halley-im/halley/benchmarks/chaos/clock"
)

const clockPrefix = "clock-"

// clockOf is the clock of the process or member that is called name, in the folder of the run.
func clockOf(dir, name string) clock.Clock { return clock.Clock(filepath.Join(dir, clockPrefix+name)) }

// clockWrong steps a process's clock by minutes, back or forth, and sets it right again, as a time server would.
func clockWrong(seed uint64, dir, name string) Kind {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return Kind{
		Name: clockPrefix + name, Targets: []string{name}, Least: 3 * time.Second, Most: 12 * time.Second,
		Fault: &stepped{clockOf(dir, name), rand.New(rand.NewPCG(seed, h.Sum64()))},
	}
}

// stepped is a wrong clock.
type stepped struct {
	clock clock.Clock
	r     *rand.Rand
}

const (
	stepLeast = 20 * time.Second
	stepMost  = 10 * time.Minute
)

// Begin steps it.
func (s *stepped) Begin(context.Context) error {
	off := (stepLeast + time.Duration(s.r.Int64N(int64(stepMost-stepLeast)))).Truncate(time.Second)
	if s.r.IntN(2) == 0 {
		off = -off
	}
	return s.clock.Step(off)
}

// End sets it right.
func (s *stepped) End(context.Context) error { return s.clock.Step(0) }

// steps reports whether one of the kinds needs a program whose clock can be stepped.
func steps(kinds []Kind) bool {
	for _, k := range kinds {
		if strings.HasPrefix(k.Name, clockPrefix) {
			return true
		}
	}
	return false
}

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/procfs"
)

// The kinds of processes that a run has.
const (
	kindComet     = "comet"
	kindLogic     = "logic"
	kindJob       = "job"
	kindGenerator = "generator"
	kindRun       = "run" // This program.
	kindNATS      = "nats"
	kindRedis     = "redis"
	kindCassandra = "cassandra"
	// kindCompiler are the threads of Cassandra that compile its code: half of what a node takes in its first minutes, and next to nothing later.
	kindCompiler = "cassandra's compiler"
	// kindOthers is all else on this machine, and kindStolen what its hypervisor gave to other machines: who reads a time must know of them.
	kindOthers = "others"
	kindStolen = "stolen"
)

// kinds of the server.
var serverKinds = []string{kindComet, kindLogic, kindJob, kindNATS, kindRedis, kindCassandra}

// Reading is what all processes of a kind have used.
type Reading struct {
	Processes  int     `json:"processes"`
	CPUSeconds float64 `json:"cpu_seconds"`
	RSSBytes   int64   `json:"rss_bytes"`
}

// Usage is a reading of each kind at one time.
type Usage struct {
	At    time.Time          `json:"at"`
	Kinds map[string]Reading `json:"kinds"`
}

// ticksPerSecond is USER_HZ, the unit of CPU times in /proc, which is 100 wherever Go runs on Linux.
const ticksPerSecond = 100

// readUsage looks at all processes there are: in the namespace of the run they are the run's.
func readUsage() Usage {
	u := Usage{At: time.Now(), Kinds: map[string]Reading{}}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		kind := kindOf(dir)
		if kind == "" {
			continue
		}
		cpu, rss, ok := readProcess(dir)
		if !ok {
			continue
		}
		if kind == kindCassandra {
			compiler := compiling(dir)
			cpu -= compiler
			r := u.Kinds[kindCompiler]
			r.CPUSeconds += compiler
			u.Kinds[kindCompiler] = r
		}
		r := u.Kinds[kind]
		r.Processes++
		r.CPUSeconds += cpu
		r.RSSBytes += rss
		u.Kinds[kind] = r
	}
	others, stolen := machineCPU()
	for _, r := range u.Kinds {
		others -= r.CPUSeconds
	}
	u.Kinds[kindOthers], u.Kinds[kindStolen] = Reading{CPUSeconds: others}, Reading{CPUSeconds: stolen}
	return u
}

// machineCPU is what all programs took since the machine began, and what was stolen from it; interrupts are nobody's. Both are 0 where there is no /proc.
func machineCPU() (busy, stolen float64) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, 0
	}
	stat, err := fs.Stat()
	if err != nil {
		return 0, 0
	}
	c := stat.CPUTotal
	return c.User + c.Nice + c.System, c.Steal
}

func kindOf(dir string) string {
	if filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
		return kindRun
	}
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return ""
	}
	args := strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")
	switch name := filepath.Base(args[0]); {
	case strings.HasPrefix(name, "nats-server"):
		return kindNATS
	case strings.HasPrefix(name, "redis-server"):
		return kindRedis
	case name == "java":
		return kindCassandra
	case len(args) < 2:
		return ""
	}
	return map[string]string{"comet": kindComet, "logic": kindLogic, "job": kindJob, "bench": kindGenerator}[args[1]]
}

// compiling is the CPU that the compiler's threads of a JVM took; it must not end any of them.
func compiling(dir string) (sum float64) {
	threads, _ := filepath.Glob(filepath.Join(dir, "task", "[0-9]*"))
	for _, thread := range threads {
		name, err := os.ReadFile(filepath.Join(thread, "comm"))
		if err != nil || !bytes.Contains(name, []byte(" CompilerThre")) {
			continue
		}
		if cpu, _, ok := readProcess(thread); ok {
			sum += cpu
		}
	}
	return sum
}

func readProcess(dir string) (cpu float64, rss int64, ok bool) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, 0, false
	}
	// The name, in parentheses, may have anything in it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 22 {
		return 0, 0, false
	}
	user, err1 := strconv.ParseFloat(fields[11], 64)
	system, err2 := strconv.ParseFloat(fields[12], 64)
	pages, err3 := strconv.ParseInt(fields[21], 10, 64)
	return (user + system) / ticksPerSecond, pages * int64(os.Getpagesize()), err1 == nil && err2 == nil && err3 == nil
}

// Spent is what was used between two readings, in CPU seconds.
type Spent struct {
	Seconds float64            `json:"seconds"`
	CPU     map[string]float64 `json:"cpu_seconds"`
}

func between(a, b Usage) Spent {
	s := Spent{Seconds: b.At.Sub(a.At).Seconds(), CPU: map[string]float64{}}
	for kind, r := range b.Kinds {
		s.CPU[kind] = r.CPUSeconds - a.Kinds[kind].CPUSeconds
	}
	return s
}

// server is the CPU of everything but the generator.
func (s Spent) server() (sum float64) {
	for _, kind := range serverKinds {
		sum += s.CPU[kind]
	}
	return sum
}

// cores is the CPU of some kinds, in cores.
func (s Spent) cores(kinds ...string) (sum float64) {
	for _, kind := range kinds {
		sum += s.CPU[kind]
	}
	return sum / s.Seconds
}

// Peak is the most memory that was seen.
type Peak struct {
	RSSBytes       map[string]int64 `json:"rss_bytes"`
	SlabBytes      int64            `json:"slab_bytes"`
	LeastAvailable int64            `json:"least_available_bytes"`
}

// watcher looks at memory all the time, and ends the run before the machine has none left.
type watcher struct {
	mu   sync.Mutex
	peak Peak
}

const (
	watchEvery = 2 * time.Second
	// leastMemory is what must stay available: beyond it the kernel ends whatever it likes, here or elsewhere.
	leastMemory = 600 << 20
)

func (w *watcher) run(ctx context.Context, short func(available int64)) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		info, usage := memInfo(), readUsage()
		w.mu.Lock()
		w.peak.add(usage, info)
		w.mu.Unlock()
		if available := info["MemAvailable"]; available > 0 && available < leastMemory {
			short(available)
		}
	}
}

func (p *Peak) add(u Usage, info map[string]int64) {
	if p.RSSBytes == nil {
		p.RSSBytes, p.LeastAvailable = map[string]int64{}, info["MemAvailable"]
	}
	for kind, r := range u.Kinds {
		p.RSSBytes[kind] = max(p.RSSBytes[kind], r.RSSBytes)
	}
	p.SlabBytes = max(p.SlabBytes, info["Slab"])
	p.LeastAvailable = min(p.LeastAvailable, info["MemAvailable"])
}

// take returns the peak since the last call.
func (w *watcher) take() Peak {
	w.mu.Lock()
	defer w.mu.Unlock()
	var p Peak
	p.add(readUsage(), memInfo())
	for kind, rss := range w.peak.RSSBytes {
		p.RSSBytes[kind] = max(p.RSSBytes[kind], rss)
	}
	p.SlabBytes = max(p.SlabBytes, w.peak.SlabBytes)
	if w.peak.RSSBytes != nil {
		p.LeastAvailable = min(p.LeastAvailable, w.peak.LeastAvailable)
	}
	w.peak = Peak{}
	return p
}

// recorder reads usage every second, for what is known only afterwards: when something began.
type recorder struct {
	stop context.CancelFunc
	done chan []Usage
}

func record(ctx context.Context) *recorder {
	ctx, stop := context.WithCancel(ctx)
	r := &recorder{stop: stop, done: make(chan []Usage, 1)}
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		list := []Usage{readUsage()}
		for {
			select {
			case <-ctx.Done():
				r.done <- append(list, readUsage())
				return
			case <-tick.C:
				list = append(list, readUsage())
			}
		}
	}()
	return r
}

// end returns all readings.
func (r *recorder) end() []Usage {
	r.stop()
	return <-r.done
}

// within is what was spent from the first reading at or after from to the last one at or before to.
func within(list []Usage, from, to time.Time) (Spent, bool) {
	first, last := -1, -1
	for i, u := range list {
		if first < 0 && !u.At.Before(from) {
			first = i
		}
		if !u.At.After(to) {
			last = i
		}
	}
	if first < 0 || last <= first {
		return Spent{}, false
	}
	return between(list[first], list[last]), true
}

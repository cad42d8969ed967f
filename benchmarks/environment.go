package benchmarks

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Environment is where a run took place.
type Environment struct {
	Cores      int    `json:"cores"`
	GOMAXPROCS int    `json:"gomaxprocs"`
	CPU        string `json:"cpu,omitempty"`
	MemoryMiB  int64  `json:"memory_mib,omitempty"`
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	Kernel     string `json:"kernel,omitempty"`
	Go         string `json:"go"`
	GOGC       string `json:"gogc,omitempty"`
	Commit     string `json:"commit,omitempty"`
	// LoadAverage is of the minute before the run: other programs on the machine show here.
	LoadAverage float64 `json:"load_average"`
}

// Surroundings is the environment of this process.
func Surroundings() Environment {
	e := Environment{
		Cores: runtime.NumCPU(), GOMAXPROCS: runtime.GOMAXPROCS(0), OS: runtime.GOOS, Arch: runtime.GOARCH,
		Go: runtime.Version(), GOGC: os.Getenv("GOGC"),
		Kernel: readLine("/proc/sys/kernel/osrelease"), CPU: field("/proc/cpuinfo", "model name"),
	}
	if kib, _, ok := strings.Cut(field("/proc/meminfo", "MemTotal"), " "); ok {
		n, _ := strconv.ParseInt(kib, 10, 64)
		e.MemoryMiB = n / 1024
	}
	if minute, _, ok := strings.Cut(readLine("/proc/loadavg"), " "); ok {
		e.LoadAverage, _ = strconv.ParseFloat(minute, 64)
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				e.Commit = s.Value
			}
		}
	}
	return e
}

// usage is what this process has spent.
type usage struct {
	At      time.Time
	CPU     float64 // Seconds.
	RSS     float64
	GCs     uint32
	PauseNs uint64
}

func spent() usage {
	u := usage{At: time.Now()}
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) == nil {
		u.CPU = time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.RSS, u.GCs, u.PauseNs = float64(m.Sys-m.HeapReleased), m.NumGC, m.PauseTotalNs
	if pages := strings.Fields(readLine("/proc/self/statm")); len(pages) > 1 {
		n, _ := strconv.ParseFloat(pages[1], 64)
		u.RSS = n * float64(os.Getpagesize())
	}
	return u
}

// heap is what is live on the heap after a collection, stacks included.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}

// readLine is the first line of a file, empty where there is none such.
func readLine(path string) string {
	data, _ := os.ReadFile(path)
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

// field is the value of the first "name: value" line of a file.
func field(path, name string) string {
	data, _ := os.ReadFile(path)
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

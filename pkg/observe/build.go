package observe

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Build is what the binary was made of.
type Build struct {
	Version string // of the main module: a tag, a pseudo-version or "(devel)".
	Commit  string // of the checkout, with "-dirty" where it had changes; "unknown" outside of one.
	Go      string // of the toolchain.
}

// ReadBuild reads what the Go linker wrote into the running binary.
func ReadBuild() Build {
	b := Build{Version: "(devel)", Commit: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	dirty := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if dirty {
		b.Commit += "-dirty"
	}
	return b
}

// NewRegistry makes a registry that holds what every process has: the Go runtime's and the process's figures, and
// halley_build_info, which is 1 and names the build and the tier.
func NewRegistry(b Build, tier string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "halley_build_info",
		Help:        "Always 1; the labels name the build and the tier.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "go": b.Go, "tier": tier},
	})
	info.Set(1)
	r.MustRegister(info, newPauses(), collectors.NewGoCollector(), newProcess())
	return r
}

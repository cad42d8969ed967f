package benchmarks

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// localPorts is how many ports one address may have to one target, by the kernel's range.
func localPorts(read func(path string) string) int {
	ends := strings.Fields(read("/proc/sys/net/ipv4/ip_local_port_range"))
	if len(ends) == 2 {
		first, err1 := strconv.Atoi(ends[0])
		last, err2 := strconv.Atoi(ends[1])
		if err1 == nil && err2 == nil && last >= first {
			return last - first + 1
		}
	}
	return 28_232 // Linux's own.
}

// perTarget is how many connections the fullest target gets.
func (c Config) perTarget() int { return (c.Connections + len(c.Targets) - 1) / len(c.Targets) }

// loopback reports whether all targets are on this machine, where every address of 127.0.0.0/8 is there to connect from.
func (c Config) loopback() bool {
	for _, t := range c.Targets {
		host, _, _ := net.SplitHostPort(t)
		ip, err := netip.ParseAddr(host)
		if err != nil || !ip.Is4() || !ip.IsLoopback() {
			return false
		}
	}
	return true
}

// loopbackSources are as many source addresses as connections to one loopback target need; none where one is enough. Each is
// given half of its ports: the kernel finds the other half slowly, and what was just closed keeps its port for a while.
func loopbackSources(c Config, ports int) []string {
	need := (c.perTarget() + ports/2 - 1) / (ports / 2)
	if need < 2 || !c.loopback() {
		return nil
	}
	return []string{fmt.Sprintf("127.0.0.2-%d", min(1+need, 254))}
}

// advice is what stands in the way of so many connections and is not the generator's to change, with the lines that would.
func advice(c Config, read func(path string) string) (lines []string) {
	number := func(path string) int64 {
		fields := strings.Fields(read(path))
		if len(fields) == 0 {
			return -1
		}
		n, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return -1
		}
		return n
	}
	sources, _ := parseSources(c.Sources)
	need, both := int64(c.Connections), int64(c.Connections)
	if c.loopback() {
		both *= 2 // The server's ends are on this machine as well.
	}
	if ports := localPorts(read); c.perTarget() > ports*max(1, len(sources)) {
		line := fmt.Sprintf("%d connections to one target from %d addresses with %d ports each: give more --target or --source",
			c.perTarget(), max(1, len(sources)), ports)
		if ports < 64_000 {
			line += `, or sysctl -w net.ipv4.ip_local_port_range="1024 65535"`
		}
		lines = append(lines, line)
	}
	if most := number("/proc/sys/fs/file-max"); most >= 0 && most < both+10_000 {
		lines = append(lines, fmt.Sprintf("this machine may have %d open files: sysctl -w fs.file-max=%d", most, both+100_000))
	}
	if most := number("/proc/sys/net/netfilter/nf_conntrack_max"); most >= 0 && most < need+1000 {
		lines = append(lines, fmt.Sprintf("connections are tracked, and %d may be: sysctl -w net.netfilter.nf_conntrack_max=%d, "+
			"or run it all in a network namespace of its own (unshare -n), where none are tracked", most, need+100_000))
	}
	return lines
}

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"strconv"
	"strings"
)

// Need is what a node is to bear.
type Need struct {
	// Connections of clients.
	Connections int
	// Memory in bytes that one connection takes of the process; 0: as measured of an idle one with TLS off.
	Memory int
}

const (
	// connectionMemory is what an idle session takes of comet, with room for the collector.
	connectionMemory = 1500
	// kernelMemory is what the kernel has of an idle TCP connection whose buffers are empty.
	kernelMemory = 4 << 10
	// burst is how many connects may wait to be accepted: a second's worth of what one comet accepts.
	burst = 4096
	// spare is what a process needs in descriptors beside its clients' connections.
	spare = 700
	// crowded is how many connections at a place of the kernel's table are many: to look among them takes a cache miss for each.
	crowded = 2
)

// Machine is what is looked at.
type Machine struct {
	// Root is the machine's file system: /proc and /sys.
	Root fs.FS
	// Soft and Hard are the limits of open files of this process.
	Soft, Hard uint64
	// Synchronized says whether the kernel's clock is kept in step with others; nil where nobody knows.
	Synchronized func() (bool, error)
}

// Examine looks at the machine.
func (m Machine) Examine(n Need) []Finding {
	checks := []func(Need) (Finding, error){
		m.descriptors, m.systemDescriptors, m.backlog, m.synBacklog, m.ports, m.tcpMemory, m.sockets, m.conntrack, m.memory, m.clockSource, m.clock,
	}
	out := make([]Finding, 0, len(checks))
	for _, check := range checks {
		f, err := check(n)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			f.State, f.Found, f.Advice, f.Sysctl = Note, "not here", "", ""
		case err != nil:
			f.State, f.Found, f.Advice, f.Sysctl = Note, err.Error(), "", ""
		}
		out = append(out, f)
	}
	return out
}

func (m Machine) descriptors(n Need) (Finding, error) {
	f := Finding{Check: "open files of a process", State: OK, Found: fmt.Sprintf("soft limit %d, hard limit %d", m.Soft, m.Hard)}
	want := uint64(n.Connections + spare)
	if m.Hard >= want {
		return f, nil // Halley raises the soft limit to the hard one by itself.
	}
	f.State = Fail
	f.Advice = fmt.Sprintf("%d connections take %d: LimitNOFILE=%d in the unit, ulimit -Hn, or several comets of fewer connections", n.Connections, want, want)
	if most, err := m.number("proc/sys/fs/nr_open"); err == nil && most < want {
		f.Sysctl = fmt.Sprintf("fs.nr_open = %d", roundUp(want))
		f.Advice += "; fs.nr_open does not allow that yet"
	}
	return f, nil
}

func (m Machine) systemDescriptors(n Need) (Finding, error) {
	f := Finding{Check: "open files of the machine", State: OK}
	most, err := m.number("proc/sys/fs/file-max")
	if err != nil {
		return f, err
	}
	fields, err := m.fields("proc/sys/fs/file-nr")
	if err != nil {
		return f, err
	}
	f.Found = fmt.Sprintf("%d of %d in use", fields[0], most)
	if want := fields[0] + uint64(n.Connections+spare); want > most {
		f.State, f.Advice = Fail, fmt.Sprintf("%d connections take that many more", n.Connections)
		f.Sysctl = fmt.Sprintf("fs.file-max = %d", roundUp(want))
	}
	return f, nil
}

func (m Machine) backlog(Need) (Finding, error) {
	return m.atLeast("connects waiting to be accepted", "net.core.somaxconn", burst, "a storm of reconnects overflows the listener's queue, and devices wait for a retransmission")
}

func (m Machine) synBacklog(Need) (Finding, error) {
	return m.atLeast("half-open connects", "net.ipv4.tcp_max_syn_backlog", burst, "a storm of reconnects loses its first packets")
}

func (m Machine) ports(n Need) (Finding, error) {
	f := Finding{Check: "local ports", State: OK}
	fields, err := m.fields("proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return f, err
	}
	if len(fields) != 2 || fields[1] < fields[0] {
		return f, fmt.Errorf("ip_local_port_range: %v", fields)
	}
	ports := fields[1] - fields[0] + 1
	f.Found = fmt.Sprintf("%d from one address to one address and port", ports)
	if uint64(n.Connections) > ports {
		f.State = Note
		f.Advice = "matters to load generators and proxies only: more source addresses, or the line below"
		if ports < 60000 {
			f.Sysctl = "net.ipv4.ip_local_port_range = 1024 65535"
		}
	}
	return f, nil
}

// tcpMemory: above the third figure of tcp_mem, in pages, the kernel drops what it receives.
func (m Machine) tcpMemory(n Need) (Finding, error) {
	f := Finding{Check: "memory of TCP", State: OK}
	fields, err := m.fields("proc/sys/net/ipv4/tcp_mem")
	if err != nil {
		return f, err
	}
	if len(fields) != 3 {
		return f, fmt.Errorf("tcp_mem: %v", fields)
	}
	const page = 4096
	f.Found = fmt.Sprintf("at most %s, under pressure from %s on", size(fields[2]*page), size(fields[1]*page))
	// Idle connections have no buffers; one in four with a page on its way is a busy hour.
	if want := uint64(n.Connections) / 4; fields[1] < want {
		f.State, f.Advice = Warn, "with so many connections the kernel shrinks windows, and drops segments at the limit"
		f.Sysctl = fmt.Sprintf("net.ipv4.tcp_mem = %d %d %d", want, want*2, want*4)
	}
	return f, nil
}

// sockets: the kernel looks for the socket of each packet in a table whose size is fixed at boot. A network namespace shares the machine's,
// which the figure tells by its sign, unless it was given one of its own (ip-sysctl in the kernel's documentation, tcp_ehash_entries).
func (m Machine) sockets(n Need) (Finding, error) {
	f := Finding{Check: "table of connections", State: OK}
	text, err := m.text("proc/sys/net/ipv4/tcp_ehash_entries")
	if err != nil {
		return f, err
	}
	places, err := strconv.ParseUint(strings.TrimPrefix(text, "-"), 10, 64)
	if err != nil || places == 0 {
		return f, fmt.Errorf("tcp_ehash_entries: %q", text)
	}
	f.Found = fmt.Sprintf("%d places", places)
	if each := (uint64(n.Connections) + places - 1) / places; each > crowded {
		f.State = Warn
		f.Advice = fmt.Sprintf("the kernel looks for every packet's socket among some %d: boot with thash_entries=%d", each, 1<<bits.Len64(uint64(n.Connections)-1))
	}
	return f, nil
}

func (m Machine) conntrack(n Need) (Finding, error) {
	f := Finding{Check: "connection tracking", State: OK}
	most, err := m.number("proc/sys/net/netfilter/nf_conntrack_max")
	if errors.Is(err, fs.ErrNotExist) {
		f.Found = "off"
		return f, nil
	}
	if err != nil {
		return f, err
	}
	used, err := m.number("proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		return f, err
	}
	f.Found = fmt.Sprintf("%d of %d in use", used, most)
	if want := used + uint64(n.Connections); want > most {
		f.State, f.Advice = Fail, "beyond the limit packets of new connections are dropped: raise it, or take Halley's ports out of tracking"
		f.Sysctl = fmt.Sprintf("net.netfilter.nf_conntrack_max = %d", roundUp(want))
	}
	return f, nil
}

func (m Machine) memory(n Need) (Finding, error) {
	f := Finding{Check: "memory", State: OK}
	info, err := m.text("proc/meminfo")
	if err != nil {
		return f, err
	}
	var available uint64
	for line := range strings.Lines(info) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			if available, err = strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64); err != nil {
				return f, fmt.Errorf("meminfo: %w", err)
			}
			available <<= 10
		}
	}
	f.Found = size(available) + " available"
	most := available
	if limit, err := m.text("sys/fs/cgroup/memory.max"); err == nil && limit != "max" {
		bound, err := strconv.ParseUint(limit, 10, 64)
		if err != nil {
			return f, fmt.Errorf("memory.max: %w", err)
		}
		f.Found += ", " + size(bound) + " allowed to this cgroup"
		most = min(most, bound)
	}
	each := uint64(connectionMemory)
	if n.Memory > 0 {
		each = uint64(n.Memory)
	}
	if want := uint64(n.Connections) * (each + kernelMemory); want > most {
		f.State = Warn
		f.Advice = fmt.Sprintf("%d idle connections take about %s of this process and %s of the kernel",
			n.Connections, size(uint64(n.Connections)*each), size(uint64(n.Connections)*kernelMemory))
	}
	return f, nil
}

func (m Machine) clockSource(Need) (Finding, error) {
	f := Finding{Check: "clock source", State: OK}
	source, err := m.text("sys/devices/system/clocksource/clocksource0/current_clocksource")
	if err != nil {
		return f, err
	}
	f.Found = source
	switch source {
	case "hpet", "acpi_pm", "jiffies":
		f.State, f.Advice = Warn, "each look at the clock is a slow call to a device; tsc or kvm-clock is not"
	}
	return f, nil
}

// clock: the end of a token is compared with it.
func (m Machine) clock(Need) (Finding, error) {
	f := Finding{Check: "clock", State: OK, Found: "kept in step with a server of time"}
	if m.Synchronized == nil {
		return f, fs.ErrNotExist
	}
	synchronized, err := m.Synchronized()
	if err == nil && !synchronized {
		f.State, f.Found = Warn, "kept in step by nobody, as far as the kernel knows"
		f.Advice = "run chrony or another NTP client: tokens begin and end by the clock, and messages carry its time"
	}
	return f, err
}

func (m Machine) atLeast(check, key string, want uint64, why string) (Finding, error) {
	f := Finding{Check: check, State: OK}
	have, err := m.number("proc/sys/" + strings.ReplaceAll(key, ".", "/"))
	if err != nil {
		return f, err
	}
	f.Found = fmt.Sprintf("%s %d", key, have)
	if have < want {
		f.State, f.Advice, f.Sysctl = Warn, why, fmt.Sprintf("%s = %d", key, want)
	}
	return f, nil
}

func (m Machine) text(path string) (string, error) {
	data, err := fs.ReadFile(m.Root, path)
	return strings.TrimSpace(string(data)), err
}

func (m Machine) number(path string) (uint64, error) {
	fields, err := m.fields(path)
	if err != nil {
		return 0, err
	}
	return fields[0], nil
}

// fields has one at least.
func (m Machine) fields(path string) ([]uint64, error) {
	text, err := m.text(path)
	if err != nil {
		return nil, err
	}
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil, fmt.Errorf("%s is empty", path)
	}
	out := make([]uint64, len(words))
	for i, w := range words {
		if out[i], err = strconv.ParseUint(w, 10, 64); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return out, nil
}

// roundUp is n with room above, to a figure that one can remember.
func roundUp(n uint64) uint64 {
	step := uint64(1 << 16)
	for step*16 < n {
		step *= 2
	}
	return (n + step - 1) / step * step
}

func size(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// What a run takes, in bytes: measured on Linux 6 with this program, rounded up.
const (
	kernelPerConnection    = 8_200 // Both ends.
	cometPerConnection     = 1_300
	generatorPerConnection = 1_600
	redisPerConnection     = 350
	memberBytes            = 4_000 // Of a broadcast's groups, in logic and in comet, with the log of each member.
	stormPerDevice         = 4_000
	processBytes           = 32 << 20
	servicesBytes          = 2_500 << 20 // NATS, Redis, Cassandra, logic and job, without load.
)

// spare descriptors of a process: comet keeps 500 for itself.
const (
	cometSpare     = 500
	generatorSpare = 100
	slack          = 400 // Not all targets get exactly as many.
)

func descriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Max > 1<<20 {
		return 1 << 20
	}
	return int(limit.Max)
}

func perComet() int { return descriptors() - cometSpare }

func cometsFor(connections int) int {
	each := min(perComet()-slack, 19_300)
	return max(2, (connections+each-1)/each)
}

// need is what a run asks of the machine.
type need struct {
	connections int
	comets      int
	processes   int
	memory      int64
	parts       []part
}

type part struct {
	name  string
	bytes int64
}

func (o options) need() need {
	n := need{connections: o.connections + o.talkers, comets: o.comets}
	if o.has(stepOne) {
		n.processes, n.memory = 5, o.guestBytes()+servicesBytes
		n.parts = []part{{"the virtual machine", o.guestBytes()}, {"services and logic", servicesBytes}}
		return n
	}
	n.processes = n.comets + (n.connections+descriptors()-generatorSpare-1)/(descriptors()-generatorSpare) + 4
	all := int64(n.connections)
	n.parts = []part{
		{"kernel, both ends", all * kernelPerConnection}, {"comets", all*cometPerConnection + int64(o.comets)*processBytes},
		{"generator", all*generatorPerConnection + int64(n.processes-o.comets)*processBytes}, {"Redis", all * redisPerConnection},
		{"services and logic", servicesBytes},
	}
	if o.has(stepBroadcast) {
		n.parts = append(n.parts, part{"members of groups", int64(o.connections) * memberBytes})
	}
	if o.has(stepStorm) {
		n.parts = append(n.parts, part{"storm", int64(o.storm) * stormPerDevice})
	}
	for _, p := range n.parts {
		n.memory += p.bytes
	}
	return n
}

// String is what there must be, with numbers.
func (n need) String() string {
	var list []string
	for _, p := range n.parts {
		list = append(list, fmt.Sprintf("%s %.1f", p.name, gib(p.bytes)))
	}
	return fmt.Sprintf("%d connections in %d comets, %d processes in all: needs %.1f GiB (%s)",
		n.connections, n.comets, n.processes, gib(n.memory), strings.Join(list, ", "))
}

func gib(bytes int64) float64 { return float64(bytes) / (1 << 30) }

// machine is what there is.
type machine struct {
	available int64 // Memory, bytes; -1 where unknown, as all of these.
	files     int64 // Open files that may still be opened.
	watches   int64 // Of epoll, for this user.
	pids      int64
	root      bool
}

func readMachine() machine {
	m := machine{available: -1, files: -1, watches: number("/proc/sys/fs/epoll/max_user_watches", 0), pids: number("/proc/sys/kernel/pid_max", 0)}
	if kib, ok := memInfo()["MemAvailable"]; ok {
		m.available = kib
	}
	if most, open := number("/proc/sys/fs/file-max", 0), number("/proc/sys/fs/file-nr", 0); most >= 0 && open >= 0 {
		m.files = most - open
	}
	m.root = os.Geteuid() == 0
	return m
}

// check refuses, with numbers, what cannot work.
func (n need) check(m machine) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	sockets := int64(2*n.connections + 20_000)
	if m.available >= 0 && m.available < n.memory {
		fail("memory: %.1f GiB are available, and %.1f GiB are needed; fewer -connections, or fewer -steps", gib(m.available), gib(n.memory))
	}
	if m.files >= 0 && m.files < sockets {
		fail("fs.file-max: %d more files may be opened on this machine, and %d are needed: sysctl -w fs.file-max=%d", m.files, sockets, 2*sockets)
	}
	if m.watches >= 0 && m.watches < sockets {
		fail("fs.epoll.max_user_watches: %d, and %d are needed: sysctl -w fs.epoll.max_user_watches=%d", m.watches, sockets, 2*sockets)
	}
	// Each process of Go has some ten threads, the JVM some eighty.
	if threads := int64(n.processes*15 + 500); m.pids >= 0 && m.pids < threads {
		fail("kernel.pid_max: %d, and %d threads are needed", m.pids, threads)
	}
	if !m.root {
		fail("namespaces of its own need root")
	}
	return errors.Join(errs...)
}

// sysctls of the network namespace: nobody else sees them.
var sysctls = [][2]string{
	{"net/ipv4/ip_local_port_range", "10240 65535"}, // All that listens is below.
	{"net/core/somaxconn", "4096"},
	{"net/ipv4/tcp_max_syn_backlog", "8192"},
	{"net/ipv4/tcp_rmem", "4096 16384 1048576"}, // The sockets of the services are few and may have more.
	{"net/ipv4/tcp_wmem", "4096 16384 1048576"},
	{"net/ipv4/tcp_max_tw_buckets", "400000"},
}

func tune() error {
	var errs []error
	for _, s := range sysctls {
		if err := os.WriteFile("/proc/sys/"+s[0], []byte(s[1]), 0); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// number is a field of a file with numbers, -1 where there is none.
func number(path string, field int) int64 {
	data, _ := os.ReadFile(path)
	fields := strings.Fields(string(data))
	if len(fields) <= field {
		return -1
	}
	n, err := strconv.ParseInt(fields[field], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// memInfo is /proc/meminfo in bytes.
func memInfo() map[string]int64 {
	out := map[string]int64{}
	eachLine("/proc/meminfo", func(line string) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			return
		}
		if kib, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
			out[strings.TrimSuffix(fields[0], ":")] = kib << 10
		}
	})
	return out
}

func eachLine(path string, f func(line string)) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close() //nolint:errcheck // only read.
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		f(lines.Text())
	}
}

// Kernel is its memory at one time, all of the machine: other programs are in it.
type Kernel struct {
	SlabBytes       int64            `json:"slab_bytes"`
	PageTableBytes  int64            `json:"page_table_bytes"`
	KernelStack     int64            `json:"kernel_stack_bytes"`
	AvailableBytes  int64            `json:"available_bytes"`
	TCPSockets      int64            `json:"tcp_sockets"`      // In use, in the namespace of the run.
	TCPMemoryBytes  int64            `json:"tcp_memory_bytes"` // Of their buffers.
	TrackedSockets  int64            `json:"tracked_sockets"`  // conntrack's, in that namespace.
	SlabBytesByName map[string]int64 `json:"slab_bytes_by_name,omitempty"`
}

func readKernel() Kernel {
	info := memInfo()
	k := Kernel{
		SlabBytes: info["Slab"], PageTableBytes: info["PageTables"], KernelStack: info["KernelStack"], AvailableBytes: info["MemAvailable"],
		TrackedSockets: number("/proc/sys/net/netfilter/nf_conntrack_count", 0), SlabBytesByName: slabs(),
	}
	eachLine("/proc/net/sockstat", func(line string) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "TCP:" {
			return
		}
		for i := 1; i+1 < len(fields); i += 2 {
			n, _ := strconv.ParseInt(fields[i+1], 10, 64)
			switch fields[i] {
			case "inuse":
				k.TCPSockets = n
			case "mem":
				k.TCPMemoryBytes = n * int64(os.Getpagesize())
			}
		}
	})
	return k
}

// slabs are those that sockets are made of.
func slabs() map[string]int64 {
	names := []string{"TCP", "TCPv6", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "eventpoll_pwq", "ep_head", "tcp_bind2_bucket", "tcp_bind_bucket", "skbuff_head_cache", "tw_sock_TCP"}
	out := map[string]int64{}
	eachLine("/proc/slabinfo", func(line string) {
		fields := strings.Fields(line)
		if len(fields) < 15 {
			return
		}
		for _, name := range names {
			if fields[0] == name {
				perSlab, err1 := strconv.ParseInt(fields[5], 10, 64)
				count, err2 := strconv.ParseInt(fields[14], 10, 64)
				if err1 == nil && err2 == nil && count > 0 {
					out[name] = count * perSlab * int64(os.Getpagesize())
				}
			}
		}
	})
	return out
}

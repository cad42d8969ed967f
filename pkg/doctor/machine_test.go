package doctor

import (
	"bytes"
	"strings"
	"testing"
	"testing/fstest"
)

// good is a machine that bears a hundred thousand connections.
func good() (Machine, map[string]string) {
	files := map[string]string{
		"proc/sys/fs/nr_open":                                             "1048576\n",
		"proc/sys/fs/file-max":                                            "9000000\n",
		"proc/sys/fs/file-nr":                                             "1000\t0\t9000000\n",
		"proc/sys/net/core/somaxconn":                                     "4096\n",
		"proc/sys/net/ipv4/tcp_max_syn_backlog":                           "8192\n",
		"proc/sys/net/ipv4/ip_local_port_range":                           "32768\t60999\n",
		"proc/sys/net/ipv4/tcp_mem":                                       "100000\t200000\t400000\n",
		"proc/sys/net/ipv4/tcp_ehash_entries":                             "262144\n",
		"proc/sys/net/netfilter/nf_conntrack_max":                         "262144\n",
		"proc/sys/net/netfilter/nf_conntrack_count":                       "10\n",
		"proc/meminfo":                                                    "MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n",
		"sys/fs/cgroup/memory.max":                                        "max\n",
		"sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
	}
	return Machine{Soft: 1024, Hard: 524288, Synchronized: func() (bool, error) { return true, nil }}, files
}

func root(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

func find(t *testing.T, findings []Finding, check string) Finding {
	t.Helper()
	for _, f := range findings {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("%q was not looked at: %v", check, findings)
	return Finding{}
}

func TestWhatAMachineLacksIsSaidWithTheLineThatLiftsIt(t *testing.T) {
	for name, test := range map[string]struct {
		check  string
		need   int
		file   string
		text   string
		change func(m *Machine)
		state  State
		sysctl string
	}{
		"all is well":           {check: "open files of a process", state: OK},
		"too few descriptors":   {check: "open files of a process", need: 600_000, state: Fail},
		"and nr_open below":     {check: "open files of a process", need: 2_000_000, state: Fail, sysctl: "fs.nr_open = 2097152"},
		"machine out of files":  {check: "open files of the machine", file: "proc/sys/fs/file-max", text: "50000", state: Fail, sysctl: "fs.file-max = 131072"},
		"short backlog":         {check: "connects waiting to be accepted", file: "proc/sys/net/core/somaxconn", text: "128", state: Warn, sysctl: "net.core.somaxconn = 4096"},
		"short SYN backlog":     {check: "half-open connects", file: "proc/sys/net/ipv4/tcp_max_syn_backlog", text: "512", state: Warn, sysctl: "net.ipv4.tcp_max_syn_backlog = 4096"},
		"few ports":             {check: "local ports", state: Note, sysctl: "net.ipv4.ip_local_port_range = 1024 65535"},
		"enough ports":          {check: "local ports", need: 20_000, state: OK},
		"little TCP memory":     {check: "memory of TCP", file: "proc/sys/net/ipv4/tcp_mem", text: "1000 2000 3000", state: Warn, sysctl: "net.ipv4.tcp_mem = 25000 50000 100000"},
		"a crowded table":       {check: "table of connections", need: 1_000_000, state: Warn},
		"a shared one":          {check: "table of connections", file: "proc/sys/net/ipv4/tcp_ehash_entries", text: "-65536", state: OK},
		"an old kernel's":       {check: "table of connections", file: "proc/sys/net/ipv4/tcp_ehash_entries", state: Note},
		"no places":             {check: "table of connections", file: "proc/sys/net/ipv4/tcp_ehash_entries", text: "0", state: Note},
		"tracked":               {check: "connection tracking", need: 300_000, state: Fail, sysctl: "net.netfilter.nf_conntrack_max = 327680"},
		"not tracked":           {check: "connection tracking", file: "proc/sys/net/netfilter/nf_conntrack_max", state: OK},
		"little memory":         {check: "memory", file: "proc/meminfo", text: "MemAvailable: 100000 kB\n", state: Warn},
		"little in this cgroup": {check: "memory", file: "sys/fs/cgroup/memory.max", text: "100000000", state: Warn},
		"a slow clock":          {check: "clock source", file: "sys/devices/system/clocksource/clocksource0/current_clocksource", text: "acpi_pm", state: Warn},
		"a lonely clock":        {check: "clock", change: func(m *Machine) { m.Synchronized = func() (bool, error) { return false, nil } }, state: Warn},
		"an unknown clock":      {check: "clock", change: func(m *Machine) { m.Synchronized = nil }, state: Note},
		"nothing to be read":    {check: "memory of TCP", file: "proc/sys/net/ipv4/tcp_mem", state: Note},
		"nonsense":              {check: "memory of TCP", file: "proc/sys/net/ipv4/tcp_mem", text: "many", state: Note},
		"too little of it":      {check: "memory of TCP", file: "proc/sys/net/ipv4/tcp_mem", text: "1 2", state: Note},
	} {
		t.Run(name, func(t *testing.T) {
			m, files := good()
			if test.file != "" {
				if files[test.file] = test.text; test.text == "" {
					delete(files, test.file)
				}
			}
			if test.change != nil {
				test.change(&m)
			}
			m.Root = root(files)
			need := test.need
			if need == 0 {
				need = 100_000
			}
			findings := m.Examine(Need{Connections: need})
			f := find(t, findings, test.check)
			if f.State != test.state || f.Sysctl != test.sysctl {
				t.Fatalf("found %+v, want %s with the line %q", f, test.state, test.sysctl)
			}
			if (f.State == Warn || f.State == Fail) != (f.Advice != "") && f.State != Note {
				t.Errorf("%s with the advice %q", f.State, f.Advice)
			}
			if test.state == Fail && Worst(findings) != Fail {
				t.Errorf("the worst of %v is %s", findings, Worst(findings))
			}
		})
	}
}

func TestTheLinesAreInABlockToBeCopied(t *testing.T) {
	var out bytes.Buffer
	if err := Print(&out, []Finding{{Check: "a", State: OK, Found: "b"}, {Check: "longer", State: Fail, Found: "c", Advice: "do d", Sysctl: "e.f = 1"}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ok    a       b\n", "fail  longer  c\n", "→ do d\n", "\n\ne.f = 1\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

func TestThisMachineCanBeLookedAt(t *testing.T) {
	m, err := Here()
	if err != nil {
		t.Fatal(err)
	}
	if f := find(t, m.Examine(Need{Connections: 1}), "open files of a process"); f.State != OK {
		t.Errorf("%+v", f)
	}
}

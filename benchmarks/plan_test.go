package benchmarks

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplit(t *testing.T) {
	p := pairs(verbP2P, Default(), Load{Rate: 100})
	p.Config.Connections, p.Config.Worker, p.Config.Workers = 1_000_000, []string{"worker"}, 4
	parts, err := p.split(19_900)
	if err != nil || len(parts) != 51 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	next, rate := 0, 0.0
	for i, part := range parts {
		n := part.Config.Connections
		if part.First != next || part.Part != i || part.Parts != 51 || n > 19_900 || n%2 != 0 || part.Config.Workers != 1 {
			t.Fatalf("part %d: %+v", i, part)
		}
		next += n
		rate += part.Load.Rate
	}
	if next != 1_000_000 || rate < 99.99 || rate > 100.01 {
		t.Errorf("%d connections, %f messages/s", next, rate)
	}

	p.Config.Processes = 3
	p.Config.Connections = 20
	if parts, err = p.split(19_900); err != nil || len(parts) != 3 ||
		!cmp.Equal([]int{parts[0].Config.Connections, parts[1].Config.Connections, parts[2].Config.Connections}, []int{8, 6, 6}) {
		t.Errorf("%+v, %v", parts, err)
	}
	for want, change := range map[string]func(p *plan){
		"descriptors of each": func(p *plan) { p.Config.Connections = 60_000 },
		"conversation of":     func(p *plan) { p.Members = 20_000 },
		"at most 512":         func(p *plan) { p.Config.Processes, p.Config.Connections = 0, 20_000_000 },
		"needs the command":   func(p *plan) { p.Config.Worker = nil },
	} {
		bad := p
		change(&bad)
		if _, err := bad.split(19_900); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// files is a machine whose files are these.
func files(content map[string]string) func(string) string {
	return func(path string) string { return content[path] }
}

func TestSourcesOnLoopback(t *testing.T) {
	c := Default()
	c.Targets = []string{"127.0.0.1:1", "127.0.0.1:2"}
	for n, want := range map[int]string{
		20_000: "", 28_232: "", 28_236: "127.0.0.2-3", 200_000: "127.0.0.2-9", 100_000_000: "127.0.0.2-254",
	} {
		c.Connections = n
		if got := strings.Join(loopbackSources(c, localPorts(files(nil))), " "); got != want {
			t.Errorf("%d connections: %q, want %q", n, got, want)
		}
	}
	c.Targets = []string{"127.0.0.1:1", "10.0.0.1:2"}
	if got := loopbackSources(c, 28_232); got != nil {
		t.Errorf("sources %v towards another machine", got)
	}
	if n := localPorts(files(map[string]string{"/proc/sys/net/ipv4/ip_local_port_range": "1024\t65535"})); n != 64_512 {
		t.Errorf("%d ports", n)
	}
}

func TestAdviceSaysTheLines(t *testing.T) {
	c := Default()
	c.Connections, c.Targets = 1_000_000, []string{"10.0.0.1:1"}
	small := files(map[string]string{"/proc/sys/fs/file-max": "100000", "/proc/sys/net/netfilter/nf_conntrack_max": "262144"})
	text := strings.Join(advice(c, small), "\n")
	for _, want := range []string{"--source", `ip_local_port_range="1024 65535"`, "fs.file-max=1100000", "nf_conntrack_max=1100000"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	c.Sources = []string{"10.0.1.1-50"}
	large := files(map[string]string{"/proc/sys/fs/file-max": "9223372036854775807"})
	if lines := advice(c, large); lines != nil {
		t.Errorf("nothing is missing, but %q", lines)
	}
}

package benchmarks

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"
)

func TestSources(t *testing.T) {
	ips, err := parseSources([]string{"127.0.0.2-4", "10.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, ip := range ips {
		got = append(got, ip.String())
	}
	if s := strings.Join(got, " "); s != "127.0.0.2 127.0.0.3 127.0.0.4 10.0.0.1" {
		t.Error(s)
	}
	for _, bad := range []string{"localhost", "127.0.0.9-2", "127.0.0.1-300", "127.0.0.1-", "::1-2"} {
		if _, err := parseSources([]string{bad}); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

// TestMetricsOfTheTrueCollectors reads what client_golang writes, so that a change there shows here.
func TestMetricsOfTheTrueCollectors(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			t.Fatal(err)
		}
	}
	got, err := parseMetrics(&text)
	if err != nil || got.rss < 1<<20 || got.goroutines < 1 {
		t.Errorf("%+v, %v", got, err)
	}
	text.Reset()
	text.WriteString("process_resident_memory_bytes 1\nprocess_cpu_seconds_total 1\n" +
		"halley_presence_redis_commands_total{command=\"evalsha\"} 3\nhalley_presence_redis_commands_total{command=\"hgetall\"} 4\n" +
		"halley_store_seconds_count{op=\"range\",result=\"ok\"} 5\nhalley_store_seconds_count{op=\"range\",result=\"error\"} 1\n" +
		"halley_store_seconds_count{op=\"append\",result=\"ok\"} 9\nhalley_store_seconds_sum{op=\"range\",result=\"ok\"} 9\n")
	if got, err := parseMetrics(&text); err != nil || got.redis != 7 || got.reads != 6 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseMetrics(strings.NewReader("go_goroutines 3\n")); err == nil {
		t.Error("a page without the process's metrics was accepted")
	}
}

func TestReportNames(t *testing.T) {
	var b bytes.Buffer
	if err := (&Report{}).WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(`sent acked delivered unacked lost duplicated reordered gaps connections rate environment
		ack_ms.p50 ack_ms.p90 ack_ms.p99 ack_ms.p999 ack_ms.max deliver_ms.p50 deliver_ms.max
		server.rss_bytes server.rss_bytes_per_connection server.cpu_us_per_message server.cpu_us_per_connect server.cpu_us_per_delivery`) {
		var at any = got
		for name := range strings.SplitSeq(path, ".") {
			next, ok := at.(map[string]any)[name]
			if !ok {
				t.Errorf("%s is missing", path)
				break
			}
			at = next
		}
	}
}

func TestEachBrokenPromiseFails(t *testing.T) {
	if (&Report{Unacked: 1, Repaired: 1, Hidden: 1, Redelivered: 1, Refused: 1}).Failed() {
		t.Error("failed without a broken promise")
	}
	for _, r := range []Report{{Lost: 1}, {Duplicated: 1}, {Reordered: 1}, {Gaps: 1}, {Corrupted: 1}, {Strays: 1}} {
		if !r.Failed() || r.Err() == nil {
			t.Errorf("%v did not fail", &FailedError{&r})
		}
	}
}

func TestConfigsThatCannotWork(t *testing.T) {
	good := Default()
	good.Targets = []string{"127.0.0.1:1"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"-n": func(c *Config) { c.Connections = 0 }, "--processes": func(c *Config) { c.Processes = -1 },
		"--transport": func(c *Config) { c.Transport = "udp" }, "--codec": func(c *Config) { c.Codec = "json" },
		"--target": func(c *Config) { c.Targets = []string{"nowhere"} }, "--size": func(c *Config) { c.Size = 31 },
		"--ca-file": func(c *Config) { c.Transport, c.Authorities = "wss", []byte("none") },
		"durations": func(c *Config) { c.Duration = 0 }, "--source": func(c *Config) { c.Sources = []string{"x"} },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good.Transport = "tls"
	if c, err := good.secured(); err != nil || c.InsecureSkipVerify {
		t.Errorf("without its flag any certificate is believed: %v", err)
	}
	for _, l := range []Load{{}, {Outstanding: 1, Rate: 1}, {Outstanding: -1}, {Outstanding: 257}} {
		if l.validate() == nil {
			t.Errorf("%+v was accepted", l)
		}
	}
}

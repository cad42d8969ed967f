package benchmarks

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/halley-im/halley/benchmarks/generator"
)

// sampleReport is the report of a run of three seconds.
func sampleReport() *Report {
	h := generator.NewHistogram()
	for i := range 5000 {
		generator.Record(h, int64(i)*10_000)
	}
	r := &Report{
		Verb: verbP2P, Command: "halley bench p2p <script>alert(1)</script>", Sent: 5000, Acked: 5000, Delivered: 5000,
		Rate: 1000, Connections: 20, AckMs: latency(h), DeliverMs: latency(h), ConnectMs: latency(h),
		Config:   Settings{Connections: 20, Targets: []string{"127.0.0.1:1", "127.0.0.1:2"}},
		Server:   Server{CPUUsPerMessage: 20, RSSBytes: 1 << 26, Tiers: []Tier{{URL: "http://a", RSSBytes: 1 << 26}}},
		Curves:   map[string][][2]float64{"ack": curve(h), "deliver": curve(h), "connect": curve(h)},
		Warnings: []string{"the weather is bad"},
	}
	for i := range 3 {
		r.Series = append(r.Series, Point{AtS: float64(i), Phase: "measuring", Connections: 20, Acked: 1000.5, Delivered: 1000, DeliverP99: 12})
	}
	return r
}

func TestThePageNeedsNothingElse(t *testing.T) {
	var b bytes.Buffer
	if err := sampleReport().WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if m := regexp.MustCompile(`(?i)<(script|link|img|iframe)|url\(|@import|(src|href)=`).FindString(text); m != "" {
		t.Errorf("the page has %q", m)
	}
	for _, want := range []string{"the weather is bad", "every message accounted for", "127.0.0.1:1, 127.0.0.1:2", "64.0", "p99.9"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q on the page", want)
		}
	}
	charts := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(text, -1)
	if len(charts) != 6 { // Connections, messages, deliveries, in flight, two of percentiles.
		t.Errorf("%d charts", len(charts))
	}
	for _, chart := range charts {
		for d := xml.NewDecoder(strings.NewReader(chart)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v in\n%s", err, chart)
			}
		}
		if strings.Contains(chart, "NaN") || strings.Contains(chart, "Inf") {
			t.Errorf("a chart with what is no number:\n%s", chart)
		}
	}
}

func TestAPageOfNothingIsAPage(t *testing.T) {
	var b bytes.Buffer
	if err := (&Report{Verb: verbConn, Lost: 1}).WriteHTML(&b); err != nil || strings.Contains(b.String(), "<svg") {
		t.Errorf("%v\n%s", err, b.String())
	}
	if !strings.Contains(b.String(), "verdict failed") || !strings.Contains(b.String(), "1 lost") {
		t.Errorf("a broken promise does not show:\n%s", b.String())
	}
}

func TestTicksAreRound(t *testing.T) {
	for most, want := range map[float64]float64{0: 1, 1: 1, 7: 8, 49: 50, 51: 60, 1_000_000: 1_000_000, 0.03: 0.03} {
		list := ticks(most)
		if last := list[len(list)-1]; last < want*0.999 || last > want*1.001 || len(list) > 7 || len(list) < 3 {
			t.Errorf("up to %g: %v, want up to %g", most, list, want)
		}
	}
}

func TestCSVHasALineForEachSecond(t *testing.T) {
	var b bytes.Buffer
	if err := sampleReport().WriteCSV(&b); err != nil {
		t.Fatal(err)
	}
	lines, err := csv.NewReader(&b).ReadAll()
	if err != nil || len(lines) != 4 || lines[0][0] != "at_s" || lines[1][3] != "1000.500" || lines[1][1] != "measuring" {
		t.Errorf("%v %v", lines, err)
	}
}

func TestCompare(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(r *Report)
		allowed Thresholds
		err     string
		text    []string
	}{
		"the same":          {func(*Report) {}, Thresholds{All: 0}, "", []string{"+0.0 %"}},
		"within":            {func(r *Report) { r.Rate = 950 }, Thresholds{All: 10}, "", []string{"-5.0 %"}},
		"slower":            {func(r *Report) { r.Rate = 800 }, Thresholds{All: 10}, "worse than allowed: rate", []string{"-20.0 %", "worse by more than 10 %"}},
		"faster":            {func(r *Report) { r.Rate = 2000 }, Thresholds{All: 10}, "", []string{"+100.0 %"}},
		"dearer":            {func(r *Report) { r.Server.CPUUsPerMessage = 23 }, Thresholds{All: 10}, "server.cpu_us_per_message", nil},
		"dearer, not asked": {func(r *Report) { r.Server.CPUUsPerMessage = 90 }, Thresholds{Only: map[string]float64{"rate": 5}}, "", nil},
		"one has it":        {func(r *Report) { r.CompleteMs.P99 = 3 }, Thresholds{All: 10}, "", []string{"only one of them has it"}},
		"broken":            {func(r *Report) { r.Lost = 2 }, Thresholds{All: 10}, "promises broken: 2 lost", nil},
		"another load":      {func(r *Report) { r.Config.Size = 7 }, Thresholds{All: 10}, "", []string{"not the same: size_bytes none, 7"}},
		"no such figure":    {func(*Report) {}, Thresholds{Only: map[string]float64{"speed": 5}}, "want one of rate", nil},
	} {
		t.Run(name, func(t *testing.T) {
			after := sampleReport()
			test.change(after)
			var b bytes.Buffer
			err := Compare(&b, sampleReport(), after, test.allowed)
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			for _, want := range test.text {
				if !strings.Contains(b.String(), want) {
					t.Errorf("no %q in\n%s", want, b.String())
				}
			}
		})
	}
}

func TestAReportIsReadAsItWasWritten(t *testing.T) {
	path := t.TempDir() + "/run.json"
	want := sampleReport()
	if err := WriteFile(path, want.WriteJSON); err != nil {
		t.Fatal(err)
	}
	got, err := ReadReport(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Compare(io.Discard, want, got, Thresholds{}); err != nil || len(got.Series) != 3 || len(got.Curves["deliver"]) < 20 {
		t.Errorf("%v, %d points, %d of the curve", err, len(got.Series), len(got.Curves["deliver"]))
	}
	if err := WriteFile(path, func(w io.Writer) error { _, err := io.WriteString(w, "{}"); return err }); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadReport(path); err == nil {
		t.Error("what is no report was read")
	}
}

package benchmarks

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"
)

// plot is a chart of lines, drawn as an SVG that needs nothing else.
type plot struct {
	title string
	unit  string // Of y.
	lines []line
	xName func(x float64) string // How a place on the x axis is called.
	marks []tickMark             // Of the x axis; chosen where there are none.
	notes []tickMark             // What begins at an x.
}

type line struct {
	name   string
	points [][2]float64
}

type tickMark struct {
	at   float64
	name string
}

const (
	plotWidth, plotHeight                    = 760.0, 240.0
	plotLeft, plotRight, plotTop, plotBottom = 64.0, 26.0, 26.0, 36.0
)

var colours = []string{"#2563eb", "#d97706", "#dc2626", "#059669"}

// empty reports whether there is no line to draw.
func (p plot) empty() bool {
	return !slices.ContainsFunc(p.lines, func(l line) bool { return len(l.points) > 1 })
}

// SVG draws it.
func (p plot) SVG() template.HTML {
	x0, x1, y1 := math.Inf(1), math.Inf(-1), 0.0
	for _, l := range p.lines {
		for _, at := range l.points {
			x0, x1, y1 = min(x0, at[0]), max(x1, at[0]), max(y1, at[1])
		}
	}
	if x1 <= x0 {
		x1 = x0 + 1
	}
	ys := ticks(y1)
	y1 = ys[len(ys)-1]
	px := func(x float64) float64 { return plotLeft + (x-x0)/(x1-x0)*(plotWidth-plotLeft-plotRight) }
	py := func(y float64) float64 { return plotHeight - plotBottom - y/y1*(plotHeight-plotTop-plotBottom) }
	var b strings.Builder
	f := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	f(`<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, plotWidth, plotHeight, template.HTMLEscapeString(p.title))
	for _, y := range ys {
		f(`<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/>`, plotLeft, plotWidth-plotRight, py(y), py(y))
		f(`<text x="%g" y="%.1f" text-anchor="end">%s</text>`, plotLeft-6, py(y)+4, short(y))
	}
	marks := p.marks
	if marks == nil {
		for i := range 6 {
			x := x0 + (x1-x0)*float64(i)/5
			marks = append(marks, tickMark{x, p.xName(x)})
		}
	}
	for _, m := range marks {
		if m.at >= x0 && m.at <= x1 {
			f(`<text x="%.1f" y="%g" text-anchor="middle">%s</text>`, px(m.at), plotHeight-plotBottom+16, template.HTMLEscapeString(m.name))
		}
	}
	for _, m := range p.notes {
		f(`<line class="note" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/>`, px(m.at), px(m.at), plotTop, plotHeight-plotBottom)
		f(`<text class="note" x="%.1f" y="%g">%s</text>`, px(m.at)+3, plotTop+10, template.HTMLEscapeString(m.name))
	}
	left := plotLeft
	for i, l := range p.lines {
		colour := colours[i%len(colours)]
		f(`<polyline fill="none" stroke="%s" stroke-width="1.6" points="`, colour)
		for _, at := range l.points {
			f("%.1f,%.1f ", px(at[0]), py(at[1]))
		}
		f(`"/><text x="%g" y="14" style="fill:%s">%s</text>`, left, colour, template.HTMLEscapeString(l.name))
		left += 14 + 7*float64(len(l.name))
	}
	f(`<text x="%g" y="14" text-anchor="end">%s</text></svg>`, plotWidth-plotRight, template.HTMLEscapeString(p.unit))
	return template.HTML(b.String()) //nolint:gosec // all that is not a number is escaped above.
}

// ticks are round numbers from 0 to at least most.
func ticks(most float64) []float64 {
	if !(most > 0) || math.IsInf(most, 0) {
		most = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most/4)))
	for _, m := range []float64{1, 2, 5, 10} {
		if most/(m*step) <= 5 {
			step *= m
			break
		}
	}
	list := []float64{0}
	for i := 1; list[len(list)-1] < most; i++ {
		list = append(list, float64(i)*step)
	}
	return list
}

// short writes a number with the digits that an axis needs.
func short(x float64) string {
	for _, unit := range []struct {
		of   float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if x >= unit.of {
			return strconv.FormatFloat(x/unit.of, 'g', 4, 64) + unit.name
		}
	}
	return strconv.FormatFloat(x, 'g', 4, 64)
}

package benchmarks

import (
	_ "embed" // The page.
	"encoding/csv"
	"fmt"
	"html/template"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"fields": fields, "mib": func(b float64) string { return fmt.Sprintf("%.1f", b/(1<<20)) },
}).Parse(pageText))

// WriteHTML writes the report as one page that needs nothing else.
func (r *Report) WriteHTML(w io.Writer) error {
	data := struct {
		Report  *Report
		Verdict string
		Rows    []Row
		Plots   []titled
	}{r, r.verdict(), r.rows(), nil}
	for _, p := range r.plots() {
		if !p.empty() {
			data.Plots = append(data.Plots, titled{p.title, p.SVG()})
		}
	}
	return page.Execute(w, data)
}

type titled struct {
	Title string
	SVG   template.HTML
}

// plots are the charts of a page.
func (r *Report) plots() []plot {
	overTime := func(title, unit string, names []string, of ...func(Point) float64) plot {
		p := plot{title: title, unit: unit, xName: func(x float64) string { return short(math.Round(x*10)/10) + " s" }}
		for i, name := range names {
			l := line{name: name}
			for _, at := range r.Series {
				l.points = append(l.points, [2]float64{at.AtS, of[i](at)})
			}
			p.lines = append(p.lines, l)
		}
		phase := ""
		for _, at := range r.Series {
			if at.Phase != phase {
				phase = at.Phase
				p.notes = append(p.notes, tickMark{at.AtS, phase})
			}
		}
		return p
	}
	list := []plot{overTime("Connections", "connections", []string{"connected"}, func(p Point) float64 { return float64(p.Connections) })}
	if r.Sent > 0 {
		list = append(list,
			overTime("Messages", "per second", []string{"acknowledged", "delivered"},
				func(p Point) float64 { return p.Acked }, func(p Point) float64 { return p.Delivered }),
			overTime("Delivery, of each second", "ms", []string{"p50", "p99", "max"},
				func(p Point) float64 { return p.DeliverP50 }, func(p Point) float64 { return p.DeliverP99 },
				func(p Point) float64 { return p.DeliverMax }),
			overTime("Messages in flight", "messages", []string{"in flight"}, func(p Point) float64 { return float64(p.InFlight) }))
	}
	return append(list,
		r.percentiles("Latency by percentile", "ack", "deliver"),
		r.percentiles("Connects by percentile", "connect"),
		r.percentiles("Time to be complete again, by percentile", "complete"))
}

// percentiles draws curves over an axis on which each further nine is as far as the one before.
func (r *Report) percentiles(title string, names ...string) plot {
	p := plot{title: title, unit: "ms"}
	place := func(q float64) float64 { return -math.Log10(1 - q/100) }
	for _, name := range names {
		l := line{name: name}
		for _, at := range r.Curves[name] {
			l.points = append(l.points, [2]float64{place(at[0]), at[1]})
		}
		p.lines = append(p.lines, l)
	}
	for _, q := range []float64{0, 50, 90, 99, 99.9, 99.99, 99.999} {
		p.marks = append(p.marks, tickMark{place(q), "p" + strconv.FormatFloat(q, 'f', -1, 64)})
	}
	return p
}

// fields are the fields of a struct that say something, under their names in JSON.
func fields(v any) (rows []Row) {
	s := reflect.ValueOf(v)
	for i := range s.NumField() {
		name, _, _ := strings.Cut(s.Type().Field(i).Tag.Get("json"), ",")
		if f := s.Field(i); !f.IsZero() {
			text := fmt.Sprint(f.Interface())
			if list, ok := f.Interface().([]string); ok {
				text = strings.Join(list, ", ")
			}
			rows = append(rows, Row{name, text})
		}
	}
	return rows
}

// WriteCSV writes the series: a line for each second.
func (r *Report) WriteCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	t := reflect.TypeFor[Point]()
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("json")
	}
	_ = c.Write(names) // Error tells.
	for _, p := range r.Series {
		v := reflect.ValueOf(p)
		cells := make([]string, v.NumField())
		for i := range cells {
			cells[i] = fmt.Sprint(v.Field(i).Interface())
			if x, ok := v.Field(i).Interface().(float64); ok {
				cells[i] = strconv.FormatFloat(x, 'f', 3, 64)
			}
		}
		_ = c.Write(cells)
	}
	c.Flush()
	return c.Error()
}

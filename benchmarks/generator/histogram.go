package generator

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Histogram holds durations in microseconds, and can be sent to another process.
type Histogram struct{ *hdrhistogram.Histogram }

const histogramMost = int64(time.Hour / time.Microsecond)

// NewHistogram is a histogram of nanoseconds kept in microseconds: 1 µs to an hour, three digits.
func NewHistogram() Histogram { return Histogram{hdrhistogram.New(1, histogramMost, 3)} }

// NewCoarseHistogram is one with two digits, a tenth of the size, for what is sent every second.
func NewCoarseHistogram() Histogram { return Histogram{hdrhistogram.New(1, histogramMost, 2)} }

// Record adds a duration in nanoseconds, clamped to the range, so that an outlier is not dropped.
func Record(h Histogram, ns int64) {
	_ = h.RecordValue(min(max(ns/1000, 1), h.HighestTrackableValue()))
}

// Add merges o into h; one that holds nothing may be nil.
func (h Histogram) Add(o Histogram) {
	if o.Histogram != nil {
		h.Merge(o.Histogram)
	}
}

// GobEncode implements gob.GobEncoder.
func (h Histogram) GobEncode() ([]byte, error) {
	return h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
}

// GobDecode implements gob.GobDecoder.
func (h *Histogram) GobDecode(b []byte) (err error) {
	h.Histogram, err = hdrhistogram.Decode(b)
	return err
}

package observe

import (
	"io"
	"io/fs"
	"log/slog"
	"os"
)

// Values of LogConfig.Format.
const (
	FormatAuto = "auto"
	FormatJSON = "json"
	FormatText = "text"
)

// NewLogger makes the process's logger on w. The level it returns may be changed at any time, by any goroutine.
func NewLogger(cfg LogConfig, w io.Writer) (*slog.Logger, *slog.LevelVar, error) {
	if err := cfg.Validate(); err != nil {
		return nil, nil, err
	}
	level := new(slog.LevelVar)
	start, err := ParseLevel(cfg.Level)
	if err != nil {
		return nil, nil, err
	}
	level.Set(start)
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: withUnits}
	if cfg.Format == FormatText || cfg.Format == FormatAuto && IsTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options)), level, nil
	}
	return slog.New(slog.NewJSONHandler(w, options)), level, nil
}

// withUnits writes durations as 1.5s in JSON too, where they would be numbers of nobody knows what.
func withUnits(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// IsTerminal reports whether people read w. It takes any character device for a terminal: /dev/null is the one it is wrong about, and nobody reads that.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&fs.ModeCharDevice != 0
}

package benchmarks

import (
	"context"
	"fmt"
	"io"
	"time"
)

// progress shows one line, renewed every second, until the returned function is called.
func progress(on bool, out io.Writer, line func() string) (stop func()) {
	if !on {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				_, _ = fmt.Fprint(out, "\r\x1b[K")
				return
			case <-tick.C:
				_, _ = fmt.Fprint(out, "\r\x1b[K"+line())
			}
		}
	}()
	return func() { cancel(); <-done }
}

// pause waits for d, or less where ctx ends first.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

package app

import (
	"context"
	"os"
	"sync"
)

// WithSignals returns a context that ends at the first signal, with which a drain begins. At the second, force is called:
// whoever sends it does not want to wait for the drain. The returned function ends the watch and must be called.
func WithSignals(ctx context.Context, signals <-chan os.Signal, force func()) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	quit := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for count := 1; ; count++ {
			select {
			case <-quit:
				return
			case <-signals:
			}
			if count == 1 {
				cancel()
				continue
			}
			force()
			return
		}
	})
	stop := sync.OnceFunc(func() {
		close(quit)
		watch.Wait()
		cancel()
	})
	return ctx, stop
}

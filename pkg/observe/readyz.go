package observe

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// readyz answers 200 while every check holds, else 503. It always names the checks that failed; with ?verbose all of them.
func (a *Admin) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), a.cfg.checkTimeout())
	defer cancel()
	checks := a.deps.Checks()
	results := runChecks(ctx, checks)
	_, verbose := r.URL.Query()["verbose"]
	var b strings.Builder
	status := http.StatusOK
	for i, err := range results {
		switch name := checks[i].Name; {
		case err != nil:
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&b, "[-] %s: %v\n", name, err)
		case verbose:
			fmt.Fprintf(&b, "[+] %s ok\n", name)
		}
	}
	if status == http.StatusOK {
		b.WriteString("ready\n")
	} else {
		b.WriteString("not ready\n")
	}
	plain(w, status, b.String())
}

// runChecks runs all at once, so that one which hangs does not hide what the others say, and returns when all have
// answered or ctx has ended. A check that ignores ctx is left behind; its answer goes nowhere.
func runChecks(ctx context.Context, checks []Check) []error {
	var mu sync.Mutex
	results := make([]error, len(checks))
	for i := range results {
		results[i] = errNoAnswer
	}
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() {
			err := c.Run(ctx)
			mu.Lock()
			defer mu.Unlock()
			results[i] = err
		})
	}
	all := make(chan struct{})
	go func() { wg.Wait(); close(all) }()
	select {
	case <-all:
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	return append([]error(nil), results...)
}

var errNoAnswer = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)

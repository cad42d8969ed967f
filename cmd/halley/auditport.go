package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/halley-im/halley/logic/audit"
)

// auditPath is where a running serve audits itself, on its admin port.
const auditPath = "/audit"

// auditScope is how much an audit tells: of violations at most so many, and of records all or none.
type auditScope struct {
	limit   int
	records bool
}

// auditPort answers POST /audit?limit=N&records=true with the events of an audit, a line of JSON each, as they become known. One audit runs at a
// time: each reads all that there is.
type auditPort struct {
	mu sync.Mutex
	// guarded by mu
	run    auditFunc // nil while there is nothing to audit
	cancel func()    // ends the audit that runs; nil: none does
	ended  chan struct{}
}

// auditFunc audits and tells what it finds.
type auditFunc func(ctx context.Context, want auditScope, emit func(audit.Event) error) error

// set says how to audit from now on.
func (a *auditPort) set(run auditFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.run = run
}

// stop ends the audit that runs and begins no other: what it reads is about to be closed.
func (a *auditPort) stop() {
	a.mu.Lock()
	a.run = nil
	cancel, ended := a.cancel, a.ended
	a.mu.Unlock()
	if cancel != nil {
		cancel()
		<-ended
	}
}

// begin takes the turn, or says why not.
func (a *auditPort) begin(parent context.Context) (ctx context.Context, run auditFunc, status int, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.run == nil:
		return nil, nil, http.StatusServiceUnavailable, "there is nothing to audit now"
	case a.cancel != nil:
		return nil, nil, http.StatusConflict, "another audit is running"
	}
	ctx, a.cancel = context.WithCancel(parent)
	a.ended = make(chan struct{})
	return ctx, a.run, http.StatusOK, ""
}

func (a *auditPort) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cancel()
	a.cancel = nil
	close(a.ended)
}

// auditWriteWithin is how long a caller may take to read one event: nobody who does not read shall hold up the end of the server.
const auditWriteWithin = 10 * time.Second

// ServeHTTP audits until the end, or until the caller is gone.
func (a *auditPort) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	want := auditScope{limit: audit.Default(0).Limit, records: r.URL.Query().Get("records") == "true"}
	if text := r.URL.Query().Get("limit"); text != "" {
		var err error
		if want.limit, err = strconv.Atoi(text); err != nil || want.limit < 0 || want.limit > maxAuditLimit {
			http.Error(w, fmt.Sprintf("limit: want 0 to %d", maxAuditLimit), http.StatusBadRequest)
			return
		}
	}
	ctx, run, status, why := a.begin(r.Context())
	if run == nil {
		http.Error(w, why, status)
		return
	}
	defer a.end()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	lines, flush := json.NewEncoder(w), http.NewResponseController(w)
	emit := func(e audit.Event) error {
		if e.Record != nil { // Of these there are many; what follows takes them along.
			return errors.Join(flush.SetWriteDeadline(time.Now().Add(auditWriteWithin)), lines.Encode(e))
		}
		return errors.Join(flush.SetWriteDeadline(time.Now().Add(auditWriteWithin)), lines.Encode(e), flush.Flush())
	}
	if err := run(ctx, want, emit); err != nil {
		_ = emit(audit.Event{Error: err.Error()}) // Where that fails there is nobody left to tell.
	}
}

// maxAuditLimit bounds what an audit keeps of violations to tell them.
const maxAuditLimit = 10_000

// maxAuditLine bounds one event: the last has a row for each partition and all violations that are told.
const maxAuditLine = 64 << 20

// askForAudit has a running serve audit itself.
func askForAudit(ctx context.Context, admin string, want auditScope, emit func(audit.Event) error) error {
	at := admin + auditPath + "?" + url.Values{"limit": {strconv.Itoa(want.limit)}, "records": {strconv.FormatBool(want.records)}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask the running halley serve: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // read to its end or given up.
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10)) // Without it the status still stands.
		return fmt.Errorf("the running halley serve answers %s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxAuditLine)
	for lines.Scan() {
		var e audit.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("the running halley serve answers what is no event: %w", err)
		}
		if e.Error != "" {
			return errors.New(e.Error)
		}
		if err := emit(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the running halley serve: %w", err)
	}
	return nil
}

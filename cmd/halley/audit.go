package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/halley-im/halley/logic/audit"
	"github.com/halley-im/halley/pkg/observe"
)

type auditCmd struct {
	settingsFlags
	DataDir string `name:"data-dir" placeholder:"DIR" help:"Audit the halley serve of this folder, stopped or running (data_dir; ./halley-data), whatever the settings say of a cluster."`
	Limit   int    `default:"100" placeholder:"N" help:"Most violations that are told one by one; all are counted (${default})."`
	JSON    bool   `name:"json" help:"Print a line of JSON for each violation, for each partition, and last for the whole."`
	Records bool   `help:"With --json, print a line for each record of the logs too: where it stands, and which write it is."`
	Out     string `placeholder:"FILE" help:"Write the result as JSON."`
}

// Help says where it looks.
func (auditCmd) Help() string {
	return "Reads every block of the logs, derives the numbering of all conversations anew, and compares it with the store. " +
		"It changes nothing.\n\n" +
		"Where the settings name a cluster (nats.urls), that is audited, running or not, with the credentials of 'halley cluster create'. " +
		"Otherwise it is the halley serve of the data folder: a stopped one is read from disk, a running one is asked on its admin port.\n\n" +
		"Ends with 0 where all promises hold, with 1 where violations were found, and with 2 where the audit could not be made."
}

// Run audits. Whatever keeps it from its end is no violation, and has an exit code of its own.
func (c auditCmd) Run(p *program) error {
	in, err := c.input(p, named(map[string]string{"data_dir": c.DataDir})...)
	if err != nil {
		return refused(err)
	}
	s, origins, err := loadSettings(tierAudit, in)
	if err != nil {
		return refused(fmt.Errorf("the settings are not valid:\n%w", err))
	}
	if c.Limit < 0 || c.Limit > maxAuditLimit {
		return refused(fmt.Errorf("--limit %d: want 0 to %d", c.Limit, maxAuditLimit))
	}
	if c.Records && !c.JSON {
		return refused(errors.New("--records: its lines are JSON, which --json asks for"))
	}
	log, _, err := observe.NewLogger(s.Log, p.stderr)
	if err != nil {
		return refused(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := &auditPrinter{to: p.stdout, json: c.JSON}
	want := auditScope{limit: c.Limit, records: c.Records}
	if origins.Set("nats.urls") && c.DataDir == "" {
		err = auditCluster(ctx, s, want, log, out.emit)
	} else {
		err = auditFolder(ctx, s, want, log, out.emit)
	}
	switch {
	case err != nil:
		return refused(err)
	case out.report == nil:
		return refused(errors.New("the audit ended without a result"))
	}
	if c.Out != "" {
		if err := writeReport(c.Out, out.report); err != nil {
			return refused(err)
		}
	}
	if out.report.Violations > 0 {
		return errSilent
	}
	return nil
}

func writeReport(path string, r *audit.Report) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o600)
}

// auditPrinter tells what an audit finds and keeps its report.
type auditPrinter struct {
	to     io.Writer
	json   bool
	report *audit.Report
}

func (a *auditPrinter) emit(e audit.Event) error {
	if e.Report != nil {
		a.report = e.Report
	}
	if a.json {
		return json.NewEncoder(a.to).Encode(e)
	}
	var line fmt.Stringer
	switch {
	case e.Violation != nil:
		line = e.Violation
	case e.Partition != nil:
		line = e.Partition
	case e.Report != nil:
		line = e.Report
		if hidden := e.Report.Violations - uint64(len(e.Report.Found)); hidden > 0 {
			if _, err := fmt.Fprintf(a.to, "and %d violations more, which are counted only\n", hidden); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	_, err := fmt.Fprintln(a.to, line)
	return err
}

// auditFolder audits the serve of a data folder: itself where it is stopped, through its admin port where it runs.
func auditFolder(ctx context.Context, s settings, want auditScope, log *slog.Logger, emit func(audit.Event) error) error {
	data, err := holdDataDir(s.DataDir)
	if errors.Is(err, errInUse) {
		at, missing := readEndpoints(s.DataDir)
		if missing != nil {
			return fmt.Errorf("%w, and it does not say where: %w", err, missing)
		}
		return askForAudit(ctx, at.Admin, want, emit)
	}
	if err != nil {
		return err
	}
	defer data.close() //nolint:errcheck // the kernel gives the lock free with the process, whatever this says.
	return auditStopped(ctx, s, data, want, log, emit)
}

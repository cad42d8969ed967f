package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/halley-im/halley/benchmarks/chaos/clock"
	"github.com/halley-im/halley/benchmarks/oracle"
	"github.com/halley-im/halley/pkg/auth"
)

// Bounds of what comes before and after the faults, and of all of it: eight minutes are promised.
const (
	startWithin  = 3 * time.Minute
	answerWithin = 90 * time.Second
	settleWithin = 90 * time.Second
	coldWithin   = 3 * time.Minute
	aroundWithin = 7*time.Minute + 15*time.Second // The clean-up has the rest.
)

// run is one run from its start to its verdict.
type run struct {
	options
	out   io.Writer
	began time.Time
	dir   string
	sys   system

	logging sync.Mutex
	fleet   *fleet
	api     *api
	result
}

// result is what the report says.
type result struct {
	violations []string
	takeovers  int
	nemesis    *nemesis
	complete   time.Duration
	presence   time.Duration
	watch      *watch
	delays     []time.Duration
	reads      int
	undecided  int
	records    int
}

func newRun(o options, out io.Writer) (*run, error) {
	r := &run{options: o, out: out, began: time.Now(), dir: o.keep}
	var err error
	if r.dir == "" {
		r.dir, err = os.MkdirTemp("", "halley-chaos-")
	} else {
		err = os.MkdirAll(r.dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	switch o.topology {
	case "serve":
		r.sys, err = newServe(o.binary, r.dir, o.seed)
	case "tiers":
		r.sys, err = newTiers(o.root, o.binary, r.dir, o.seed)
	default:
		err = fmt.Errorf("chaos: -topology %q: serve or tiers", o.topology)
	}
	return r, err
}

// prepare has the program that the kinds of faults need; to build one takes minutes the first time.
func (r *run) prepare(ctx context.Context) error {
	kinds, err := r.kinds(nil)
	if err != nil || !steps(kinds) {
		return err
	}
	r.say("building a program whose clock can be stepped")
	binary, err := clock.Build(ctx, r.root, r.dir)
	if err == nil {
		r.sys.use(binary)
	}
	r.began = time.Now()
	return err
}

// kinds are those that the options leave. A short run has no time to build for one of them.
func (r *run) kinds(gates []*gate) ([]Kind, error) {
	kinds := r.sys.kinds(gates)
	if r.short {
		kinds = slices.DeleteFunc(kinds, func(k Kind) bool { return steps([]Kind{k}) })
	}
	return choose(kinds, r.options.faults)
}

// say logs a line with the time since the start.
func (r *run) say(format string, args ...any) {
	r.logging.Lock()
	defer r.logging.Unlock()
	_, _ = fmt.Fprintf(r.out, "%7.1f  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

func (r *run) broken(format string, args ...any) {
	r.violations = append(r.violations, fmt.Sprintf(format, args...))
}

// run returns the exit code.
func (r *run) run(ctx context.Context) int {
	r.say("seed %d: repeat with: %s", r.seed, r.repeat())
	err := r.prepare(ctx)
	if err == nil {
		err = r.carryOut(ctx)
	}
	if err != nil {
		r.broken("unfinished: the run did not come to its end: %v", err)
	}
	r.report()
	if len(r.violations) > 0 {
		return 1
	}
	if r.keep == "" {
		if err := os.RemoveAll(r.dir); err != nil {
			r.say("%v", err)
		}
	}
	return 0
}

func (r *run) carryOut(ctx context.Context) error {
	defer r.sys.down()
	ctx, cancelAll := context.WithTimeout(ctx, r.length()+aroundWithin)
	defer cancelAll()
	starting, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if err := r.sys.up(starting); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	at := r.sys.endpoints()
	websocket, err := openGate(at.websocket)
	if err != nil {
		return err
	}
	defer websocket.close()
	tcp, err := openGate(at.tcp)
	if err != nil {
		return err
	}
	defer tcp.close()
	kinds, err := r.kinds([]*gate{websocket, tcp})
	if err != nil {
		return err
	}
	r.nemesis = newNemesis(makePlan(r.seed, r.length(), kinds), r.say)
	for _, s := range r.nemesis.plan {
		r.say("plan %v", s)
	}
	if err := r.populate(websocket, tcp); err != nil {
		return err
	}
	life, end := context.WithCancel(ctx)
	defer end()
	defer r.fleet.stop()
	if err := r.fleet.start(starting, life); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	r.say("%d users on %d devices, %d conversations", len(r.fleet.users), len(r.fleet.devices), len(r.fleet.conversations()))
	if err := r.hurt(life, []*gate{websocket, tcp}); err != nil {
		// What does not come back may be kept from it by what its logs say.
		if auditErr := r.audit(ctx, "as it is", &evidence{}); auditErr != nil {
			r.say("%v", auditErr)
		}
		return err
	}
	return r.judge(ctx)
}

func (r *run) length() time.Duration { return time.Duration(r.minutes * float64(time.Minute)) }

// populate makes the devices.
func (r *run) populate(websocket, tcp *gate) error {
	keysFile, apiKey, err := r.sys.secrets()
	if err != nil {
		return err
	}
	keys, err := auth.LoadKeys(keysFile)
	if err != nil {
		return err
	}
	people := whole
	if r.short {
		people = small
	}
	r.api = &api{hosts: r.sys.endpoints().api, key: apiKey}
	r.fleet = newFleet(r.seed, people, keys[0], websocket, tcp)
	return nil
}

// hurt has people talk while the plan is carried out, and heals everything.
func (r *run) hurt(ctx context.Context, gates []*gate) error {
	counting, stopCounting := context.WithCancel(ctx)
	defer stopCounting()
	count := &takeovers{admins: r.sys.endpoints().admin}
	var counted sync.WaitGroup
	counted.Go(func() { count.run(counting) })

	talking, quiet := context.WithTimeout(ctx, r.length())
	defer quiet()
	// The last messages are on their way, and no later one shows that they are missing: so everybody connects anew just now.
	context.AfterFunc(talking, func() { _ = storm(gates)(ctx) })
	// Patience begins to run out when all is healed.
	patience, lose := context.WithCancel(ctx)
	defer lose()
	var talk sync.WaitGroup
	talk.Go(func() { r.fleet.talk(talking, patience, ctx) })
	talk.Go(func() { r.fleet.read(talking, r.api) })
	r.watch = newWatch(r.fleet, r.nemesis.blind)
	talk.Go(func() { r.watch.run(talking, r.api) })
	r.nemesis.run(talking)
	<-talking.Done()
	r.say("healing")
	healing, cancel := context.WithTimeout(ctx, healWithin)
	defer cancel()
	err := until(healing, func() error { return r.sys.up(healing) })
	r.say("healed; waiting for answers")
	timer := time.AfterFunc(answerWithin, lose)
	defer timer.Stop()
	talk.Wait()
	stopCounting()
	counted.Wait()
	r.takeovers = int(count.sum)
	for _, err := range r.nemesis.errs {
		r.broken("nemesis: it could not do its work: %v", err)
	}
	return err
}

// judge asks all oracles.
func (r *run) judge(ctx context.Context) error {
	for _, what := range r.sys.faults() {
		r.broken("%s", what)
	}
	for _, d := range r.fleet.devices {
		for _, what := range d.faults {
			r.broken("%s", what)
		}
	}
	settling, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	began := time.Now()
	before, found, err := r.fleet.settle(settling, r.api, r.say)
	r.complete = time.Since(began)
	r.tell(found)
	if err != nil {
		return err
	}
	r.judgeTimes(before)
	if err := r.audit(ctx, "running", before); err != nil {
		return err
	}
	untrue, took := r.fleet.checkPresence(settling, r.api)
	r.presence = took
	for _, what := range untrue {
		r.broken("presence after %.1f s: %s", took.Seconds(), what)
	}
	cold, cancel := context.WithTimeout(ctx, coldWithin)
	defer cancel()
	r.say("everything is killed and started once more")
	if err := r.sys.cold(cold); err != nil {
		return fmt.Errorf("cold start: %w", err)
	}
	after, err := before.again(cold, r.api)
	if err != nil {
		return err
	}
	r.tell(before.differs(after))
	if err := r.auditAtLast(cold, after); err != nil {
		return err
	}
	for i := range after.transcripts {
		r.records += len(after.transcripts[i].History)
	}
	return nil
}

// The searches for orders share a time; one that comes after it has passed has still some of its own.
const (
	searchWithin = 90 * time.Second
	searchLeast  = 3 * time.Second
)

// judgeTimes asks the oracles that know when what was told.
func (r *run) judgeTimes(e *evidence) {
	began := time.Now()
	for i := range e.transcripts {
		t := &e.transcripts[i]
		r.reads += len(t.Reads)
		within := max(searchWithin-time.Since(began), searchLeast)
		switch decision, v := t.Linearize(within); decision {
		case oracle.NotLinear:
			r.tell([]oracle.Violation{*v})
		case oracle.Undecided:
			r.undecided++
			r.broken("undecided: no order of the writes and reads of %s was found within %v, nor that there is none", t.Conversation, within)
		}
		delays, late := t.Delays(settleWithin)
		r.delays = append(r.delays, delays...)
		r.tell(late)
	}
	for _, what := range r.watch.untrue {
		r.broken("presence: %s", what)
	}
}

// auditAtLast audits what lies on disk, where the topology can be audited so.
func (r *run) auditAtLast(ctx context.Context, e *evidence) error {
	if r.topology == "serve" {
		r.sys.down()
		return r.audit(ctx, "killed", e)
	}
	return r.audit(ctx, "after everything was killed", e)
}

func (r *run) tell(found []oracle.Violation) {
	for _, v := range found {
		r.broken("%v", v)
	}
}

// shownViolations bounds the report; the last line has their number.
const shownViolations = 60

// report ends with the line that programs read.
func (r *run) report() {
	acked, longest := 0, wait{}
	var recovered, differed, start time.Duration
	if r.fleet != nil {
		start = r.fleet.began.Sub(r.began)
		for _, d := range r.fleet.devices {
			acked += d.acked
			longest = longer(longest, d.longest)
			recovered = max(recovered, d.recovered)
		}
	}
	if r.watch != nil {
		differed = r.watch.longest
	}
	faults := 0
	if r.nemesis != nil {
		for _, kind := range slices.Sorted(maps.Keys(r.nemesis.counts)) {
			r.say("fault %s: %d times", kind, r.nemesis.counts[kind])
			faults += r.nemesis.counts[kind]
		}
	}
	r.say("records %d; longest wait for an ack %.1f s, from %.1f s on, of %s in %s; complete %.1f s after the last answer; presence true within %.1f s",
		r.records, longest.took.Seconds(), (start + longest.from).Seconds(), longest.device, longest.conversation,
		r.complete.Seconds(), r.presence.Seconds())
	r.say("while hurt: delivered to connected devices %s; longest from a connect until nothing is missing %.1f s; presence untrue for %.1f s at most; %d reads, of %d conversations no order decided",
		oracle.Quantiles(r.delays), recovered.Seconds(), differed.Seconds(), r.reads, r.undecided)
	for _, v := range r.violations[:min(len(r.violations), shownViolations)] {
		r.say("VIOLATION %s", v)
	}
	if len(r.violations) > 0 {
		r.say("data and logs are in %s; repeat with: %s", r.dir, r.repeat())
	}
	_, _ = fmt.Fprintf(r.out, "seed=%d acked=%d faults=%d takeovers=%d violations=%d\n", r.seed, acked, faults, r.takeovers, len(r.violations))
}

package benchmarks

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// ServeWorker is a process that holds a part of a run's connections: it takes its plan and then one step after the other from
// orders, until that is closed. Everything that it says is in answers.
func ServeWorker(ctx context.Context, orders io.Reader, answers io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := gob.NewEncoder(answers)
	in := gob.NewDecoder(orders)
	var mu sync.Mutex
	say := func(a answer, err error) error {
		if err != nil {
			a.Failure = err.Error()
		}
		mu.Lock()
		defer mu.Unlock()
		return out.Encode(a)
	}
	var first order
	if err := in.Decode(&first); err != nil || first.Plan == nil {
		return fmt.Errorf("a worker is started by halley bench, and told what to do by it: %w", err)
	}
	s, err := newShare(*first.Plan)
	if err != nil {
		return say(answer{}, err)
	}
	defer s.close()
	if err := say(answer{}, nil); err != nil {
		return err
	}
	steps := make(chan order)
	go func() {
		defer close(steps)
		defer cancel() // Whoever gave the orders has gone: a step that still runs is of no use.
		for {
			var o order
			if in.Decode(&o) != nil {
				return
			}
			if o.Step != stepLook {
				steps <- o
				continue
			}
			bounded, end := context.WithTimeout(ctx, lookTimeout/2)
			m, err := s.look(bounded)
			end()
			if say(answer{Moment: &m}, err) != nil {
				return
			}
		}
	}()
	for o := range steps {
		a, err := s.do(ctx, o)
		if err := say(a, err); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

const (
	lookTimeout = 800 * time.Millisecond
	lastWords   = 2 << 10
	endTimeout  = 10 * time.Second
)

// process is a worker seen from the run that started it. Steps come one at a time; look may come meanwhile.
type process struct {
	number int
	cmd    *exec.Cmd
	words  lastBytes // The end of its standard error.

	mu     sync.Mutex // Guards orders.
	stdin  io.WriteCloser
	orders *gob.Encoder

	answers chan answer
	moments chan moment
	ended   chan struct{} // Closed when it is gone; its exit is known then.
	exit    error
}

// startProcess starts a worker and gives it its plan. died is called when it ends, whoever wanted that.
func startProcess(ctx context.Context, p plan, died func(error)) (*process, error) {
	c := p.Config.Worker
	w := &process{
		number: p.Part, cmd: exec.Command(c[0], c[1:]...),
		answers: make(chan answer), moments: make(chan moment, 1), ended: make(chan struct{}),
	}
	w.cmd.Stderr = &w.words
	var err error
	if w.stdin, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start generator process %d: %w", w.number, err)
	}
	w.orders = gob.NewEncoder(w.stdin)
	go func() {
		w.listen(gob.NewDecoder(stdout))
		_, _ = io.Copy(io.Discard, stdout)
		w.exit = w.cmd.Wait()
		close(w.ended)
		died(w.death())
	}()
	if _, err := w.do(ctx, order{Step: stepPrepare, Plan: &p}); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *process) listen(in *gob.Decoder) {
	defer close(w.answers)
	for {
		var a answer
		if in.Decode(&a) != nil {
			return
		}
		if a.Moment == nil {
			w.answers <- a
			continue
		}
		select {
		case w.moments <- *a.Moment:
		default: // Nobody waits for it any more.
		}
	}
}

func (w *process) send(o order) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.orders.Encode(o)
}

// do has the worker take one step.
func (w *process) do(ctx context.Context, o order) (answer, error) {
	if err := w.send(o); err != nil {
		<-w.ended
		return answer{}, w.death()
	}
	select {
	case a, ok := <-w.answers:
		if !ok {
			<-w.ended
			return a, w.death()
		}
		if a.Failure != "" {
			return a, fmt.Errorf("generator process %d: %w", w.number, errors.New(a.Failure))
		}
		return a, nil
	case <-ctx.Done():
		return answer{}, context.Cause(ctx)
	}
}

func (w *process) look(ctx context.Context) (moment, error) {
	if err := w.send(order{Step: stepLook}); err != nil {
		return moment{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	select {
	case m := <-w.moments:
		return m, nil
	case <-w.ended:
		return moment{}, w.death()
	case <-ctx.Done():
		return moment{}, ctx.Err()
	}
}

// death says how the worker ended, with its last words. To be called when it has.
func (w *process) death() error {
	cause := "without a word"
	if text := strings.TrimSpace(w.words.String()); text != "" {
		cause = "its last words:\n" + text
	}
	state := "exit status 0"
	if w.exit != nil {
		state = w.exit.Error()
	}
	return fmt.Errorf("generator process %d died (%s), %s", w.number, state, cause)
}

// close ends the worker: it goes when its orders do, and is killed where it does not.
func (w *process) close() {
	_ = w.stdin.Close()
	go func() {
		for range w.answers { // Nobody waits for these: they must not hold the worker up.
		}
	}()
	select {
	case <-w.ended:
	case <-time.After(endTimeout):
		_ = w.cmd.Process.Kill()
		<-w.ended
	}
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	mu  sync.Mutex
	end []byte
}

func (b *lastBytes) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end = append(b.end, p...)
	if over := len(b.end) - lastWords; over > 0 {
		b.end = b.end[:copy(b.end, b.end[over:])]
	}
	return len(p), nil
}

func (b *lastBytes) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.end)
}

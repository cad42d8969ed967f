//go:build integration

package integration

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// demoPage is the demo in a browser of its own.
type demoPage struct {
	t      *testing.T
	ctx    context.Context
	server *serve // For what it said, where something fails.

	mu     sync.Mutex
	faults []string // guarded by mu: of scripts and of the page's own policy
}

// helpers are what the tests ask of the page, in its own words.
const helpers = `
	globalThis.pane = (user) => document.querySelector('.pane[data-user="' + user + '"]');
	globalThis.bubbles = (user, id) => [...pane(user).querySelectorAll('.thread[data-conversation="' + id + '"] .bubble')];
	globalThis.texts = (user, id) => bubbles(user, id).map((b) => b.querySelector(".text").textContent);
	globalThis.tick = (user, id, text) => bubbles(user, id).find((b) => b.matches(".mine") && b.querySelector(".text").textContent === text)?.querySelector(".tick").dataset.state;
	globalThis.entry = (user, id) => pane(user).querySelector('.entry[data-conversation="' + id + '"]');
	globalThis.unread = (user, id) => Number(entry(user, id).querySelector(".unread").textContent);
	globalThis.say = (user, id, text) => {
		if (entry(user, id).getAttribute("aria-current") !== "true") entry(user, id).click();
		const form = pane(user).querySelector("form"), field = form.querySelector("textarea");
		field.value = text;
		field.dispatchEvent(new Event("input"));
		form.requestSubmit();
	};`

func openPage(t *testing.T, s *serve, url string) *demoPage {
	t.Helper()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: deploy/local/install.sh chromium", err)
	}
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(chromium), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.NoDefaultBrowserCheck, chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 860),
		chromedp.WSURLReadTimeout(time.Minute),
	}
	for _, quiet := range []string{"disable-quic", "disable-background-networking", "disable-component-update", "disable-sync"} {
		options = append(options, chromedp.Flag(quiet, true))
	}
	// Not the test's context: that ends before the browser was told to.
	allocated, release := chromedp.NewExecAllocator(context.Background(), options...)
	p := &demoPage{t: t, server: s}
	var cancel context.CancelFunc
	p.ctx, cancel = chromedp.NewContext(allocated, chromedp.WithListener(p.hear))
	t.Cleanup(func() {
		if err := chromedp.Cancel(p.ctx); err != nil {
			t.Logf("chromium: %v", err)
		}
		cancel()
		release()
		for _, fault := range p.faults {
			t.Errorf("in the browser: %s", fault)
		}
	})
	// The browser lives as long as the context of the first call, so that one has no time-out of its own.
	if err := chromedp.Do(p.ctx, chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	p.prepare()
	return p
}

func (p *demoPage) prepare() {
	p.t.Helper()
	p.do(chromedp.WaitReady(chromedp.CSS(`[data-user="bob"]`)))
	p.eval(helpers)
}

// again loads the page anew.
func (p *demoPage) again() {
	p.t.Helper()
	p.do(chromedp.Reload())
	p.prepare()
}

// typeInto presses the keys of text in a person's field.
func (p *demoPage) typeInto(user, text string) {
	p.t.Helper()
	p.do(chromedp.SendKeys(chromedp.CSS("#"+user+"-text"), text))
}

// open chooses a conversation from a person's list.
func (p *demoPage) open(user, conversation string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.CSS(fmt.Sprintf(`[data-user=%q] .entry[data-conversation=%q]`, user, conversation))))
}

// hear keeps what no page should cause. That connections fail while the server is dead is no fault.
func (p *demoPage) hear(event any) {
	fault := ""
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		fault = (&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error()
	case *log.EventEntryAdded:
		if e.Entry.Source == log.EntrySourceSecurity || strings.Contains(e.Entry.Text, "Content Security Policy") {
			fault = e.Entry.Text
		}
	}
	if fault == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, fault)
}

func (p *demoPage) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, shownWithin)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.fail(err.Error())
	}
}

// eval has the page carry out a script.
func (p *demoPage) eval(script string) {
	p.t.Helper()
	if err := p.try(p.ctx, script); err != nil {
		p.fail(err.Error())
	}
}

func (p *demoPage) try(ctx context.Context, script string) error {
	ctx, cancel := context.WithTimeout(ctx, shownWithin)
	defer cancel()
	return chromedp.Do(ctx, chromedp.Evaluate[chromedp.Void](script))
}

// value is what the page answers.
func value[T any](p *demoPage, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, shownWithin)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.fail(err.Error())
	}
	return v
}

// until waits for a condition in the page's words.
func (p *demoPage) until(what string, within time.Duration, condition string) {
	p.t.Helper()
	deadline := time.After(within)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !value[bool](p, condition) {
		select {
		case <-ticker.C:
		case <-deadline:
			p.fail(fmt.Sprintf("not within %v: %s", within, what))
		}
	}
}

func (p *demoPage) fail(why string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`))
	if err != nil {
		text = err.Error()
	}
	p.t.Fatalf("%s\nthe page shows:\n%s\nthe server said:\n%s", why, text, p.server.output())
}

// checkNarrow: on a small telephone nothing lies beside the screen.
func (p *demoPage) checkNarrow() {
	p.t.Helper()
	p.do(chromedp.EmulateViewport(360, 740))
	if width := value[int](p, `document.documentElement.scrollWidth`); width > 360 {
		p.t.Errorf("at a width of 360 the page is %d wide", width)
	}
}

package demo

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

const webSocket = "ws://127.0.0.1:7402/v1/connect"

// newPage is the demo whose tokens say for whom they are.
func newPage() http.Handler {
	return New(Config{
		Issue: func(user, device string) (string, error) {
			if device == "broken" {
				return "", errors.New("no key")
			}
			return "token of " + user + " on " + device, nil
		},
		WebSocketURL: func(*http.Request) string { return webSocket },
		Logger:       slog.New(slog.DiscardHandler),
	})
}

// browser is a request as a browser on this machine sends it for the demo's page.
func browser(target string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Host, r.RemoteAddr = "localhost:7080", "127.0.0.1:50000"
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return r
}

func serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	newPage().ServeHTTP(w, r)
	return w
}

func TestSession(t *testing.T) {
	w := serve(browser("/demo/session?user=bob&device=web-1"))
	var got opened
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	if want := (opened{Token: "token of bob on web-1", URL: webSocket}); w.Code != http.StatusOK || got != want {
		t.Errorf("%d %+v, want %+v", w.Code, got, want)
	}
	if cache := w.Header().Get("Cache-Control"); cache != "no-store" {
		t.Errorf("Cache-Control: %q: a token would be kept", cache)
	}
}

// A token makes whoever has it alice or bob, so it is for the demo's own page in a browser on this machine.
func TestSessionIsForItsOwnPageOnly(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *http.Request)
		status int
	}{
		"by its loopback address":                {func(r *http.Request) { r.Host = "127.0.0.1:7080" }, http.StatusOK},
		"by its IPv6 loopback address":           {func(r *http.Request) { r.Host, r.RemoteAddr = "[::1]:7080", "[::1]:50000" }, http.StatusOK},
		"without a port":                         {func(r *http.Request) { r.Host = "LOCALHOST" }, http.StatusOK},
		"without a port, IPv6":                   {func(r *http.Request) { r.Host = "[::1]" }, http.StatusOK},
		"an old browser that sends Origin alone": {func(r *http.Request) { r.Header = http.Header{"Origin": {"http://localhost:7080"}} }, http.StatusOK},

		"a name that was made to lead here":       {func(r *http.Request) { r.Host = "evil.example:7080" }, http.StatusForbidden},
		"a name that begins like loopback":        {func(r *http.Request) { r.Host = "127.0.0.1.evil.example" }, http.StatusForbidden},
		"a name below localhost":                  {func(r *http.Request) { r.Host = "x.localhost" }, http.StatusForbidden},
		"no host":                                 {func(r *http.Request) { r.Host = "" }, http.StatusForbidden},
		"the address of another interface":        {func(r *http.Request) { r.Host = "192.168.1.5:7080" }, http.StatusForbidden},
		"another machine that says localhost":     {func(r *http.Request) { r.RemoteAddr = "192.168.1.9:50000" }, http.StatusForbidden},
		"another site's page":                     {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, http.StatusForbidden},
		"another port's page":                     {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, http.StatusForbidden},
		"a person who follows a link":             {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "none") }, http.StatusForbidden},
		"another origin, whatever else it says":   {func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, http.StatusForbidden},
		"another port's origin":                   {func(r *http.Request) { r.Header.Set("Origin", "http://localhost:9000") }, http.StatusForbidden},
		"a sandboxed page":                        {func(r *http.Request) { r.Header.Set("Origin", "null") }, http.StatusForbidden},
		"a program that says nothing of itself":   {func(r *http.Request) { r.Header = http.Header{} }, http.StatusForbidden},
		"a user of the app who is not the demo's": {func(r *http.Request) { r.URL.RawQuery = "user=carol&device=web-1" }, http.StatusBadRequest},
		"the bot":                  {func(r *http.Request) { r.URL.RawQuery = "user=echo&device=bot" }, http.StatusBadRequest},
		"no device":                {func(r *http.Request) { r.URL.RawQuery = "user=alice" }, http.StatusBadRequest},
		"a device that is no name": {func(r *http.Request) { r.URL.RawQuery = "user=alice&device=a%20b" }, http.StatusBadRequest},
		"a post":                   {func(r *http.Request) { r.Method = http.MethodPost }, http.StatusMethodNotAllowed},
		"no key":                   {func(r *http.Request) { r.URL.RawQuery = "user=alice&device=broken" }, http.StatusInternalServerError},
	} {
		t.Run(name, func(t *testing.T) {
			r := browser("/demo/session?user=alice&device=web-1")
			c.change(r)
			w := serve(r)
			if w.Code != c.status {
				t.Fatalf("%d %s, want %d", w.Code, w.Body, c.status)
			}
			if c.status != http.StatusOK && strings.Contains(w.Body.String(), "token of") {
				t.Errorf("a token went out: %s", w.Body)
			}
		})
	}
}

func TestRefusalsAreProblems(t *testing.T) {
	w := serve(browser("/demo/session?user=carol&device=web-1"))
	var got problem
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := problem{Title: "Bad Request", Status: http.StatusBadRequest, Code: "invalid", Detail: "user: must be one of alice, bob"}
	if got != want || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: %+v, want %+v", w.Header().Get("Content-Type"), got, want)
	}
}

func TestPageMayDoWhatItNeedsAndNoMore(t *testing.T) {
	for file, kind := range map[string]string{
		"": "text/html", "app.js": "text/javascript", "client.js": "text/javascript", "connection.js": "text/javascript",
		"thread.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml",
	} {
		r := browser("/demo/" + file)
		r.Header.Set("Sec-Fetch-Site", "none") // Typed into the address bar.
		w := serve(r)
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) {
			t.Errorf("/demo/%s: %d %s, want %s", file, w.Code, w.Header().Get("Content-Type"), kind)
		}
		want := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws://127.0.0.1:7402; " +
			"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
		if policy := w.Header().Get("Content-Security-Policy"); policy != want {
			t.Errorf("/demo/%s: %s\nwant %s", file, policy, want)
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("/demo/%s: no nosniff", file)
		}
	}
	r := browser("/demo/")
	r.Host = "evil.example"
	if w := serve(r); w.Code != http.StatusForbidden {
		t.Errorf("under another name: %d", w.Code)
	}
}

// What the server says of itself ends up in a header: nothing in it may add to the policy.
func TestPolicyTakesNothingFromElsewhere(t *testing.T) {
	for _, url := range []string{"", "ws:///v1", "http://127.0.0.1", "javascript:alert(1)", "ws://a b; script-src *", "ws://a;script-src", "%"} {
		if got := policy(url); !strings.Contains(got, "connect-src 'self';") {
			t.Errorf("%q makes %s", url, got)
		}
	}
	if got := policy("wss://chat.example/v1/connect?x=; script-src *"); !strings.Contains(got, "connect-src 'self' wss://chat.example;") {
		t.Error(got)
	}
}

var (
	elsewhere = regexp.MustCompile(`(?i)(https?:|wss?:)?//[a-z0-9.-]+\.[a-z]{2,}`)
	inline    = regexp.MustCompile(`(?is)<script(?:\s[^>]*)?>\s*[^<\s]|\sstyle=|<style|\son[a-z]+=|javascript:`)
	xmlSpace  = regexp.MustCompile(`xmlns="[^"]*"`) // A name that looks like an address.
)

// The demo works on a machine without a network, and under its own policy.
func TestFilesNameNothingElsewhere(t *testing.T) {
	err := fs.WalkDir(files, "page", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		text := xmlSpace.ReplaceAllString(string(data), "")
		if found := elsewhere.FindString(text); found != "" {
			t.Errorf("%s names %s", path, found)
		}
		if strings.HasSuffix(path, ".html") {
			if found := inline.FindString(text); found != "" {
				t.Errorf("%s: %q would be refused by the page's own policy", path, found)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// People learn from the client: it stays short enough to be read.
func TestClientIsShort(t *testing.T) {
	for _, name := range []string{"client.js", "connection.js"} {
		data, err := fs.ReadFile(files, "page/"+name)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(data), "\n"); lines >= 300 {
			t.Errorf("%s has %d lines", name, lines)
		}
	}
}

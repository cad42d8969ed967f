// Package demo is the chat demo: a page with two people who talk to each other and to an echo bot, and the bot. It is an app
// like any other, a client of the public protocol; it never reads a log, a store or a conversation.
package demo

import (
	"embed"
	"encoding/json"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/halley-im/halley/protocol"
)

//go:embed page
var files embed.FS

// pageUsers are those in whose name the page may speak. Whoever can open the page can be either of them, so it is for one
// machine only.
var pageUsers = []string{"alice", "bob"}

// Config is what the page needs of its server.
type Config struct {
	// Issue makes a short-lived token for a user's device.
	Issue func(user, device string) (token string, err error)
	// WebSocketURL is where the page that the request is for connects to.
	WebSocketURL func(*http.Request) string
	Logger       *slog.Logger
}

type page struct {
	cfg   Config
	files http.Handler
}

// New makes the handler of everything below /demo/. It hands out tokens to whoever runs a browser on this machine: it must be
// served on loopback only, and refuses what did not come by loopback and from its own page, for a name of any site can be
// made to lead here (DNS rebinding).
func New(cfg Config) http.Handler {
	root, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // The folder is compiled in.
	}
	p := &page{cfg: cfg, files: http.StripPrefix("/demo/", http.FileServerFS(root))}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /demo/session", p.session)
	mux.HandleFunc("GET /demo/", p.file)
	return p.guard(mux)
}

// guard refuses other machines and other names, and bounds what the page may do.
func (p *page) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		if !isLoopback(hostname(r.RemoteAddr)) || !isLoopback(hostname(r.Host)) {
			p.refuse(w, r, http.StatusForbidden, protocol.CodeForbidden, "the demo is for this machine only: open it at localhost or 127.0.0.1")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (p *page) file(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", policy(p.cfg.WebSocketURL(r)))
	p.files.ServeHTTP(w, r)
}

// policy allows what lies beside the page, and the WebSocket.
func policy(webSocket string) string {
	connect := "'self'"
	u, err := url.Parse(webSocket)
	if err == nil && (u.Scheme == "ws" || u.Scheme == "wss") && u.Host != "" && !strings.ContainsAny(u.Host, " ;,'") {
		connect += " " + u.Scheme + "://" + u.Host
	}
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src " + connect +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// opened is what the page needs to open a session.
type opened struct {
	Token string `json:"token"`
	URL   string `json:"url"`
}

func (p *page) session(w http.ResponseWriter, r *http.Request) {
	user, device := r.FormValue("user"), r.FormValue("device")
	switch {
	case !sameOrigin(r):
		p.refuse(w, r, http.StatusForbidden, protocol.CodeForbidden, "only the demo's own page may ask for a token")
		return
	case !slices.Contains(pageUsers, user):
		p.refuse(w, r, http.StatusBadRequest, protocol.CodeInvalid, "user: must be one of "+strings.Join(pageUsers, ", "))
		return
	case !protocol.ValidDevice(device):
		p.refuse(w, r, http.StatusBadRequest, protocol.CodeInvalid, "device: must be 1 to 64 letters, digits, dots, underscores, @ or hyphens")
		return
	}
	token, err := p.cfg.Issue(user, device)
	if err != nil {
		p.cfg.Logger.Error("demo: no token", "err", err)
		p.refuse(w, r, http.StatusInternalServerError, protocol.CodeInternal, "the server could not issue a token; its log says why")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(opened{Token: token, URL: p.cfg.WebSocketURL(r)}) // The reader is gone.
}

// sameOrigin reports whether the browser says that a page of this very origin asks. Browsers send Sec-Fetch-Site to loopback
// and no script can set it; one that is too old for it sends Origin or is refused.
func sameOrigin(r *http.Request) bool {
	origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	if origin != "" && origin != "http://"+r.Host {
		return false
	}
	if site == "" {
		return origin != ""
	}
	return site == "same-origin"
}

// hostname is the host of host:port, or of a host alone.
func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// problem is an RFC 9457 document, as the API's errors are.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func (p *page) refuse(w http.ResponseWriter, r *http.Request, status int, code protocol.Code, detail string) {
	p.cfg.Logger.Debug("demo: refused", "path", r.URL.Path, "host", r.Host, "origin", r.Header.Get("Origin"), "detail", detail)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(problem{http.StatusText(status), status, string(code), detail}) // The reader is gone.
}

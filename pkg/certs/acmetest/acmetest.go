// Package acmetest gives tests an authority that issues certificates by ACME, in their own process: Pebble, the test server of those who
// run Let's Encrypt. It asks the listener under test as a real one does. It never runs outside tests.
package acmetest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"github.com/halley-im/halley/pkg/certs/certstest"
)

// Authority issues certificates. To it, every name leads to 127.0.0.1, and ports 443 and 80 to where Lead says.
type Authority struct {
	URL    string // of its directory
	CAFile string // who signs the directory's own certificate

	t      testing.TB
	orders atomic.Int64
	down   atomic.Bool
	roots  *x509.CertPool
	ports  map[int]*port
}

// Start starts one whose certificates live as long as life.
func Start(t testing.TB, life time.Duration) *Authority {
	t.Helper()
	hasten()
	a := &Authority{t: t, ports: map[int]*port{443: newPort(t), 80: newPort(t)}}
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{
		"default": {Description: "of a test", ValidityPeriod: uint64(life / time.Second)},
	})
	judge := va.New(quiet, a.ports[80].number(), a.ports[443].number(), true, startDNS(t), store)
	front := wfe.New(quiet, store, judge, issuer, []string{"authority.test"}, true, false, 1, 1)
	a.roots = x509.NewCertPool()
	a.roots.AddCert(issuer.GetRootCert(0).Cert)

	own := certstest.NewAuthority(t)
	a.CAFile = own.Write(t, t.TempDir())
	issued := own.Issue(t, time.Now().Add(24*time.Hour), "authority.test")
	pair, err := tls.X509KeyPair(issued.Cert, issued.Key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(a.count(front.Handler()))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	server.Config.ErrorLog = quiet
	server.StartTLS()
	t.Cleanup(server.Close)
	a.URL = server.URL + wfe.DirectoryPath
	return a
}

// hasten takes away the pauses with which Pebble annoys people, and has it refuse many nonces and remember no proof, as it may.
// It reads the environment of the process, which tests that run side by side share (T.Setenv forbids those); they all want the same.
func hasten() {
	for name, value := range map[string]string{"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "15", "PEBBLE_AUTHZREUSE": "0"} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
}

func (a *Authority) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.down.Load() {
			panic(http.ErrAbortHandler)
		}
		if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/order-plz") {
			a.orders.Add(1)
		}
		next.ServeHTTP(w, r)
	})
}

// Orders is how many orders it got, retries for their nonces included.
func (a *Authority) Orders() int64 { return a.orders.Load() }

// Down cuts everybody off who calls it, or no longer.
func (a *Authority) Down(down bool) { a.down.Store(down) }

// Roots is who signs what it issues.
func (a *Authority) Roots() *x509.CertPool { return a.roots }

// Lead has port 443 or 80 of every name lead to an address, as a balancer that passes bytes on would.
func (a *Authority) Lead(number int, address string) {
	p := a.ports[number]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = address
	if p.known != nil {
		close(p.known)
		p.known = nil
	}
}

// port passes connections on; until it is known where to, they wait.
type port struct {
	listener net.Listener

	// Guarded by mu.
	mu    sync.Mutex
	to    string
	known chan struct{} // closed by the first Lead, and then nil
}

// leads is where to, once that is known or the time for it is over.
func (p *port) leads() string {
	p.mu.Lock()
	known := p.known
	p.mu.Unlock()
	if known != nil {
		select {
		case <-known:
		case <-time.After(10 * time.Second):
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.to
}

func newPort(t testing.TB) *port {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &port{listener: listener, known: make(chan struct{})}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.pass(conn) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); running.Wait() })
	return p
}

func (p *port) number() int { return p.listener.Addr().(*net.TCPAddr).Port }

func (p *port) pass(from net.Conn) {
	defer func() { _ = from.Close() }()
	to, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", p.leads())
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	deadline := time.Now().Add(20 * time.Second)
	_ = from.SetDeadline(deadline)
	_ = to.SetDeadline(deadline)
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(from, to)
		_ = from.Close()
	})
	_, _ = io.Copy(to, from)
	_ = to.Close()
	back.Wait()
}

// startDNS answers that every name is this machine.
func startDNS(t testing.TB) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{Listener: listener, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetReply(q)
		for _, question := range q.Question {
			if question.Qtype == dns.TypeA {
				answer.Answer = append(answer.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1),
				})
			}
		}
		_ = w.WriteMsg(answer) // Whoever does not take it asks again.
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.ActivateAndServe()
	}()
	t.Cleanup(func() { _ = listener.Close(); <-ended })
	return listener.Addr().String()
}

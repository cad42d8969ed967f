package certs_test

import (
	"crypto/tls"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/certs/certstest"
)

// BenchmarkHandshake tells what a handshake of TLS costs both ends together, in CPU time.
func BenchmarkHandshake(b *testing.B) {
	authority := certstest.NewAuthority(b)
	issued := authority.Issue(b, time.Now().Add(time.Hour), domain)
	pair, err := tls.X509KeyPair(issued.Cert, issued.Key)
	if err != nil {
		b.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	client := &tls.Config{RootCAs: authority.Pool(), ServerName: domain}
	cpu := func() time.Duration {
		var used syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
			b.Fatal(err)
		}
		return time.Duration(used.Utime.Nano() + used.Stime.Nano())
	}
	before := cpu()
	for b.Loop() {
		here, there := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- tls.Server(there, server).Handshake() }()
		if err := tls.Client(here, client).Handshake(); err != nil {
			b.Fatal(err)
		}
		go func() { _, _ = here.Read(make([]byte, 4096)) }() // its tickets
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		_ = here.Close()
		_ = there.Close()
	}
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

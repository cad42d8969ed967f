package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halley-im/halley/pkg/app"
	"github.com/halley-im/halley/pkg/certs"
)

// openCerts reads the certificate of a section's listeners; addCertificates keeps it up to date. protos are what they agree to speak.
func (p *process) openCerts(section string, cfg certs.Config, protos ...string) (*tls.Config, error) {
	if !cfg.Set() {
		return nil, nil
	}
	source, err := certs.Open(cfg, p.log.With("of", section+".tls"), protos...)
	if err != nil {
		return nil, fmt.Errorf("%s.tls: %w", section, err)
	}
	p.certificates[section] = app.Component{Name: section + " certificate", Run: source.Run}
	p.onReload(source.Reload)
	labels := prometheus.Labels{"section": section}
	p.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "halley_tls_certificate_expires_timestamp_seconds", Help: "When the certificate that is shown ends, seconds since 1970; 0 while there is none.",
			ConstLabels: labels,
		}, func() float64 {
			if ends := source.Expires(); !ends.IsZero() {
				return float64(ends.Unix())
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "halley_tls_certificate_refused_total", Help: "Changes of certificate files that could not be used.", ConstLabels: labels,
		}, func() float64 { return float64(source.Failures()) }),
	)
	if cfg.ACME.Set() {
		const name, help = "halley_tls_certificate_orders_total", "Orders of certificates, by how they ended."
		p.registry.MustRegister(
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{"section": section, "result": "issued"}},
				func() float64 { issued, _ := source.Orders(); return float64(issued) }),
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{"section": section, "result": "failed"}},
				func() float64 { _, failed := source.Orders(); return float64(failed) }),
		)
	}
	return source.TLS(), nil
}

// addCertificates keeps those of a section up to date from here on: its listeners are there, and whoever issues some asks them first.
func (p *process) addCertificates(section string) {
	if c, ok := p.certificates[section]; ok {
		p.add(c)
	}
}

// onReload has fn called on SIGHUP.
func (p *process) onReload(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reloads = append(p.reloads, fn)
}

// watchReloads reads again what can be, on SIGHUP, until the function that it returns is called.
func (p *process) watchReloads() (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
			}
			p.mu.Lock()
			reloads := append([]func(){}, p.reloads...)
			p.mu.Unlock()
			p.log.Info("SIGHUP: certificates are read again; other settings need a restart", "certificates", len(reloads))
			for _, fn := range reloads {
				fn()
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		cancel()
		<-done
	}
}

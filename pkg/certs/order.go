package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"golang.org/x/crypto/acme"
)

// order has a certificate of a domain issued and writes it into the cache (RFC 8555, section 7.4).
func (a *automatic) order(ctx context.Context, domain string) error {
	account, err := a.cache.account()
	if err != nil {
		return err
	}
	client := &acme.Client{Key: account, DirectoryURL: a.cfg.Directory, HTTPClient: a.client, UserAgent: "halley"}
	contact := []string{}
	if a.cfg.Email != "" {
		contact = append(contact, "mailto:"+a.cfg.Email)
	}
	// Asked each time: an authority that has forgotten the account makes it anew.
	_, err = client.Register(ctx, &acme.Account{Contact: contact}, acme.AcceptTOS)
	if err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return fmt.Errorf("account: %w", err)
	}
	o, err := client.AuthorizeOrder(ctx, acme.DomainIDs(domain))
	if err != nil {
		return fmt.Errorf("order: %w", err)
	}
	for _, at := range o.AuthzURLs {
		if err := a.prove(ctx, client, domain, at); err != nil {
			return fmt.Errorf("prove that the domain leads here: %w", err)
		}
	}
	if o, err = client.WaitOrder(ctx, o.URI); err != nil {
		return fmt.Errorf("order: %w", err)
	}
	// A new key each time: one that leaked is of use no longer than its certificate.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{domain}}, key)
	if err != nil {
		return err
	}
	chain, _, err := client.CreateCertFromOrder(ctx, o, csr, true)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if err := a.check(domain, key, chain); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	return a.cache.put(domain, key, chain)
}

// check looks whether what came is what was ordered.
func (a *automatic) check(domain string, key *ecdsa.PrivateKey, chain [][]byte) error {
	if len(chain) == 0 {
		return errors.New("the authority sent none")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(&key.PublicKey) {
		return errors.New("it is of another key")
	}
	if a.now().After(leaf.NotAfter) {
		return fmt.Errorf("it ended at %v", leaf.NotAfter)
	}
	return leaf.VerifyHostname(domain)
}

// prove answers the authority's question in one way, the one that the settings choose.
func (a *automatic) prove(ctx context.Context, client *acme.Client, domain, at string) error {
	z, err := client.GetAuthorization(ctx, at)
	if err != nil {
		return err
	}
	if z.Status == acme.StatusValid {
		return nil // It has been proven before, and the authority remembers.
	}
	kind := "tls-alpn-01"
	if a.cfg.HTTPAddress != "" {
		kind = "http-01"
	}
	var question *acme.Challenge
	for _, c := range z.Challenges {
		if c.Type == kind {
			question = c
		}
	}
	if question == nil {
		return fmt.Errorf("the authority does not offer %s", kind)
	}
	forget, err := a.provide(client, question, domain)
	if err != nil {
		return err
	}
	defer forget()
	if _, err = client.Accept(ctx, question); err == nil {
		_, err = client.WaitAuthorization(ctx, at)
	}
	return err
}

// provide has the answer ready on this node and, through the cache, on those that share it, until forget is called.
func (a *automatic) provide(client *acme.Client, question *acme.Challenge, domain string) (forget func(), err error) {
	if question.Type == "http-01" {
		answer, err := client.HTTP01ChallengeResponse(question.Token)
		if err != nil {
			return nil, err
		}
		name := question.Token + httpSuffix
		return func() { a.forget(name) }, a.cache.write(name, []byte(answer))
	}
	pair, err := client.TLSALPN01ChallengeCert(question.Token, domain)
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the answer has a key of an unknown kind")
	}
	name := domain + tlsSuffix
	return func() { a.forget(name) }, a.cache.put(name, key, pair.Certificate)
}

// forget takes an answer out of the cache. One that stays is of use to nobody: the authority asks no question twice.
func (a *automatic) forget(name string) {
	if err := os.Remove(a.cache.path(name)); err != nil {
		a.log.Warn("an answer to the authority is left in the cache", "name", name, "err", err)
	}
}

// proof is what the authority is shown that asks whether the domain is ours (RFC 8737), from whichever node the order is.
func (a *automatic) proof(domain string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(a.cache.path(domain+tlsSuffix), a.cache.path(domain+tlsSuffix))
	if err != nil {
		return nil, errOtherName // Nobody has ordered any, so it is no authority that asks.
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{acme.ALPNProto}, Certificates: []tls.Certificate{pair},
		// A session that began without a client's certificate must not go on as another.
		SessionTicketsDisabled: true,
	}, nil
}

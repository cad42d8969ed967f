package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// cache is the folder of one authority. Files are replaced as a whole, so that whoever shares it sees no halves.
type cache struct{ dir string }

// Names of the files besides those of domains, which have a dot and no +.
const (
	accountName = "account+key"
	lockName    = "lock"
	tlsSuffix   = "+tls-alpn-01"
	httpSuffix  = "+http-01"
)

// openCache makes the folder where it is missing. One into which others may look is refused: keys lie in it.
func openCache(cfg ACMEConfig) (*cache, error) {
	at, err := url.Parse(cfg.Directory)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cfg.CacheDir, strings.ReplaceAll(at.Host, ":", "_"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Stat(cfg.CacheDir)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s is open to every user of the machine (mode %04o): chmod 700 %s", cfg.CacheDir, info.Mode().Perm(), cfg.CacheDir)
	}
	c := &cache{dir: dir}
	// A folder that cannot be written to is found out here, and not after an order.
	f, err := c.openLock()
	if err != nil {
		return nil, err
	}
	return c, f.Close()
}

func (c *cache) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cache) openLock() (*os.File, error) {
	return os.OpenFile(c.path(lockName), os.O_CREATE|os.O_RDWR, 0o600)
}

// lock waits until nobody else orders. The kernel opens it again where its holder dies.
func (c *cache) lock(ctx context.Context) (unlock func(), err error) {
	f, err := c.openLock()
	if err != nil {
		return nil, err
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // Closing it opens the lock.
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-ticker.C:
		}
	}
	return nil, errors.Join(fmt.Errorf("lock %s: %w", c.path(lockName), err), f.Close())
}

// certificate reads that of a domain. It may have ended.
func (c *cache) certificate(domain string) (*tls.Certificate, error) {
	data, err := os.ReadFile(c.path(domain))
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.path(domain), err)
	}
	if err := pair.Leaf.VerifyHostname(domain); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.path(domain), err)
	}
	return &pair, nil
}

// put writes a key and its certificates under a name.
func (c *cache) put(name string, key *ecdsa.PrivateKey, chain [][]byte) error {
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	for _, der := range chain {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return c.write(name, data)
}

// write puts a file in place, whole and on the disk.
func (c *cache) write(name string, data []byte) (err error) {
	f, err := os.CreateTemp(c.dir, "new-") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), c.path(name))
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// account is the key by which the authority knows us; it is made at the first order.
func (c *cache) account() (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(c.path(accountName))
	if errors.Is(err, os.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return key, c.put(accountName, key, nil)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: no key in it", c.path(accountName))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.path(accountName), err)
	}
	own, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: want an ECDSA key", c.path(accountName))
	}
	return own, nil
}

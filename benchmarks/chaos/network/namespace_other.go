//go:build !linux

package network

import (
	"fmt"
	"net/netip"
)

var errLinux = fmt.Errorf("%w, and Linux", ErrDenied)

// Isolated is never so here.
func Isolated() bool { return false }

// Isolate needs Linux.
func Isolate() error { return errLinux }

func open(string, netip.Addr) (*member, error) { return nil, errLinux }

//go:build !linux

package network

import (
	"errors"
	"net/netip"
)

var errLinux = errors.New("network namespaces are Linux's")

// Isolate needs Linux.
func Isolate() error { return errLinux }

func open(string, netip.Addr) (*member, error) { return nil, errLinux }

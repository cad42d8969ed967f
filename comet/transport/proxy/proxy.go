// Package proxy reads the header with which a balancer tells whose connection it passes on: the PROXY protocol, versions 1 and 2
// (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt). It never reads a socket and never decides whom to believe.
package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// Why a header is none. Each is final: more bytes make it no better.
var (
	// ErrMissing: the first bytes belong to no header.
	ErrMissing = errors.New("proxy: no header")
	// ErrMalformed: it begins as one and goes on otherwise.
	ErrMalformed = errors.New("proxy: malformed header")
	// ErrTooLong: it is longer than MaxHeader, or than a line of version 1 may be.
	ErrTooLong = errors.New("proxy: header is too long")
)

const (
	// MaxHeader is how long a header of version 2 may be, with what it tells beside the addresses; balancers send some hundreds of bytes.
	MaxHeader = 4 << 10
	// maxLine is the longest line of version 1 (section 2.1 of the text).
	maxLine = 107
	// fixed is the beginning of version 2 up to its length.
	fixed = 16
)

var (
	lineBegin = []byte("PROXY ")
	lineEnd   = []byte("\r\n")
	signature = []byte("\r\n\r\n\x00\r\nQUIT\n")
)

// Parse reads the header in front of in. n is its length; 0 without an error means that more bytes must come. from is invalid where
// the header names nobody: the balancer then speaks for itself.
func Parse(in []byte) (from netip.AddrPort, n int, err error) {
	switch {
	case begins(in, signature):
		return binaryHeader(in)
	case begins(in, lineBegin):
		return lineHeader(in)
	}
	return from, 0, ErrMissing
}

// begins reports whether in, as far as it is there, begins with what.
func begins(in, what []byte) bool {
	n := min(len(in), len(what))
	return bytes.Equal(in[:n], what[:n])
}

// lineHeader reads version 1: PROXY TCP4 source destination sourcePort destinationPort.
func lineHeader(in []byte) (from netip.AddrPort, n int, err error) {
	end := bytes.Index(in[:min(len(in), maxLine)], lineEnd)
	if end < 0 {
		if len(in) >= maxLine {
			return from, 0, ErrTooLong
		}
		return from, 0, nil
	}
	n = end + len(lineEnd)
	words := strings.Split(string(in[:end]), " ")
	if words[1] == "UNKNOWN" {
		return from, n, nil
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return from, 0, ErrMalformed
	}
	for i := 2; i <= 3; i++ {
		addr, err := netip.ParseAddr(words[i])
		if err != nil || addr.Is4() != (words[1] == "TCP4") || addr.Zone() != "" {
			return from, 0, ErrMalformed
		}
		port, ok := parsePort(words[i+2])
		if !ok {
			return from, 0, ErrMalformed
		}
		if i == 2 {
			from = netip.AddrPortFrom(addr.Unmap(), port)
		}
	}
	return from, n, nil
}

// parsePort takes the one way to write a port: decimal, without leading zeros.
func parsePort(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && strconv.FormatUint(n, 10) == text
}

// What the bytes behind the signature say (section 2.2).
const (
	versionMask = 0xF0
	version2    = 0x20
	commandMask = 0x0F
	local       = 0x0
	proxied     = 0x1
	unspecified = 0x00
	tcp4        = 0x11
	tcp6        = 0x21
	unixStream  = 0x31
)

func binaryHeader(in []byte) (from netip.AddrPort, n int, err error) {
	if len(in) > len(signature) {
		if command := in[12] & commandMask; in[12]&versionMask != version2 || command != local && command != proxied {
			return from, 0, ErrMalformed
		}
	}
	if len(in) < fixed {
		return from, 0, nil
	}
	n = fixed + int(binary.BigEndian.Uint16(in[14:]))
	if n > MaxHeader {
		return from, 0, ErrTooLong
	}
	size := 0 // of one address
	if in[12]&commandMask == proxied {
		switch in[13] {
		case tcp4:
			size = 4
		case tcp6:
			size = 16
		case unspecified, unixStream:
		default:
			return from, 0, ErrMalformed
		}
	}
	if size > 0 && n < fixed+2*size+4 {
		return from, 0, ErrMalformed
	}
	if len(in) < n {
		return from, 0, nil
	}
	if size > 0 {
		addr, _ := netip.AddrFromSlice(in[fixed : fixed+size])
		from = netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(in[fixed+2*size:]))
	}
	return from, n, nil
}

// Trusted are the addresses whose word is taken for the addresses of others.
type Trusted []netip.Prefix

// ParseTrusted reads prefixes, 10.0.0.0/8, and single addresses.
func ParseTrusted(texts []string) (Trusted, error) {
	var all Trusted
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			addr, failed := netip.ParseAddr(text)
			if failed != nil {
				return nil, err
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// Contains reports whether an address is among them.
func (t Trusted) Contains(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range t {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

package proxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/halley-im/halley/comet/transport/proxy"
)

const signature = "\r\n\r\n\x00\r\nQUIT\n"

func TestHeaders(t *testing.T) {
	v2 := func(command, family byte, rest string) string {
		return signature + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
	}
	four := "\x01\x02\x03\x04\x05\x06\x07\x08\x10\x92\x00\x50"
	six := "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x07" + strings.Repeat("\x00", 16) + "\x10\x92\x00\x50"
	for _, c := range []struct {
		name, in, from string
		err            error
	}{
		{"v1, four", "PROXY TCP4 1.2.3.4 5.6.7.8 4242 80\r\n", "1.2.3.4:4242", nil},
		{"v1, six", "PROXY TCP6 2001:db8::7 ::1 4242 80\r\n", "[2001:db8::7]:4242", nil},
		{"v1, unknown", "PROXY UNKNOWN\r\n", "", nil},
		{"v1, unknown with anything", "PROXY UNKNOWN what 1 2 3\r\n", "", nil},
		{"v1, family and address differ", "PROXY TCP4 ::1 ::1 1 2\r\n", "", proxy.ErrMalformed},
		{"v1, a leading zero", "PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n", "", proxy.ErrMalformed},
		{"v1, port", "PROXY TCP4 1.2.3.4 5.6.7.8 65536 80\r\n", "", proxy.ErrMalformed},
		{"v1, port with a sign", "PROXY TCP4 1.2.3.4 5.6.7.8 +1 80\r\n", "", proxy.ErrMalformed},
		{"v1, too few words", "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", "", proxy.ErrMalformed},
		{"v1, too many words", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", "", proxy.ErrMalformed},
		{"v1, two blanks", "PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "", proxy.ErrMalformed},
		{"v1, another protocol", "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", "", proxy.ErrMalformed},
		{"v1, a zone", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "", proxy.ErrMalformed},
		{"v1, without end", "PROXY TCP4 " + strings.Repeat("1", 120), "", proxy.ErrTooLong},
		{"v2, four", v2(0x21, 0x11, four), "1.2.3.4:4242", nil},
		{"v2, six", v2(0x21, 0x21, six), "[2001:db8::7]:4242", nil},
		{"v2, with more told", v2(0x21, 0x11, four+"\x01\x00\x02h2"), "1.2.3.4:4242", nil},
		{"v2, local", v2(0x20, 0x00, ""), "", nil},
		{"v2, local with addresses", v2(0x20, 0x11, four), "", nil},
		{"v2, a path", v2(0x21, 0x31, strings.Repeat("x", 216)), "", nil},
		{"v2, too short for its family", v2(0x21, 0x21, four), "", proxy.ErrMalformed},
		{"v2, another version", v2(0x31, 0x11, four), "", proxy.ErrMalformed},
		{"v2, another command", v2(0x22, 0x11, four), "", proxy.ErrMalformed},
		{"v2, a datagram", v2(0x21, 0x12, four), "", proxy.ErrMalformed},
		{"v2, too long", v2(0x21, 0x11, four+strings.Repeat("x", 5000)), "", proxy.ErrTooLong},
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", "", proxy.ErrMissing},
		{"TLS", "\x16\x03\x01\x02\x00", "", proxy.ErrMissing},
	} {
		from, n, err := proxy.Parse([]byte(c.in + "behind it"))
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
		if err != nil {
			continue
		}
		if n != len(c.in) {
			t.Errorf("%s: %d bytes of %d", c.name, n, len(c.in))
		}
		if got := from.String(); from.IsValid() && got != c.from || from.IsValid() != (c.from != "") {
			t.Errorf("%s: from %s, want %q", c.name, got, c.from)
		}
		for k := range c.in {
			if _, n, err := proxy.Parse([]byte(c.in[:k])); n != 0 || err != nil {
				t.Fatalf("%s: of %d bytes %d and %v", c.name, k, n, err)
			}
		}
	}
}

// What the library writes is read as it was meant, whatever the addresses.
func TestHeadersOfTheLibrary(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	address := func(six bool) *net.TCPAddr {
		ip := make(net.IP, 4)
		if six {
			ip = make(net.IP, 16)
			ip[0] = 0x20
		}
		for i := range ip {
			if i > 0 || !six {
				ip[i] = byte(r.Uint32())
			}
		}
		return &net.TCPAddr{IP: ip, Port: r.IntN(1 << 16)}
	}
	for range 2000 {
		six := r.IntN(2) == 0
		from, to := address(six), address(six)
		h := proxyproto.HeaderProxyFromAddrs(byte(1+r.IntN(2)), from, to)
		data, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		got, n, err := proxy.Parse(append(data, "more"...))
		if err != nil || n != len(data) || got != netip.AddrPortFrom(from.AddrPort().Addr().Unmap(), from.AddrPort().Port()) {
			t.Fatalf("%q: from %v, %d bytes, %v; want %v", data, got, n, err, from)
		}
	}
}

// The library judges what comes: who ours names is whom it names, and the parts of a header are parts of it.
func FuzzParse(f *testing.F) {
	f.Add([]byte("PROXY TCP4 1.2.3.4 5.6.7.8 4242 80\r\n"))
	f.Add([]byte("PROXY TCP6 2001:db8::7 ::1 4242 80\r\nGET"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(signature + "\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x10\x92\x00\x50"))
	f.Add([]byte(signature + "\x20\x00\x00\x00"))
	f.Add([]byte(signature + "\x21\x21\x00\x24" + strings.Repeat("\x20", 36)))
	f.Add([]byte(signature + "\x21\x11\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		from, n, err := proxy.Parse(in)
		if n < 0 || n > len(in) || n > proxy.MaxHeader || err != nil && n != 0 {
			t.Fatalf("%d of %d bytes, %v", n, len(in), err)
		}
		failed := false
		for k := range len(in) {
			f, m, e := proxy.Parse(in[:k])
			failed = failed || e != nil
			switch {
			case failed && (e == nil || err == nil):
				t.Fatalf("a fault in %d bytes is none in more", k)
			case m != 0 && (m != n || f != from):
				t.Fatalf("of %d bytes %d, of all %d", k, m, n)
			case n > 0 && k >= n && m == 0:
				t.Fatalf("a header of %d bytes is not in %d", n, k)
			}
		}
		if err != nil || n == 0 || !from.IsValid() {
			return
		}
		h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			t.Fatalf("the library refuses %q: %v", in[:n], err)
		}
		source, ok := h.SourceAddr.(*net.TCPAddr)
		if !ok {
			t.Fatalf("%v, the library says %v", from, h.SourceAddr)
		}
		if want := source.AddrPort(); want.Addr().Unmap() != from.Addr() || want.Port() != from.Port() {
			t.Fatalf("%v, the library says %v", from, want)
		}
	})
}

func TestTrusted(t *testing.T) {
	trusted, err := proxy.ParseTrusted([]string{"10.0.0.0/8", "192.0.2.7", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "11.0.0.1": false, "192.0.2.7": true, "192.0.2.8": false, "2001:db8::1": true, "::1": false,
	} {
		if got := trusted.Contains(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	for _, bad := range []string{"", "10.0.0.0/33", "balancer", "10.0.0.0/8,"} {
		if _, err := proxy.ParseTrusted([]string{bad}); err == nil {
			t.Errorf("%q is a prefix", bad)
		}
	}
}

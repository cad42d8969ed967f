package looptls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/halley-im/halley/pkg/certs/certstest"
	"github.com/halley-im/halley/pkg/looptls"
)

// end is one end of a connection on a loop that is the test itself: it runs what was posted when the test says so.
type end struct {
	looptls.Conn
	in     []byte
	writes [][]byte
	woken  chan struct{}
}

func newEnd() *end { return &end{woken: make(chan struct{}, 1)} }

// InboundBuffered implements looptls.Socket.
func (e *end) InboundBuffered() int { return len(e.in) }

// socket keeps Write apart from that of the connection.
type socket struct{ *end }

// Read implements looptls.Socket.
func (s socket) Read(p []byte) (int, error) {
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

// Write implements looptls.Socket.
func (s socket) Write(p []byte) (int, error) {
	s.writes = append(s.writes, bytes.Clone(p))
	return len(p), nil
}

// WakeTLS implements looptls.Waker.
func (e *end) WakeTLS() {
	select {
	case e.woken <- struct{}{}:
	default:
	}
}

// sent takes what was written to the socket.
func (e *end) sent() []byte {
	all := bytes.Join(e.writes, nil)
	e.writes = nil
	return all
}

// wait lets the loop run until what holds.
func (e *end) wait(t *testing.T, what string, holds func() bool) error {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !holds() {
		select {
		case <-e.woken:
			if _, err := e.Run(); err != nil {
				return err
			}
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
	return nil
}

type setup struct {
	authority *certstest.Authority
	server    *tls.Config
	client    *tls.Config
	desk      *looptls.Desk
}

func newSetup(t *testing.T, handshakes int, timeout time.Duration) setup {
	t.Helper()
	a := certstest.NewAuthority(t)
	pair := a.Issue(t, time.Now().Add(time.Hour), "localhost")
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	s := setup{
		authority: a, server: &tls.Config{Certificates: []tls.Certificate{cert}, DynamicRecordSizingDisabled: true},
		client: &tls.Config{RootCAs: a.Pool(), ServerName: "localhost", DynamicRecordSizingDisabled: true},
		desk:   looptls.NewDesk(looptls.DeskConfig{Handshakes: handshakes, Timeout: timeout}),
	}
	t.Cleanup(func() {
		s.desk.Wait()
		if got := s.desk.Stats(); got.UnderWay != 0 || got.Waiting != 0 {
			t.Errorf("left at the end: %d under way, %d waiting", got.UnderWay, got.Waiting)
		}
	})
	return s
}

func (s setup) accept() *end {
	e := newEnd()
	e.Accept(s.desk, s.server, socket{e}, e)
	return e
}

// connect brings both ends to the point where they are open, in pieces of at most n bytes.
func (s setup) connect(t *testing.T, n int) (server, client *end) {
	t.Helper()
	server, client = s.accept(), newEnd()
	client.Connect(s.desk, s.client, socket{client}, client)
	for !server.Open() || !client.Open() {
		for from, to := range map[*end]*end{server: client, client: server} {
			for out := from.sent(); len(out) > 0; {
				k := min(n, len(out))
				to.in = append(to.in, out[:k]...)
				out = out[k:]
				if err := to.Receive(); err != nil {
					t.Fatal(err)
				}
			}
		}
		select {
		case <-server.woken:
			if _, err := server.Run(); err != nil {
				t.Fatal(err)
			}
		case <-client.woken:
			if _, err := client.Run(); err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no handshake within 10 s")
		}
	}
	t.Cleanup(server.Abandon)
	t.Cleanup(client.Abandon)
	// What the client's handshake left: tickets.
	client.in = append(client.in, server.sent()...)
	server.in = append(server.in, client.sent()...)
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, looptls.ErrAgain) {
		t.Fatalf("the client reads %v", err)
	}
	return server, client
}

func TestRecordsThatArriveInHalvesAreAllRead(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := newSetup(t, 8, 10*time.Second)
		s.server.MaxVersion = version
		server, client := s.connect(t, 1+37)
		buf := make([]byte, 4096)
		const records = 3000
		for i := range records {
			text := bytes.Repeat([]byte{byte(i)}, 1+i%997)
			if _, err := client.Write(text); err != nil {
				t.Fatal(err)
			}
			record := client.sent()
			half := (i * 7) % (len(record) + 1)
			server.in = append(server.in, record[:half]...)
			n, err := server.Read(buf)
			if half < len(record) {
				if n != 0 || !errors.Is(err, looptls.ErrAgain) {
					t.Fatalf("record %d: half of it reads as %d bytes, %v", i, n, err)
				}
				server.in = append(server.in, record[half:]...)
				n, err = server.Read(buf)
			}
			if err != nil || !bytes.Equal(buf[:n], text) {
				t.Fatalf("record %d: %d bytes, %v", i, n, err)
			}
		}
		if got := server.State().Version; got != version {
			t.Errorf("version %x", got)
		}
	}
}

func TestWhatIsWrittenTogetherIsOneWrite(t *testing.T) {
	s := newSetup(t, 8, 10*time.Second)
	server, client := s.connect(t, 1<<20)
	for _, size := range []int{1, 100, 16 << 10, 16<<10 + 1, 100_000} {
		server.sent()
		text := bytes.Repeat([]byte("x"), size)
		if n, err := server.Write(text); n != size || err != nil {
			t.Fatal(n, err)
		}
		if len(server.writes) != 1 {
			t.Errorf("%d bytes left in %d writes", size, len(server.writes))
		}
		records := 0
		for out := server.writes[0]; len(out) > 0; records++ {
			out = out[5+int(out[3])<<8+int(out[4]):]
		}
		if want := (size + 16<<10 - 1) / (16 << 10); records != want {
			t.Errorf("%d bytes are %d records, want %d", size, records, want)
		}
		client.in = append(client.in, server.sent()...)
		got := make([]byte, 0, size)
		for len(got) < size {
			n, err := client.Read(got[len(got):size])
			if err != nil {
				t.Fatal(err)
			}
			got = got[:len(got)+n]
		}
		if !bytes.Equal(got, text) {
			t.Errorf("%d bytes arrive as others", size)
		}
	}
}

func TestAStrangerTakesATurnOnlyForAWholeHello(t *testing.T) {
	s := newSetup(t, 1, 10*time.Second)
	for _, c := range []struct {
		say  string
		want error
	}{
		{"GET /v1/connect HTTP/1.1\r\n", looptls.ErrNotTLS},
		{"\x16\x02\x00", looptls.ErrNotTLS},
		{"\x16\x03\x01\x00\x00", looptls.ErrNotTLS},
		{"\x16\x03\x01\xff\xff", looptls.ErrNotTLS},
		{"\x16", nil},
		{"\x16\x03\x01\x02\x00" + "half of it", nil},
		{"\x16\x03\x01\x40\x00" + string(make([]byte, 17<<10)), looptls.ErrTooMuch},
	} {
		e := s.accept()
		e.in = []byte(c.say)
		if err := e.Receive(); !errors.Is(err, c.want) {
			t.Errorf("%.20q: %v, want %v", c.say, err, c.want)
		}
		if got := s.desk.Stats(); got.UnderWay != 0 || got.Waiting != 0 {
			t.Errorf("%.20q took a turn", c.say)
		}
		e.Abandon()
	}
	stats := s.desk.Stats()
	if stats.Results[looptls.ResultNotTLS] != 4 || stats.Results[looptls.ResultTooMuch] != 1 {
		t.Errorf("counted: %v", stats.Results)
	}
}

// hello is a client's first record.
func (s setup) hello(t *testing.T) []byte {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	go func() { _ = tls.Client(there, s.client).Handshake() }()
	head := make([]byte, 5)
	if _, err := io.ReadFull(here, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(here, body); err != nil {
		t.Fatal(err)
	}
	return slices.Concat(head, body)
}

func TestHandshakesAreBoundedAndTheNextGetsItsTurn(t *testing.T) {
	s := newSetup(t, 2, time.Minute)
	hello := s.hello(t)
	var ends []*end
	for range 5 {
		e := s.accept()
		e.in = bytes.Clone(hello)
		if err := e.Receive(); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, e)
	}
	answered := func(e *end) func() bool { return func() bool { return len(e.writes) > 0 } }
	for _, e := range ends[:2] {
		if err := e.wait(t, "a handshake with a turn is answered", answered(e)); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.desk.Stats(); got.UnderWay != 2 || got.Waiting != 3 {
		t.Fatalf("%d under way, %d waiting", got.UnderWay, got.Waiting)
	}
	// While it waits a connection may not fill the memory.
	ends[4].in = make([]byte, 20<<10)
	if err := ends[4].Receive(); !errors.Is(err, looptls.ErrTooMuch) {
		t.Errorf("20 KiB behind a hello that waits: %v", err)
	}
	ends[2].Abandon() // it leaves while it waits, and takes nobody's turn
	ends[0].Abandon()
	if err := ends[3].wait(t, "the next gets the turn of one that left", answered(ends[3])); err != nil {
		t.Fatal(err)
	}
	ends[1].Abandon()
	ends[3].Abandon()
}

func TestAHandshakeHasADeadlineAndABound(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := newSetup(t, 4, 200*time.Millisecond)
	hello := s.hello(t)
	mute := s.accept()
	mute.in = bytes.Clone(hello)
	if err := mute.Receive(); err != nil {
		t.Fatal(err)
	}
	err := mute.wait(t, "the handshake ends", func() bool { return false })
	if !errors.Is(err, looptls.ErrTimeout) {
		t.Errorf("ended with %v", err)
	}
	mute.Abandon()

	flood := s.accept()
	flood.in = bytes.Clone(hello)
	if err := flood.Receive(); err != nil {
		t.Fatal(err)
	}
	_ = flood.wait(t, "the server's answer", func() bool { return len(flood.writes) > 0 })
	for err = nil; err == nil; err = flood.Receive() {
		flood.in = make([]byte, 32<<10)
	}
	if !errors.Is(err, looptls.ErrTooMuch) && !flood.Gone() {
		t.Errorf("a flood ended with %v", err)
	}
	s.desk.Wait()
	if got := s.desk.Stats(); got.Results[looptls.ResultTimeout] != 1 {
		t.Errorf("counted: %v", got.Results)
	}
}

func TestTheEndOfTheOtherSideIsAnEnd(t *testing.T) {
	s := newSetup(t, 8, 10*time.Second)
	server, client := s.connect(t, 1<<20)
	client.CloseWrite()
	server.in = client.sent()
	if _, err := server.Read(make([]byte, 10)); !errors.Is(err, io.EOF) {
		t.Errorf("a goodbye reads as %v", err)
	}
	server, client = s.connect(t, 1<<20)
	_, _ = client.Write([]byte("hello"))
	server.in = client.sent()
	server.in[7] ^= 1
	if _, err := server.Read(make([]byte, 10)); err == nil || errors.Is(err, looptls.ErrAgain) {
		t.Errorf("a forged record reads as %v", err)
	}
}

func TestAClientOfAnotherAuthorityIsToldSo(t *testing.T) {
	s := newSetup(t, 8, 10*time.Second)
	s.server.ClientAuth, s.server.ClientCAs = tls.RequireAndVerifyClientCert, s.authority.Pool()
	server := s.accept()
	here, there := net.Pipe()
	defer here.Close()
	failed := make(chan error, 1)
	go func() {
		defer there.Close() // A pipe has no buffer: what nobody reads any more would hold its writer.
		conn := tls.Client(there, s.client)
		_, err := conn.Read(make([]byte, 1))
		failed <- err
	}()
	var mu sync.Mutex
	arrived := make(chan struct{}, 100)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := here.Read(buf)
			if err != nil {
				return
			}
			mu.Lock()
			server.in = append(server.in, buf[:n]...)
			mu.Unlock()
			arrived <- struct{}{}
		}
	}()
	var err error
	for err == nil {
		select {
		case <-arrived:
			mu.Lock()
			err = server.Receive()
			mu.Unlock()
		case <-server.woken:
			_, err = server.Run()
		case <-time.After(10 * time.Second):
			t.Fatal("no end within 10 s")
		}
		_, _ = here.Write(server.sent())
	}
	server.Abandon()
	if told := <-failed; told == nil || !bytes.Contains([]byte(told.Error()), []byte("certificate required")) {
		t.Errorf("the client was told %v; the server says %v", told, err)
	}
}

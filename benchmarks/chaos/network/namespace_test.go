//go:build integration && linux

package network

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The test's program is also what runs in the namespaces: a server that answers each line with itself, and a client that says
// one line and waits for it.
const (
	envListen = "NETWORK_TEST_LISTEN"
	envDial   = "NETWORK_TEST_DIAL"
)

func TestMain(m *testing.M) {
	if at := os.Getenv(envListen); at != "" {
		listen(at)
	}
	if at := os.Getenv(envDial); at != "" {
		dial(at)
	}
	os.Exit(m.Run())
}

func listen(at string) {
	l, err := net.Listen("tcp", at)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		go func() {
			for lines := bufio.NewScanner(c); lines.Scan(); {
				fmt.Fprintln(c, lines.Text())
			}
			c.Close()
		}()
	}
}

func dial(at string) {
	c, err := net.DialTimeout("tcp", at, time.Second)
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprintln(c, "hello")
		var line string
		if line, err = bufio.NewReader(c).ReadString('\n'); err == nil && line != "hello\n" {
			err = fmt.Errorf("somebody else answered: %q", line)
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func TestNamespacesHearEachOtherUntilTheyAreCut(t *testing.T) {
	n, err := New("a", "b", "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	at := net.JoinHostPort(n.Address("b"), "7000")
	server := n.Command(t.Context(), "b", os.Args[0])
	server.Env = append(os.Environ(), envListen+"="+at)
	said, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	if line, err := bufio.NewReader(said).ReadString('\n'); line != "listening\n" {
		t.Fatalf("%q, %v", line, err)
	}
	ask := func(from string) error {
		cmd := n.Command(t.Context(), from, os.Args[0])
		cmd.Env = append(os.Environ(), envDial+"="+at)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	if err := ask("a"); err != nil {
		t.Fatalf("whole: %v", err)
	}
	outside := exec.CommandContext(t.Context(), os.Args[0])
	outside.Env = append(os.Environ(), envDial+"="+at)
	if err := outside.Run(); err == nil {
		t.Error("b is heard in the machine's own namespace")
	}
	for _, l := range []Link{{"a", "b"}, {"b", "a"}} {
		restore := n.Impair([]Link{l}, Condition{Lost: 1})
		if err := ask("a"); err == nil {
			t.Errorf("%v is cut, and a was answered", l)
		}
		if err := ask("c"); err != nil {
			t.Errorf("%v is cut, and c was not answered: %v", l, err)
		}
		restore()
	}
	restore := n.Impair([]Link{{"a", "b"}}, Condition{Delay: 200 * time.Millisecond})
	began := time.Now()
	if err := ask("a"); err != nil || time.Since(began) < 400*time.Millisecond {
		t.Errorf("a SYN and a line, both late, took %v, %v", time.Since(began), err)
	}
	restore()
	if err := ask("a"); err != nil {
		t.Errorf("restored: %v", err)
	}
}

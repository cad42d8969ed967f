//go:build integration

package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// A tier that is broken into must not write the logs, nor read what other tiers say to each other. The test speaks NATS'
// own protocol, so that no client library stands between it and the server's answer.
func TestBusKeepsTiersApart(t *testing.T) {
	may := []struct{ user, verb, subject string }{
		{"comet", "PUB", "logic.p.3"},
		{"comet", "PUB", "logic.l.l1"},
		// The close of a session that the same device replaced, on the comet that holds it.
		{"comet", "PUB", "peer.c2"},
		{"comet", "SUB", "peer.c1"},
		{"comet", "SUB", "comet.c1"},
		{"comet", "SUB", "_INBOX.comet.x"},
		{"logic", "PUB", "log.3.d"},
		{"logic", "PUB", "log.3.u"},
		{"logic", "PUB", "comet.c1"},
		// How far the followers are: history, and the one that tells users of their conversations.
		{"logic", "PUB", "$JS.API.CONSUMER.INFO.LOG_3.history"},
		{"logic", "PUB", "$JS.API.CONSUMER.INFO.LOG_3.userlog"},
		{"logic", "PUB", "$KV.halley_partitions.3"},
		{"logic", "SUB", "logic.p.3"},
		{"logic", "SUB", "logic.s.3"},
		{"job", "PUB", "logic.s.3"},
		{"job", "PUB", "$JS.API.CONSUMER.MSG.NEXT.LOG_3.history"},
		{"job", "PUB", "$JS.API.STREAM.PURGE.LOG_3"},
		{"job", "PUB", "$JS.ACK.LOG_3.history.1.1.1.1.1"},
	}
	mayNot := []struct{ user, verb, subject string }{
		// What a device is shown, what answers it, and who owns a partition: no comet says that to another.
		{"comet", "PUB", "comet.c2"},
		{"comet", "PUB", "comet.c2.x"},
		{"comet", "PUB", "comet"},
		{"job", "PUB", "peer.c1"},
		{"logic", "PUB", "peer.c1"},
		{"comet", "PUB", "log.3.d"},
		{"comet", "PUB", "logic.s.3"},
		{"comet", "PUB", "_INBOX.logic.x"},
		{"comet", "SUB", "_INBOX.logic.x"},
		{"comet", "SUB", "logic.p.3"},
		{"comet", "SUB", "log.3.d"},
		{"comet", "SUB", ">"},
		{"comet", "PUB", "$JS.API.STREAM.INFO.LOG_3"},
		{"comet", "PUB", "$JS.API.STREAM.DELETE.LOG_3"},
		{"comet", "PUB", "$KV.halley_cluster.logs"},
		{"logic", "PUB", "logic.s.3"},
		{"logic", "SUB", "_INBOX.job.x"},
		{"logic", "PUB", "$JS.API.STREAM.PURGE.LOG_3"},
		{"logic", "PUB", "$JS.API.STREAM.DELETE.LOG_3"},
		{"logic", "PUB", "$JS.API.STREAM.CREATE.LOG_3"},
		{"logic", "PUB", "$KV.halley_cluster.logs"},
		{"logic", "PUB", "$JS.ACK.LOG_3.history.1.1.1.1.1"},
		{"job", "PUB", "log.3.d"},
		{"job", "PUB", "log.3.u"},
		{"job", "PUB", "logic.p.3"},
		{"job", "PUB", "comet.c1"},
		{"job", "SUB", "comet.c1"},
		{"job", "PUB", "$KV.halley_cluster.logs"},
		{"job", "PUB", "$JS.API.STREAM.DELETE.LOG_3"},
		{"job", "PUB", "$JS.API.STREAM.PURGE.KV_halley_cluster"},
		{"job", "PUB", "$KV.halley_partitions.3"},
	}
	for _, c := range may {
		if answer := natsSay(t, c.user, c.verb, c.subject); answer != "+OK" {
			t.Errorf("%s must be able to %s %s; the server says %s", c.user, c.verb, c.subject, answer)
		}
	}
	for _, c := range mayNot {
		if answer := natsSay(t, c.user, c.verb, c.subject); !strings.HasPrefix(answer, "-ERR 'Permissions Violation") {
			t.Errorf("%s must not be able to %s %s; the server says %s", c.user, c.verb, c.subject, answer)
		}
	}
}

func TestBusRefusesStrangers(t *testing.T) {
	if answer := natsConnect(t, "comet", "wrong").say("PUB logic.p.3 0\r\n\r\n"); !strings.HasPrefix(answer, "-ERR 'Authorization Violation") {
		t.Errorf("a wrong password was answered with %s", answer)
	}
}

// natsSay publishes nothing to the subject, or subscribes to it, and returns the server's answer.
func natsSay(t *testing.T, user, verb, subject string) string {
	t.Helper()
	c := natsConnect(t, user, user)
	if verb == "SUB" {
		return c.say("SUB " + subject + " 1\r\n")
	}
	return c.say("PUB " + subject + " 0\r\n\r\n")
}

type natsConn struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func natsConnect(t *testing.T, user, password string) natsConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", servers.nats[0], 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c := natsConn{t, conn, bufio.NewReader(conn)}
	// Verbose: each command is answered.
	c.write(fmt.Sprintf(`CONNECT {"verbose":true,"user":%q,"pass":%q}`+"\r\n", user, password))
	return c
}

func (c natsConn) write(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// say returns the answer to the command, or the error that stands in its place.
func (c natsConn) say(command string) string {
	c.t.Helper()
	c.write(command + "PING\r\n")
	last := ""
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("after %q: %v", last, err)
		}
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "-ERR"):
			return line
		case line == "PONG":
			return last
		case line == "PING", strings.HasPrefix(line, "INFO "):
		default:
			last = line
		}
	}
}

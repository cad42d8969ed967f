package bus_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/pkg/bus"
	"github.com/halley-im/halley/pkg/bus/bustest"
)

// cutOff is a NATS server without its peers: it takes connections, answers pings, and names another server, but nobody leads anything that
// it could ask.
func cutOff(t *testing.T, other string) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	info := fmt.Sprintf("INFO {\"server_id\":\"x\",\"server_name\":\"cut-off\",\"version\":\"2.15.2\",\"proto\":1,\"headers\":true,"+
		"\"max_payload\":1048576,\"jetstream\":true,\"connect_urls\":[%q]}\r\n", other)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprint(c, info)
				for lines := bufio.NewReader(c); ; {
					line, err := lines.ReadString('\n')
					if err != nil {
						return
					}
					if strings.HasPrefix(line, "PING") {
						fmt.Fprint(c, "PONG\r\n")
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func TestAServerThatIsCutOffFromItsPeersIsLeft(t *testing.T) {
	t.Parallel()
	whole, err := url.Parse(bustest.StartCluster(t, 1).URLs()[0])
	if err != nil {
		t.Fatal(err)
	}
	c := bustest.Open(t, bus.Config{Name: "node", URLs: []string{"nats://" + cutOff(t, whole.Host)}})
	answered := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := c.GetFact(ctx, "any")
		return errors.Is(err, bus.ErrNotCreated)
	}
	if !c.Connected() || answered() {
		t.Fatal("it is not where nobody answers")
	}
	bustest.Until(t, "it is where somebody answers", answered)
}

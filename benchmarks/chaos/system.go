package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
)

// system is what is hurt: a set of processes and how to reach them.
type system interface {
	// up starts whatever does not run and waits until all is ready; a system that runs is left alone.
	up(ctx context.Context) error
	// down kills everything and leaves the logs.
	down()
	endpoints() endpoints
	// kinds are the faults of this topology, those of its gates included.
	kinds(gates []*gate) []Kind
	// use takes another program to start from then on.
	use(binary string)
	// secrets are the file of the token keys, and an API key.
	secrets() (tokenKeys, apiKey string, err error)
	// cold restarts every process of Halley's own, as after a loss of power that spared the disks.
	cold(ctx context.Context) error
	// faults are what happened to the processes by themselves.
	faults() []string
}

// endpoints are host:port each.
type endpoints struct {
	websocket, tcp, api, admin []string
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// The range from which the kernel takes the ports of outgoing connections begins above these.
const (
	firstPort = 11_000
	lastPort  = 31_000
)

// freePorts finds n ports in a row that nobody listens on.
func freePorts(from, n int) (int, error) {
	for base := from; base+n < lastPort; base += n {
		if allFree(base, n) {
			return base, nil
		}
	}
	return 0, errors.New("no ports in a row are free")
}

func allFree(base, n int) bool {
	for i := range n {
		l, err := net.Listen("tcp", address(base+i)) //nolint:noctx // closed at once.
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// ready asks the admin port of a node.
func ready(ctx context.Context, admin string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", http.NoBody)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is not ready: %s", admin, res.Status)
	}
	return nil
}

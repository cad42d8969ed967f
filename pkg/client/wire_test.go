package client

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/protocol"
)

// TestARefusedHandshakeSaysWhenToComeBack: the server's refusal before anything else, which over WebSocket is an answer of HTTP.
func TestARefusedHandshakeSaysWhenToComeBack(t *testing.T) {
	for _, c := range []struct {
		status int
		after  string
		code   protocol.CloseCode // 0: it is no refusal of the server's.
		want   time.Duration
	}{
		{http.StatusServiceUnavailable, "7", protocol.CloseOverloaded, 7 * time.Second},
		{http.StatusTooManyRequests, "3", protocol.CloseRateLimited, 3 * time.Second},
		{http.StatusServiceUnavailable, "", protocol.CloseOverloaded, 0},
		{http.StatusServiceUnavailable, "Wed, 21 Oct 2026 07:28:00 GMT", protocol.CloseOverloaded, 0},
		{http.StatusServiceUnavailable, "86400", protocol.CloseOverloaded, 10 * time.Minute},
		{http.StatusServiceUnavailable, "-1", protocol.CloseOverloaded, 0},
		{http.StatusNotFound, "7", 0, 0},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if c.after != "" {
				w.Header().Set("Retry-After", c.after)
			}
			http.Error(w, "not now", c.status)
		}))
		u, err := url.Parse("ws" + strings.TrimPrefix(server.URL, "http") + "/v1/connect")
		if err != nil {
			t.Fatal(err)
		}
		_, err = dial(context.Background(), u, nil)
		server.Close()
		closed, ok := errors.AsType[*CloseError](err)
		switch {
		case err == nil:
			t.Errorf("%d: it is connected", c.status)
		case ok != (c.code != 0):
			t.Errorf("%d: %v", c.status, err)
		case ok && (closed.Code != c.code || closed.RetryAfter != c.want):
			t.Errorf("%d, %q: %v, come back after %v; want %d, %v", c.status, c.after, err, closed.RetryAfter, c.code, c.want)
		}
	}
}

package drain

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Client speaks to the admin port of one node.
type Client struct {
	base string
	http *http.Client
}

// askTimeout bounds one question: the node answers at once or not at all.
const askTimeout = 5 * time.Second

// NewClient makes a client of an admin port, http://host:port or host:port.
func NewClient(admin string) *Client {
	if !strings.Contains(admin, "://") {
		admin = "http://" + admin
	}
	return &Client{base: strings.TrimRight(admin, "/"), http: &http.Client{Timeout: askTimeout}}
}

// Admin is the address it speaks to.
func (c *Client) Admin() string { return c.base }

// Status asks how far the node is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return c.ask(ctx, http.MethodGet, pathNode)
}

// Drain takes the node out of work.
func (c *Client) Drain(ctx context.Context) (Status, error) {
	return c.ask(ctx, http.MethodPut, pathDrain)
}

// Undrain takes it back.
func (c *Client) Undrain(ctx context.Context) (Status, error) {
	return c.ask(ctx, http.MethodDelete, pathDrain)
}

// Rebalance has the node send sessions away.
func (c *Client) Rebalance(ctx context.Context, sessions int) (Status, error) {
	return c.ask(ctx, http.MethodPut, pathRebalance+"?sessions="+strconv.Itoa(sessions))
}

// maxAnswer is ample for a status; the rest of a longer answer is not read.
const maxAnswer = 16 << 10

func (c *Client) ask(ctx context.Context, method, path string) (s Status, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, http.NoBody)
	if err != nil {
		return s, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return s, err
	}
	defer res.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return s, fmt.Errorf("%s: %w", c.base, err)
	}
	if res.StatusCode != http.StatusOK {
		return s, fmt.Errorf("%s answers %s: %s", c.base, res.Status, strings.TrimSpace(string(body)))
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("%s is no admin port of a node: %w", c.base, err)
	}
	return s, nil
}

// Package drain lets an operator take a node out of work and back through its admin port. It carries the wish and the progress; what
// they mean is the tier's, and it never decides by itself that a node is to go.
package drain

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// Work is a node's work, as its tier does it. Calls return at once and may come from several requests together; a wish that holds
// already changes nothing.
type Work interface {
	// Drain takes the node out of work until Undrain.
	Drain() error
	Undrain() error
	// Rebalance sends that many sessions away to come back wherever they are sent to; it replaces an earlier wish.
	Rebalance(sessions int) error
	Status() Status
}

// Errors of Work; others are the node's fault.
var (
	// ErrNotHere says that the tier has nothing of the kind.
	ErrNotHere = errors.New("this tier has nothing to do for that")
	// ErrLeaving says that the process ends already.
	ErrLeaving = errors.New("the process is ending")
)

// Status is how far a node's wish has come.
type Status struct {
	Node     string `json:"node"`
	Tier     string `json:"tier"`
	Draining bool   `json:"draining"`
	// Sessions of a node that holds connections.
	Sessions *Sessions `json:"sessions,omitempty"`
	// Partitions of a node that owns some.
	Partitions *Partitions `json:"partitions,omitempty"`
}

// Sessions are the connections of a node.
type Sessions struct {
	Held   int `json:"held"`
	Moving int `json:"moving"`     // still to be sent away by a rebalancing
	Rate   int `json:"per_second"` // at which they are sent away
}

// Partitions are those of a logic node.
type Partitions struct {
	Held int `json:"held"`
}

// Left is how much a drain has still to do.
func (s Status) Left() int {
	switch {
	case s.Sessions != nil:
		return s.Sessions.Held
	case s.Partitions != nil:
		return s.Partitions.Held
	}
	return 0
}

// Estimate is how long n sessions take at the node's rate; 0 where there is none.
func (s Status) Estimate(n int) time.Duration {
	if s.Sessions == nil || s.Sessions.Rate <= 0 {
		return 0
	}
	return (time.Duration(n) * time.Second / time.Duration(s.Sessions.Rate)).Round(time.Second)
}

// Paths of the admin port. What changes something is PUT or DELETE: no page of another origin can have a browser send that.
const (
	pathNode      = "/node"
	pathDrain     = "/node/drain"
	pathRebalance = "/node/rebalance"
)

// Handler serves the work of a node; work returns nil while the node is starting.
func Handler(work func() Work) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, wish func(w Work, r *http.Request) error) {
		mux.HandleFunc(pattern, func(out http.ResponseWriter, r *http.Request) {
			w := work()
			if w == nil {
				http.Error(out, "the node is starting", http.StatusServiceUnavailable)
				return
			}
			if err := wish(w, r); err != nil {
				status := http.StatusInternalServerError
				switch {
				case errors.Is(err, errBadCount):
					status = http.StatusBadRequest
				case errors.Is(err, ErrNotHere), errors.Is(err, ErrLeaving):
					status = http.StatusConflict
				}
				http.Error(out, err.Error(), status)
				return
			}
			out.Header().Set("Content-Type", "application/json")
			out.Header().Set("Cache-Control", "no-store")
			_ = json.NewEncoder(out).Encode(w.Status()) // the operator went away
		})
	}
	handle("GET "+pathNode, func(Work, *http.Request) error { return nil })
	handle("PUT "+pathDrain, func(w Work, _ *http.Request) error { return w.Drain() })
	handle("DELETE "+pathDrain, func(w Work, _ *http.Request) error { return w.Undrain() })
	handle("PUT "+pathRebalance, func(w Work, r *http.Request) error {
		n, err := strconv.Atoi(r.URL.Query().Get("sessions"))
		if err != nil || n < 0 {
			return errBadCount
		}
		return w.Rebalance(n)
	})
	return mux
}

var errBadCount = errors.New("sessions: want a number of 0 or more")

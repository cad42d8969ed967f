package cassandra

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/gocql/gocql"

	"github.com/halley-im/halley/pkg/store"
)

// classify marks an error that may go away by itself as store.ErrUnavailable and leaves others as they are.
func classify(err error) error {
	if err == nil || !transient(err) {
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// transient reports whether the same request may succeed later, or at another node.
func transient(err error) bool {
	var refused gocql.RequestError
	if errors.As(err, &refused) {
		switch refused.Code() {
		case gocql.ErrCodeServer, gocql.ErrCodeUnavailable, gocql.ErrCodeOverloaded, gocql.ErrCodeBootstrapping,
			gocql.ErrCodeWriteTimeout, gocql.ErrCodeReadTimeout, gocql.ErrCodeReadFailure, gocql.ErrCodeWriteFailure,
			gocql.ErrCodeCASWriteUnknown:
			return true
		}
		return false
	}
	for _, known := range []error{
		gocql.ErrTimeoutNoResponse, gocql.ErrTooManyTimeouts, gocql.ErrConnectionClosed, gocql.ErrNoStreams, gocql.ErrUnavailable,
		gocql.ErrNoConnections, gocql.ErrNoConnectionsStarted, gocql.ErrHostQueryFailed, gocql.ErrSessionClosed,
		io.EOF, io.ErrUnexpectedEOF, context.DeadlineExceeded,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	var network net.Error
	return errors.As(err, &network)
}

// retryPolicy tries a request that failed at other nodes, a bounded number of times. It is right for idempotent requests
// only, which all of ours are but the migrator's, and that one turns it off.
type retryPolicy struct{ retries int }

func (p retryPolicy) Attempt(q gocql.RetryableQuery) bool {
	if q.Attempts() > p.retries {
		return false
	}
	// Full jitter, so that those who failed together do not come back together.
	wait := time.NewTimer(rand.N(time.Duration(q.Attempts()) * 50 * time.Millisecond))
	defer wait.Stop()
	select {
	case <-wait.C:
		return true
	case <-q.Context().Done():
		return false
	}
}

func (p retryPolicy) GetRetryType(err error) gocql.RetryType {
	if transient(err) {
		return gocql.RetryNextHost
	}
	return gocql.Rethrow
}

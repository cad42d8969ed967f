package bus

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/halley-im/halley/protocol"
)

// MaxPartitions is the most that a cluster may be created with.
const MaxPartitions = 1024

const (
	factLogs = "logs"
	// metadata key under which each stream carries the incarnation of the cluster it was created for.
	metaIncarnation = "halley.incarnation"
)

// logsFact is what KV knows of the logs. It is written before the first stream is created, with Ready false, and again when
// the last one exists: between the two, CreateLogs takes up where it was stopped.
type logsFact struct {
	Partitions  int    `json:"partitions"`
	Incarnation string `json:"incarnation"`
	Ready       bool   `json:"ready"`
}

// CreateLogs creates the logs of a new cluster, once. Called again with the same number of partitions it changes nothing;
// with another it answers ErrCreatedDifferently. After a crash half-way the next call finishes the work. It never creates a
// stream of a cluster that was ready before: a missing one is a loss, which OpenLog reports.
func CreateLogs(ctx context.Context, c *Conn, cfg LogConfig) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	kv, err := c.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: factsBucket, Replicas: cfg.Replicas, Description: "What this Halley cluster agrees on.",
	})
	if errors.Is(err, jetstream.ErrBucketExists) {
		kv, err = c.facts(ctx)
	}
	if err != nil {
		return fmt.Errorf("bus: create facts: %w", err)
	}
	fact, rev, err := c.beginLogs(ctx, kv, cfg)
	if err != nil {
		return err
	}
	if fact.Partitions != cfg.Partitions {
		return fmt.Errorf("%w: it has %d partitions, not %d", ErrCreatedDifferently, fact.Partitions, cfg.Partitions)
	}
	if fact.Ready {
		return nil
	}
	for p := range cfg.Partitions {
		if err := c.createLog(ctx, p, fact.Incarnation, cfg); err != nil {
			return err
		}
	}
	fact.Ready = true
	if _, err := kv.Update(ctx, factLogs, fact.encode(), rev); err != nil && !isWrongSequence(err) {
		return fmt.Errorf("bus: create logs: %w", err)
	}
	// Refused: another process did the same work at the same time and was first.
	return nil
}

func (cfg LogConfig) validate() error {
	switch {
	case cfg.Partitions < 1 || cfg.Partitions > MaxPartitions:
		return fmt.Errorf("bus: partitions: %d is not in 1..%d", cfg.Partitions, MaxPartitions)
	case cfg.Replicas != 1 && cfg.Replicas != 3 && cfg.Replicas != 5:
		return fmt.Errorf("bus: replicas: %d is not 1, 3 or 5", cfg.Replicas)
	case cfg.MaxBytes < 1<<20:
		return fmt.Errorf("bus: max_bytes: %d is less than 1 MiB", cfg.MaxBytes)
	}
	return nil
}

// beginLogs writes down what is about to be created, or returns what was written down before.
func (c *Conn) beginLogs(ctx context.Context, kv jetstream.KeyValue, cfg LogConfig) (logsFact, uint64, error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return logsFact{}, 0, fmt.Errorf("bus: create logs: %w", err)
	}
	fact := logsFact{Partitions: cfg.Partitions, Incarnation: hex.EncodeToString(id[:])}
	rev, err := kv.Create(ctx, factLogs, fact.encode())
	if err == nil {
		return fact, rev, nil
	}
	if !errors.Is(err, jetstream.ErrKeyExists) {
		return logsFact{}, 0, fmt.Errorf("bus: create logs: %w", err)
	}
	return c.readLogsFact(ctx)
}

func (f logsFact) encode() []byte {
	b, err := json.Marshal(f)
	if err != nil { // a struct of an int, a string and a bool
		panic(err)
	}
	return b
}

func (c *Conn) readLogsFact(ctx context.Context) (logsFact, uint64, error) {
	e, err := c.bucketGet(ctx, factsBucket, factLogs)
	if errors.Is(err, ErrNoMessage) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return logsFact{}, 0, ErrNotCreated
	}
	if err != nil {
		return logsFact{}, 0, fmt.Errorf("bus: facts of the logs: %w", err)
	}
	var fact logsFact
	if err := json.Unmarshal(e.value, &fact); err != nil {
		return logsFact{}, 0, fmt.Errorf("bus: facts of the logs: %w", err)
	}
	return fact, e.revision, nil
}

func (c *Conn) createLog(ctx context.Context, p int, incarnation string, cfg LogConfig) error {
	name := protocol.StreamLog(p)
	_, err := c.js.CreateStream(ctx, jetstream.StreamConfig{
		Name:        name,
		Description: "Halley: the log of partition " + strconv.Itoa(p) + ".",
		Subjects:    []string{"log." + strconv.Itoa(p) + ".>"},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Replicas:    cfg.Replicas,
		MaxBytes:    cfg.MaxBytes,
		// A full log refuses; it never drops what somebody has not read.
		Discard:     jetstream.DiscardNew,
		MaxMsgs:     -1,
		MaxMsgSize:  -1,
		DenyDelete:  true,
		AllowDirect: true,
		Metadata:    map[string]string{metaIncarnation: incarnation},
	})
	if err == nil {
		return nil
	}
	if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("bus: create %s: %w", name, err)
	}
	info, err := c.streamInfo(ctx, name)
	if err != nil {
		return err
	}
	if info.Config.Metadata[metaIncarnation] != incarnation {
		return fmt.Errorf("%w: %s exists and belongs to another cluster", ErrCreatedDifferently, name)
	}
	return nil
}

// Partitions is the number of partitions that the cluster was created with, for ever: ErrNotCreated before that. While NATS cannot tell, it
// waits, until ctx ends: servers that have just started elect leaders first.
func Partitions(ctx context.Context, c *Conn) (int, error) {
	for pause := openPause; ; pause = min(2*pause, openAttempt) {
		attempt, cancel := context.WithTimeout(ctx, openAttempt)
		fact, err := c.readyLogs(attempt)
		cancel()
		if err == nil || errors.Is(err, ErrNotCreated) {
			return fact.Partitions, err
		}
		c.log.Warn("waiting for NATS to tell what the cluster was created with", "err", err)
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(pause):
		}
	}
}

// readyLogs is what KV knows of logs that exist: ErrNotCreated before that.
func (c *Conn) readyLogs(ctx context.Context) (logsFact, error) {
	fact, _, err := c.readLogsFact(ctx)
	if err == nil && !fact.Ready {
		err = fmt.Errorf("%w: creation was not finished", ErrNotCreated)
	}
	if err != nil {
		return logsFact{}, err
	}
	return fact, nil
}

func (c *Conn) streamInfo(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	s, err := c.js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("bus: state of %s: %w", name, err)
	}
	return s.CachedInfo(), nil
}

// Error codes of JetStream that decide what happens next.
const (
	codeWrongLastSequence = 10071
	codeInFlight          = 10164 // Of a replicated stream: a message before it is not committed yet.
	codeStoreFailed       = 10077
)

func isWrongSequence(err error) bool { return hasCode(err, codeWrongLastSequence) }

func isInFlight(err error) bool { return hasCode(err, codeInFlight) }

func hasCode(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}

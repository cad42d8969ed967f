package plan

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Basis is how sure a constant is.
type Basis string

// The bases.
const (
	MeasuredHere Basis = "measured"
	Bound        Basis = "bound"   // measured of something that is at least as large
	Assumed      Basis = "assumed" // nobody has measured it: do so before you buy
	Given        Basis = "given"   // by whoever asked
)

// Constant is what one thing costs.
type Constant struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Basis   Basis   `json:"basis"`
	What    string  `json:"what"`
	Command string  `json:"command"` // that measures it
}

// Constants are those of a machine.
type Constants []Constant

// Commands that measure them; docs/capacity.md says how.
const (
	byPairs   = "halley bench p2p"
	byGroups  = "halley bench group"
	byConn    = "halley bench conn"
	byDoc     = "halley config doc"
	byMemory  = "go test ./logic/partition -run TestConversations -v"
	byMillion = "make million"
	byCosts   = "make costs"
)

// Default are those that ship. What was measured was so on a virtual machine with two cores of a shared server and Go 1.26, on loopback,
// with messages of 100 bytes. CPU times are of a faster machine of the two that it was; another's differ by its speed.
func Default() Constants {
	return Constants{
		{"comet_cpu_us_per_message", 25, "µs", MeasuredHere, "Comet: take a message from its writer and acknowledge it. 19 to 41 at full load.", byCosts},
		{"comet_cpu_us_per_delivery", 7, "µs", MeasuredHere, "Comet: hand a message to one session. 5 to 7 in serve, most of it the kernel's.", byCosts},
		{"comet_cpu_us_per_connect", 118, "µs", MeasuredHere, "Comet: let a device in: handshake of WebSocket, token, presence. 88 in serve, 165 where 53 comets share two cores.", byCosts},
		{"comet_cpu_us_per_tls_handshake", 1500, "µs", Bound, "Comet: the handshake of TLS, with an ECDSA certificate. The bound is both ends of it, 1,500 to 2,000 on a crowded machine.", "go test ./pkg/certs -run NONE -bench Handshake"},
		{"comet_cpu_us_per_heartbeat", 25, "µs", MeasuredHere, "Comet: take a small frame and answer it, when nothing else wakes the process up. Half of it where it is busy.", byMillion},
		{"comet_memory_bytes_per_connection", 915, "bytes", MeasuredHere, "Comet: a session at rest. 871 to 915 of a million.", byMillion},
		{"comet_memory_bytes_per_tls_session", 4900, "bytes", MeasuredHere, "Comet: what TLS adds to it.", "go test ./comet -run TestIdleSessions -v"},
		{"kernel_bytes_per_connection", 5100, "bytes", MeasuredHere, "The kernel: a socket at rest, one end of it; 4,100 on another machine.", byMillion},
		{"process_memory_bytes", 512 << 20, "bytes", Assumed, "Any process: what it takes at work beside what is counted here.", byPairs},
		{"logic_cpu_us_per_message", 23, "µs", MeasuredHere, "Logic: decide a message, write it into a block, acknowledge. 15 to 39 at full load.", byCosts},
		{"logic_cpu_us_per_delivery", 6.4, "µs", MeasuredHere, "Logic: send it to one session's comet.", byCosts},
		{"logic_cpu_us_per_connect", 126, "µs", MeasuredHere, "Logic: look at the log of a user who comes.", byCosts},
		{"logic_memory_bytes_per_conversation", 1024, "bytes", MeasuredHere, "Logic: a conversation in memory, without its records.", byMemory},
		{"logic_memory_bytes_per_record", 405, "bytes", MeasuredHere, "Logic: a record in memory, beside its body.", byMemory},
		{"job_cpu_us_per_message", 20, "µs", MeasuredHere, "Job: read a message from the log and have it stored.", byCosts},
		{"job_memory_bytes_per_partition", 16 << 20, "bytes", Bound, "Job: blocks of one partition under way: twice job.history.batch_bytes and twice job.userlog's, and their decoding.", byDoc},
		{"nats_cpu_us_per_message", 65, "µs", MeasuredHere, "NATS: three servers together: a request, its answer, three copies in the log, history's reading. 25 to 82 at full load.", byCosts},
		{"nats_cpu_us_per_delivery", 22, "µs", MeasuredHere, "NATS: carry a message to one session's comet.", byCosts},
		{"nats_cpu_us_per_connect", 57, "µs", Bound, "NATS: carry the question for it, and the answer. 8 with two comets, 57 with 53.", byMillion},
		{"nats_overhead_bytes_per_message", 131, "bytes", MeasuredHere, "NATS: one copy in the log, beside the body; of a spike of the write path.", byPairs},
		{"nats_memory_bytes_per_log_copy", 32 << 20, "bytes", Assumed, "NATS: one copy of a log, at work.", byPairs},
		{"redis_cpu_us_per_message", 3, "µs", MeasuredHere, "Redis: who is connected, for one message.", byCosts},
		{"redis_cpu_us_per_delivery", 1.7, "µs", MeasuredHere, "Redis: who is connected, for one more session.", byCosts},
		{"redis_cpu_us_per_connect", 40, "µs", MeasuredHere, "Redis: a session that comes. 27 with two comets, 40 with 53.", byMillion},
		{"redis_memory_bytes_per_connection", 173, "bytes", MeasuredHere, "Redis: an entry; of a million.", byMillion},
		{"cassandra_cpu_us_per_message", 80, "µs", MeasuredHere, "Cassandra: store a message on one replica, where no other of its conversation comes in the same second: 69 to 94; some 35 where eight do.", byCosts},
		{"cassandra_cpu_us_per_connect", 127, "µs", MeasuredHere, "Cassandra: one replica reads what it has of the user's log; of a million in seven minutes. 323 where 10,000 come in seconds.", byMillion},
		{"cassandra_overhead_bytes_per_message", 131, "bytes", Bound, "Cassandra: one copy on the disk, beside the body. The bound is the block as it lies in the log; compression takes from it.", byPairs},
	}
}

// assumed are the names of those that nobody has measured.
func (c Constants) assumed() (names []string) {
	for _, one := range c {
		if one.Basis == Assumed {
			names = append(names, one.Name)
		}
	}
	return names
}

// of is the value of a constant.
func (c Constants) of(name string) float64 {
	i := slices.IndexFunc(c, func(one Constant) bool { return one.Name == name })
	if i < 0 {
		panic("plan: no constant " + name) // A name in the code, not in anybody's file.
	}
	return c[i].Value
}

// Validate names every constant that cannot be.
func (c Constants) Validate() error {
	var errs []error
	check := checker(&errs)
	for _, one := range c {
		check("constant "+one.Name, one.Value, 0, 1e12)
	}
	return errors.Join(errs...)
}

// With returns them with other values.
func (c Constants) With(values map[string]float64) (Constants, error) {
	out := slices.Clone(c)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		i := slices.IndexFunc(out, func(one Constant) bool { return one.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no constant is called %q; 'halley plan --show-constants' prints them all", name)
		}
		out[i].Value, out[i].Basis = values[name], Given
	}
	return out, out.Validate()
}

// ReadValues reads values by name from YAML, or JSON.
func ReadValues(r io.Reader) (map[string]float64, error) {
	values := map[string]float64{}
	if err := yaml.NewDecoder(r).Decode(&values); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("want a line 'name: value' for each constant: %w", err)
	}
	return values, nil
}

// ParseValue reads name=value.
func ParseValue(text string) (name string, value float64, err error) {
	name, number, ok := strings.Cut(text, "=")
	if !ok {
		return "", 0, fmt.Errorf("%q is not name=value", text)
	}
	if value, err = strconv.ParseFloat(number, 64); err != nil {
		return "", 0, fmt.Errorf("%s: %q is not a number", name, number)
	}
	return name, value, nil
}

// Write prints them as YAML that ReadValues reads.
func (c Constants) Write(w io.Writer) error {
	var b strings.Builder
	for _, one := range c {
		fmt.Fprintf(&b, "# %s\n# Unit: %s; %s; to be measured by: %s\n%s: %s\n", one.What, one.Unit, one.Basis, one.Command, one.Name, strconv.FormatFloat(one.Value, 'f', -1, 64))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

package cassandra

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gocql/gocql"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/halley-im/halley/pkg/store"
	logv1 "github.com/halley-im/halley/protocol/halley/log/v1"
)

// A field that is added to the record and forgotten in envelope would be lost here and nowhere else.
func TestEveryFieldOfARecordSurvives(t *testing.T) {
	want := &logv1.Record{Since: &logv1.Since{Left: []uint64{7}, Active: []uint64{8, 9}}}
	m := want.ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if m.Has(fields.Get(i)) {
			continue
		}
		f := fields.Get(i)
		v, ok := map[protoreflect.Kind]protoreflect.Value{
			protoreflect.StringKind: protoreflect.ValueOfString(fmt.Sprintf("value %d", i)),
			protoreflect.Uint64Kind: protoreflect.ValueOfUint64(uint64(100 + i)),
			protoreflect.Uint32Kind: protoreflect.ValueOfUint32(uint32(100 + i)),
			protoreflect.Int64Kind:  protoreflect.ValueOfInt64(int64(100 + i)),
			protoreflect.BoolKind:   protoreflect.ValueOfBool(true),
			protoreflect.BytesKind:  protoreflect.ValueOfBytes([]byte{byte(i)}),
		}[f.Kind()]
		if !ok {
			t.Fatalf("field %s has kind %v: teach this test", f.Name(), f.Kind())
		}
		if f.IsList() {
			m.Mutable(f).List().Append(v)
			continue
		}
		m.Set(f, v)
	}
	env, err := envelope(want).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	c := store.Conversation{App: want.App, ID: want.Conversation}
	got, err := assemble(c, int64(want.Seq), env, want.Body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Fatalf("record (-want +got):\n%s", diff)
	}
	var inEnvelope logv1.Record
	if err := proto.Unmarshal(env, &inEnvelope); err != nil || inEnvelope.Body != nil || inEnvelope.App != "" {
		t.Fatalf("the envelope repeats columns: %v, %v", &inEnvelope, err)
	}
}

func TestErrorsSayWhetherToTryAgain(t *testing.T) {
	for _, tc := range []struct {
		err       error
		transient bool
	}{
		{gocql.ErrTimeoutNoResponse, true},
		{gocql.ErrNoConnections, true},
		{fmt.Errorf("wrapped: %w", gocql.ErrConnectionClosed), true},
		{io.EOF, true},
		{&net.OpError{Op: "dial", Err: errors.New("refused")}, true},
		{context.DeadlineExceeded, true},
		{context.Canceled, false},
		{gocql.ErrNotFound, false},
		{errors.New("gocql: expected 3 values send got 2"), false},
	} {
		if got := transient(tc.err); got != tc.transient {
			t.Errorf("transient(%v) = %v", tc.err, got)
		}
		if got := errors.Is(classify(tc.err), store.ErrUnavailable); got != tc.transient {
			t.Errorf("classify(%v) is unavailable: %v", tc.err, got)
		}
		if !errors.Is(classify(tc.err), tc.err) {
			t.Errorf("classify(%v) hides the cause", tc.err)
		}
	}
	for code, want := range map[int]bool{
		gocql.ErrCodeUnavailable: true, gocql.ErrCodeWriteTimeout: true, gocql.ErrCodeOverloaded: true, gocql.ErrCodeReadFailure: true,
		gocql.ErrCodeSyntax: false, gocql.ErrCodeInvalid: false, gocql.ErrCodeUnauthorized: false, gocql.ErrCodeCredentials: false,
	} {
		if got := transient(refusal(code)); got != want {
			t.Errorf("code %#x: transient %v, want %v", code, got, want)
		}
	}
}

// refusal is an answer of a node with a code.
type refusal int

func (r refusal) Code() int       { return int(r) }
func (r refusal) Message() string { return "refused" }
func (r refusal) Error() string   { return "refused" }

func TestMutationsKeepWithinOnePartitionAndTheirBounds(t *testing.T) {
	p := &plan{session: &gocql.Session{}, open: map[partition]*mutation{}}
	total := 0
	for i := range uint64(1000) {
		for _, id := range []string{"g:a", "g:b"} {
			r := &logv1.Record{App: "a", Conversation: id, Seq: 4000 + i, Joined: []string{"alice"}, Left: []string{"bob"}, Body: make([]byte, int(i)*7)}
			if err := p.addRecord(r); err != nil {
				t.Fatal(err)
			}
			total += 3
		}
	}
	for i, m := range p.mutations {
		home, bytes := "", 0
		for _, e := range m.batch.Entries {
			total--
			if !e.Idempotent {
				t.Fatalf("mutation %d: %s is not marked idempotent", i, e.Stmt)
			}
			key := fmt.Sprint("members ", e.Args[2], e.Args[3])
			if e.Stmt == insertMessage {
				key = fmt.Sprint("messages ", e.Args[0], e.Args[1], e.Args[2])
				bytes += len(e.Args[4].([]byte)) + len(e.Args[5].([]byte))
			}
			if home == "" {
				home = key
			}
			if home != key {
				t.Fatalf("mutation %d is of %s and %s", i, home, key)
			}
		}
		if len(m.batch.Entries) > mutationRows || bytes > mutationBytes && len(m.batch.Entries) > 1 {
			t.Fatalf("mutation %d has %d rows, %d bytes", i, len(m.batch.Entries), bytes)
		}
	}
	if total != 0 {
		t.Fatalf("%d statements lost", total)
	}
	// 2 conversations × (96 + 904 rows of growing size, 2,000 members): far fewer mutations than rows.
	if n := len(p.mutations); n > 180 {
		t.Fatalf("%d mutations", n)
	}
}

// byName is a cluster of which one knows who is the first replica of a conversation: its name begins with that. A name without a dash has none.
type byName struct{}

func (byName) Pick(q gocql.ExecutableQuery) gocql.NextHost {
	name := q.(*gocql.Batch).Entries[0].Args[1].(string)
	return func() gocql.SelectedHost {
		if node, _, found := strings.Cut(name, "-"); found {
			return first{node}
		}
		return nil
	}
}

type first struct{ node string }

func (f first) Info() *gocql.HostInfo {
	h := new(gocql.HostInfo)
	h.SetHostID(f.node)
	return h
}
func (f first) Mark(error) {}

func TestSmallMutationsOfOneNodeTravelTogether(t *testing.T) {
	s := &Store{session: &gocql.Session{}, route: byName{}}
	p := s.newPlan()
	want, size := map[string]int{}, map[string]int{}
	add := func(name string, rows, bytes int) {
		for i := range rows {
			want[fmt.Sprint(name, " ", i)]++
			size[name] = bytes + rowOverhead
			p.add(partition{tableMessages, "a", name, 0}, bytes, "insert", "a", name, i)
		}
	}
	for i := range 25 {
		add(fmt.Sprintf("one-%d", i), 1, 100)
		add(fmt.Sprintf("two-%d", i), 2, 100)
	}
	add("one-large", 1, groupBytes)
	add("one-long", 100, 100)
	for i := range 4 {
		add(fmt.Sprintf("three-%d", i), 1, groupBytes/2-rowOverhead)
	}
	add("nobody's", 1, 10)
	add("nobody's either", 1, 10)

	batches := s.group(t.Context(), p)
	for i, b := range batches {
		nodes, names, bytes := map[string]bool{}, map[string]bool{}, 0
		for _, e := range b.Entries {
			name := e.Args[1].(string)
			node, _, known := strings.Cut(name, "-")
			if !known {
				node = name
			}
			nodes[node], names[name] = true, true
			want[fmt.Sprint(name, " ", e.Args[2])]--
			bytes += size[name]
		}
		if len(nodes) > 1 {
			t.Errorf("batch %d goes to %v", i, nodes)
		}
		if len(names) > 1 && (len(names) > groupMutations || bytes > groupBytes) {
			t.Errorf("batch %d has %d partitions, %d bytes", i, len(names), bytes)
		}
	}
	for row, n := range want {
		if n != 0 {
			t.Errorf("%s: %d missing", row, n)
		}
	}
	// 25 of one and 25 of two in groups of 10, two that are large, four halves in two, two whose node nobody knows.
	if got := len(batches); got != 3+3+2+2+2 {
		t.Errorf("%d batches", got)
	}
}

// ours are the migrations of this build.
func ours(t *testing.T) []migration {
	t.Helper()
	known, err := load(files)
	if err != nil || len(known) == 0 {
		t.Fatalf("%d migrations, %v", len(known), err)
	}
	return known
}

func TestMigrationFilesCanBeRepeated(t *testing.T) {
	for _, m := range ours(t) {
		for _, stmt := range m.statements {
			if !strings.Contains(stmt, " IF NOT EXISTS ") && !strings.Contains(stmt, " IF EXISTS ") {
				t.Errorf("%s: a migration that was cut off is repeated, but this cannot be: %s", m.name, stmt)
			}
		}
	}
}

// The first migration is applied on clusters: whoever changes its text locks them out.
func TestMigrationFilesNeverChange(t *testing.T) {
	want := map[string]string{
		"0001_initial.cql": "91db1e7d650d6c341bb78b17cefd5409f78363cc0a9f99b0204af4df9c42154f",
		"0002_large.cql":   "ebbe88539f877712c96e4da4c065ba3fa9597b6c43d906d177cbb994c97fe9fe",
		"0003_top.cql":     "3fac09fe4d2b45977d613aa74d391850a7a4b09fc3776364e337ff02354a7838",
	}
	for _, m := range ours(t) {
		if want[m.name] != m.checksum {
			t.Errorf("%s has checksum %s, released as %q: write a new migration instead, and add a new one here", m.name, m.checksum, want[m.name])
		}
	}
}

func TestMigrationFilesAreNumberedAndSplit(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	got, err := load(fstest.MapFS{
		"migrations/0002_b.cql": file("-- why\nALTER TABLE a\n  ADD x int;\nDROP TABLE b;\n"),
		"migrations/0001_a.cql": file("CREATE TABLE a (i int PRIMARY KEY);"),
	})
	if err != nil || len(got) != 2 || got[0].version != 1 || got[1].name != "0002_b.cql" {
		t.Fatalf("load: %+v, %v", got, err)
	}
	if diff := cmp.Diff([]string{"ALTER TABLE a\n  ADD x int", "DROP TABLE b"}, got[1].statements); diff != "" {
		t.Fatalf("statements (-want +got):\n%s", diff)
	}
	for name, bad := range map[string]fstest.MapFS{
		"a gap":        {"migrations/0001_a.cql": file("A;"), "migrations/0003_c.cql": file("C;")},
		"no number":    {"migrations/a.cql": file("A;")},
		"no semicolon": {"migrations/0001_a.cql": file("A;\nB\n")},
	} {
		if _, err := load(bad); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestSchemaIsComparedWithWhatTheBuildKnows(t *testing.T) {
	known := []migration{{version: 1, name: "a", checksum: "1"}, {version: 2, name: "b", checksum: "2"}}
	for _, tc := range []struct {
		story   string
		applied []migration
		missing int
		refused string
	}{
		{"empty", nil, 2, ""},
		{"behind", known[:1], 1, ""},
		{"the same", known, 0, ""},
		{"newer", append(known[:2:2], migration{version: 3, name: "c", checksum: "3"}), 0, "newer"},
		{"changed", []migration{{version: 1, name: "a", checksum: "other"}}, 0, "changed"},
		{"with a hole", known[1:], 0, "is not"},
	} {
		applied := map[int]migration{}
		for _, m := range tc.applied {
			applied[m.version] = m
		}
		missing, err := compare(known, applied)
		if tc.refused != "" {
			if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), tc.refused) {
				t.Errorf("%s: %v, want a refusal with %q", tc.story, err, tc.refused)
			}
			continue
		}
		if err != nil || len(missing) != tc.missing {
			t.Errorf("%s: %d missing, %v", tc.story, len(missing), err)
		}
	}
}

func TestConfigNamesTheFieldAtFault(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatalf("the default is refused: %v", err)
	}
	for field, spoil := range map[string]func(*Config){
		"hosts":              func(c *Config) { c.Hosts = []string{"a:b"} },
		"keyspace":           func(c *Config) { c.Keyspace = "x; DROP KEYSPACE y" },
		"consistency":        func(c *Config) { c.Consistency = "MOST" },
		"local_dc":           func(c *Config) { c.LocalDC = "dc'" },
		"username":           func(c *Config) { c.Username = "x" },
		"cert_file":          func(c *Config) { c.TLS, c.CertFile = true, "x" },
		"tls":                func(c *Config) { c.CAFile = "x" },
		"replicas":           func(c *Config) { c.Replicas = 0 },
		"request_timeout_ms": func(c *Config) { c.RequestTimeoutMs = 0 },
		"call_timeout_ms":    func(c *Config) { c.CallTimeoutMs = c.RequestTimeoutMs - 1 },
		"requests":           func(c *Config) { c.Requests = 0 },
	} {
		c := Default()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

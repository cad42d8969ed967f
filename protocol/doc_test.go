package protocol_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/halley-im/halley/protocol"
	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

var rewrite = flag.Bool("rewrite", false, "write the bytes of docs/protocol.md anew from the JSON beside them")

const docPath = "../docs/protocol.md"

func doc(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

var fence = regexp.MustCompile("(?ms)^```(hex|json device|json server)\n(.*?)^```\n")

// block is one fenced block of the page.
type block struct {
	kind, text string
	start, end int // of the text
}

func blocks(page string) []block {
	var out []block
	for _, m := range fence.FindAllStringSubmatchIndex(page, -1) {
		out = append(out, block{page[m[2]:m[3]], strings.TrimSpace(page[m[4]:m[5]]), m[4], m[5]})
	}
	return out
}

// wire turns a JSON frame into the bytes that it is over TCP.
func (b block) wire(t *testing.T) []byte {
	t.Helper()
	var f envelopev1.Frame
	if err := protocol.DecodeJSONFrame([]byte(b.text), &f); err != nil {
		t.Fatalf("%s\n%v", b.text, err)
	}
	if m := b.body(t, &f); m != nil {
		if err := protocol.DecodeBody(true, f.Body, m); err != nil {
			t.Fatalf("%s\n%v", b.text, err)
		}
		var err error
		if f.Body, err = protocol.EncodeBody(false, m); err != nil {
			t.Fatal(err)
		}
	}
	data, err := protocol.EncodeFrame(false, &f)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)
}

// body is the empty message that the frame's body is; nil where it must have none.
func (b block) body(t *testing.T, f *envelopev1.Frame) protocol.Message {
	t.Helper()
	m := protocol.NewRequest(f.Command)
	if b.kind == "json server" {
		m = protocol.NewReply(f.Command)
	}
	if f.Error != nil {
		m = nil
	}
	if m == nil && len(f.Body) > 0 {
		t.Fatalf("%s\nhas a body and should not", b.text)
	}
	return m
}

func TestDocExamplesAreFramesOfTheProtocol(t *testing.T) {
	shown := map[string]bool{}
	for _, b := range blocks(doc(t)) {
		if b.kind == "hex" {
			continue
		}
		b.wire(t)
		var f struct {
			Command string `json:"command"`
		}
		if err := json.Unmarshal([]byte(b.text), &f); err != nil {
			t.Fatal(err)
		}
		shown[b.kind+" "+f.Command] = true
	}
	for number := range envelopev1.Command_name {
		c := envelopev1.Command(number)
		word := protocol.CommandWord(c)
		if word == "" {
			continue
		}
		if protocol.NewRequest(c) != nil && !shown["json device "+word] {
			t.Errorf("no example of a device's %s", word)
		}
		isAck := c == envelopev1.Command_COMMAND_CONVERSATION_ADD || c == envelopev1.Command_COMMAND_CONVERSATION_REMOVE ||
			c == envelopev1.Command_COMMAND_CONVERSATION_LEAVE // Answered as message.send is.
		if protocol.NewReply(c) != nil && !isAck && !shown["json server "+word] {
			t.Errorf("no example of the server's %s", word)
		}
	}
}

func TestDocBytesAreTheFramesBesideThem(t *testing.T) {
	page := doc(t)
	all := blocks(page)
	var out strings.Builder
	last, pairs := 0, 0
	for i, b := range all {
		if b.kind != "hex" {
			continue
		}
		if i+1 == len(all) || all[i+1].kind == "hex" {
			t.Fatalf("bytes without JSON beside them:\n%s", b.text)
		}
		pairs++
		want := dump(all[i+1].wire(t))
		out.WriteString(page[last:b.start])
		out.WriteString(want)
		last = b.end
		if *rewrite {
			continue
		}
		if b.text+"\n" != want {
			t.Errorf("bytes of %s\nare\n%s\nthe page has\n%s", all[i+1].text, want, b.text)
			continue
		}
		readBack(t, b, all[i+1])
	}
	out.WriteString(page[last:])
	if pairs < 5 {
		t.Errorf("only %d frames are shown in bytes", pairs)
	}
	if *rewrite {
		if err := os.WriteFile(docPath, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// readBack decodes the bytes as a client would and compares them with the JSON.
func readBack(t *testing.T, bytes, beside block) {
	t.Helper()
	data, err := hex.DecodeString(strings.Join(strings.Fields(bytes.text), ""))
	if err != nil {
		t.Fatal(err)
	}
	if n := binary.BigEndian.Uint32(data); int(n) != len(data)-4 {
		t.Fatalf("length %d of %d bytes", n, len(data)-4)
	}
	var f envelopev1.Frame
	if err := f.UnmarshalVT(data[4:]); err != nil {
		t.Fatal(err)
	}
	if m := beside.body(t, &f); m != nil {
		if err := protocol.DecodeBody(false, f.Body, m); err != nil {
			t.Fatal(err)
		}
		if f.Body, err = protocol.EncodeBody(true, m); err != nil {
			t.Fatal(err)
		}
	}
	text, err := protocol.EncodeFrame(true, &f)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(beside.text), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%s", beside.text, diff)
	}
}

func dump(data []byte) string {
	var out strings.Builder
	for i, b := range data {
		switch {
		case i > 0 && i%32 == 0:
			out.WriteByte('\n')
		case i > 0:
			out.WriteByte(' ')
		}
		fmt.Fprintf(&out, "%02x", b)
	}
	out.WriteByte('\n')
	return out.String()
}

// row is a row of a table: its cells, trimmed.
func rows(page, heading string) [][]string {
	var out [][]string
	_, rest, ok := strings.Cut(page, heading)
	if !ok {
		return nil
	}
	for _, line := range strings.Split(rest, "\n")[1:] {
		if !strings.HasPrefix(line, "|") {
			break
		}
		var cells []string
		for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.Trim(strings.TrimSpace(cell), "`"))
		}
		if !strings.HasPrefix(cells[0], "---") {
			out = append(out, cells)
		}
	}
	return out
}

func TestDocTablesAreTheSchema(t *testing.T) {
	page := doc(t)
	seen := map[protoreflect.FullName]bool{}
	var check func(d protoreflect.MessageDescriptor, heading string)
	check = func(d protoreflect.MessageDescriptor, heading string) {
		if seen[d.FullName()] {
			return
		}
		seen[d.FullName()] = true
		fields := d.Fields()
		var want, got []string
		for i := range fields.Len() {
			f := fields.Get(i)
			want = append(want, fmt.Sprintf("%d %s %s", f.Number(), f.TextName(), typeName(f)))
			if f.Message() != nil {
				check(f.Message(), "| no. | field of `"+string(f.Message().Name())+"` | type |")
			}
		}
		if string(d.Name()) == "Error" {
			heading = "### `Error`\n\n| no. | field | type |"
		}
		for _, row := range rows(page, heading) {
			got = append(got, strings.Join(row[:3], " "))
		}
		if fields.Len() == 0 {
			if !strings.Contains(page, "`"+string(d.Name())+"` has no fields") {
				t.Errorf("%s is not said to be empty", d.Name())
			}
			return
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", d.FullName(), diff)
		}
	}
	check((&envelopev1.Frame{}).ProtoReflect().Descriptor(), "## Frames\n\nEverything in both directions is a frame.\n\n| no. | field | type |")
	for number := range envelopev1.Command_name {
		for _, m := range []protocol.Message{protocol.NewRequest(envelopev1.Command(number)), protocol.NewReply(envelopev1.Command(number))} {
			if m != nil {
				d := m.ProtoReflect().Descriptor()
				check(d, "| no. | field of `"+string(d.Name())+"` | type |")
			}
		}
	}
}

func typeName(f protoreflect.FieldDescriptor) string {
	name := f.Kind().String()
	switch {
	case f.Message() != nil:
		name = string(f.Message().Name())
	case f.Enum() != nil:
		name = string(f.Enum().Name())
	}
	if f.IsList() {
		name += "[]"
	}
	return name
}

func TestDocListsEveryCommand(t *testing.T) {
	got := map[string][]string{}
	for _, row := range rows(doc(t), "| no. | word | from |") {
		got[row[1]] = row
	}
	named := func(m protocol.Message) string {
		if m == nil {
			return "–"
		}
		return string(m.ProtoReflect().Descriptor().Name())
	}
	for number := range envelopev1.Command_name {
		c := envelopev1.Command(number)
		word := protocol.CommandWord(c)
		if word == "" || word == "ping" || word == "pong" {
			delete(got, word)
			continue
		}
		request, reply := protocol.NewRequest(c), protocol.NewReply(c)
		want := []string{strconv.Itoa(int(number)), word, "device", named(request), named(reply)}
		if request == nil {
			want = []string{strconv.Itoa(int(number)), word, "server", named(reply), "–"}
		}
		if diff := cmp.Diff(want, got[word]); diff != "" {
			t.Errorf("%s: %s", word, diff)
		}
		delete(got, word)
	}
	for word := range got {
		t.Errorf("%s is no command", word)
	}
}

func TestDocListsEveryCode(t *testing.T) {
	page := doc(t)
	listed := map[string]string{}
	for _, row := range rows(page, "| code | meaning | retryable |") {
		listed[row[0]] = row[2]
	}
	for _, code := range codes(t) {
		want := "no"
		if code.Retryable() {
			want = "yes"
		}
		if listed[string(code)] != want {
			t.Errorf("%s: retryable is %q on the page, want %q", code, listed[string(code)], want)
		}
		delete(listed, string(code))
	}
	for code := range listed {
		t.Errorf("%s is no error code", code)
	}
}

func TestDocListsEveryCloseCode(t *testing.T) {
	words := map[envelopev1.Reconnect]string{
		envelopev1.Reconnect_RECONNECT_YES: "yes", envelopev1.Reconnect_RECONNECT_NO: "no", envelopev1.Reconnect_RECONNECT_NEW_TOKEN: "new token",
	}
	listed := map[string][]string{}
	for _, row := range rows(doc(t), "| code | reason | reconnect |") {
		listed[row[0]] = row
	}
	for code, c := range protocol.Closings {
		key := strconv.Itoa(int(code))
		row := listed[key]
		if row == nil || row[1] != c.Reason || row[2] != words[c.Reconnect] {
			t.Errorf("%d %s %s: the page has %q", code, c.Reason, words[c.Reconnect], row)
		}
		delete(listed, key)
	}
	for code := range listed {
		t.Errorf("%s is no close code", code)
	}
}

func TestDocLinksLeadSomewhere(t *testing.T) {
	page := doc(t)
	anchors := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		slug := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		slug = strings.ReplaceAll(slug, " ", "-")
		if anchors[slug] {
			slug += "-1"
		}
		anchors[slug] = true
	}
	for _, m := range regexp.MustCompile(`\]\(#([^)]*)\)`).FindAllStringSubmatch(page, -1) {
		if !anchors[m[1]] {
			t.Errorf("no heading for #%s", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`\]\(([^#)][^)]*)\)`).FindAllStringSubmatch(page, -1) {
		if strings.HasPrefix(m[1], "https://") {
			continue
		}
		if _, err := os.Stat("../docs/" + m[1]); err != nil {
			t.Error(err)
		}
	}
}

package protocol_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/halley-im/halley/protocol"
)

// constants reads the values of a file's constants whose names begin with prefix, so that none is forgotten here.
func constants(t *testing.T, file, prefix string) map[string]string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 && strings.HasPrefix(spec.Names[0].Name, prefix) {
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
				values[spec.Names[0].Name] = lit.Value
			}
		}
		return true
	})
	if len(values) < 10 {
		t.Fatalf("%s has %d constants %s…: %v", file, len(values), prefix, values)
	}
	return values
}

func codes(t *testing.T) []protocol.Code {
	var out []protocol.Code
	for _, quoted := range constants(t, "error.go", "Code") {
		s, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, protocol.Code(s))
	}
	return out
}

func TestErrorsSurviveTheWire(t *testing.T) {
	for _, code := range codes(t) {
		e := &protocol.Error{Code: code, Message: "why", RetryAfter: 1500 * time.Millisecond}
		w := e.Wire()
		if w.Retryable != code.Retryable() || w.RetryAfterMs != 1500 {
			t.Errorf("%s: %v", code, w)
		}
		if back := protocol.FromWire(w); *back != *e {
			t.Errorf("%v became %v", e, back)
		}
	}
}

func TestWhatMayBeSentAgain(t *testing.T) {
	retryable := map[protocol.Code]bool{"rate_limited": true, "busy": true, "retry": true, "resend": true}
	for _, code := range codes(t) {
		if code.Retryable() != retryable[code] {
			t.Errorf("%s: retryable %v", code, code.Retryable())
		}
	}
}

func TestErrorsSayTheField(t *testing.T) {
	if got := protocol.Invalid("limit", "at most %d", 200).Error(); got != "invalid: limit: at most 200" {
		t.Error(got)
	}
	if got := protocol.Errorf(protocol.CodeBusy, "log at %d %%", 90).Error(); got != "busy: log at 90 %" {
		t.Error(got)
	}
}

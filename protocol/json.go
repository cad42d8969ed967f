package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	envelopev1 "github.com/halley-im/halley/protocol/halley/envelope/v1"
)

// envelopeFields are the members of a JSON frame.
var envelopeFields = []string{"command", "request_id", "conversation", "client_id", "after", "since", "error", "body"}

// maxExactJSON is the largest integer that every JSON reader keeps exactly; larger ones travel as strings.
const maxExactJSON = 1<<53 - 1

// DecodeJSONFrame reads a frame of the JSON subprotocol into f, which it resets first. f.Body is the body's JSON, unopened,
// and shares memory with data. On an error f still holds whatever could be read, so that the refusal can carry the
// request id.
func DecodeJSONFrame(data []byte, f *envelopev1.Frame) *Error {
	f.Reset()
	data = bytes.TrimSpace(data)
	switch {
	case !utf8.Valid(data):
		return Invalid("frame", "not valid UTF-8")
	case !json.Valid(data):
		return Invalid("frame", "not valid JSON: %s", syntaxError(data))
	case data[0] != '{':
		return Invalid("frame", "must be a JSON object")
	}
	var first *Error
	var seen [8]bool
	eachMember(data, func(key, value []byte) {
		if err := setMember(f, unquote(key), value, seen[:]); err != nil && first == nil {
			first = err
		}
	})
	if first == nil && !seen[0] {
		first = Invalid("command", "missing")
	}
	return first
}

func setMember(f *envelopev1.Frame, name string, value []byte, seen []bool) *Error {
	index := -1
	for i, known := range envelopeFields {
		if known == name {
			index = i
		}
	}
	if index < 0 {
		return Invalid(clip(name), "unknown field of a frame%s", didYouMean(name, envelopeFields))
	}
	if seen[index] {
		return Invalid(name, "given twice")
	}
	if value[0] == 'n' { // null: as if it were not there, like ProtoJSON.
		return nil
	}
	seen[index] = true
	var err *Error
	switch name {
	case "command":
		f.Command, err = commandMember(value)
	case "request_id":
		f.RequestId, err = uintMember(name, value)
	case "since":
		f.Since, err = uintMember(name, value)
	case "conversation":
		f.Conversation, err = stringMember(name, value)
	case "client_id":
		f.ClientId, err = stringMember(name, value)
	case "after":
		f.After, err = stringMember(name, value)
	case "error":
		f.Error, err = errorMember(value)
	case "body":
		if value[0] != '{' {
			return Invalid(name, "must be a JSON object")
		}
		f.Body = value
	}
	return err
}

func commandMember(value []byte) (envelopev1.Command, *Error) {
	word, err := stringMember("command", value)
	if err != nil {
		return 0, err
	}
	c, ok := ParseCommand(word)
	if !ok {
		words := make([]string, len(commands))
		for i := range commands {
			words[i] = commands[i].word
		}
		return 0, Errorf(CodeUnknownCommand, "command: %q is not known%s", clip(word), didYouMean(word, words))
	}
	return c, nil
}

func stringMember(name string, value []byte) (string, *Error) {
	if value[0] != '"' {
		return "", Invalid(name, "must be a string")
	}
	return unquote(value), nil
}

// uintMember reads a whole number, or a string that holds one: JavaScript has no exact 64-bit numbers.
func uintMember(name string, value []byte) (uint64, *Error) {
	digits := string(value)
	if value[0] == '"' {
		digits = unquote(value)
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, Invalid(name, "must be a whole number from 0 to 2^64-1, plain or as a string")
	}
	return n, nil
}

func errorMember(value []byte) (*envelopev1.Error, *Error) {
	if value[0] != '{' {
		return nil, Invalid("error", "must be a JSON object")
	}
	var e envelopev1.Error
	if err := decodeJSONBody(value, &e); err != nil {
		return nil, Invalid("error", "%s", err.Message)
	}
	return &e, nil
}

// eachMember calls fn for every member of the object, with the quoted key and the raw value. The object must be valid
// JSON and start and end with its braces.
func eachMember(object []byte, fn func(key, value []byte)) {
	rest := skipSpace(object[1:])
	for rest[0] != '}' {
		end := valueEnd(rest)
		key := rest[:end]
		rest = skipSpace(rest[end:])
		rest = skipSpace(rest[1:]) // the colon
		end = valueEnd(rest)
		fn(key, rest[:end])
		rest = skipSpace(rest[end:])
		if rest[0] == ',' {
			rest = skipSpace(rest[1:])
		}
	}
}

// valueEnd is the length of the JSON value that valid JSON begins with.
func valueEnd(data []byte) int {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // the end of what holds a number or a word
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return len(data)
}

func skipSpace(data []byte) []byte {
	for len(data) > 0 && (data[0] == ' ' || data[0] == '\t' || data[0] == '\n' || data[0] == '\r') {
		data = data[1:]
	}
	return data
}

// unquote is the text of a valid JSON string.
func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return ""
	}
	return s
}

func syntaxError(data []byte) string {
	var value json.RawMessage
	err := json.Unmarshal(data, &value)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("%s at byte %d", syntax.Error(), syntax.Offset)
	}
	return fmt.Sprint(err)
}

// EncodeJSONFrame writes a frame of the JSON subprotocol. f.Body must be empty or a JSON object, for example EncodeBody's. A
// command without a word is an error; COMMAND_UNSPECIFIED, in the refusal of a command that could not be read, is left out.
func EncodeJSONFrame(f *envelopev1.Frame) ([]byte, error) {
	word := CommandWord(f.Command)
	if word == "" && f.Command != envelopev1.Command_COMMAND_UNSPECIFIED {
		return nil, fmt.Errorf("command %d has no word", f.Command)
	}
	dst := make([]byte, 0, len(f.Body)+len(f.Conversation)+len(f.ClientId)+len(f.After)+128)
	dst = append(dst, '{')
	if word != "" {
		dst = appendString(dst, "command", word)
	}
	dst = appendUint(dst, "request_id", f.RequestId)
	dst = appendString(dst, "conversation", f.Conversation)
	dst = appendString(dst, "client_id", f.ClientId)
	dst = appendString(dst, "after", f.After)
	dst = appendUint(dst, "since", f.Since)
	if e := f.Error; e != nil {
		dst = append(appendKey(dst, "error"), '{')
		dst = appendString(dst, "code", e.Code)
		dst = appendString(dst, "message", e.Message)
		dst = append(appendKey(dst, "retryable"), strconv.FormatBool(e.Retryable)...)
		dst = appendUint(dst, "retry_after_ms", uint64(e.RetryAfterMs))
		dst = append(dst, '}')
	}
	if len(f.Body) > 0 {
		dst = append(appendKey(dst, "body"), f.Body...)
	}
	return append(dst, '}'), nil
}

func appendKey(dst []byte, key string) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(dst, '"')
	dst = append(dst, key...)
	return append(dst, '"', ':')
}

func appendUint(dst []byte, key string, n uint64) []byte {
	switch {
	case n == 0:
		return dst
	case n > maxExactJSON:
		dst = append(appendKey(dst, key), '"')
		return append(strconv.AppendUint(dst, n, 10), '"')
	}
	return strconv.AppendUint(appendKey(dst, key), n, 10)
}

func appendString(dst []byte, key, s string) []byte {
	if s == "" {
		return dst
	}
	dst = appendKey(dst, key)
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil { // No string fails to marshal; this keeps the frame well formed if one did.
				quoted = []byte(`""`)
			}
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

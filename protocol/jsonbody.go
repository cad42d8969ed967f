package protocol

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// decodeJSONBody reads ProtoJSON, strictly. An empty body is an empty message.
func decodeJSONBody(data []byte, m Message) *Error {
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return nil
	}
	err := protojson.Unmarshal(data, m)
	if err == nil {
		return nil
	}
	if !utf8.Valid(data) || !json.Valid(data) || data[0] != '{' {
		return Invalid("body", "must be a JSON object in UTF-8")
	}
	return findFault(data, m.ProtoReflect().Type(), "", err)
}

// findFault names the field that protojson stumbled over; its errors give a place in the text and promise no wording. Each
// member is tried alone, the one at fault is descended into. Only refused bodies pay for it.
func findFault(object []byte, t protoreflect.MessageType, path string, whole error) *Error {
	var fault *Error
	eachMember(object, func(key, value []byte) {
		if fault != nil {
			return
		}
		name := unquote(key)
		field := fieldNamed(t.Descriptor(), name)
		if field == nil {
			fault = Invalid(path+clip(name), "unknown field%s", didYouMean(name, fieldNames(t.Descriptor())))
			return
		}
		alone := append(append(append(append([]byte{'{'}, key...), ':'), value...), '}')
		err := protojson.Unmarshal(alone, t.New().Interface())
		if err == nil {
			return
		}
		if field.Message() != nil && !field.IsList() && !field.IsMap() && value[0] == '{' {
			inner := newFieldMessage(t, field)
			fault = findFault(value, inner, path+name+".", err)
			return
		}
		fault = Invalid(path+name, "%s", plain(err))
	})
	if fault == nil { // Each member is right alone: two of one oneof, or the same one twice.
		fault = Invalid(strings.TrimSuffix("body."+path, "."), "%s", plain(whole))
	}
	return fault
}

func newFieldMessage(t protoreflect.MessageType, field protoreflect.FieldDescriptor) protoreflect.MessageType {
	return t.New().NewField(field).Message().Type()
}

func fieldNamed(d protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if f := d.Fields().ByTextName(name); f != nil {
		return f
	}
	return d.Fields().ByJSONName(name)
}

func fieldNames(d protoreflect.MessageDescriptor) []string {
	names := make([]string, d.Fields().Len())
	for i := range names {
		names[i] = d.Fields().Get(i).TextName()
	}
	return names
}

// plain is the text of a Protobuf error without its prefix and position, whose spaces vary from build to build on purpose.
func plain(err error) string {
	s := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	s = strings.TrimPrefix(s, "proto: ")
	s = strings.TrimPrefix(s, "syntax error ")
	if strings.HasPrefix(s, "(line ") {
		if _, rest, ok := strings.Cut(s, "): "); ok {
			s = rest
		}
	}
	return s
}

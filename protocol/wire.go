package protocol

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

var errGroup = errors.New("groups are not part of this protocol")

// checkWire refuses what one Protobuf library takes and another does not: text that is not UTF-8, a known field of
// another wire type, groups, field numbers out of range. Bodies are spliced into records unopened, so what slipped through
// here would stop every reader of the conversation whose library is the stricter one.
func checkWire(d protoreflect.MessageDescriptor, data []byte) error {
	fields := d.Fields()
	for len(data) > 0 {
		number, wireType, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if !number.IsValid() {
			return fmt.Errorf("field number %d is out of range", number)
		}
		if wireType == protowire.StartGroupType || wireType == protowire.EndGroupType {
			return errGroup
		}
		value := data[n:]
		size := protowire.ConsumeFieldValue(number, wireType, value)
		if size < 0 {
			return protowire.ParseError(size)
		}
		data = value[size:]
		if field := fields.ByNumber(number); field != nil {
			if err := checkField(field, wireType, value[:size]); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkField(field protoreflect.FieldDescriptor, wireType protowire.Type, value []byte) error {
	kind := field.Kind()
	want := wireTypeOf(kind)
	if wireType != want && !(wireType == protowire.BytesType && field.IsList()) { // A list of numbers may be packed.
		return fmt.Errorf("%s: wrong wire type %d", field.TextName(), wireType)
	}
	switch kind {
	case protoreflect.StringKind:
		if text, _ := protowire.ConsumeBytes(value); !utf8.Valid(text) {
			return fmt.Errorf("%s: not valid UTF-8", field.TextName())
		}
	case protoreflect.MessageKind:
		inner, _ := protowire.ConsumeBytes(value)
		if err := checkWire(field.Message(), inner); err != nil {
			return fmt.Errorf("%s: %w", field.TextName(), err)
		}
	}
	return nil
}

func wireTypeOf(kind protoreflect.Kind) protowire.Type {
	switch kind {
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	}
	return protowire.VarintType
}

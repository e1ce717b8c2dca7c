// SPDX-License-Identifier: Apache-2.0

// Package wire walks through messages of protocol buffers of which a few fields are wanted.
package wire

import "google.golang.org/protobuf/encoding/protowire"

// Field is one of a message.
type Field struct {
	Number int
	Kind   protowire.Type
	Bytes  []byte // of texts, messages and packed lists: a part of the message, not a copy
	Varint uint64 // of numbers and booleans
}

// Text returns a text.
func (f Field) Text() string { return string(f.Bytes) }

// Yes returns a boolean.
func (f Field) Yes() bool { return f.Varint != 0 }

// Each calls read for each field of a message that is of one of these two kinds. No other is looked at.
func Each(message []byte, read func(Field) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return protowire.ParseError(n)
		}
		f := Field{Number: int(number), Kind: kind}
		if kind == protowire.BytesType {
			f.Bytes, _ = protowire.ConsumeBytes(message)
		}
		if kind == protowire.VarintType {
			f.Varint, _ = protowire.ConsumeVarint(message)
		}
		message = message[n:]
		if kind != protowire.BytesType && kind != protowire.VarintType {
			continue
		}
		if err := read(f); err != nil {
			return err
		}
	}
	return nil
}

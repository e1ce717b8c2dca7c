// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
)

// attribute is a netlink attribute: struct nlattr of include/uapi/linux/netlink.h, a length and a type of
// two bytes each, then the value.
type attribute struct {
	kind  uint16
	value []byte
}

const attributeHeader = 4

// number returns the value of an attribute of four bytes.
func (a attribute) number() uint32 {
	if len(a.value) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a.value)
}

func (a attribute) appendTo(text []byte) []byte {
	text = binary.BigEndian.AppendUint16(text, a.kind)
	text = binary.BigEndian.AppendUint16(text, uint16(len(a.value)))
	return append(text, a.value...)
}

// errAttribute is an answer of the kernel that is no list of attributes.
var errAttribute = errors.New("an answer of nf_tables cannot be read: an attribute is longer than what holds it")

// eachAttribute calls fn for every attribute of a list.
func eachAttribute(list []byte, fn func(attribute) error) error {
	for len(list) >= attributeHeader {
		length := int(binary.NativeEndian.Uint16(list))
		if length < attributeHeader || length > len(list) {
			return errAttribute
		}
		const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
		a := attribute{kind: binary.NativeEndian.Uint16(list[2:]) &^ flags, value: list[attributeHeader:length]}
		if err := fn(a); err != nil {
			return err
		}
		list = list[min(netlink.Aligned(length), len(list)):]
	}
	return nil
}

// wire is attributes as they are sent.
type wire []byte

// nest begins an attribute that holds others, up to the end that its result is given to.
func (w *wire) nest(kind uint16) (begin int) {
	begin = len(*w)
	*w = append(*w, 0, 0, 0, 0)
	binary.NativeEndian.PutUint16((*w)[begin+2:], kind|unix.NLA_F_NESTED)
	return begin
}

func (w *wire) end(begin int) {
	binary.NativeEndian.PutUint16((*w)[begin:], uint16(len(*w)-begin))
}

func (w *wire) bytes(kind uint16, value []byte) {
	w.header(kind, len(value))
	*w = append(*w, value...)
	w.pad()
}

// text ends with a zero byte, as nf_tables wants it.
func (w *wire) text(kind uint16, value string) {
	w.header(kind, len(value)+1)
	*w = append(append(*w, value...), 0)
	w.pad()
}

func (w *wire) number(kind uint16, value uint32) {
	w.header(kind, 4)
	*w = binary.BigEndian.AppendUint32(*w, value)
}

func (w *wire) number64(kind uint16, value uint64) {
	w.header(kind, 8)
	*w = binary.BigEndian.AppendUint64(*w, value)
}

func (w *wire) header(kind uint16, length int) {
	*w = binary.NativeEndian.AppendUint16(*w, uint16(attributeHeader+length))
	*w = binary.NativeEndian.AppendUint16(*w, kind)
}

func (w *wire) pad() {
	for len(*w)%unix.NLMSG_ALIGNTO != 0 {
		*w = append(*w, 0)
	}
}

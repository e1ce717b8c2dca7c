// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

// As much of DNS messages (RFC 1035) as the stand-ins say to each other: one question, its addresses.
const (
	dnsHeader   = 12
	dnsAnswer   = 1 << 15 // of the flags: this is an answer
	dnsFlags    = 1<<8 | 1<<7
	dnsNoName   = 3
	dnsA        = 1
	dnsAAAA     = 28
	dnsInternet = 1
	dnsPointer  = 0xc000 | dnsHeader // the name of the question
	dnsLargest  = 4096

	lookupLimit = 5 * time.Second
)

// zone is what a name server knows.
type zone map[string][]netip.Addr

// add reads NAME=ADDR.
func (z zone) add(text string) error {
	name, addr, _ := strings.Cut(text, "=")
	ip, err := netip.ParseAddr(addr)
	if err != nil || name == "" {
		return fmt.Errorf("%q is not NAME=ADDR", text)
	}
	z[name] = append(z[name], ip)
	return nil
}

// ask returns a query for the addresses of a name.
func ask(id uint16, name string, kind uint16) []byte {
	message := binary.BigEndian.AppendUint16(nil, id)
	for _, n := range []uint16{dnsFlags &^ (1 << 7), 1, 0, 0, 0} {
		message = binary.BigEndian.AppendUint16(message, n)
	}
	for label := range strings.SplitSeq(name, ".") {
		message = append(message, byte(len(label)))
		message = append(message, label...)
	}
	message = append(message, 0)
	message = binary.BigEndian.AppendUint16(message, kind)
	return binary.BigEndian.AppendUint16(message, dnsInternet)
}

// question returns what a message asks for, and where its question ends.
func question(message []byte) (name string, kind uint16, end int, err error) {
	if len(message) < dnsHeader || binary.BigEndian.Uint16(message[4:]) != 1 {
		return "", 0, 0, errors.New("not one question")
	}
	var labels []string
	for end = dnsHeader; ; {
		if end >= len(message) || int(message[end]) > 63 || end+1+int(message[end]) > len(message) {
			return "", 0, 0, errors.New("the name is cut short")
		}
		length := int(message[end])
		label := message[end+1 : end+1+length]
		end += 1 + length
		if length == 0 {
			break
		}
		labels = append(labels, strings.ToLower(string(label)))
	}
	if len(message) < end+4 {
		return "", 0, 0, errors.New("the question is cut short")
	}
	return strings.Join(labels, "."), binary.BigEndian.Uint16(message[end:]), end + 4, nil
}

// answer returns the answer to a query, and whether the name is known.
func (z zone) answer(query []byte) (answer []byte, known bool, err error) {
	name, kind, end, err := question(query)
	if err != nil {
		return nil, false, err
	}
	ips, known := z[name]
	answer = bytes.Clone(query[:end])
	flags := uint16(dnsAnswer | dnsFlags)
	if !known {
		flags |= dnsNoName
	}
	var records []byte
	count := uint16(0)
	for _, ip := range ips {
		if (kind == dnsA && ip.Is4()) || (kind == dnsAAAA && ip.Is6()) {
			for _, n := range []uint16{dnsPointer, kind, dnsInternet, 0, 60, uint16(ip.BitLen() / 8)} {
				records = binary.BigEndian.AppendUint16(records, n)
			}
			records = append(records, ip.AsSlice()...)
			count++
		}
	}
	binary.BigEndian.PutUint16(answer[2:], flags)
	binary.BigEndian.PutUint16(answer[6:], count)
	binary.BigEndian.PutUint32(answer[8:], 0)
	return append(answer, records...), known, nil
}

// address returns the first address of the answer to a query.
func address(query, answer []byte) (netip.Addr, error) {
	const record = 12 // of a record, before its address
	switch {
	case len(answer) < len(query)+record:
		return netip.Addr{}, fmt.Errorf("an answer of %d bytes without an address", len(answer))
	case answer[0] != query[0] || answer[1] != query[1] || answer[2]&0x80 == 0 || !bytes.Equal(answer[dnsHeader:len(query)], query[dnsHeader:]):
		return netip.Addr{}, errors.New("the answer to another question")
	}
	rest := answer[len(query):]
	ip, ok := netip.AddrFromSlice(rest[record:min(len(rest), record+int(binary.BigEndian.Uint16(rest[10:])))])
	if !ok {
		return netip.Addr{}, errors.New("an answer without an address")
	}
	return ip, nil
}

// writeStream sends a message over TCP, which puts its length before it.
func writeStream(conn net.Conn, message []byte) error {
	_, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}

func readStream(conn net.Conn) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(conn, message)
	return message, err
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package legacy

import (
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// Contents is a table as the kernel holds it.
type Contents struct {
	Table
	Hooks   map[int]Hook // by their numbers (NF_INET_*)
	Entries map[int]Entry
}

// Hook is a built-in chain: the places of its first entry, and of its policy, which is an entry too.
type Hook struct{ First, Policy int }

// Entry is a rule, or the head of a chain. Packets go on to the entry at Next where it does not decide.
type Entry struct {
	Next    int
	Head    bool   // of a chain, or the end of the table: what arrives there is dropped
	Begins  bool   // the first rule of a chain: a head is before it
	Packet  []byte // struct ipt_ip, or ip6t_ip6
	Matches []Extension
	Target  Extension // without a name where the target is Verdict
	Verdict int       // the place of an entry to jump to, or a verdict below 0
}

// Extension is a match or a target of xtables, with the structure that it takes.
type Extension struct {
	Name     string
	Revision uint32
	Info     []byte
}

// struct xt_entry_match and xt_entry_target begin alike: their length, a name, a revision.
const (
	extensionName     = 2
	extensionRevision = 31
	extensionInfo     = 32
)

var errLayout = errors.New("a table of iptables-legacy is not laid out as the kernel does it")

// Parse takes apart what Read returned.
func Parse(text []byte) (all []Contents, err error) {
	for len(text) > 0 {
		b := blobs4
		if text[0] == byte(blobs6.family) {
			b = blobs6
		}
		var fields [2][]byte // the table's name, and what read returned
		text = text[1:]
		for i := range fields {
			if len(text) < 4 || len(text)-4 < int(binary.BigEndian.Uint32(text)) {
				return nil, errLayout
			}
			end := 4 + int(binary.BigEndian.Uint32(text))
			fields[i], text = text[4:end], text[end:]
		}
		const info = infoLength - nameLength
		if len(fields[1]) < info {
			return nil, errLayout
		}
		c, err := b.parse(string(fields[0]), fields[1][:info], fields[1][info:])
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// parse reads struct ipt_getinfo, without the name with which it begins, and entries.
func (b blobs) parse(table string, info, entries []byte) (Contents, error) {
	c := Contents{Table: Table{b.ip, table}, Hooks: map[int]Hook{}, Entries: map[int]Entry{}}
	number := func(at int) int { return int(binary.NativeEndian.Uint32(info[at-nameLength:])) }
	for hook := range 5 { // NF_INET_NUMHOOKS
		if number(infoValidHooks)>>hook&1 == 1 {
			c.Hooks[hook] = Hook{number(infoHookEntry + 4*hook), number(infoUnderflow + 4*hook)}
		}
	}
	begins := false
	for at := 0; at < len(entries); {
		e, err := b.entryOf(entries[at:])
		if err != nil {
			return c, err
		}
		e.Next, e.Begins = e.Next+at, begins
		c.Entries[at] = e
		at, begins = e.Next, e.Head
	}
	return c, nil
}

// name is that of the chain whose head the entry is.
func (e Entry) name() string { return unix.ByteSliceToString(e.Target.Info) }

// entryOf reads the first entry; its Next is its length.
func (b blobs) entryOf(text []byte) (e Entry, err error) {
	if len(text) < b.entry {
		return e, errLayout
	}
	target, next := int(binary.NativeEndian.Uint16(text[b.target:])), int(binary.NativeEndian.Uint16(text[b.next:]))
	if target < b.entry || next < target || next > len(text) {
		return e, errLayout
	}
	e.Next, e.Packet = next, text[:b.packet]
	for at := b.entry; at < target; {
		m, length, err := extension(text[at:target])
		if err != nil {
			return e, err
		}
		e.Matches = append(e.Matches, m)
		at += length
	}
	if e.Target, _, err = extension(text[target:next]); err != nil {
		return e, err
	}
	switch e.Target.Name {
	case "ERROR":
		e.Head = true
	case "":
		if len(e.Target.Info) < 4 {
			return e, errLayout
		}
		e.Verdict = int(int32(binary.NativeEndian.Uint32(e.Target.Info)))
	}
	return e, nil
}

// extension reads the first extension, and how long it is.
func extension(text []byte) (x Extension, length int, err error) {
	if len(text) < extensionInfo {
		return x, 0, errLayout
	}
	length = int(binary.NativeEndian.Uint16(text))
	if length < extensionInfo || length > len(text) {
		return x, 0, errLayout
	}
	return Extension{unix.ByteSliceToString(text[extensionName:extensionRevision]), uint32(text[extensionRevision]), text[extensionInfo:length]}, length, nil
}

// Chains returns the names of the table's own chains.
func (c Contents) Chains() (names []string) {
	for _, e := range c.Entries {
		if e.Head && e.name() != "ERROR" { // which ends the table
			names = append(names, e.name())
		}
	}
	slices.Sort(names)
	return names
}

// Rules counts the table's rules, its policies and the ends of its chains not among them.
func (c Contents) Rules() int {
	n := len(c.Entries) - len(c.Hooks)
	for _, e := range c.Entries {
		if e.Head {
			n--
		}
	}
	return n - len(c.Chains())
}

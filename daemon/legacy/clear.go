// SPDX-License-Identifier: Apache-2.0

//go:build linux

package legacy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/bits"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
)

// setReplace is IPT_SO_SET_REPLACE, the same for both families. It needs no more than reading does.
const setReplace = 64

// Offsets in struct ipt_replace and struct ip6t_replace, which are the same on 64-bit machines, and what stands in entries.
const (
	replaceHooks       = 32
	replaceNumEntries  = 36
	replaceSize        = 40
	replaceHookEntry   = 44
	replaceUnderflow   = 64
	replaceNumCounters = 84
	replaceCounters    = 88 // a pointer: the kernel hands the old counters over
	replaceEntries     = 96
	standardTarget     = 40 // struct xt_standard_target
	errorTarget        = 64 // struct xt_error_target, with the name of a chain behind struct xt_entry_target
	targetName         = 2
	targetData         = 32
)

// Clear makes tables empty, in the network namespace of the calling thread, that hold our chains and jumps to them, and
// nothing else. It says whether there were any. The kernel replaces a table at once, and refuses where another number of rules
// is there by then.
func Clear(ours func(chain string) bool) (cleared bool, err error) {
	left := most
	for _, b := range []blobs{blobs4, blobs6} {
		err := b.eachTable(func(fd int, name string) error {
			info, entries, err := b.fetch(fd, name, &left)
			if err == nil && !b.idle(info, entries) && b.only(info, entries, ours) {
				if err = b.replace(fd, name, info); err == nil {
					cleared = true
				}
			}
			if errors.Is(err, netlink.ErrMoved) || errors.Is(err, unix.EAGAIN) {
				return nil // somebody writes there, and who verifies sees it
			}
			return err
		})
		switch {
		case errors.Is(err, fs.ErrPermission): // who verifies says what cannot be read
			return cleared, nil
		case err != nil:
			return cleared, err
		}
	}
	return cleared, nil
}

// only reports whether a table holds nothing but our chains, jumps to them from the built-in ones, and policies that accept.
func (b blobs) only(info, entries []byte, ours func(chain string) bool) bool {
	c, err := b.parse("", info[nameLength:], entries)
	if err != nil {
		return false
	}
	policies := map[int]bool{}
	for _, h := range c.Hooks {
		policies[h.Policy] = true
	}
	places, builtin := slices.Sorted(maps.Keys(c.Entries)), true // the built-in chains come first
	for i, at := range places {
		e := c.Entries[at]
		switch {
		case e.Head && i == len(places)-1: // the end of the table
		case e.Head:
			if builtin = false; !ours(e.name()) {
				return false
			}
		case !builtin:
		case e.Target.Name != "", policies[at] && e.Verdict != verdictOfAccept, !policies[at] && !c.Entries[e.Verdict].Begins:
			return false
		}
	}
	return true
}

// replace puts policies that accept in the place of all that a table holds.
func (b blobs) replace(fd int, name string, info []byte) error {
	hooks := binary.NativeEndian.Uint32(info[infoValidHooks:])
	table := make([]byte, replaceEntries)
	put := func(at int, value uint32) { binary.NativeEndian.PutUint32(table[at:], value) }
	add := func(target int) []byte {
		entry := make([]byte, b.entry+target)
		binary.NativeEndian.PutUint16(entry[b.target:], uint16(b.entry))
		binary.NativeEndian.PutUint16(entry[b.next:], uint16(len(entry)))
		binary.NativeEndian.PutUint16(entry[b.entry:], uint16(target))
		table = append(table, entry...)
		return table[len(table)-target:]
	}
	for left := hooks; left != 0; left &= left - 1 {
		hook := bits.TrailingZeros32(left)
		at := uint32(len(table) - replaceEntries)
		put(replaceHookEntry+4*hook, at)
		put(replaceUnderflow+4*hook, at)
		accept := int32(verdictOfAccept)
		binary.NativeEndian.PutUint32(add(standardTarget)[verdict:], uint32(accept))
	}
	end := add(errorTarget)
	copy(end[targetName:], "ERROR")
	copy(end[targetData:], "ERROR")
	held := binary.NativeEndian.Uint32(info[infoNumEntries:])
	counters := make([]byte, 16*held)
	copy(table, name)
	put(replaceHooks, hooks)
	put(replaceNumEntries, uint32(bits.OnesCount32(hooks)+1))
	put(replaceSize, uint32(len(table)-replaceEntries))
	put(replaceNumCounters, held)
	*(*unsafe.Pointer)(unsafe.Pointer(&table[replaceCounters])) = unsafe.Pointer(&counters[0])
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(b.level), setReplace,
		uintptr(unsafe.Pointer(&table[0])), uintptr(len(table)), 0)
	runtime.KeepAlive(counters)
	if errno != 0 {
		return fmt.Errorf("make it empty (IPT_SO_SET_REPLACE): %w", errno)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package legacy reads the tables of iptables-legacy, which nf_tables does not know of, and empties those that hold a mesh's rules
// alone. It runs no program.
package legacy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/rules"
)

// blobs describes how the kernel returns the tables of one family: include/uapi/linux/netfilter_ipv4/ip_tables.h
// and netfilter_ipv6/ip6_tables.h, as laid out on 64-bit machines.
type blobs struct {
	family   int
	ip       rules.Family
	level    int    // of getsockopt
	names    string // the file that lists the tables; asking for one that is not in it would make it
	packet   int    // length of struct ipt_ip or ip6t_ip6, with which an entry begins
	out      int    // in it, the interface by which packets leave
	protocol int    // and the protocol, two bytes
	entry    int    // length of struct ipt_entry or ip6t_entry
	target   int    // its target_offset, two bytes
	next     int    // its next_offset, two bytes
	counter  int    // its counters, two times eight bytes
}

var (
	blobs4 = blobs{family: unix.AF_INET, ip: rules.IPv4, level: unix.SOL_IP, names: "/proc/thread-self/net/ip_tables_names",
		packet: 84, out: 32, protocol: 80, entry: 112, target: 88, next: 90, counter: 96}
	blobs6 = blobs{family: unix.AF_INET6, ip: rules.IPv6, level: unix.SOL_IPV6, names: "/proc/thread-self/net/ip6_tables_names",
		packet: 136, out: 80, protocol: 128, entry: 168, target: 140, next: 142, counter: 152}
)

// The options of getsockopt, the same for both families: IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES.
const (
	getInfo    = 64
	getEntries = 65
)

// Offsets in struct ipt_getinfo and struct ipt_get_entries, which are the same for IPv6.
const (
	nameLength      = 32 // XT_TABLE_MAXNAMELEN: both begin with the name
	infoValidHooks  = 32 // a bit for each hook
	infoHookEntry   = 36 // for each hook where its first rule stands; four bytes each
	infoUnderflow   = 56 // for each hook where its policy stands among the entries; four bytes each
	infoNumEntries  = 76
	infoSize        = 80 // of all entries, in bytes
	infoLength      = 84
	entriesSize     = 32
	entriesBegin    = 40
	verdict         = 32 // in struct xt_standard_target, behind struct xt_entry_target (x_tables.h)
	verdictOfAccept = -2 // -NF_ACCEPT - 1
)

// most is how many bytes of all tables are read: whoever has NET_ADMIN in a pod can have any number of rules there.
const most = 4 << 20

// ErrTooMuch is within the error about tables that are larger than what is read.
var ErrTooMuch = errors.New("somebody has put more rules of iptables-legacy into the pod's network namespace than meshnetd reads, so that " +
	"nobody can say what becomes of its traffic: take them out, or NET_ADMIN away from the pod")

// Read returns what the tables of iptables-legacy hold in the network namespace of the calling thread, and
// nil where they hold nothing: tables without a rule whose policies accept are as good as none. Equal bytes
// mean equal rules in equal order, and equal policies; counters do not matter. It makes no table.
func Read() ([]byte, error) {
	var text []byte
	left := most
	for _, b := range []blobs{blobs4, blobs6} {
		var err error
		if text, err = b.appendTo(text, &left); err != nil {
			return nil, err
		}
	}
	return text, nil
}

// Table names a table of a family.
type Table struct {
	Family rules.Family
	Name   string
}

// appendTo appends each table that holds something: its family, and its name and its rules with their lengths. A table is
// always read whole, so that nothing can change in between. left is how many bytes may still be read.
func (b blobs) appendTo(text []byte, left *int) ([]byte, error) {
	err := b.eachTable(func(fd int, name string) error {
		rules, err := netlink.Settled(func() (string, error) { return b.read(fd, name, left) })
		if err != nil || rules == "" {
			return err
		}
		text = append(text, byte(b.family))
		for _, field := range []string{name, rules} {
			text = binary.BigEndian.AppendUint32(text, uint32(len(field)))
			text = append(text, field...)
		}
		return nil
	})
	return text, err
}

// eachTable calls fn for each table of the family, with a socket to ask the kernel about it. The kernel need not know a
// family that has none.
func (b blobs) eachTable(fn func(fd int, name string) error) error {
	names, err := b.tables()
	if err != nil || len(names) == 0 {
		return err
	}
	fd, err := unix.Socket(b.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) { // a unit's RestrictAddressFamilies
		return fmt.Errorf("the pod has tables of iptables-legacy (%s), and meshnetd may not open the socket that tells what is in them: %w "+
			"(the unit's drop-in systemd/iptables-legacy.conf in /usr/share/meshnetd allows it)", strings.Join(names, ", "), err)
	}
	if err != nil {
		return fmt.Errorf("socket for the legacy tables: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	for _, name := range names {
		if err := fn(fd, name); err != nil {
			return fmt.Errorf("legacy table %s: %w", name, err)
		}
	}
	return nil
}

// tables returns the sorted names of the tables that exist.
func (b blobs) tables() ([]string, error) {
	fd, err := unix.Open(b.names, unix.O_RDONLY|unix.O_CLOEXEC, 0) // os.ReadFile makes twice as many calls, and each look asks this
	if errors.Is(err, unix.ENOENT) {                               // no namespace has had one yet
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("names of the legacy tables: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	text := make([]byte, 0, 256) // five names at most
	for {
		n, err := unix.Read(fd, text[len(text):cap(text)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("names of the legacy tables: %w", err)
		}
		if n == 0 {
			break
		}
		text = slices.Grow(text[:len(text)+n], 64)
	}
	names := strings.Fields(string(text))
	slices.Sort(names)
	return names, nil
}

// read returns a table without its counters, "" for one that holds nothing.
func (b blobs) read(fd int, name string, left *int) (string, error) {
	info, entries, err := b.fetch(fd, name, left)
	if err != nil || b.idle(info, entries) {
		return "", err
	}
	return string(info[nameLength:]) + string(entries), nil
}

// fetch returns a table, with its counters cleared.
func (b blobs) fetch(fd int, name string, left *int) (info, entries []byte, err error) {
	if info, entries, err = b.counted(fd, name, left); err == nil {
		err = b.clearCounters(entries)
	}
	return info, entries, err
}

// counted returns a table as it is.
func (b blobs) counted(fd int, name string, left *int) (info, entries []byte, err error) {
	info = make([]byte, infoLength)
	copy(info, name)
	if err := b.get(fd, getInfo, info); err != nil {
		return nil, nil, fmt.Errorf("IPT_SO_GET_INFO: %w", err)
	}
	size := binary.NativeEndian.Uint32(info[infoSize:])
	if int(size) > *left {
		return nil, nil, fmt.Errorf("%w (all of them more than %d bytes)", ErrTooMuch, most)
	}
	table := make([]byte, entriesBegin+int(size))
	copy(table, name)
	binary.NativeEndian.PutUint32(table[entriesSize:], size)
	err = b.get(fd, getEntries, table)
	if errors.Is(err, unix.EAGAIN) { // the size has changed
		return nil, nil, netlink.ErrMoved
	}
	if err != nil {
		return nil, nil, fmt.Errorf("IPT_SO_GET_ENTRIES: %w", err)
	}
	*left -= int(size)
	return info, table[entriesBegin:], nil
}

// get calls getsockopt, which fills value.
func (b blobs) get(fd, option int, value []byte) error {
	length := uint32(len(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(b.level), uintptr(option),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno == unix.EPERM {
		return fmt.Errorf("%w: meshnetd lacks CAP_NET_ADMIN, without which the kernel does not tell", errno)
	}
	if errno != 0 {
		return errno
	}
	if int(length) != len(value) {
		return fmt.Errorf("%d bytes instead of %d", length, len(value))
	}
	return nil
}

// clearCounters sets the counters of all entries to zero.
func (b blobs) clearCounters(entries []byte) error {
	return b.each(entries, func(entry []byte) { clear(entry[b.counter : b.counter+16]) })
}

func (b blobs) each(entries []byte, fn func(entry []byte)) error {
	for len(entries) > 0 {
		if len(entries) < b.entry {
			return errors.New("the last entry is cut short")
		}
		next := int(binary.NativeEndian.Uint16(entries[b.next:]))
		if next < b.entry || next > len(entries) {
			return errors.New("an entry is longer than its table")
		}
		fn(entries[:next])
		entries = entries[next:]
	}
	return nil
}

// idle reports whether a table holds nothing but policies that accept. The kernel keeps such a table after its last rule
// is gone, so it must count as none.
func (b blobs) idle(info, entries []byte) bool {
	hooks := binary.NativeEndian.Uint32(info[infoValidHooks:])
	last := 1 // the entry that ends the table
	if int(binary.NativeEndian.Uint32(info[infoNumEntries:])) != bits.OnesCount32(hooks)+last {
		return false
	}
	for hooks != 0 {
		hook := bits.TrailingZeros32(hooks)
		hooks &^= 1 << hook
		policy := entries[binary.NativeEndian.Uint32(info[infoUnderflow+4*hook:]):]
		target := policy[binary.NativeEndian.Uint16(policy[b.target:]):]
		if int32(binary.NativeEndian.Uint32(target[verdict:])) != verdictOfAccept {
			return false
		}
	}
	return true
}

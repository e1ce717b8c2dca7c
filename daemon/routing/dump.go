// SPDX-License-Identifier: Apache-2.0

//go:build linux

package routing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/rules"
)

// mostObjects is how many policy rules, routes or addresses are read at most: whoever has NET_ADMIN in a pod can make any
// number of them.
const mostObjects = 16 << 10

// ErrTooMuch is within the error about a namespace that holds more than is read.
var ErrTooMuch = errors.New("somebody has put more into the pod's network namespace than meshnetd reads: take it out, or NET_ADMIN away from the pod")

// asker asks about routes and changes them, by a socket that it opens with the first request. A request after one whose answer was
// not read to its end gets a new one.
type asker struct {
	socket *netlink.Socket // nil is none
	seq    uint32
	packet *[]byte // where requests are written, and answers received
}

var packets = sync.Pool{New: func() any {
	packet := make([]byte, netlink.LongestPacket)
	return &packet
}}

func (a *asker) open() (err error) {
	if a.socket != nil {
		return nil
	}
	if a.socket, err = netlink.Open(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("for routes: %w", err)
	}
	// Kernels before 4.20 do not filter.
	_ = unix.SetsockoptInt(a.socket.FD, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	a.packet = packets.Get().(*[]byte)
	return nil
}

func (a *asker) close() {
	if a.socket != nil {
		a.socket.Close()
		packets.Put(a.packet)
	}
	*a = asker{}
}

// list asks for all objects of a kind and calls fn with each. The request's body names a family, or a filter where the kernel
// supports it.
func (a *asker) list(kind uint16, body []byte, fn func(m []byte) error) error {
	return a.ask(kind, unix.NLM_F_DUMP, body, fn)
}

// change asks for a change, and that the kernel says when it is made.
func (a *asker) change(kind, flags uint16, body []byte) error {
	return a.ask(kind, flags|unix.NLM_F_ACK, body, func([]byte) error { return nil })
}

// ask calls fn with each object of the answer. Reading stops at the first one over the limit.
func (a *asker) ask(kind, flags uint16, body []byte, fn func(m []byte) error) error {
	if err := a.open(); err != nil {
		return err
	}
	a.seq++
	request := append(netlink.AppendRequest((*a.packet)[:0], kind, flags, a.seq), body...)
	netlink.End(request)
	if err := a.socket.Send(request); err != nil {
		return err
	}
	ended, err := a.answer(fn)
	if !ended {
		a.close()
	}
	return err
}

func (a *asker) answer(fn func(m []byte) error) (ended bool, err error) {
	left := mostObjects
	moved := false
	for {
		packet, err := a.socket.Receive(*a.packet)
		if err != nil {
			return false, err
		}
		for len(packet) >= unix.NLMSG_HDRLEN {
			var m netlink.Message
			if m, packet, err = netlink.Next(packet); err != nil {
				return false, err
			}
			if m.Seq != a.seq {
				continue
			}
			moved = moved || m.Flags&unix.NLM_F_DUMP_INTR != 0
			if m.Ends() {
				if err = m.Refusal(); err == nil && moved {
					err = netlink.ErrMoved
				}
				return true, err
			}
			if left--; left < 0 {
				return false, fmt.Errorf("%w (more than %d)", ErrTooMuch, mostObjects)
			}
			if err := fn(m.Body); err != nil || m.Flags&unix.NLM_F_MULTI == 0 {
				return err == nil, err
			}
		}
	}
}

// whole repeats a list until nothing changed while it was read. A missing family or table counts as an empty list.
func whole(attempt func() error) error {
	_, err := netlink.Settled(func() (struct{}, error) { return struct{}{}, attempt() })
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// about returns a request about a family or all: each of its structures begins with the family, and may be zero behind it.
func about(family uint8, length int) []byte {
	return append(append(make([]byte, 0, 64), family), make([]byte, length-1)...)
}

// addr is an address of an interface.
type addr struct {
	link int
	netip.Prefix
}

// listAddresses returns the addresses of all interfaces, IPv4 before IPv6.
func (a *asker) listAddresses() (addrs []addr, err error) {
	err = whole(func() error {
		addrs = make([]addr, 0, 8)
		return a.list(unix.RTM_GETADDR, about(unix.AF_UNSPEC, unix.SizeofIfAddrmsg), func(m []byte) error {
			if len(m) < unix.SizeofIfAddrmsg {
				return nil
			}
			var ip []byte
			err := netlink.Each(m[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) {
				if kind == unix.IFA_LOCAL || kind == unix.IFA_ADDRESS && ip == nil { // on a point-to-point link, IFA_ADDRESS is the peer's
					ip = value
				}
			})
			if ip, ok := netip.AddrFromSlice(ip); ok {
				const length, index = 1, 4 // in struct ifaddrmsg
				addrs = append(addrs, addr{int(binary.NativeEndian.Uint32(m[index:])), netip.PrefixFrom(ip, int(m[length]))})
			}
			return err
		})
	})
	return addrs, err
}

// link is an interface.
type link struct {
	index int
	name  string
}

// listLinks returns every interface.
func (a *asker) listLinks() (links []link, err error) {
	err = whole(func() error {
		links = nil
		return a.list(unix.RTM_GETLINK, about(unix.AF_UNSPEC, unix.SizeofIfInfomsg), func(m []byte) error {
			if len(m) < unix.SizeofIfInfomsg {
				return nil
			}
			const index = 4 // in struct ifinfomsg
			l := link{index: int(binary.NativeEndian.Uint32(m[index:]))}
			err := netlink.Each(m[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) {
				if kind == unix.IFLA_IFNAME {
					l.name = unix.ByteSliceToString(value)
				}
			})
			links = append(links, l)
			return err
		})
	})
	return links, err
}

// policy is a policy rule that is nothing but "fwmark MARK lookup TABLE".
type policy struct {
	mark     uint32
	table    int
	priority uint32
}

// Where struct rtmsg has its fields, behind the family. Those of struct fib_rule_hdr are the same: its action is where the type of
// a route is.
const (
	rtDestination = 1 // length of the prefix
	rtSource      = 2
	rtTOS         = 3
	rtTable       = 4
	rtProtocol    = 5
	rtScope       = 6
	rtType        = 7
	rtFlags       = 8
)

// listPolicies returns those of a family. A rule with any other attribute, known or not, is not one of them.
func (a *asker) listPolicies(f rules.Family) (found []policy, err error) {
	err = whole(func() error {
		found = nil
		return a.list(unix.RTM_GETRULE, about(netlink.Family(f), unix.SizeofRtMsg), func(m []byte) error {
			p, ours, err := readPolicy(m, netlink.Family(f))
			if ours {
				found = append(found, p)
			}
			return err
		})
	})
	return found, err
}

func readPolicy(m []byte, family uint8) (p policy, ours bool, err error) {
	const toTable, invert = 1, 2 // FR_ACT_TO_TBL, FIB_RULE_INVERT (linux/fib_rules.h)
	if len(m) < unix.SizeofRtMsg {
		return p, false, nil
	}
	plain := m[0] == family && m[rtSource] == 0 && m[rtDestination] == 0 && m[rtTOS] == 0 &&
		m[rtType] == toTable && binary.NativeEndian.Uint32(m[rtFlags:])&invert == 0
	err = netlink.Each(m[unix.SizeofRtMsg:], func(kind uint16, value []byte) {
		number := uint32(0)
		if len(value) == 4 {
			number = binary.NativeEndian.Uint32(value)
		}
		const all = 1<<32 - 1
		switch kind {
		case unix.FRA_TABLE:
			p.table = int(number)
		case unix.FRA_FWMARK:
			p.mark = number
		case unix.FRA_PRIORITY:
			p.priority = number
		case unix.FRA_FWMASK, unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP: // all bits, and nothing
			plain = plain && number == all
		case unix.FRA_PROTOCOL, unix.FRA_PAD:
		default:
			plain = false
		}
	})
	return p, plain, err
}

// listLocalDefault reports whether a routing table has the route "local default dev lo".
func (a *asker) listLocalDefault(r rules.PolicyRoute) (routed bool, err error) {
	request := netlink.AppendNumber(about(netlink.Family(r.Family), unix.SizeofRtMsg), unix.RTA_TABLE, uint32(r.Table))
	err = whole(func() error {
		routed = false
		return a.list(unix.RTM_GETROUTE, request, func(m []byte) error {
			if len(m) < unix.SizeofRtMsg {
				return nil
			}
			if m[0] != netlink.Family(r.Family) || m[rtType] != unix.RTN_LOCAL || m[rtDestination]|m[rtSource]|m[rtTOS] != 0 ||
				binary.NativeEndian.Uint32(m[rtFlags:])&unix.RTM_F_CLONED != 0 {
				return nil
			}
			table, by := uint32(m[rtTable]), uint32(0)
			err := netlink.Each(m[unix.SizeofRtMsg:], func(kind uint16, value []byte) {
				switch {
				case len(value) != 4:
				case kind == unix.RTA_TABLE:
					table = binary.NativeEndian.Uint32(value)
				case kind == unix.RTA_OIF:
					by = binary.NativeEndian.Uint32(value)
				}
			})
			routed = routed || int(table) == r.Table && by == lo
			return err
		})
	})
	return routed, err
}

// policyRule is a request about the policy rule.
func policyRule(r rules.PolicyRoute) []byte {
	m := about(netlink.Family(r.Family), unix.SizeofRtMsg)
	m[rtType] = unix.RTN_UNICAST // FR_ACT_TO_TBL
	return netlink.AppendNumber(netlink.AppendNumber(m, unix.FRA_FWMARK, r.Mark), unix.FRA_TABLE, uint32(r.Table))
}

// localDefault is a request about the route, of whichever protocol where that is 0.
func localDefault(r rules.PolicyRoute, protocol uint8) []byte {
	m := about(netlink.Family(r.Family), unix.SizeofRtMsg)
	m[rtProtocol], m[rtScope], m[rtType] = protocol, unix.RT_SCOPE_HOST, unix.RTN_LOCAL
	return netlink.AppendNumber(netlink.AppendNumber(m, unix.RTA_TABLE, uint32(r.Table)), unix.RTA_OIF, lo)
}

// onLo is a request about an address on lo.
func onLo(prefix netip.Prefix) []byte {
	m := about(netlink.Family(rules.FamilyOf(prefix.Addr())), 4)
	m[1] = uint8(prefix.Bits())
	m = binary.NativeEndian.AppendUint32(m, lo)
	ip := prefix.Addr().AsSlice()
	return netlink.AppendAttribute(netlink.AppendAttribute(m, unix.IFA_LOCAL, ip), unix.IFA_ADDRESS, ip)
}

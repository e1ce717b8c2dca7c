// SPDX-License-Identifier: Apache-2.0

//go:build linux

package routing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// mostObjects is how many policy rules, routes or addresses are read at most: whoever has NET_ADMIN in a pod can make any
// number of them.
const mostObjects = 16 << 10

// ErrTooMuch is within the error about a namespace that holds more than is read.
var ErrTooMuch = errors.New("somebody has put more into the pod's network namespace than meshnetd reads: take it out, or NET_ADMIN away from the pod")

// errMoved is returned for a list that may be incomplete.
var errMoved = errors.New("the list was changed while it was read")

const (
	answerTimeout = time.Second
	longestPacket = 32 << 10 // what the kernel puts into one packet of a list at most (af_netlink.c)
)

// asker is a netlink socket for questions about routes, and where their answers are received. A question after one whose answer
// was not read to its end gets a new socket. The zero asker opens it with the first question.
type asker struct {
	fd     int // 0 is none
	packet *[]byte
}

var packets = sync.Pool{New: func() any {
	packet := make([]byte, longestPacket)
	return &packet
}}

func (a *asker) open() error {
	if a.fd != 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink socket for routes: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("time limit for routes: %w", err)
	}
	// Kernels before 4.20 do not filter.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	a.fd, a.packet = fd, packets.Get().(*[]byte)
	return nil
}

func (a *asker) close() {
	if a.fd != 0 {
		_ = unix.Close(a.fd)
		packets.Put(a.packet)
	}
	*a = asker{}
}

// list asks for all objects of a kind and calls fn with each. The request's body names a family, or a filter where the kernel
// supports it.
func (a *asker) list(request int, body []byte, fn func(m []byte) error) error {
	return a.ask(request, unix.NLM_F_DUMP, body, fn)
}

// ask calls fn with each object of the answer. Reading stops at the first one over the limit.
func (a *asker) ask(request, flags int, body []byte, fn func(m []byte) error) error {
	if err := a.open(); err != nil {
		return err
	}
	req := nl.NewNetlinkRequest(request, flags)
	req.AddRawData(body)
	if err := unix.Sendto(a.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	ended, err := a.answer(req.Seq, fn)
	if !ended {
		a.close()
	}
	return err
}

func (a *asker) answer(seq uint32, fn func(m []byte) error) (ended bool, err error) {
	left := mostObjects
	moved := false
	for {
		n, from, err := unix.Recvfrom(a.fd, *a.packet, 0)
		switch sender, ok := from.(*unix.SockaddrNetlink); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return false, err
		case !ok || sender.Pid != 0: // other processes in the pod can send to the socket too
			continue
		}
		messages, err := syscall.ParseNetlinkMessage((*a.packet)[:n])
		if err != nil {
			return false, err
		}
		for _, m := range messages {
			if m.Header.Seq != seq {
				continue
			}
			moved = moved || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if len(m.Data) >= 4 {
					if code := int32(binary.NativeEndian.Uint32(m.Data)); code < 0 {
						return true, unix.Errno(-code)
					}
				}
				if moved {
					return true, errMoved
				}
				return true, nil
			}
			if left--; left < 0 {
				return false, fmt.Errorf("%w (more than %d)", ErrTooMuch, mostObjects)
			}
			if err := fn(m.Data); err != nil || m.Header.Flags&unix.NLM_F_MULTI == 0 {
				return err == nil, err
			}
		}
	}
}

// whole repeats a list until nothing changed while it was read. A missing family or table counts as an empty list.
func whole(attempt func() error) (err error) {
	const tries = 10
	for range tries {
		if err = attempt(); !errors.Is(err, errMoved) {
			break
		}
	}
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// listAddresses returns the addresses of all interfaces, IPv4 before IPv6.
func (a *asker) listAddresses() (addrs []netlink.Addr, err error) {
	err = whole(func() error {
		addrs = []netlink.Addr{}
		return a.list(unix.RTM_GETADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC).Serialize(), func(m []byte) error {
			if len(m) < unix.SizeofIfAddrmsg {
				return nil
			}
			about := nl.DeserializeIfAddrmsg(m)
			attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfAddrmsg:])
			var ip []byte
			for _, attr := range attrs { // on a point-to-point link, IFA_ADDRESS is the peer's
				if attr.Attr.Type == unix.IFA_LOCAL || attr.Attr.Type == unix.IFA_ADDRESS && ip == nil {
					ip = attr.Value
				}
			}
			if ip != nil {
				addrs = append(addrs, netlink.Addr{LinkIndex: int(about.Index),
					IPNet: &net.IPNet{IP: slices.Clone(ip), Mask: net.CIDRMask(int(about.Prefixlen), 8*len(ip))}})
			}
			return err
		})
	})
	return addrs, err
}

// listLinks returns the index and name of every interface.
func (a *asker) listLinks() (links []netlink.LinkAttrs, err error) {
	err = whole(func() error {
		links = nil
		return a.list(unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize(), func(m []byte) error {
			if len(m) < unix.SizeofIfInfomsg {
				return nil
			}
			link := netlink.LinkAttrs{Index: int(nl.DeserializeIfInfomsg(m).Index)}
			attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
			for _, a := range attrs {
				if a.Attr.Type == unix.IFLA_IFNAME {
					link.Name = unix.ByteSliceToString(a.Value)
				}
			}
			links = append(links, link)
			return err
		})
	})
	return links, err
}

// policy is a policy rule that is nothing but "fwmark MARK lookup TABLE".
type policy struct {
	mark     uint32
	table    int
	priority int
}

// listPolicies returns those of a family. A rule with any other attribute, known or not, is not one of them.
func (a *asker) listPolicies(f rules.Family) (found []policy, err error) {
	request := (&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family(f))}}).Serialize() // a struct fib_rule_hdr looks the same
	err = whole(func() error {
		found = nil
		return a.list(unix.RTM_GETRULE, request, func(m []byte) error {
			p, ours, err := readPolicy(m, family(f))
			if ours {
				found = append(found, p)
			}
			return err
		})
	})
	return found, err
}

func readPolicy(m []byte, family int) (p policy, ours bool, err error) {
	if len(m) < unix.SizeofRtMsg {
		return p, false, nil
	}
	about := nl.DeserializeRtMsg(m)
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofRtMsg:])
	plain := int(about.Family) == family && about.Src_len == 0 && about.Dst_len == 0 && about.Tos == 0 &&
		about.Type == nl.FR_ACT_TO_TBL && about.Flags&netlink.FibRuleInvert == 0
	for _, a := range attrs {
		number := uint32(0)
		if len(a.Value) == 4 {
			number = binary.NativeEndian.Uint32(a.Value)
		}
		const all = 1<<32 - 1
		switch a.Attr.Type {
		case unix.FRA_TABLE:
			p.table = int(number)
		case unix.FRA_FWMARK:
			p.mark = number
		case unix.FRA_PRIORITY:
			p.priority = int(number)
		case unix.FRA_FWMASK, unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP: // all bits, and nothing
			plain = plain && number == all
		case unix.FRA_PROTOCOL, unix.FRA_PAD:
		default:
			plain = false
		}
	}
	return p, plain, err
}

// listLocalDefault reports whether a routing table has the route "local default dev lo".
func (a *asker) listLocalDefault(r rules.PolicyRoute) (routed bool, err error) {
	request := (&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family(r.Family))}}).Serialize()
	request = append(request, nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(uint32(r.Table))).Serialize()...)
	err = whole(func() error {
		routed = false
		return a.list(unix.RTM_GETROUTE, request, func(m []byte) error {
			if len(m) < unix.SizeofRtMsg {
				return nil
			}
			about := nl.DeserializeRtMsg(m)
			if int(about.Family) != family(r.Family) || about.Type != unix.RTN_LOCAL || about.Dst_len+about.Src_len+about.Tos != 0 || about.Flags&unix.RTM_F_CLONED != 0 {
				return nil
			}
			attrs, err := nl.ParseRouteAttr(m[unix.SizeofRtMsg:])
			table, by := uint32(about.Table), uint32(0)
			for _, a := range attrs {
				switch {
				case len(a.Value) != 4:
				case a.Attr.Type == unix.RTA_TABLE:
					table = binary.NativeEndian.Uint32(a.Value)
				case a.Attr.Type == unix.RTA_OIF:
					by = binary.NativeEndian.Uint32(a.Value)
				}
			}
			routed = routed || int(table) == r.Table && int(by) == lo.Index
			return err
		})
	})
	return routed, err
}

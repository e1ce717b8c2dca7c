// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

const loopback = "lo"

// scene is what decides which packets can be sent in a pod.
type scene struct {
	interfaces []rules.Interface // in the kernel's order, as the tracer wants them
	links      map[string]link
	listeners  []listener
	route      func(netip.Addr) (way, error)
}

type link struct {
	index    int
	mac      []byte // nil where it is no Ethernet
	prefixes []netip.Prefix
}

// way is how a packet leaves for a destination.
type way struct {
	out    string
	source netip.Addr
	local  bool // it stays in the pod
}

// look reads the calling thread's namespace.
func look() (scene, error) {
	s := scene{links: map[string]link{}}
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return scene{}, fmt.Errorf("list the interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		attrs := l.Attrs()
		names[attrs.Index] = attrs.Name
		known := link{index: attrs.Index}
		if attrs.EncapType == "ether" && attrs.Flags&net.FlagUp != 0 {
			known.mac = attrs.HardwareAddr
		}
		if known.prefixes, err = prefixes(l); err != nil {
			return scene{}, err
		}
		s.links[attrs.Name] = known
		s.interfaces = append(s.interfaces, rules.Interface{Name: attrs.Name, Addresses: addresses(known.prefixes)})
	}
	s.route = func(to netip.Addr) (way, error) { return route(to, names) }
	s.listeners, _ = readListeners() // where they cannot be read, their ports are not tried
	return s, nil
}

func prefixes(l netlink.Link) ([]netip.Prefix, error) {
	found, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list the addresses of %s: %w", l.Attrs().Name, err)
	}
	var all []netip.Prefix
	for _, a := range found {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if ok {
			all = append(all, netip.PrefixFrom(ip.Unmap(), ones))
		}
	}
	return all, nil
}

func addresses(prefixes []netip.Prefix) []netip.Addr {
	var all []netip.Addr
	for _, p := range prefixes {
		all = append(all, p.Addr())
	}
	return all
}

func route(to netip.Addr, names map[int]string) (way, error) {
	found, err := netlink.RouteGet(to.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || err == nil && len(found) == 0 {
		return way{}, fmt.Errorf("the pod has no route to %s", to)
	}
	if err != nil {
		return way{}, fmt.Errorf("route to %s: %w", to, err)
	}
	source, ok := netip.AddrFromSlice(found[0].Src)
	if !ok {
		return way{}, fmt.Errorf("route to %s: the pod has no address to send from", to)
	}
	return way{out: names[found[0].LinkIndex], source: source.Unmap(), local: found[0].Type == unix.RTN_LOCAL}, nil
}

// inUse returns an error for an address of the pod that the kernel does not use yet: during duplicate address detection,
// which takes a second or two for IPv6, packets for it do not stay in the pod.
func (s scene) inUse(addr netip.Addr) error {
	w, err := s.route(addr)
	if err == nil && !w.local {
		err = fmt.Errorf("the kernel does not use the pod's address %s yet: ask again in some seconds", addr)
	}
	return err
}

// local reports whether an address is the pod's own.
func (s scene) local(addr netip.Addr) bool {
	return rules.Local(s.interfaces, addr)
}

// documentation are addresses that belong to nobody (RFC 5737, RFC 3849).
var documentation = map[rules.Family][]netip.Addr{
	rules.IPv4: {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.1")},
	rules.IPv6: {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("3fff::1")},
}

// outside returns an address that belongs to nobody, and that the rules say nothing special about. Where all are
// taken, as in a laboratory, it is the first.
func (s scene) outside(f rules.Family, special []netip.Prefix) netip.Addr {
	taken := slices.Clone(special)
	for _, l := range s.links {
		for _, p := range l.prefixes {
			taken = append(taken, p.Masked())
		}
	}
	for _, addr := range documentation[f] {
		if !slices.ContainsFunc(taken, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return addr
		}
	}
	return documentation[f][0]
}

// own returns the first address of an interface that others can send to; the zero Addr where there is none.
func (s scene) own(name string, f rules.Family) netip.Addr {
	for _, p := range s.links[name].prefixes {
		if addr := p.Addr(); rules.FamilyOf(addr) == f && rules.Global(addr) {
			return addr
		}
	}
	return netip.Addr{}
}

// neighbour returns an address from which a packet can come by an interface without being dropped by rp_filter.
func (s scene) neighbour(name string, f rules.Family, outside netip.Addr) netip.Addr {
	if w, err := s.route(outside); err == nil && w.out == name {
		return outside
	}
	for _, p := range s.links[name].prefixes {
		if p.Addr() != s.own(name, f) {
			continue
		}
		for _, addr := range []netip.Addr{p.Addr().Prev(), p.Addr().Next()} {
			if addr != p.Masked().Addr() && p.Contains(addr) {
				return addr
			}
		}
	}
	return outside
}

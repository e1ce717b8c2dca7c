// SPDX-License-Identifier: Apache-2.0

package account

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// Gaps collects what of a pod's traffic goes around its proxy by a plan: of connections that begin when the rules are
// there, on sockets without a mark. Each is shown by a packet. It is for plans that rules.Families makes.
type Gaps struct {
	Plan       rules.Plan
	Interfaces []rules.Interface // of the pod
	UID, GID   uint32            // the proxy's; rules.NoID is none

	// What settings name: packets that are to show something else avoid it.
	Ports  []rules.PortRange
	Ranges []netip.Prefix
	IDs    []uint32

	all   []rules.Gap
	drawn drawn
}

// drawn caches what was chosen for packets: addresses by their first candidate, ids by the one to avoid.
type drawn struct {
	free      uint16
	named     *[1 << 16]bool // the ports that settings name
	addresses map[string]netip.Addr
	ids       map[uint32]uint32
}

// Covers reports whether a packet is part of a gap.
type Covers func(rules.Packet) bool

// All returns what was collected, and last the gaps that every mesh has.
func (g *Gaps) All() []rules.Gap {
	g.through()
	g.earlier()
	return g.all
}

// Add adds a gap for new connections, in the families that have rules.
func (g *Gaps) Add(packet rules.Packet, covers Covers, what string, args ...any) {
	g.all = append(g.all, rules.Gap{What: fmt.Sprintf(what, args...), Packet: &packet, Covers: func(p rules.Packet) bool {
		return First(p) && g.Ruled(p.Family()) && covers(p)
	}})
}

// First reports whether a packet begins a connection, on a socket without a mark.
func First(p rules.Packet) bool { return (p.State == 0 || p.State == rules.StateNew) && p.Mark == 0 }

// WithoutIPv6 adds the gap of a pod without rules for IPv6. because says why the proxy does not speak it.
func (g *Gaps) WithoutIPv6(because string) {
	g.OnlyIPv4(" (" + because + `); ipv6 = "capture" or "block" in the configuration changes that`)
}

// OnlyIPv4 is WithoutIPv6 with other words after "its proxy speaks only IPv4".
func (g *Gaps) OnlyIPv4(words string) {
	if g.Ruled(rules.IPv6) {
		return
	}
	has := "no address of it now, and may get one"
	if addr, some := g.ipv6(); some {
		has = addr.String()
	}
	what := fmt.Sprintf("IPv6, all of it: the pod has %s, and its proxy speaks only IPv4%s", has, words)
	packet := g.Sent(rules.IPv6, rules.TCP, g.Outside(rules.IPv6), g.FreePort())
	g.all = append(g.all, rules.Gap{What: what, Packet: &packet, Covers: func(p rules.Packet) bool { return p.Family() == rules.IPv6 && First(p) }})
}

// through adds what the pod forwards of a family that is refused.
func (g *Gaps) through() {
	if !g.Resets(rules.IPv6) {
		return
	}
	g.Add(g.Arrives(rules.IPv6, rules.TCP, g.Outside(rules.IPv6), g.FreePort()),
		func(p rules.Packet) bool { return !Out(p) && g.Resets(p.Family()) && !g.Local(p) },
		"IPv6 that is forwarded through the pod, such as from a virtual machine in it: only what the pod itself sends and gets is reset")
}

// earlier adds the connections that were there before the rules.
func (g *Gaps) earlier() {
	packet := g.Sent(g.Family(), rules.TCP, g.Outside(g.Family()), g.FreePort())
	packet.State = rules.StateEstablished
	g.all = append(g.all, rules.Gap{What: "connections that were open before these rules were there stay as they are: those of a pod that was taken over late",
		Packet: &packet, Covers: func(p rules.Packet) bool {
			return p.State == rules.StateEstablished && p.Mark == 0 && p.ConnMark == 0 && !p.Transparent
		}})
}

// Out reports whether a packet is sent by the pod.
func Out(p rules.Packet) bool { return p.Direction == rules.Outbound }

// TCP reports whether a packet is one of TCP.
func TCP(p rules.Packet) bool { return p.Protocol == rules.TCP }

// To reports whether a packet goes to one of the ports.
func To(p rules.Packet, ports ...rules.PortRange) bool {
	return slices.ContainsFunc(ports, func(r rules.PortRange) bool { return r.Contains(p.Destination.Port()) })
}

// Captured reports whether the plan redirects packets of a family.
func (g *Gaps) Captured(family rules.Family) bool {
	return g.holds(family, "nat") || g.holds(family, "mangle")
}

// Resets reports whether the plan refuses packets of a family.
func (g *Gaps) Resets(family rules.Family) bool { return g.holds(family, "filter") }

// RefusesLookup reports whether a packet is a lookup of somebody else than the proxy that is refused, where lookups are captured.
func (g *Gaps) RefusesLookup(p rules.Packet) bool {
	return g.Resets(p.Family()) && Out(p) && p.Protocol == rules.UDP && p.Destination.Port() == 53 && !g.Stays(p) && !g.Proxys(p)
}

// Ruled reports whether the plan does either.
func (g *Gaps) Ruled(family rules.Family) bool { return g.Captured(family) || g.Resets(family) }

func (g *Gaps) holds(family rules.Family, table string) bool {
	rs := g.Plan.V4
	if family == rules.IPv6 {
		rs = g.Plan.V6
	}
	return len(rs.Table(table).Chains) > 0
}

// Proxys reports whether the rules treat a packet as the proxy's own.
func (g *Gaps) Proxys(p rules.Packet) bool {
	return Out(p) && p.Socket && (p.UID == g.UID || g.GID != rules.NoID && p.GID == g.GID)
}

// Stays reports whether a packet that is sent stays in the pod.
func (g *Gaps) Stays(p rules.Packet) bool { return Out(p) && g.Local(p) }

// Local reports whether a packet goes to the pod itself.
func (g *Gaps) Local(p rules.Packet) bool { return g.LocalTo(p.Destination) }

// LocalTo reports whether an address is one of the pod.
func (g *Gaps) LocalTo(to netip.AddrPort) bool {
	dst := to.Addr()
	return dst.IsLoopback() ||
		slices.ContainsFunc(g.Interfaces, func(i rules.Interface) bool { return slices.Contains(i.Addresses, dst) }) ||
		slices.ContainsFunc(g.Plan.Loopback, func(prefix netip.Prefix) bool { return prefix.Addr() == dst })
}

// Families are those that have rules.
func (g *Gaps) Families() []rules.Family {
	return slices.DeleteFunc([]rules.Family{rules.IPv4, rules.IPv6}, func(f rules.Family) bool { return !g.Ruled(f) })
}

// Family returns the family that packets are shown in: IPv6 for a pod that has only that and whose plan captures it.
func (g *Gaps) Family() rules.Family {
	if g.Has(rules.IPv6) && !g.Has(rules.IPv4) && g.Captured(rules.IPv6) {
		return rules.IPv6
	}
	return rules.IPv4
}

// Has reports whether the pod has an address of the family that others can reach.
func (g *Gaps) Has(family rules.Family) bool {
	return slices.ContainsFunc(g.Interfaces, func(i rules.Interface) bool {
		return slices.ContainsFunc(i.Addresses, func(addr netip.Addr) bool { return global(addr) && FamilyOf(addr) == family })
	})
}

// ipv6 returns an IPv6 address of the pod, a global one where there is any; a neighbour reaches a link-local one too.
func (g *Gaps) ipv6() (addr netip.Addr, some bool) {
	if g.Has(rules.IPv6) {
		return g.Own(rules.IPv6), true
	}
	for _, i := range g.Interfaces {
		for _, addr := range i.Addresses {
			if addr.Is6() && addr.IsLinkLocalUnicast() {
				return addr, true
			}
		}
	}
	return addr, false
}

// FamilyOf returns the family of an address.
func FamilyOf(addr netip.Addr) rules.Family {
	if addr.Is6() {
		return rules.IPv6
	}
	return rules.IPv4
}

func global(addr netip.Addr) bool { return !addr.IsLoopback() && !addr.IsLinkLocalUnicast() }

// Own returns an address of the pod, or one that it could have.
func (g *Gaps) Own(family rules.Family) netip.Addr {
	for _, i := range g.Interfaces {
		for _, addr := range i.Addresses {
			if global(addr) && FamilyOf(addr) == family {
				return addr
			}
		}
	}
	if family == rules.IPv6 {
		return netip.MustParseAddr("2001:db8::2")
	}
	return netip.MustParseAddr("192.0.2.2")
}

// Outside returns an address elsewhere, outside the named ranges where possible: a documentation address (RFC 5737,
// RFC 3849), or another one where the pod's ranges cover those.
func (g *Gaps) Outside(family rules.Family) netip.Addr {
	return g.unnamed(map[rules.Family][]string{
		rules.IPv4: {"203.0.113.10", "198.51.100.10", "8.8.8.8", "100.64.0.10"},
		rules.IPv6: {"2001:db8:1::10", "2620:fe::fe", "fd12::10"}}[family])
}

func (g *Gaps) unnamed(texts []string) netip.Addr {
	addr, known := g.drawn.addresses[texts[0]]
	if known {
		return addr
	}
	addr = netip.MustParseAddr(texts[0])
	for _, text := range texts {
		other := netip.MustParseAddr(text)
		if !slices.ContainsFunc(g.Ranges, func(prefix netip.Prefix) bool { return prefix.Contains(other) }) {
			addr = other
			break
		}
	}
	if g.drawn.addresses == nil {
		g.drawn.addresses = map[string]netip.Addr{}
	}
	g.drawn.addresses[texts[0]] = addr
	return addr
}

// Name returns "IPv4" or "IPv6".
func Name(family rules.Family) string {
	if family == rules.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// Loopback returns the family's own address of lo.
func Loopback(family rules.Family) netip.Addr {
	if family == rules.IPv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// PortOf returns a port of a range that something can listen on, where there is one.
func PortOf(r rules.PortRange) uint16 { return max(r.First, min(r.Last, 1)) }

// FreePort returns a port that no setting names, where there is one, and never one of not.
func (g *Gaps) FreePort(not ...uint16) uint16 {
	if len(not) > 0 {
		return g.freePort(not)
	}
	if g.drawn.free == 0 {
		g.drawn.free = g.freePort(nil)
	}
	return g.drawn.free
}

func (g *Gaps) freePort(not []uint16) uint16 {
	if g.drawn.named == nil {
		g.drawn.named = &[1 << 16]bool{53: true}
		for _, r := range rules.MergePorts(g.Ports) {
			for port := int(r.First); port <= int(r.Last); port++ {
				g.drawn.named[port] = true
			}
		}
	}
	excluded := map[uint16]bool{}
	for _, port := range not {
		excluded[port] = true
	}
	const usual = 8080
	fallback := uint16(0)
	for port := uint16(usual); port != 0; port++ {
		switch {
		case excluded[port]:
		case !g.drawn.named[port]:
			return port
		case fallback == 0:
			fallback = port
		}
	}
	return fallback
}

const someClient, someUser = 40000, 1000 // a client's port and a user that mean nothing

// Sent is a packet of somebody who is not the proxy.
func (g *Gaps) Sent(family rules.Family, protocol string, to netip.Addr, port uint16) rules.Packet {
	p := rules.Packet{Direction: rules.Outbound, Protocol: protocol, Out: g.leads(), Socket: true, UID: g.otherThan(g.UID), GID: g.otherThan(g.GID),
		Source: netip.AddrPortFrom(g.Own(family), someClient), Destination: netip.AddrPortFrom(to, port)}
	if to.IsLoopback() {
		p.Source = netip.AddrPortFrom(to, someClient)
	}
	return p
}

// otherThan returns an id that is neither the proxy's nor one that settings name.
func (g *Gaps) otherThan(proxys uint32) uint32 {
	if id, known := g.drawn.ids[proxys]; known {
		return id
	}
	named := map[uint32]bool{proxys: true}
	for _, id := range g.IDs {
		named[id] = true
	}
	id := uint32(someUser)
	for named[id] {
		id++
	}
	if g.drawn.ids == nil {
		g.drawn.ids = map[uint32]uint32{}
	}
	g.drawn.ids[proxys] = id
	return id
}

// Arrives is a packet of a peer.
func (g *Gaps) Arrives(family rules.Family, protocol string, to netip.Addr, port uint16) rules.Packet {
	from := g.unnamed(map[rules.Family][]string{
		rules.IPv4: {"192.0.2.99", "203.0.113.99", "8.8.8.8"}, rules.IPv6: {"2001:db8::99", "2620:fe::99", "fd12::99"}}[family])
	return rules.Packet{Direction: rules.Inbound, Protocol: protocol, In: g.leads(), Out: g.leads(),
		Source: netip.AddrPortFrom(from, someClient), Destination: netip.AddrPortFrom(to, port)}
}

// ArrivesFrom is a packet of a peer of a range; false where nobody there can send one, or the family has no rules.
func (g *Gaps) ArrivesFrom(prefix netip.Prefix) (rules.Packet, bool) {
	family := FamilyOf(prefix.Addr())
	p := g.Arrives(family, rules.TCP, g.Own(family), g.FreePort())
	from, some := addressOf(prefix, p.Source.Addr())
	p.Source = netip.AddrPortFrom(from, someClient)
	return p, some && !from.IsLoopback() && g.Ruled(family)
}

// SentTo is a packet to a range; false where nothing there has an address, or the family has no rules.
func (g *Gaps) SentTo(prefix netip.Prefix) (rules.Packet, bool) {
	family := FamilyOf(prefix.Addr())
	to, some := addressOf(prefix, g.Outside(family))
	return g.Sent(family, rules.TCP, to, g.FreePort()), some && g.Ruled(family)
}

// addressOf returns an address of a range, the usual one where that is of it; false where there is none.
func addressOf(prefix netip.Prefix, usual netip.Addr) (netip.Addr, bool) {
	if prefix.Contains(usual) {
		return usual, true
	}
	addr := prefix.Addr()
	if addr.IsUnspecified() || addr == prefix.Masked().Addr() && prefix.Bits() < addr.BitLen()-1 {
		addr = addr.Next() // the first is no host's
	}
	return addr, prefix.Contains(addr)
}

// leads returns the interface by which the pod is reached: the first with an address that others can reach.
func (g *Gaps) leads() string {
	for _, i := range g.Interfaces {
		if i.Name != "lo" && slices.ContainsFunc(i.Addresses, global) {
			return i.Name
		}
	}
	return "eth0"
}

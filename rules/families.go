// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"net/netip"
	"slices"
)

// WithoutIPv6 says what happens to IPv6 in a pod whose proxy does not speak it.
type WithoutIPv6 string

// The three ways to treat it.
const (
	IPv6Mesh    WithoutIPv6 = "mesh"    // what the mesh's own tool does: it goes around the proxy, and the plan says so
	IPv6Capture WithoutIPv6 = "capture" // captured all the same
	IPv6Block   WithoutIPv6 = "block"   // refused, so that clients fall back to IPv4 at once
)

// Network is what a plan has to know of a pod's network namespace. Addresses are those of one moment: they decide which
// families the proxy speaks and what goes around it, but never that a family needs no rules.
type Network struct {
	Addresses  []netip.Addr // of all interfaces; nil where they are not known
	NoIPv6     bool         // the kernel has no IPv6 for the namespace, whatever is done there
	NoIPv6OnLo bool         // IPv6 is switched off on lo, which then has no address of it and is given none
}

// Equal reports whether two looks at a namespace saw the same.
func (n Network) Equal(m Network) bool {
	return n.NoIPv6 == m.NoIPv6 && n.NoIPv6OnLo == m.NoIPv6OnLo && slices.Equal(n.Addresses, m.Addresses)
}

// Global returns the addresses that other hosts can reach.
func (n Network) Global() []netip.Addr {
	var global []netip.Addr
	for _, ip := range n.Addresses {
		ip = ip.Unmap().WithZone("")
		if Global(ip) {
			global = append(global, ip)
		}
	}
	return global
}

// ipv6 returns an IPv6 address by which others reach the pod, a global one where there is any: a neighbour needs no more
// than a link-local one.
func (n Network) ipv6() (found netip.Addr) {
	for _, ip := range n.Addresses {
		ip = ip.Unmap().WithZone("")
		if ip.Is6() && !ip.IsLoopback() && !ip.IsUnspecified() && (!found.IsValid() || found.IsLinkLocalUnicast()) {
			found = ip
		}
	}
	return found
}

// onlyIPv6 reports whether others reach the pod by no address of IPv4.
func (n Network) onlyIPv6() bool {
	global := n.Global()
	return len(global) > 0 && !slices.ContainsFunc(global, netip.Addr.Is4)
}

// without leaves out the addresses that a plan itself puts on lo.
func (n Network) without(ours []netip.Prefix) Network {
	if n.Addresses != nil {
		n.Addresses = slices.DeleteFunc(slices.Clone(n.Addresses), func(ip netip.Addr) bool {
			return slices.ContainsFunc(ours, func(p netip.Prefix) bool { return p.Addr() == ip })
		})
	}
	return n
}

// WithIPv6Around returns a plan that was read from a kernel with what becomes of IPv6 in this network: where the plan has
// no rules for it and the pod has an address of it, it goes around the proxy.
func (p Plan) WithIPv6Around(network Network) Plan {
	p.WithoutIPv6, p.Notes = "", nil
	if !p.V6.Empty() || network.NoIPv6 {
		return p
	}
	if address := network.without(p.Footprint.Loopback).ipv6(); address.IsValid() {
		p.WithoutIPv6 = IPv6Mesh
		p.Notes = []string{"IPv6 goes around the mesh: the pod has " + address.String() + ", and its rules have none for it"}
	}
	return p
}

// Families makes a plan for both families, for a mesh that has the same rules in either and whose proxy always speaks
// IPv4.
type Families struct {
	Redirect func(Family) Ruleset
	Block    func() Ruleset             // of IPv6
	Routes   func(Family) []PolicyRoute // that Redirect needs; nil is none
	Loopback []netip.Prefix             // IPv6 addresses on lo that Redirect needs
	Listens  []PortRange

	SpeaksIPv6 bool
	OrAlone    bool   // it speaks IPv6 too where that is all that the pod's addresses are of
	Because    string // who says that it does not, such as `annotation consul.hashicorp.com/dual-stack is "false"`
	Without    WithoutIPv6
	Unblocked  string // what Block does not see, as a note; "" is nothing
	Notes      []string
}

// Planner returns what plans for a pod in a network. The rules are the same in each, and made here.
func (f Families) Planner(footprint Footprint) func(Network) (Plan, error) {
	var v6, block Ruleset
	v4 := f.Redirect(IPv4)
	if f.SpeaksIPv6 || f.OrAlone || f.Without == IPv6Capture {
		v6 = f.Redirect(IPv6)
	}
	if f.Without == IPv6Block && !f.SpeaksIPv6 {
		block = f.Block()
	}
	return func(network Network) (Plan, error) { return f.plan(network, footprint, v4, v6, block) }
}

// plan returns the plan for a pod in this network. Wherever the kernel has IPv6, its rules are there whether the pod
// has an address of it or not: it may get one at any time, by a router's advertisement or from a second network. It
// fails where no address is one that others can reach.
func (f Families) plan(network Network, footprint Footprint, v4, v6, block Ruleset) (Plan, error) {
	p := Plan{Footprint: footprint, Listens: f.Listens, Notes: slices.Clone(f.Notes)}
	network = network.without(footprint.Loopback)
	if network.Addresses != nil && len(network.Global()) == 0 {
		return Plan{}, &InputError{Place: "pod addresses", Value: fmt.Sprint(network.Addresses),
			Problem: "no address that others can reach: did the CNI plugins finish?"}
	}
	if network.Addresses == nil {
		p.Notes = append(p.Notes, "the pod's addresses are not known yet: this is the plan for an IPv4 address")
	}
	routes := func(family Family) {
		if f.Routes != nil {
			p.Routes = append(p.Routes, f.Routes(family)...)
		}
	}
	routes(IPv4)
	p.V4 = v4
	if network.NoIPv6 {
		return p, nil
	}
	without := f.Without
	speaks := f.SpeaksIPv6 || f.OrAlone && network.onlyIPv6()
	if !speaks {
		p.OnlyIPv4 = f.Because
		if without == IPv6Block {
			p.V6 = block
		}
		if without == IPv6Block && p.V6.Empty() {
			without = IPv6Mesh // what is refused is what would be captured, and there is none
		}
		p.unspoken(network.ipv6(), f.Because, without)
	}
	switch {
	case speaks || without == IPv6Capture:
		routes(IPv6)
		p.V6 = v6
		if !network.NoIPv6OnLo {
			p.Loopback = f.Loopback
		}
	case without == IPv6Block && f.Unblocked != "":
		p.Notes = append(p.Notes, f.Unblocked)
	}
	return p, nil
}

// The chains of IPv6 that is to be refused. They are ours, whatever the mesh.
const (
	ChainBlockIn  = "MESHNETD_IPV6_IN"
	ChainBlockOut = "MESHNETD_IPV6_OUT"
	ChainBlockDNS = "MESHNETD_IPV6_DNS"
)

// Blocked is what is refused of one direction: TCP that meets one of Captured and none of Kept. It says why.
type Blocked struct{ Kept, Captured []Selection }

// Selection is some of the packets, all of them where it has no match.
type Selection struct {
	Why   string
	Match []Match
}

// Ranges selects the prefixes of a family, as few as there can be, each by itself; why is a format for one.
func Ranges(why string, prefixes []netip.Prefix, family Family, by func(netip.Prefix) Match) (all []Selection) {
	for _, prefix := range MergePrefixes(OfFamily(prefixes, family)) {
		all = append(all, Selection{fmt.Sprintf(why, prefix), []Match{by(prefix)}})
	}
	return all
}

// Block refuses the TCP connections over IPv6 that would be captured if the proxy spoke it. Where lookups by UDP are
// captured, those over IPv6 are refused too, but for the ones of lookupsKept: the proxy's at least, or none are captured.
// What stays in the pod, and connections that were let in or out before, are left alone.
func Block(out, in Blocked, lookupsKept ...Selection) Ruleset {
	var b Builder
	tcp, udp := Protocol(TCP), Protocol(UDP)
	out.write(&b, "OUTPUT", ChainBlockOut, OutInterface(loopback), RejectReset, tcp)
	in.write(&b, "INPUT", ChainBlockIn, InInterface(loopback), RejectReset, tcp)
	if len(lookupsKept) > 0 {
		lookups := Blocked{Kept: lookupsKept, Captured: []Selection{{Why: "lookups belong to the mesh"}}}
		lookups.write(&b, "OUTPUT", ChainBlockDNS, OutInterface(loopback), RejectPort, udp, DestinationPort(UDP, 53))
	}
	return b.Ruleset(IPv6)
}

func (x Blocked) write(b *Builder, hook, chain string, within Match, answer RejectWith, protocol Match, match ...Match) {
	const filter = "filter"
	if len(x.Captured) == 0 {
		return
	}
	b.Append(filter, hook, "IPv6 goes around the proxy", Jump(chain), append([]Match{protocol}, match...)...)
	kept := append([]Selection{{"what stays in the pod is the app's own business", []Match{within}},
		{"a connection that was let in or out before", []Match{InState(StateRelated | StateEstablished)}}}, x.Kept...)
	add := func(target Target, list []Selection) {
		for _, s := range list {
			match := slices.DeleteFunc(slices.Clone(s.Match), func(m Match) bool { return m == protocol })
			b.Append(filter, chain, s.Why, target, slices.Insert(match, 0, protocol)...)
		}
	}
	add(Return, kept)
	add(answer, x.Captured)
}

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
	IPv6Block   WithoutIPv6 = "block"   // reset, so that clients fall back to IPv4 at once
)

// Families makes the plan of a pod of both families for a mesh that has the same rules in either, and whose proxy
// speaks IPv4 in any case.
type Families struct {
	Redirect func(Family) Ruleset
	Block    func() Ruleset // of IPv6
	Loopback []netip.Prefix // IPv6 addresses on lo that Redirect needs

	SpeaksIPv6 bool
	Because    string // who says that it does not, such as `annotation consul.hashicorp.com/dual-stack is "false"`
	Without    WithoutIPv6
	Unblocked  string // what Block does not see, as a note; "" is nothing
	Notes      []string
}

// Plan returns the plan for a pod with these addresses. Nil addresses are unknown ones: the plan is then made for
// IPv4 and says so. It fails where no address is one that others can reach.
func (f Families) Plan(ips []netip.Addr, footprint Footprint) (Plan, error) {
	p := Plan{Footprint: footprint, Notes: slices.Clone(f.Notes)}
	global := reachable(ips)
	if ips != nil && len(global) == 0 {
		return Plan{}, &InputError{Place: "pod addresses", Value: fmt.Sprint(ips),
			Problem: "no address that others can reach: did the CNI plugins finish?"}
	}
	if ips == nil {
		p.Notes = append(p.Notes, "the pod's addresses are not known yet: this is the plan for an IPv4 address")
	}
	p.V4 = f.Redirect(IPv4)
	i := slices.IndexFunc(global, netip.Addr.Is6)
	if i < 0 {
		return p, nil
	}
	if !f.SpeaksIPv6 {
		p.Unspoken(global[i], f.Because, f.Without)
	}
	switch {
	case f.SpeaksIPv6 || f.Without == IPv6Capture:
		p.V6, p.Loopback = f.Redirect(IPv6), f.Loopback
	case f.Without == IPv6Block:
		p.V6 = f.Block()
		if f.Unblocked != "" {
			p.Notes = append(p.Notes, f.Unblocked)
		}
	}
	return p, nil
}

// reachable drops the addresses that no other host can reach.
func reachable(ips []netip.Addr) []netip.Addr {
	var global []netip.Addr
	for _, ip := range ips {
		ip = ip.Unmap().WithZone("")
		if !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
			global = append(global, ip)
		}
	}
	return global
}

// The chains of IPv6 that is to be reset. They are ours, whatever the mesh.
const (
	ChainBlockIn  = "MESHNETD_IPV6_IN"
	ChainBlockOut = "MESHNETD_IPV6_OUT"
)

// Blocked is what is reset of one direction: TCP that meets one of Captured and none of Kept. It says why.
type Blocked struct{ Kept, Captured []Selection }

// Selection is some of the packets, all of them where it has no match.
type Selection struct {
	Why   string
	Match []Match
}

// Block resets the TCP connections that would be captured if the proxy spoke the family. What stays in the pod, and
// connections that were let in or out before, are left alone.
func Block(family Family, out, in Blocked) Ruleset {
	var b Builder
	out.write(&b, "OUTPUT", ChainBlockOut, OutInterface(loopback))
	in.write(&b, "INPUT", ChainBlockIn, InInterface(loopback))
	return b.Ruleset(family)
}

func (x Blocked) write(b *Builder, hook, chain string, within Match) {
	const filter = "filter"
	tcp := Protocol(TCP)
	if len(x.Captured) == 0 {
		return
	}
	b.Append(filter, hook, "IPv6 goes around the proxy", Jump(chain), tcp)
	kept := append([]Selection{{"what stays in the pod is the app's own business", []Match{within}},
		{"a connection that was let in or out before", []Match{StateRelated | StateEstablished}}}, x.Kept...)
	for _, s := range kept {
		b.Append(filter, chain, s.Why, Return, append([]Match{tcp}, s.Match...)...)
	}
	for _, s := range x.Captured {
		b.Append(filter, chain, s.Why, RejectReset{}, append([]Match{tcp}, s.Match...)...)
	}
}

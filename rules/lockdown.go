// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Lockdown closes what goes around the proxy of pods in some namespaces, or counts it. A pod's packets have to pass every
// lockdown that matches its namespace. Its zero value closes nothing: each field closes something more, or opens a part of
// what another one closes.
type Lockdown struct {
	Namespaces []string // patterns of path.Match; none is every namespace
	Place      string   // in the configuration, as "FILE:LINE"
	Unmeshed   Unmeshed
	Raw        Raw
	Enforce    bool // else packets are counted only
	Drop       bool // packets are not answered

	UDP        LockedUDP
	DNSServers []netip.Addr // that lookups may go to
	ICMP       bool         // only errors pass, and what IPv6 needs of its neighbours
	Others     bool         // protocols besides TCP, UDP and ICMP

	Egress      bool   // TCP leaves the pod as the proxy's only
	ProxyEgress []Peer // where the proxy may send to; nil is anywhere
	Inbound     bool   // only what the proxy listens to arrives, and what the node itself sends by TCP
	Allow       []Peer // destinations that are open all the same
	Admit       []Peer // sources that may send to the port, whatever the proxy does

	LocalPorts []PortRange // TCP on loopback that is only for the proxy
	LocalRoot  bool        // and for root
}

// Unmeshed says what becomes of a pod that gets no rules in a namespace with a lockdown.
type Unmeshed string

// The ways to treat it; "" leaves it alone.
const (
	UnmeshedReport Unmeshed = "report"
	UnmeshedRefuse Unmeshed = "refuse"
)

// Raw says what becomes of a pod with a container, besides the proxy, that keeps NET_RAW, as far as the kubelet tells.
type Raw string

// The ways to treat it; "" leaves it alone.
const (
	RawReport Raw = "report"
	RawRefuse Raw = "refuse"
)

// LockedUDP says which UDP may leave the pod, besides the proxy's and what a listener of the pod takes.
type LockedUDP string

// The ways to treat it; "" is any.
const (
	UDPLookups LockedUDP = "dns"  // to DNSServers
	UDPNoQUIC  LockedUDP = "quic" // all but what QUIC would use in the place of TCP
	UDPNone    LockedUDP = "none"
)

// Peer is a port that can be reached at some addresses, or from some.
type Peer struct {
	Prefix   netip.Prefix
	Ports    PortRange
	Protocol string // TCP or UDP
}

// String returns the peer as ParsePeer reads it.
func (p Peer) String() string { return p.Prefix.String() + ":" + p.Ports.String() + "/" + p.Protocol }

// ParsePeer reads CIDR:PORT/PROTOCOL, where PORT may be a range.
func ParsePeer(text string) (p Peer, problem string) {
	wrong := func() (Peer, string) {
		return Peer{}, "not CIDR:PORT/PROTOCOL such as 10.0.0.0/8:443/tcp or fd00::/8:53/udp"
	}
	slash := strings.LastIndexByte(text, '/')
	colon := strings.LastIndexByte(text[:max(slash, 0)], ':')
	if colon < 0 {
		return wrong()
	}
	prefix, err := netip.ParsePrefix(text[:colon])
	ports, ok := ParsePortRange(text[colon+1 : slash])
	p = Peer{prefix, ports, text[slash+1:]}
	if err != nil || !ok || ports.First == 0 || p.Protocol != TCP && p.Protocol != UDP {
		return wrong()
	}
	if prefix != prefix.Masked() {
		return Peer{}, "not without host bits: write " + prefix.Masked().String()
	}
	return p, ""
}

// match returns what a packet to the peer meets, or from it.
func (p Peer) match(address Match, more ...Match) []Match {
	return append([]Match{Protocol(p.Protocol), address, ToPorts(p.Protocol, p.Ports)}, more...)
}

// Covers reports whether all of another peer is in this one.
func (p Peer) Covers(q Peer) bool {
	return p.Protocol == q.Protocol && p.Ports.First <= q.Ports.First && q.Ports.Last <= p.Ports.Last &&
		p.Prefix.Bits() <= q.Prefix.Bits() && p.Prefix.Contains(q.Prefix.Addr())
}

// Class says what a rule of a lockdown closes or counts.
type Class string

// The classes.
const (
	ClassUDP     Class = "udp"
	ClassICMP    Class = "icmp"
	ClassOther   Class = "other"   // protocols
	ClassEgress  Class = "egress"  // TCP that the proxy does not send
	ClassProxy   Class = "proxy"   // what the proxy sends to where ProxyEgress does not lead
	ClassInbound Class = "inbound" // what arrives and is not for the proxy
	ClassLocal   Class = "local"   // ports on loopback
	ClassInvalid Class = "invalid" // packets of no connection, such as a late reset: nobody misses them
)

// Classes returns all of them.
func Classes() []Class {
	return []Class{ClassUDP, ClassICMP, ClassOther, ClassEgress, ClassProxy, ClassInbound, ClassLocal, ClassInvalid}
}

// CountedMark is what the marks of connections have in common whose first packet was counted and let go; CountedMask has the
// bits that say so. No mesh marks connections with any of these.
const (
	CountedMark = 0x6d6e0000
	CountedMask = 0xffff0000
)

// mark is what connections are marked with.
func (c Class) mark() uint32 { return CountedMark | uint32(slices.Index(Classes(), c)) }

// ClassOf returns the class that a connection is marked with; false where it is none.
func ClassOf(mark uint32) (Class, bool) {
	all, i := Classes(), mark&^CountedMask
	if mark&CountedMask != CountedMark || i >= uint32(len(all)) {
		return "", false
	}
	return all[i], true
}

// LockdownTable is the table that lockdowns are in.
const LockdownTable = "filter"

// What the names of a lockdown's chains begin with, before its number among those of the pod and what the chain is for.
const (
	lockPrefix  = "MESHNETD_LOCK_"
	countPrefix = "MESHNETD_COUNT_"
)

// The chains besides those of classes.
const (
	lockedOut     = "OUT"
	lockedIn      = "IN"
	lockedForward = "FWD"
)

// isLockdown reports whether a chain is a lockdown's. These are ours, whatever the mesh and the configuration.
func isLockdown(chain string) bool {
	return strings.HasPrefix(chain, lockPrefix) || strings.HasPrefix(chain, countPrefix)
}

// Counter returns under which name the packets that a rule of a chain of LockdownTable ends or counts are known; "" where it does
// neither. What it asks for tells the class.
func (r Rule) Counter(chain string) string {
	switch r.Target.(type) {
	case SetConnMark, RejectWith:
	default:
		if r.Target != Target(Drop) {
			return ""
		}
	}
	number, what, found := lockOf(chain)
	if !found {
		return ""
	}
	asks := func(m Match) bool { return slices.Contains(r.Match, m) }
	class := ClassOther
	switch {
	case asks(InState(StateInvalid)):
		class = ClassInvalid
	case what == lockedIn:
		class = ClassInbound
	case asks(OutInterface(loopback)):
		class = ClassLocal
	case what == lockedOut && slices.ContainsFunc(r.Match, ofOne):
		class = ClassProxy
	case r.of(UDP):
		class = ClassUDP
	case r.of(TCP):
		class = ClassEgress
	case r.of(ICMP), r.of(ICMPv6):
		class = ClassICMP
	}
	return number + "_" + strings.ToUpper(string(class))
}

// ofOne reports whether a match is for what one user or group sends. In a lockdown that is the proxy.
func ofOne(m Match) bool {
	ids, owner := m.Value.(IDs)
	return owner && ids.First == ids.Last && !m.Not
}

// lockOf splits the name of a lockdown's chain, or of a counter.
func lockOf(chain string) (number, what string, found bool) {
	if !isLockdown(chain) {
		return "", "", false
	}
	i := strings.LastIndexByte(chain, '_')
	return chain[:i], chain[i+1:], true
}

// LockdownCounter says what is known under the name of a counter, and whether it was closed, too; false where it is none.
func LockdownCounter(name string) (class Class, enforced, found bool) {
	_, what, _ := lockOf(name)
	class = Class(strings.ToLower(what))
	return class, strings.HasPrefix(name, lockPrefix), slices.Contains(Classes(), class)
}

// LocksDown reports whether a rule of the plan counts for a lockdown.
func (p Plan) LocksDown() bool {
	return slices.ContainsFunc(p.Rulesets(), func(rs Ruleset) bool {
		return slices.ContainsFunc(rs.Table(LockdownTable).Chains, func(c Chain) bool {
			return slices.ContainsFunc(c.Rules, func(r Rule) bool { return r.Counter(c.Name) != "" })
		})
	})
}

// Locked returns the class of a lockdown that the packet met, the one that closes where several did; false where it met none.
func (p Path) Locked() (class Class, closed, found bool) {
	for _, s := range p.Steps {
		if c, enforced, ofClass := LockdownCounter(s.Rule.Counter(s.Chain)); ofClass && (!found || enforced) {
			class, closed, found = c, closed || enforced, true
		}
	}
	return class, closed, found
}

// Unlocked returns the plan without its lockdowns.
func (p Plan) Unlocked() Plan {
	p.V4, p.V6 = p.V4.unlocked(), p.V6.unlocked()
	return p
}

func (rs Ruleset) unlocked() Ruleset {
	b := Builder{}
	for r := range rs.All() {
		if to, jumps := r.Target.(Jump); !isLockdown(r.Chain) && (!jumps || !isLockdown(string(to))) {
			b.Append(r.Table, r.Chain, r.Why, r.Target, r.Match...)
		}
	}
	return b.Ruleset(rs.Family)
}

// LockdownsOf returns the lockdowns of a namespace, in the order of the configuration.
func (n Node) LockdownsOf(namespace string) (all []Lockdown) {
	for _, l := range n.Lockdowns {
		if len(l.Namespaces) == 0 || MatchesAny(l.Namespaces, namespace) {
			all = append(all, l)
		}
	}
	return all
}

// String names the lockdown.
func (l Lockdown) String() string { return "[[lockdown]] of " + l.Place }

// lockedDown returns the decision with a plan that has the namespace's lockdowns.
func (n Node) lockedDown(pod Pod, d Decision) Decision {
	all := n.LockdownsOf(pod.Namespace)
	planner := d.Planner
	if len(all) == 0 || planner == nil {
		return d
	}
	for _, l := range all {
		d.Account.step("locked down by " + l.String())
	}
	proxy, early := d.Proxy, d.early(pod)
	d.Planner = func(network Network) (Plan, error) {
		p, err := planner(network)
		if err != nil {
			return p, err
		}
		for i, l := range all {
			p.Notes = append(p.Notes, l.notes(p, proxy)...)
			if l.Enforce && l.Egress && len(early) > 0 {
				p.Notes = append(p.Notes, fmt.Sprintf("init container %s reaches nothing: it runs before the proxy does, and %s closes the rest (egress)", some(early), l))
			}
			p = lock{l, i, proxy, n.Addresses}.down(p, network)
		}
		return p, nil
	}
	return d
}

// rawSockets returns the strictest lockdown of the namespace about packet sockets, and whether it refuses pods for them.
func (n Node) rawSockets(namespace string) (strictest Lockdown, refuses bool) {
	for _, l := range n.LockdownsOf(namespace) {
		if l.Raw == RawRefuse {
			return l, true
		}
		if l.Raw != "" {
			strictest = l
		}
	}
	return strictest, false
}

// unmeshed returns the first lockdown of the namespace that treats pods without rules so.
func (n Node) unmeshed(namespace string, how Unmeshed) (l Lockdown, found bool) {
	all := n.LockdownsOf(namespace)
	i := slices.IndexFunc(all, func(l Lockdown) bool { return l.Unmeshed == how })
	if i < 0 {
		return Lockdown{}, false
	}
	return all[i], true
}

// notes says what the mesh lets go that the lockdown closes, and what nobody would expect of it.
func (l Lockdown) notes(p Plan, proxy Proxy) (notes []string) {
	if !l.Enforce {
		return nil
	}
	for _, d := range []struct {
		closes    bool
		direction direction
	}{{l.Egress, direction{name: "outbound", hook: "OUTPUT"}}, {l.Inbound, direction{name: "inbound", hook: "PREROUTING"}}} {
		if open := d.direction.excluded(p, proxy); d.closes && len(open) > 0 {
			notes = append(notes, fmt.Sprintf("%s closes what the mesh leaves alone %s, but for what its own keys allow: %s", l, d.direction.name, some(open)))
		}
	}
	if l.UDP == UDPLookups && len(l.DNSServers) == 0 && !p.answersLookups() {
		notes = append(notes, l.String()+" lets no lookup out: the pod's mesh captures none, and dns_servers names nobody")
	}
	if l.Egress && p.WithoutIPv6 == IPv6Mesh {
		notes = append(notes, l.String()+" lets IPv6 around the mesh only as the proxy's")
	}
	return notes
}

// some names the first few of a list, in a bounded number of bytes.
func some(all []string) string { return shortened(firstOf(all, "; "), longestProblem) }

// firstOf names the first few of a list, and how many more there are.
func firstOf(all []string, between string) string {
	if more := len(all) - mostNamed; more > 0 {
		all = append(slices.Clone(all[:mostNamed]), fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, between)
}

// excluded returns why rules of a direction let TCP go around the proxy, besides the proxy's own and what stays in the pod.
func (d direction) excluded(p Plan, proxy Proxy) (why []string) {
	nothing := CapturePolicy{Ranges: []netip.Prefix{}, Interfaces: []string{}, Users: []uint32{}, Groups: []uint32{}}
	if d.ports = []PortRange{}; d.hook == "PREROUTING" {
		d.ports = append(d.ports, p.Listens...)
	}
	for _, rs := range p.Rulesets() {
		d.walk(rs, func(r Rule, _ bool) {
			if d.letsGo(nothing, r, proxy) && !slices.Contains(why, r.Why) {
				why = append(why, r.Why)
			}
		})
	}
	return why
}

// answersLookups reports whether a listener of the pod takes lookups by UDP.
func (p Plan) answersLookups() (found bool) {
	nat := p.V4.Table("nat")
	nat.listeners("OUTPUT", nil, len(nat.Chains), func(r Rule, _ []Match) { found = found || r.of(UDP) })
	return found
}

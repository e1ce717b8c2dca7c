// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// lock writes the rules of one lockdown for one pod. In every chain, what may pass returns, and what comes to its end may too:
// the packet then meets the next lockdown.
type lock struct {
	Lockdown
	number int // among the pod's lockdowns
	proxy  Proxy
	node   []netip.Addr // from which the kubelet probes
}

// down returns the plan with the lockdown. What it shares with the plan stays as it is.
func (l lock) down(p Plan, network Network) Plan {
	p.V4 = l.ruleset(p.V4.of(IPv4), p.Listens)
	if !network.NoIPv6 {
		p.V6 = l.ruleset(p.V6.of(IPv6), p.Listens)
	}
	return p
}

// named returns the name of one of its chains.
func (l lock) named(what string) string {
	prefix := countPrefix
	if l.Enforce {
		prefix = lockPrefix
	}
	return prefix + strconv.Itoa(l.number) + "_" + strings.ToUpper(what)
}

func (l lock) ruleset(rs Ruleset, listens []PortRange) Ruleset {
	b := lockBuilder{lock: l, family: rs.Family, mesh: rs, listens: listens}
	for _, t := range rs.Tables {
		if t.Name == LockdownTable {
			t.Chains = slices.Clone(t.Chains)
			for i := range t.Chains {
				t.Chains[i].Rules = slices.Clip(t.Chains[i].Rules)
			}
		}
		b.tables = append(b.tables, t)
	}
	b.write()
	return b.Ruleset(rs.Family)
}

// lockBuilder writes the rules of one family.
type lockBuilder struct {
	lock
	Builder
	family  Family
	mesh    Ruleset // the rules that redirect
	listens []PortRange
}

func (b *lockBuilder) write() {
	if b.UDP != "" || b.ICMP || b.Others || b.Egress || len(b.LocalPorts) > 0 {
		b.out()
		if b.forwards() {
			b.begin(lockedForward, "FORWARD", "what leaves the pod from behind it")
			b.open(lockedForward)
			b.protocols(lockedForward)
		}
	}
	if b.Inbound {
		b.in()
	}
}

// unknown matches what belongs to no connection that was let in or out, and is no remains of one.
const unknown = StateNew | StateUntracked

// begin leads to a chain what belongs to no connection that was let in or out before, and meets the matches.
func (b *lockBuilder) begin(what, hook, why string, match ...Match) {
	b.Append(LockdownTable, hook, why+" meets "+b.String(), Jump(b.named(what)), append([]Match{InState(unknown | StateInvalid)}, match...)...)
}

func (b *lockBuilder) pass(what, why string, match ...Match) {
	b.Append(LockdownTable, b.named(what), why, Return, match...)
}

// refuse counts packets and ends them; in a lockdown that counts only, it marks their connections to tell where they go.
func (b *lockBuilder) refuse(what string, c Class, why string, match ...Match) {
	var target Target
	switch {
	case !b.Enforce:
		target = SetConnMark(c.mark())
	case b.Drop || c == ClassInvalid:
		target = Drop
	case c == ClassEgress || c == ClassLocal || c == ClassProxy && slices.Contains(match, Protocol(TCP)):
		target = RejectReset
	case c == ClassInbound: // an ICMP answer would belong to no connection itself
		b.Append(LockdownTable, b.named(what), why, RejectReset, append([]Match{Protocol(TCP)}, match...)...)
		target = Drop
	case b.family == IPv6:
		target = RejectPort
	default:
		target = RejectPort4
	}
	b.Append(LockdownTable, b.named(what), why, target, match...)
}

func (b *lockBuilder) icmp() string {
	if b.family == IPv6 {
		return ICMPv6
	}
	return ICMP
}

func (b *lockBuilder) out() {
	others, local := b.owners(true), []Match{OutInterface(loopback), Protocol(TCP)}
	if b.ProxyEgress == nil {
		b.begin(lockedOut, "OUTPUT", "what others than the proxy send", others...)
	} else {
		b.begin(lockedOut, "OUTPUT", "what leaves the pod")
		local = append(local, others...)
	}
	if b.LocalRoot {
		local = append(local, Not(OwnerUID(0)))
	}
	for _, ports := range PortLists(MergePorts(b.LocalPorts)) {
		b.refuse(lockedOut, ClassLocal, "a port on loopback that is the proxy's only", slices.Insert(slices.Clone(local), 2, ports)...)
	}
	if b.UDP == "" && !b.ICMP && !b.Others && !b.Egress {
		return
	}
	b.pass(lockedOut, "what stays in the pod", OutInterface(loopback))
	b.listenersOut()
	b.open(lockedOut)
	for _, proxy := range b.owners(false) {
		for _, peer := range b.ofFamily(b.ProxyEgress) {
			b.pass(lockedOut, "the proxy may reach "+peer.String(), peer.match(Destination(peer.Prefix), proxy)...)
		}
		if b.ProxyEgress != nil {
			b.refuseProxy(Protocol(TCP), proxy)
		}
		if b.ProxyEgress != nil && (b.UDP == UDPLookups || b.UDP == UDPNone) {
			b.refuseProxy(Protocol(UDP), proxy)
		}
	}
	b.protocols(lockedOut)
}

// refuseProxy refuses what the proxy sends elsewhere. What is counted only is not counted with what others send, too.
func (b *lockBuilder) refuseProxy(match ...Match) {
	match = append(match, InState(unknown))
	b.refuse(lockedOut, ClassProxy, "the proxy may reach nothing else", match...)
	if !b.Enforce {
		b.pass(lockedOut, "it was counted", match...)
	}
}

// owners matches what the proxy sends, each by itself, or all that others send.
func (b *lockBuilder) owners(not bool) []Match {
	all := []Match{NotIf(not, OwnerUID(b.proxy.UID))}
	if b.proxy.GID != NoID {
		all = append(all, NotIf(not, OwnerGID(b.proxy.GID)))
	}
	return all
}

// listenersOut lets pass what a rule of the mesh has taken: its destination is changed by now, but not the interface that
// rules see. Loopback itself is not let pass there: a socket that is bound to an interface sends to it by that interface.
func (b *lockBuilder) listenersOut() {
	self := Host(b.family.Loopback())
	type to struct {
		protocol string
		prefix   netip.Prefix
	}
	var order []to
	ports := map[to][]PortRange{}
	nat := b.mesh.Table("nat")
	nat.listeners("OUTPUT", nil, len(nat.Chains), func(r Rule, _ []Match) {
		for _, protocol := range []string{TCP, UDP} {
			listener, port := to{protocol, self}, PortRange{}
			switch t := r.Target.(type) {
			case Redirect:
				port = PortRange{t.Port, t.Port}
			case DNAT:
				listener.prefix, port = Host(t.To), PortRange{t.Port, t.Port}
				if t.Port == 0 {
					port = r.destination()
				}
			}
			if !r.of(protocol) || !b.closes(protocol, port) {
				continue
			}
			if ports[listener] == nil {
				order = append(order, listener)
			}
			ports[listener] = append(ports[listener], port)
		}
	})
	for _, listener := range order {
		for _, list := range PortLists(MergePorts(ports[listener])) {
			b.pass(lockedOut, "what the mesh has taken", Protocol(listener.protocol), Destination(listener.prefix), simplest(listener.protocol, list))
		}
	}
}

// closes reports whether anything refuses what others, or the proxy, send to some of the ports.
func (b *lockBuilder) closes(protocol string, ports PortRange) bool {
	switch {
	case protocol == TCP:
		return b.Egress || b.ProxyEgress != nil
	case b.UDP == UDPNoQUIC:
		return ports.Contains(80) || ports.Contains(443)
	}
	return b.UDP != ""
}

// simplest matches packets of a protocol to any of some ports.
func simplest(protocol string, ports Match) Match {
	if all := ports.Ports(); len(all) == 1 {
		return ToPorts(protocol, all[0])
	}
	return ports
}

// open lets pass what the lockdown's own keys do.
func (b *lockBuilder) open(what string) {
	for _, server := range b.DNSServers {
		host := Host(server)
		for _, protocol := range []string{UDP, TCP} {
			for _, peer := range b.ofFamily([]Peer{{host, PortRange{53, 53}, protocol}}) {
				b.pass(what, "a lookup at "+server.String(), peer.match(Destination(host))...)
			}
		}
	}
	for _, peer := range b.ofFamily(b.Allow) {
		b.pass(what, peer.String()+" is allowed", peer.match(Destination(peer.Prefix))...)
	}
}

func (b *lockBuilder) ofFamily(all []Peer) []Peer {
	return slices.DeleteFunc(slices.Clone(all), func(p Peer) bool { return FamilyOf(p.Prefix.Addr()) != b.family })
}

// protocols decides about what nothing let pass. What nobody in the pod sends of ICMP is the kernel's own: errors, also about
// connections of another zone, which are of none, neighbours and groups of IPv6.
func (b *lockBuilder) protocols(what string) {
	decided := map[string]bool{} // no packet comes further
	refuse := func(c Class, why string, p string, match ...Match) {
		b.refuse(what, c, why, append([]Match{Protocol(p)}, match...)...)
		decided[p] = b.Enforce && len(match) == 0
	}
	switch b.UDP {
	case UDPLookups, UDPNone:
		refuse(ClassUDP, "UDP goes around the proxy", UDP)
	case UDPNoQUIC:
		refuse(ClassUDP, "QUIC goes around the proxy, and falls back to TCP", UDP, ToAny(PortRange{80, 80}, PortRange{443, 443}))
	}
	if b.ICMP && what == lockedOut {
		refuse(ClassICMP, "ICMP that a program sends", b.icmp(), OwnerUIDs(0, NoID-1))
	} else if b.ICMP {
		refuse(ClassICMP, "ICMP besides errors", b.icmp())
	}
	if b.Egress {
		refuse(ClassInvalid, "it belongs to no connection, and begins none", TCP, InState(StateInvalid))
		refuse(ClassEgress, "TCP goes around the proxy", TCP, b.rest()...)
	}
	if b.Others {
		for _, p := range []string{UDP, b.icmp(), TCP} {
			if !decided[p] {
				b.pass(what, p+" was decided about", Protocol(p))
			}
		}
		b.refuse(what, ClassOther, "any other protocol goes around the proxy")
	}
}

// rest matches what is neither of a connection nor INVALID. Where INVALID was refused already, that is everything.
func (b *lockBuilder) rest() []Match {
	if b.Enforce {
		return nil
	}
	return []Match{InState(unknown)}
}

func (b *lockBuilder) in() {
	b.begin(lockedIn, "INPUT", "what arrives")
	b.pass(lockedIn, "what stays in the pod", InInterface(loopback))
	for _, ports := range PortLists(MergePorts(append(b.listenersIn(), b.listens...))) {
		b.pass(lockedIn, "the mesh has taken it, or the proxy listens there itself", Protocol(TCP), simplest(TCP, ports))
	}
	for _, address := range b.node {
		if FamilyOf(address) == b.family {
			b.pass(lockedIn, "the kubelet probes from the node's own address", Protocol(TCP), Source(Host(address)))
		}
	}
	for _, peer := range b.ofFamily(b.Admit) {
		b.pass(lockedIn, peer.String()+" is admitted", peer.match(Source(peer.Prefix))...)
	}
	// Errors about connections of another zone are of no connection either; what asks for something begins one.
	b.pass(lockedIn, "errors, and what IPv6 needs of its neighbours", Protocol(b.icmp()), InState(StateInvalid|StateUntracked))
	if !b.ICMP {
		b.pass(lockedIn, "ICMP is open", Protocol(b.icmp()))
	}
	b.refuse(lockedIn, ClassInvalid, "it belongs to no connection, and begins none", InState(StateInvalid))
	b.refuse(lockedIn, ClassInbound, "it goes around the proxy", b.rest()...)
}

// listenersIn returns the ports to which a rule of the mesh redirects, and lets pass what it has taken otherwise: by an
// interface, or by TPROXY's mark.
func (b *lockBuilder) listenersIn() (ports []PortRange) {
	var all [][]Match
	pass := func(why string, match ...Match) {
		if slices.ContainsFunc(all, func(known []Match) bool { return slices.Equal(known, match) }) {
			return
		}
		all = append(all, match)
		b.pass(lockedIn, "what the mesh has taken: "+why, match...)
	}
	for _, name := range []string{"nat", "mangle"} {
		t := b.mesh.Table(name)
		t.listeners("PREROUTING", nil, len(t.Chains), func(r Rule, by []Match) {
			switch to := r.Target.(type) {
			case Redirect:
				if len(by) == 0 {
					ports = append(ports, PortRange{to.Port, to.Port})
				} else {
					pass(r.Why, append(slices.Clip(by), Protocol(TCP), DestinationPort(TCP, to.Port))...)
				}
			case TProxy:
				pass(r.Why, append(slices.Clip(by), Protocol(TCP), PacketMark(to.Mark))...)
			}
		})
	}
	return ports
}

// forwards reports whether the pod may be the router of something behind one of its interfaces: rules of the mesh treat one
// apart.
func (b *lockBuilder) forwards() (found bool) {
	prerouting, _ := b.mesh.Table("nat").Chain("PREROUTING")
	return slices.ContainsFunc(prerouting.Rules, func(r Rule) bool {
		return len(r.On(FieldIn)) > 0
	})
}

// listeners visits the rules that hand packets of a hook to a listener, with the interface that the way there asks for.
func (t Table) listeners(chain string, by []Match, depth int, visit func(r Rule, by []Match)) {
	c, _ := t.Chain(chain)
	for _, r := range c.Rules {
		by := by
		if in := r.On(FieldIn); len(in) > 0 {
			by = in[len(in)-1:]
		}
		switch to := r.Target.(type) {
		case Jump:
			if depth > 0 {
				t.listeners(string(to), by, depth-1, visit)
			}
		case Redirect, DNAT, TProxy:
			visit(r, by)
		}
	}
}

// of reports whether the rule is for a protocol, which rules that change ports have to name.
func (r Rule) of(protocol string) bool { return slices.Contains(r.Match, Protocol(protocol)) }

// destination returns the port that the rule asks for; all ports where it asks for none.
func (r Rule) destination() PortRange {
	for _, m := range r.On(FieldDestinationPort) {
		if !m.Not {
			return m.Ports()[0]
		}
	}
	return PortRange{1, 65535}
}

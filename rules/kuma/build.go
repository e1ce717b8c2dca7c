// SPDX-License-Identifier: Apache-2.0

package kuma

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

const (
	nat        = "nat"
	raw        = "raw"
	mangle     = "mangle"
	prerouting = "PREROUTING"
	output     = "OUTPUT"
	lo         = "lo"
)

var tcp, udp = rules.Protocol(rules.TCP), rules.Protocol(rules.UDP)

func (in *Intent) families() rules.Families {
	return rules.Families{
		Redirect: in.redirect, Block: in.block, Loopback: []netip.Prefix{passthrough6},
		SpeaksIPv6: !in.IPv4Only, Because: "ipFamilyMode in annotation " + KeyConfig + " is ipv4", Without: in.WithoutIPv6,
		Listens: rules.Ports([]uint16{probes}), Unblocked: in.unblocked(), Notes: in.notes,
	}
}

func (in Intent) unblocked() string {
	var names []string
	for _, n := range in.Networks {
		if n.Prefix.Addr().Is6() {
			names = append(names, n.Interface)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "IPv6 from behind " + strings.Join(names, ", ") + " is forwarded, not reset"
}

// builder writes the rules of one family.
type builder struct {
	Intent
	rules.Builder
	family      rules.Family
	passthrough netip.Prefix
}

// add gives each rule a comment that begins as Kuma's do; what follows there are our words.
func (b *builder) add(table, chain, comment, why string, target rules.Target, match ...rules.Match) {
	b.Append(table, chain, why, target, append(match, rules.Comment(commentPrefix+comment))...)
}

// redirect writes all rules, in the order in which packets are to meet them.
func (in *Intent) redirect(family rules.Family) rules.Ruleset {
	b := builder{Intent: *in, family: family, passthrough: passthrough4}
	if family == rules.IPv6 {
		b.passthrough = passthrough6
	}
	if in.DropInvalid {
		b.add(mangle, prerouting, "invalid", "a packet outside its connection's window would escape translation and reset the connection",
			rules.Drop, rules.InState(rules.StateInvalid))
	}
	b.networks()
	b.inbound()
	b.users()
	if in.DNSCapture {
		b.lookups()
	}
	b.outbound()
	if in.DNSCapture && !in.DNSOneZone {
		b.zones()
	}
	return b.Ruleset(family)
}

// networks treats what containers or virtual machines in the pod send as the pod's own outbound traffic. If lookups
// are not captured, Kuma sends theirs to a port where nobody listens; here they are left alone.
func (b *builder) networks() {
	for _, n := range b.Networks {
		if rules.FamilyOf(n.Prefix.Addr()) != b.family {
			continue
		}
		if b.DNSCapture {
			b.add(nat, prerouting, "network-lookups", "lookups from behind "+n.Interface+" go to the proxy", rules.Redirect{Port: b.DNSPort},
				rules.InInterface(n.Interface), udp, lookup(rules.UDP))
		}
		b.add(nat, prerouting, "network", "what comes from behind "+n.Interface+" is outbound traffic", rules.Redirect{Port: b.Outbound.Port},
			rules.Not(rules.Destination(n.Prefix)), rules.InInterface(n.Interface), tcp)
	}
}

func lookup(protocol string) rules.Match { return rules.DestinationPort(protocol, 53) }

func (b *builder) inbound() {
	b.add(nat, prerouting, "inbound", "what arrives by TCP is inbound traffic", rules.Jump(chainInbound), tcp)
	b.add(nat, chainInRedirect, "to-proxy", "to the proxy's inbound listener", rules.Redirect{Port: b.Inbound.Port}, tcp)
	if !b.Inbound.Enabled {
		b.add(nat, chainInbound, "off", "inbound traffic is not captured", rules.Return, tcp)
		return
	}
	for _, s := range b.inboundKept(b.family) {
		b.add(nat, chainInbound, "excluded", s.Why, rules.Return, s.Match...)
	}
	for _, s := range b.Inbound.captured() {
		b.add(nat, chainInbound, "captured", s.Why, rules.Jump(chainInRedirect), append([]rules.Match{tcp}, s.Match...)...)
	}
}

// captured has one selection for each port, or one for all.
func (d Direction) captured() (all []rules.Selection) {
	for _, ports := range rules.MergePorts(rules.Ports(d.Include)) {
		all = append(all, rules.Selection{Why: fmt.Sprintf("port %s is captured", ports), Match: []rules.Match{to(ports)}})
	}
	if len(d.Include) == 0 {
		all = []rules.Selection{{Why: "everything else is captured"}}
	}
	return all
}

func to(ports rules.PortRange) rules.Match { return rules.ToPorts(rules.TCP, ports) }

func (in Intent) inboundKept(family rules.Family) []rules.Selection {
	return append(rules.Ranges("source %s is excluded", in.Inbound.RangeExclude, family, rules.Source), in.Inbound.portsKept()...)
}

func (in Intent) outboundKept(family rules.Family) []rules.Selection {
	return append(rules.Ranges("range %s is excluded", in.Outbound.RangeExclude, family, rules.Destination), in.Outbound.portsKept()...)
}

func (d Direction) portsKept() (kept []rules.Selection) {
	if len(d.Include) > 0 {
		return nil
	}
	for _, ports := range rules.MergePorts(rules.Ports(d.Exclude)) {
		kept = append(kept, rules.Selection{Why: fmt.Sprintf("port %s is excluded", ports), Match: []rules.Match{tcp, to(ports)}})
	}
	return kept
}

// users exempts what some users send to some ports, lookups included.
func (b *builder) users() {
	for _, u := range distinct(b.Users) {
		b.add(nat, output, "user", u.why(), rules.Return, append([]rules.Match{rules.Protocol(u.Protocol)}, u.match()...)...)
	}
}

// distinct returns users without repetitions.
func distinct(users []User) []User {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(users), func(u User) bool {
		twice := seen[u.String()]
		seen[u.String()] = true
		return twice
	})
}

func (u User) match() []rules.Match {
	return []rules.Match{rules.ToAny(u.Ports...), rules.OwnerUIDs(u.First, u.Last)}
}

func (u User) why() string {
	if u.First == u.Last {
		return fmt.Sprintf("user %d is excluded", u.First)
	}
	return fmt.Sprintf("users %d to %d are excluded", u.First, u.Last)
}

// lookups go to the proxy by UDP only.
func (b *builder) lookups() {
	proxy := rules.OwnerUID(b.UID)
	b.add(nat, output, "lookups-of-proxy", "the proxy asks the name servers itself", rules.Return, udp, lookup(rules.UDP), proxy)
	b.add(nat, output, "lookups", "name lookups go to the proxy", rules.Redirect{Port: b.DNSPort}, udp, lookup(rules.UDP))
	b.add(nat, output, "lookups-by-tcp", "the proxy answers no lookups by TCP", rules.Return, tcp, lookup(rules.TCP), rules.Not(rules.OwnerUID(b.UID)))
}

func (b *builder) outbound() {
	proxy, others := rules.OwnerUID(b.UID), rules.Not(rules.OwnerUID(b.UID))
	toLo := rules.OutInterface(lo)
	b.add(nat, output, "outbound", "what the pod sends by TCP is outbound traffic", rules.Jump(chainOutbound), tcp)
	b.add(nat, chainOutRedirect, "to-proxy", "to the proxy's outbound listener", rules.Redirect{Port: b.Outbound.Port}, tcp)
	if !b.Outbound.Enabled {
		b.add(nat, chainOutbound, "off", "outbound traffic is not captured", rules.Return, tcp)
		return
	}
	for _, s := range b.outboundKept(b.family) {
		b.add(nat, chainOutbound, "excluded", s.Why, rules.Return, s.Match...)
	}
	b.add(nat, chainOutbound, "passed-on", "the proxy passes an inbound connection on to the app", rules.Return, rules.Source(b.passthrough), toLo)
	b.add(nat, chainOutbound, "own-service", "the proxy calls its own pod by a service address: inbound rules apply", rules.Jump(chainInRedirect),
		rules.Not(rules.Destination(rules.Host(b.family.Loopback()))), toLo, tcp, proxy)
	b.add(nat, chainOutbound, "own-pod", "the app calls its own pod: not the proxy's business", rules.Return, toLo, tcp, others)
	b.add(nat, chainOutbound, "of-proxy", "the proxy's own traffic never comes back to it", rules.Return, proxy)
	b.add(nat, chainOutbound, "loopback", "what stays on loopback is the app's own business", rules.Return, rules.Destination(rules.Host(b.family.Loopback())))
	for _, s := range b.Outbound.captured() {
		match := s.Match
		if len(match) > 0 {
			match = append([]rules.Match{tcp}, match...)
		}
		b.add(nat, chainOutbound, "captured", s.Why, rules.Jump(chainOutRedirect), match...)
	}
}

// The zones that keep the proxy's lookups apart from those of the app.
const (
	zoneProxy = 1
	zoneApp   = 2
)

// zones keeps lookups with the same addresses and ports apart.
func (b *builder) zones() {
	proxy := rules.OwnerUID(b.UID)
	b.add(raw, prerouting, "zone-of-proxy", "a name server answers the proxy", rules.CTZone(zoneProxy), udp, rules.SourcePort(rules.UDP, 53))
	b.add(raw, output, "zone-of-proxy", "the proxy asks", rules.CTZone(zoneProxy), udp, lookup(rules.UDP), proxy)
	b.add(raw, output, "zone-of-app", "the proxy answers the app", rules.CTZone(zoneApp), udp, rules.SourcePort(rules.UDP, b.DNSPort), proxy)
	b.add(raw, output, "zone-of-app", "the app asks", rules.CTZone(zoneApp), udp, lookup(rules.UDP))
}

// block refuses IPv6 where redirect would have captured it.
func (in *Intent) block() rules.Ruleset {
	var out, into rules.Blocked
	proxys := rules.Selection{Why: "the proxy's own traffic", Match: []rules.Match{rules.OwnerUID(in.UID)}}
	if in.Outbound.Enabled {
		out.Kept = in.usersKept(rules.TCP)
		if in.DNSCapture {
			out.Kept = append(out.Kept, rules.Selection{Why: "the proxy answers no lookups by TCP", Match: []rules.Match{lookup(rules.TCP)}})
		}
		out.Kept = append(append(out.Kept, in.outboundKept(rules.IPv6)...),
			proxys)
		out.Captured = in.Outbound.captured()
	}
	if in.Inbound.Enabled {
		into = rules.Blocked{Kept: in.inboundKept(rules.IPv6), Captured: in.Inbound.captured()}
	}
	var lookupsKept []rules.Selection
	if in.DNSCapture {
		lookupsKept = append(in.usersKept(rules.UDP), proxys)
	}
	return rules.Block(out, into, lookupsKept...)
}

func (in Intent) usersKept(protocol string) (kept []rules.Selection) {
	for _, u := range distinct(in.Users) {
		if u.Protocol == protocol {
			kept = append(kept, rules.Selection{Why: u.why(), Match: u.match()})
		}
	}
	return kept
}

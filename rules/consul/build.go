// SPDX-License-Identifier: Apache-2.0

package consul

import (
	"fmt"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

const (
	nat        = "nat"
	prerouting = "PREROUTING"
	output     = "OUTPUT"
)

var tcp = rules.Protocol(rules.TCP)

func (in *Intent) families() rules.Families {
	return rules.Families{
		Redirect: in.redirect, Block: in.block,
		SpeaksIPv6: in.DualStack, Because: "annotation " + keyDualStack + ` is not "true"`, Without: in.WithoutIPv6,
	}
}

// redirect writes all rules, in the order in which packets are to meet them. Consul inserts each exclusion
// before the earlier ones, so that the last of a list comes first.
func (in *Intent) redirect(family rules.Family) rules.Ruleset {
	var b rules.Builder
	in.lookups(&b, family)
	b.Append(nat, output, "what the pod sends by TCP is outbound traffic", rules.Jump(chainOutput), tcp)
	for _, s := range in.outboundKept(family) {
		b.Append(nat, chainOutput, s.Why, rules.Return, s.Match...)
	}
	b.Append(nat, chainOutput, "what stays on loopback is the app's own business", rules.Return, rules.Destination(rules.Host(family.Loopback())))
	b.Append(nat, chainOutput, "everything else is captured", rules.Jump(chainRedirect))
	b.Append(nat, chainRedirect, "to the proxy's outbound listener", rules.Redirect{Port: in.OutboundPort}, tcp)

	b.Append(nat, prerouting, "what arrives by TCP is inbound traffic", rules.Jump(chainInbound), tcp)
	for _, s := range in.inboundKept() {
		b.Append(nat, chainInbound, s.Why, rules.Return, s.Match...)
	}
	b.Append(nat, chainInbound, "every other port is captured", rules.Jump(chainInRedirect), tcp)
	b.Append(nat, chainInRedirect, "to the proxy's inbound listener", rules.Redirect{Port: in.InboundPort}, tcp)
	return b.Ruleset(family)
}

// lookups redirects lookups to Consul's DNS; in a dual-stack pod, IPv6 ones only.
func (in Intent) lookups(b *rules.Builder, family rules.Family) {
	asked, isAddress := in.DNSAddress, in.DNSAddress.IsValid()
	if in.DualStack != (family == rules.IPv6) || !isAddress && in.DNSPort == 0 {
		return
	}
	if !isAddress {
		asked = family.Loopback()
	}
	for _, protocol := range []string{rules.UDP, rules.TCP} {
		match := []rules.Match{rules.Protocol(protocol), rules.DestinationPort(protocol, 53)}
		why := "name lookups go to Consul"
		if in.DNSPort != 0 {
			match = append(match, rules.Destination(rules.Host(asked)))
			why = "name lookups at Consul's address go to its port"
		}
		b.Append(nat, output, why, rules.Jump(chainDNS), match...)
		b.Append(nat, chainDNS, why, rules.DNAT{To: asked, Port: in.DNSPort}, match...)
	}
}

// outboundKept is what goes around the proxy.
func (in Intent) outboundKept(family rules.Family) []rules.Selection {
	var kept []rules.Selection
	for _, uid := range slices.Backward(rules.Unique(in.UIDsExclude)) {
		kept = append(kept, rules.Selection{Why: fmt.Sprintf("user %d is excluded", uid), Match: []rules.Match{rules.OwnerUID(uid)}})
	}
	for _, s := range slices.Backward(rules.Ranges("range %s is excluded", in.RangesExclude, family, rules.Destination)) {
		kept = append(kept, s)
	}
	kept = append(kept, keptPorts("outbound", in.OutboundExclude)...)
	return append(kept, rules.Selection{Why: "the proxy's own traffic never comes back to it", Match: []rules.Match{rules.OwnerUID(in.UID)}})
}

func (in Intent) inboundKept() []rules.Selection { return keptPorts("inbound", in.InboundExclude) }

// keptPorts has one rule for each port, as Consul has. A range is multiport's, where Consul writes --dport 8080:8090:
// versions of iptables differ in what they make of that.
func keptPorts(direction string, ports []rules.PortRange) (kept []rules.Selection) {
	for _, r := range slices.Backward(rules.MergePorts(ports)) {
		kept = append(kept, rules.Selection{Why: direction + " port " + r.String() + " is excluded", Match: []rules.Match{tcp, rules.ToPorts(rules.TCP, r)}})
	}
	return kept
}

// block refuses IPv6 where redirect would have captured it. Consul captures lookups of the proxy, too: there it answers them.
func (in *Intent) block() rules.Ruleset {
	var lookupsKept []rules.Selection
	if in.DNSAddress.IsValid() && in.DNSPort == 0 { // lookups to any server are captured
		lookupsKept = []rules.Selection{{Why: "the proxy's own traffic", Match: []rules.Match{rules.OwnerUID(in.UID)}}}
	}
	return rules.Block(
		rules.Blocked{Kept: in.outboundKept(rules.IPv6), Captured: []rules.Selection{{Why: "everything else belongs to the mesh"}}},
		rules.Blocked{Kept: in.inboundKept(), Captured: []rules.Selection{{Why: "every other port belongs to the mesh"}}},
		lookupsKept...)
}

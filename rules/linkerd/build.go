// SPDX-License-Identifier: Apache-2.0

package linkerd

import (
	"fmt"

	"github.com/meshnetd/meshnetd/rules"
)

const (
	nat        = "nat"
	prerouting = "PREROUTING"
	output     = "OUTPUT"
	lo         = "lo"
)

var tcp = rules.Protocol(rules.TCP)

func (in *Intent) families() rules.Families {
	return rules.Families{
		Redirect: in.redirect, Block: in.block,
		SpeaksIPv6: in.ProxyIPv6, Without: in.WithoutIPv6,
		Because: "linkerd.proxy_ipv6 is false in the node's configuration, as disableIPv6 is true by Linkerd's default",
		Listens: rules.Ports([]uint16{in.AdminPort, in.ControlPort}), Notes: in.notes,
	}
}

// builder writes rules with the comments that Linkerd gives them.
type builder struct{ rules.Builder }

func (b *builder) add(chain, comment, why string, target rules.Target, match ...rules.Match) {
	b.Append(nat, chain, why, target, append(match, rules.Comment("proxy-init/"+comment))...)
}

// redirect writes all rules, in the order in which packets are to meet them.
func (in *Intent) redirect(family rules.Family) rules.Ruleset {
	var b builder
	b.add(prerouting, "install-proxy-init-prerouting", "what arrives may be inbound traffic", rules.Jump(chainRedirect))
	b.add(output, "install-proxy-init-output", "what the pod sends may be outbound traffic", rules.Jump(chainOutput))
	in.outbound(&b)
	in.inbound(&b, family)
	return b.Ruleset(family)
}

func (in Intent) outbound(b *builder) {
	b.add(chainOutput, "ignore-proxy-user-id", "the proxy's own traffic never comes back to it", rules.Return, rules.OwnerUID(in.UID))
	if in.GID != 0 {
		b.add(chainOutput, "ignore-proxy-group-id", "the proxy's own traffic never comes back to it", rules.Return, rules.OwnerGID(in.GID))
	}
	b.add(chainOutput, "ignore-loopback", "what stays in the pod is not the proxy's business", rules.Return, rules.OutInterface(lo))
	b.skip(chainOutput, "outbound", in.outboundSkips())
	b.add(chainOutput, "redirect-all-outgoing-to-proxy-port", "everything else goes to the proxy's outbound listener",
		rules.Redirect{Port: in.OutboundPort}, tcp)
}

func (in Intent) inbound(b *builder, family rules.Family) {
	b.skip(chainRedirect, "inbound", in.inboundSkips())
	for _, prefix := range rules.MergePrefixes(rules.OfFamily(in.SkipSources, family)) { // Linkerd's plugin fails on one of the other family
		b.add(chainRedirect, "ignore-subnet-"+prefix.String(), "source "+prefix.String()+" is skipped", rules.Return, rules.Source(prefix))
	}
	for _, port := range in.RedirectPorts {
		b.add(chainRedirect, fmt.Sprintf("redirect-port-%d-to-proxy-port", port), fmt.Sprintf("port %d goes to the proxy's inbound listener", port),
			rules.Redirect{Port: in.InboundPort}, tcp, rules.DestinationPort(rules.TCP, port))
	}
	if len(in.RedirectPorts) == 0 {
		b.add(chainRedirect, "redirect-all-incoming-to-proxy-port", "everything else goes to the proxy's inbound listener",
			rules.Redirect{Port: in.InboundPort}, tcp)
	}
}

// skip leaves ports alone, in as few rules as possible.
func (b *builder) skip(chain, direction string, ports []rules.PortRange) {
	for _, part := range rules.PortLists(rules.MergePorts(ports)) {
		list := fmt.Sprint(part.Value)
		b.add(chain, "ignore-port-"+list, direction+" ports "+list+" are skipped", rules.Return, tcp, part)
	}
}

// block refuses IPv6 where redirect would have captured it.
func (in *Intent) block() rules.Ruleset {
	skipped := func(direction string, ports []rules.PortRange) (kept []rules.Selection) {
		for _, part := range rules.PortLists(rules.MergePorts(ports)) {
			kept = append(kept, rules.Selection{Why: direction + " ports are skipped", Match: []rules.Match{part}})
		}
		return kept
	}
	out := rules.Blocked{
		Kept:     append(skipped("outbound", in.outboundSkips()), rules.Selection{Why: "the proxy's own traffic", Match: []rules.Match{rules.OwnerUID(in.UID)}}),
		Captured: []rules.Selection{{Why: "everything else belongs to the mesh"}},
	}
	if in.GID != 0 {
		out.Kept = append(out.Kept, rules.Selection{Why: "the proxy's own traffic", Match: []rules.Match{rules.OwnerGID(in.GID)}})
	}
	into := rules.Blocked{Kept: append(skipped("inbound", in.inboundSkips()), rules.Ranges("source %s is skipped", in.SkipSources, rules.IPv6, rules.Source)...)}
	for _, port := range in.RedirectPorts {
		into.Captured = append(into.Captured, rules.Selection{Why: fmt.Sprintf("port %d belongs to the mesh", port),
			Match: []rules.Match{rules.DestinationPort(rules.TCP, port)}})
	}
	if len(in.RedirectPorts) == 0 {
		into.Captured = []rules.Selection{{Why: "every other port belongs to the mesh"}}
	}
	return rules.Block(out, into)
}

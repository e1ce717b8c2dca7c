// SPDX-License-Identifier: Apache-2.0

package linkerd

import (
	"fmt"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

const (
	configured  = "linkerd." // what the keys of the node's configuration begin with
	becauseIPv6 = configured + "proxy_ipv6 is false in the node's configuration, as disableIPv6 is true by Linkerd's default"
)

// Explain implements rules.Explainer.
func (m Mesh) Explain(pod rules.Pod) rules.Decision {
	var steps account.Steps
	d := m.decide(pod, &steps)
	d.Account = &rules.Account{Steps: steps.All()}
	if intent, ok := d.Intent.(Intent); ok {
		d.Account.Settings = account.Settings(intent, m.sources(pod))
	}
	return d
}

// sources says where each setting is from.
func (m Mesh) sources(pod rules.Pod) account.Sources {
	s := account.Sources{
		Given: map[string]string{},
		Keys: map[string]string{
			"inboundPort": "inbound_port", "outboundPort": "outbound_port", "controlPort": "control_port", "adminPort": "admin_port",
			"proxyUID": "proxy_uid", "proxyGID": "proxy_gid", "inboundPortsSkipped": "skip_inbound", "outboundPortsSkipped": "skip_outbound",
			"apiServerPorts": "api_server", "inboundPorts": "redirect_ports", "proxyIPv6": "proxy_ipv6", "ipv6": "ipv6",
		},
		Empty: map[string]string{"proxyGID": "none", "inboundPorts": "all"},
	}
	for name, key := range s.Keys {
		s.Keys[name] = configured + key
	}
	for name, key := range map[string]string{"inboundPort": keyInboundPort, "outboundPort": keyOutboundPort, "controlPort": keyControlPort,
		"adminPort": keyAdminPort, "proxyUID": keyUID, "proxyGID": keyGID, "inboundPortsSkipped": keySkipInbound,
		"outboundPortsSkipped": keySkipOutbound, "inboundSourcesSkipped": keySkipSubnets} {
		if pod.Annotations[key] != "" {
			s.Given[name] = "annotation " + key
		}
	}
	if s.Given["inboundPortsSkipped"] != "" && len(m.Defaults.SkipInbound) > 0 {
		s.Given["inboundPortsSkipped"] += ", added to " + s.Keys["inboundPortsSkipped"]
	}
	if _, own := pod.Labels[labelComponent]; !own {
		s.Given["apiServerPorts"] = "no label " + labelComponent
	}
	return s
}

// Gaps implements rules.GapReporter.
func (in Intent) Gaps(plan rules.Plan, interfaces []rules.Interface) []rules.Gap {
	g := gaps{in: in, Gaps: account.Gaps{Plan: plan, Interfaces: interfaces, UID: in.UID, GID: in.GID}}
	if in.GID == 0 {
		g.GID = rules.NoID
	}
	g.Ports = append(in.inboundSkips(), in.outboundSkips()...)
	for _, port := range append([]uint16{in.InboundPort, in.OutboundPort}, in.RedirectPorts...) {
		g.Ports = append(g.Ports, rules.PortRange{First: port, Last: port})
	}
	g.Ranges = in.SkipSources
	g.WithoutIPv6(becauseIPv6)
	g.otherProtocols()
	g.outbound()
	g.withinThePod()
	g.inbound()
	return g.All()
}

type gaps struct {
	in Intent
	account.Gaps
}

func (g *gaps) otherProtocols() {
	g.Add(g.Sent(g.Family(), rules.UDP, g.Outside(g.Family()), 53), func(p rules.Packet) bool { return p.Protocol == rules.UDP },
		"UDP, ICMP and SCTP, in and out, name lookups over UDP among them: the rules redirect TCP")
}

func (g *gaps) outbound() {
	sent := func(port uint16) rules.Packet { return g.Sent(g.Family(), rules.TCP, g.Outside(g.Family()), port) }
	skips := func(ports []rules.PortRange, why string) {
		for _, r := range ports {
			g.Add(sent(account.PortOf(r)), func(p rules.Packet) bool { return account.Out(p) && account.TCP(p) && account.To(p, r) },
				"outbound TCP to port %s: %s", r, why)
		}
	}
	skips(g.in.SkipOutbound, "skipped")
	skips(g.in.APIServer, "Kubernetes' API, to which the control plane goes without a proxy")
	p, who := sent(g.FreePort()), fmt.Sprintf("user %d", g.UID)
	p.UID = g.UID
	if g.GID != rules.NoID {
		who += fmt.Sprintf(" or group %d", g.GID)
	}
	g.Add(p, g.Proxys, "what %s sends: that is the proxy, and whatever else runs so goes around it", who)
}

func (g *gaps) withinThePod() {
	for _, family := range g.Families() {
		loopback := account.Loopback(family)
		g.Add(g.Sent(family, rules.TCP, loopback, g.FreePort()), func(p rules.Packet) bool { return g.Stays(p) && p.Family() == family },
			"what is sent within the pod, to %s and to the pod's own addresses", loopback)
	}
}

func (g *gaps) inbound() {
	arriving := func(p rules.Packet) bool { return !account.Out(p) && account.TCP(p) }
	family := g.Family()
	at := func(port uint16) rules.Packet { return g.Arrives(family, rules.TCP, g.Own(family), port) }
	for i, r := range g.in.inboundSkips() {
		why := []string{"the proxy's admin port, where probes and metrics are", "the proxy's control port", "skipped"}[min(i, 2)]
		g.Add(at(account.PortOf(r)), func(p rules.Packet) bool { return arriving(p) && account.To(p, r) }, "inbound TCP to port %s: %s", r, why)
	}
	for _, prefix := range g.in.SkipSources {
		if p, some := g.ArrivesFrom(prefix); some {
			g.Add(p, func(p rules.Packet) bool { return arriving(p) && prefix.Contains(p.Source.Addr()) }, "inbound TCP from %s: skipped", prefix)
		}
	}
	if len(g.in.RedirectPorts) > 0 {
		g.Add(at(g.FreePort(g.in.RedirectPorts...)), func(p rules.Packet) bool {
			return arriving(p) && !slices.Contains(g.in.RedirectPorts, p.Destination.Port())
		},
			"inbound TCP to any other port than %s", account.List(g.in.RedirectPorts))
	}
}

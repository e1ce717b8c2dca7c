// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

func peer(t *testing.T, text string) rules.Peer {
	t.Helper()
	p, problem := rules.ParsePeer(text)
	if problem != "" || p.String() != text {
		t.Fatalf("%s: %s, %s", text, p, problem)
	}
	return p
}

// whole is a lockdown of everything.
func whole(t *testing.T) rules.Lockdown {
	t.Helper()
	return rules.Lockdown{Place: "m.toml:7", Enforce: true, UDP: rules.UDPLookups, DNSServers: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::a")},
		ICMP: true, Others: true, Egress: true, Inbound: true, LocalPorts: []rules.PortRange{{First: 15000, Last: 15000}, {First: 15004, Last: 15004}},
		Allow: []rules.Peer{peer(t, "10.1.0.5/32:8125/udp")}, Admit: []rules.Peer{peer(t, "10.0.0.0/8:9090/tcp")}}
}

func lockedPlan(t *testing.T, pod rules.Pod, all ...rules.Lockdown) rules.Plan {
	t.Helper()
	n := governed()
	n.Lockdowns, n.Addresses = all, []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")}
	d := n.Decide(pod)
	if d.Action != rules.Enrol {
		t.Fatalf("%s: %s", d.Reason, d.Detail)
	}
	plan, err := d.Planner(rules.Network{Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00::7")}})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// The rules of a lockdown, one that counts behind one that is enforced, and what the plan says of the pod's own exclusions.
func TestLockdownRules(t *testing.T) {
	quic := rules.Lockdown{Place: "m.toml:30", UDP: rules.UDPNoQUIC, Drop: true}
	pod := annotated("traffic.sidecar.istio.io/excludeOutboundPorts", "5432", "traffic.sidecar.istio.io/excludeInboundPorts", "22,15020",
		"traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.5.0.0/16")
	plan := lockedPlan(t, pod, whole(t), quic)
	var text strings.Builder
	for _, rs := range plan.Rulesets() {
		for _, c := range rs.Table(rules.LockdownTable).Chains {
			for i, r := range c.Rules {
				fmt.Fprintf(&text, "%s %s %d: %s\n    %s\n", rs.Family, c.Name, i+1, r, r.Why)
			}
		}
	}
	for _, note := range plan.Notes {
		fmt.Fprintln(&text, note)
	}
	golden.Check(t, "lockdown.golden", text.String())
}

// What becomes of packets by a lockdown of everything, and that one which counts changes nothing.
func TestLockdownTrace(t *testing.T) {
	interfaces := []rules.Interface{{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.7")}}}
	pod := annotated("traffic.sidecar.istio.io/excludeOutboundPorts", "5432", "traffic.sidecar.istio.io/excludeInboundPorts", "22")
	out := func(protocol, to string, uid uint32) rules.Packet {
		return rules.Packet{Protocol: protocol, Source: netip.MustParseAddrPort("10.244.1.7:40000"), Destination: netip.MustParseAddrPort(to), Out: "eth0", Socket: true, UID: uid, GID: uid}
	}
	in := func(protocol, from, to string) rules.Packet {
		return rules.Packet{Direction: rules.Inbound, In: "eth0", Protocol: protocol, Source: netip.MustParseAddrPort(from), Destination: netip.MustParseAddrPort(to)}
	}
	inState := func(p rules.Packet, state rules.CTState) rules.Packet {
		p.State = state
		return p
	}
	local := func(to string, uid uint32) rules.Packet {
		p := out(rules.TCP, to, uid)
		p.Source = netip.MustParseAddrPort("127.0.0.1:40000")
		return p
	}
	for name, tt := range map[string]struct {
		packet rules.Packet
		want   rules.EndKind
		class  rules.Class // that counts it; "" is none
	}{
		"tcp":                       {out(rules.TCP, "10.0.0.5:443", 1000), rules.Redirected, ""},
		"tcp of the proxy":          {out(rules.TCP, "10.0.0.5:443", 1337), rules.Leaves, ""},
		"excluded tcp":              {out(rules.TCP, "10.0.0.5:5432", 1000), rules.Refused, rules.ClassEgress},
		"excluded tcp of the proxy": {out(rules.TCP, "10.0.0.5:5432", 1337), rules.Leaves, ""},
		"excluded tcp of before":    {inState(out(rules.TCP, "10.0.0.5:5432", 1000), rules.StateEstablished), rules.Leaves, ""},
		"a late segment":            {inState(out(rules.TCP, "10.0.0.5:5432", 1000), rules.StateInvalid), rules.Dropped, rules.ClassInvalid},
		"quic":                      {out(rules.UDP, "10.0.0.5:443", 1000), rules.Refused, rules.ClassUDP},
		"quic of root":              {out(rules.UDP, "10.0.0.5:443", 0), rules.Refused, rules.ClassUDP},
		"quic of the proxy":         {out(rules.UDP, "10.0.0.5:443", 1337), rules.Leaves, ""},
		"a lookup":                  {out(rules.UDP, "10.96.0.10:53", 1000), rules.Leaves, ""},
		"a lookup elsewhere":        {out(rules.UDP, "10.96.0.11:53", 1000), rules.Refused, rules.ClassUDP},
		"allowed":                   {out(rules.UDP, "10.1.0.5:8125", 1000), rules.Leaves, ""},
		"allowed for udp only":      {out(rules.TCP, "10.1.0.5:8125", 1000), rules.Redirected, ""},
		"ping":                      {out(rules.ICMP, "10.0.0.5:0", 1000), rules.Refused, rules.ClassICMP},
		"an error":                  {inState(out(rules.ICMP, "10.0.0.5:0", 1000), rules.StateRelated), rules.Leaves, ""},
		"a forged error":            {inState(out(rules.ICMP, "10.0.0.5:0", 1000), rules.StateInvalid), rules.Refused, rules.ClassICMP},
		"sctp":                      {out("sctp", "10.0.0.5:0", 1000), rules.Refused, rules.ClassOther},
		"sctp of the proxy":         {out("sctp", "10.0.0.5:0", 1337), rules.Leaves, ""},
		"admin port":                {local("127.0.0.1:15000", 1000), rules.Refused, rules.ClassLocal},
		"admin port by its address": {out(rules.TCP, "10.244.1.7:15000", 1000), rules.Refused, rules.ClassLocal},
		"admin port of root":        {local("127.0.0.1:15000", 0), rules.Refused, rules.ClassLocal},
		"admin port of the proxy":   {local("127.0.0.1:15000", 1337), rules.Delivered, ""},
		"another local port":        {local("127.0.0.1:8080", 1000), rules.Delivered, ""},
		"loopback by an interface":  {local("127.0.0.1:8080", 1000), rules.Delivered, ""},

		"in":                        {in(rules.TCP, "10.0.0.5:40000", "10.244.1.7:8080"), rules.Redirected, ""},
		"in, excluded":              {in(rules.TCP, "10.0.0.5:40000", "10.244.1.7:22"), rules.Refused, rules.ClassInbound},
		"in, the agent's":           {in(rules.TCP, "10.0.0.5:40000", "10.244.1.7:15021"), rules.Delivered, ""},
		"in, excluded, by the node": {in(rules.TCP, "192.0.2.9:40000", "10.244.1.7:22"), rules.Delivered, ""},
		"in, udp, by the node":      {in(rules.UDP, "192.0.2.9:40000", "10.244.1.7:22"), rules.Dropped, rules.ClassInbound},
		"in, udp":                   {in(rules.UDP, "10.0.0.5:40000", "10.244.1.7:8080"), rules.Dropped, rules.ClassInbound},
		"in, an answer":             {inState(in(rules.UDP, "10.96.0.10:53", "10.244.1.7:40000"), rules.StateEstablished), rules.Delivered, ""},
		"in, ping":                  {in(rules.ICMP, "10.0.0.5:0", "10.244.1.7:0"), rules.Dropped, rules.ClassInbound},
		"in, an error":              {inState(in(rules.ICMP, "10.0.0.5:0", "10.244.1.7:0"), rules.StateRelated), rules.Delivered, ""},
		"in, an error of a zone":    {inState(in(rules.ICMP, "10.0.0.5:0", "10.244.1.7:0"), rules.StateInvalid), rules.Delivered, ""},
		"in, a late segment":        {inState(in(rules.TCP, "10.0.0.5:40000", "10.244.1.7:8080"), rules.StateInvalid), rules.Dropped, rules.ClassInvalid},
		"in, sctp":                  {in("sctp", "10.0.0.5:0", "10.244.1.7:0"), rules.Dropped, rules.ClassInbound},
	} {
		t.Run(name, func(t *testing.T) {
			counting := whole(t)
			counting.Enforce = false
			open, err := effect.Trace(lockedPlan(t, pod), tt.packet, interfaces)
			if err != nil {
				t.Fatal(err)
			}
			for mode, l := range map[string]rules.Lockdown{"enforced": whole(t), "counted": counting} {
				path, err := effect.Trace(lockedPlan(t, pod, l), tt.packet, interfaces)
				if err != nil {
					t.Fatal(err)
				}
				want := tt.want
				if !l.Enforce {
					want = open.End.Kind
				}
				if class, _, _ := path.Locked(); path.End.Kind != want || class != tt.class {
					t.Errorf("%s, want %s counted as %q, is as %q:\n%s", mode, want, tt.class, class, path)
				}
			}
		})
	}
}

// No rule of a lockdown that is enforced can be left out without some
// packet ending elsewhere or being counted elsewhere.
func TestLockdownNeedsEachRule(t *testing.T) {
	interfaces := []rules.Interface{{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00::7")}}}
	l := whole(t)
	plan := lockedPlan(t, annotated("traffic.sidecar.istio.io/excludeOutboundPorts", "5432", "traffic.sidecar.istio.io/excludeInboundPorts", "22"), l)
	packets := lockdownPackets()
	tracer := effect.NewTracer(plan, interfaces)
	type fate struct {
		end   rules.EndKind
		class rules.Class
	}
	of := func(tracer *effect.Tracer, p rules.Packet) fate {
		path, err := tracer.Trace(p)
		if err != nil {
			t.Fatal(err)
		}
		class, _, _ := path.Locked()
		return fate{path.End.Kind, class}
	}
	fates := make([]fate, len(packets))
	for i, p := range packets {
		fates[i] = of(tracer, p)
	}
	for _, chain := range plan.V4.Table(rules.LockdownTable).Chains {
		try := func(what string, now []rules.Rule) {
			changed := plan
			changed.V4.Tables = slices.Clone(plan.V4.Tables)
			for i, table := range changed.V4.Tables {
				if table.Name == rules.LockdownTable {
					changed.V4.Tables[i].Chains = slices.Clone(table.Chains)
					at := slices.IndexFunc(table.Chains, func(c rules.Chain) bool { return c.Name == chain.Name })
					changed.V4.Tables[i].Chains[at].Rules = now
				}
			}
			other := effect.NewTracer(changed, interfaces)
			for i, p := range packets {
				if of(other, p) != fates[i] {
					return
				}
			}
			t.Errorf("%s: no packet tells that %s", chain.Name, what)
		}
		for i, r := range chain.Rules {
			try("this is left out: "+r.String(), slices.Delete(slices.Clone(chain.Rules), i, i+1))
		}
	}
}

// lockdownPackets are IPv4 packets of all that a lockdown asks for.
func lockdownPackets() (all []rules.Packet) {
	states := []rules.CTState{rules.StateNew, rules.StateEstablished, rules.StateInvalid, rules.StateUntracked}
	for _, protocol := range []string{rules.TCP, rules.UDP, rules.ICMP, "132"} {
		for _, state := range states {
			for _, port := range []string{"53", "443", "5432", "8125", "9090", "22", "15000", "15006", "15020"} {
				for _, host := range []string{"10.96.0.10", "10.1.0.5", "192.0.2.9", "203.0.113.5", "127.0.0.1"} {
					there := netip.MustParseAddrPort(host + ":" + port)
					p := rules.Packet{Protocol: protocol, State: state, Source: netip.MustParseAddrPort("10.244.1.7:40000"), Destination: there, Out: "eth0"}
					if host == "127.0.0.1" {
						p.Source = netip.MustParseAddrPort("127.0.0.1:40000")
					} else {
						all = append(all, rules.Packet{Direction: rules.Inbound, In: "eth0", Protocol: protocol, State: state,
							Source: netip.AddrPortFrom(there.Addr(), 40000), Destination: netip.AddrPortFrom(p.Source.Addr(), there.Port())})
					}
					all = append(all, p)
					for _, uid := range []uint32{0, 1000, 1337} {
						owned := p
						owned.Socket, owned.UID, owned.GID = true, uid, uid
						all = append(all, owned)
					}
				}
			}
		}
	}
	return all
}

// Of a namespace's lockdowns, every one counts; no other namespace's does.
func TestLockdownsAddUp(t *testing.T) {
	n := governed()
	n.Lockdowns = []rules.Lockdown{{Namespaces: []string{"team-*"}, UDP: rules.UDPNone, Place: "a"}, {UDP: rules.UDPNoQUIC, Place: "b"}}
	if here, there := n.LockdownsOf("team-a"), n.LockdownsOf("shop"); len(here) != 2 || len(there) != 1 || there[0].Place != "b" {
		t.Errorf("%v, %v", here, there)
	}
}

// A pod without a mesh is refused where a lockdown says so, whatever keeps it out.
func TestUnmeshed(t *testing.T) {
	n := governed()
	pods := map[string]rules.Pod{"no mesh": {Namespace: "shop"}, "switched off": {Namespace: "shop", Labels: map[string]string{"sidecar.istio.io/inject": "false"}},
		"the node's network": {Namespace: "shop", HostNetwork: true}}
	for name, pod := range pods {
		for unmeshed, want := range map[rules.Unmeshed]rules.Action{"": rules.Skip, rules.UnmeshedReport: rules.Skip, rules.UnmeshedRefuse: rules.Reject} {
			n.Lockdowns = []rules.Lockdown{{Namespaces: []string{"shop"}, Unmeshed: unmeshed, Place: "m.toml:7"}}
			if d := n.Decide(pod); d.Action != want || want == rules.Reject && (d.Reason != rules.ReasonUnmeshed || !strings.Contains(d.Detail, "m.toml:7")) {
				t.Errorf("%s, %q: %s, %s", name, unmeshed, d.Reason, d.Detail)
			} else if reports := unmeshed == rules.UnmeshedReport; reports != strings.Contains(d.Unmeshed, "m.toml:7") {
				t.Errorf("%s, %q: says %q", name, unmeshed, d.Unmeshed)
			}
			elsewhere := pod
			elsewhere.Namespace = "other"
			if d := n.Decide(elsewhere); d.Action != rules.Skip {
				t.Errorf("%s, %q, in another namespace: %s", name, unmeshed, d.Detail)
			}
		}
	}
}

// Without its lockdowns a plan is what it would be where there are none.
func TestUnlocked(t *testing.T) {
	pod := annotated("traffic.sidecar.istio.io/excludeOutboundPorts", "5432")
	got, want := lockedPlan(t, pod, whole(t), rules.Lockdown{UDP: rules.UDPNone}), lockedPlan(t, pod)
	if !got.LocksDown() || want.LocksDown() || got.Unlocked().Key() != want.Key() || got.Key() == want.Key() {
		t.Errorf("%v\n%v", got.Unlocked().V4, want.V4)
	}
}

// The plan names the init containers that a lockdown leaves nothing to reach, and those alone: not where it only counts.
func TestInitContainersBehindALockdown(t *testing.T) {
	pod := running(annotated(), rules.Container{Name: "migrate", Phase: rules.PhaseInit})
	counting := whole(t)
	counting.Enforce = false
	for name, l := range map[string]rules.Lockdown{"enforced": whole(t), "counted": counting, "open": {UDP: rules.UDPNone, Enforce: true}} {
		notes := strings.Join(lockedPlan(t, pod, l).Notes, "\n")
		if named := strings.Contains(notes, "init container migrate reaches nothing: it runs before the proxy does, and [[lockdown]] of m.toml:7 closes the rest (egress)"); named != (name == "enforced") {
			t.Errorf("%s: %s", name, notes)
		}
	}
}

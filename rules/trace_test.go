// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// traced is a plan of one family whose tables are written as "table chain: rule" lines.
func traced(t *testing.T, family rules.Family, lines ...string) rules.Plan {
	t.Helper()
	rs := rules.Ruleset{Family: family}
	for _, line := range lines {
		place, text, _ := strings.Cut(line, ": ")
		table, chain, ok := strings.Cut(place, " ")
		if !ok {
			t.Fatalf("%q is no rule", line)
		}
		rs = appended(rs, table, chain, rules.ParseRule(text))
	}
	if family == rules.IPv6 {
		return rules.Plan{V6: rs}
	}
	return rules.Plan{V4: rs}
}

func appended(rs rules.Ruleset, table, chain string, r rules.Rule) rules.Ruleset {
	for i := range rs.Tables {
		if rs.Tables[i].Name != table {
			continue
		}
		for j := range rs.Tables[i].Chains {
			if c := &rs.Tables[i].Chains[j]; c.Name == chain {
				c.Rules = append(c.Rules, r)
				return rs
			}
		}
		rs.Tables[i].Chains = append(rs.Tables[i].Chains, rules.Chain{Name: chain, Rules: []rules.Rule{r}})
		return rs
	}
	rs.Tables = append(rs.Tables, rules.Table{Name: table, Chains: []rules.Chain{{Name: chain, Rules: []rules.Rule{r}}}})
	return rs
}

var podInterfaces = []rules.Interface{
	{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("10.244.1.8"),
		netip.MustParseAddr("fe80::7"), netip.MustParseAddr("fd00::7"), netip.MustParseAddr("fd00::8")}},
	{Name: "net1"},
	{Name: "net2", Addresses: []netip.Addr{netip.MustParseAddr("fe80::2")}},
}

// sentTo is the first packet of a connection that an app opens, toPod of one that comes in by eth0.
func sentTo(dst string, edits ...func(*rules.Packet)) rules.Packet {
	p := rules.Packet{Protocol: rules.TCP, Source: netip.MustParseAddrPort("10.244.1.7:40000"), Destination: netip.MustParseAddrPort(dst),
		Out: "eth0", Socket: true, UID: 1000, GID: 1000}
	if p.Destination.Addr().Is6() {
		p.Source = netip.MustParseAddrPort("[fd00::7]:40000")
	}
	return edited(p, edits)
}

func toPod(dst string, edits ...func(*rules.Packet)) rules.Packet {
	p := rules.Packet{Direction: rules.Inbound, Protocol: rules.TCP, Source: netip.MustParseAddrPort("192.0.2.9:50000"),
		Destination: netip.MustParseAddrPort(dst), In: "eth0"}
	if p.Destination.Addr().Is6() {
		p.Source = netip.MustParseAddrPort("[2001:db8::9]:50000")
	}
	return edited(p, edits)
}

func edited(p rules.Packet, edits []func(*rules.Packet)) rules.Packet {
	for _, edit := range edits {
		edit(&p)
	}
	return p
}

func udp(p *rules.Packet)                       { p.Protocol = rules.UDP }
func noSocket(p *rules.Packet)                  { p.Socket, p.UID, p.GID = false, 0, 0 }
func state(s rules.CTState) func(*rules.Packet) { return func(p *rules.Packet) { p.State = s } }
func from(addr string) func(*rules.Packet) {
	return func(p *rules.Packet) { p.Source = netip.MustParseAddrPort(addr) }
}
func marked(mark uint32) func(*rules.Packet)     { return func(p *rules.Packet) { p.Mark = mark } }
func connMarked(mark uint32) func(*rules.Packet) { return func(p *rules.Packet) { p.ConnMark = mark } }
func transparent(p *rules.Packet)                { p.Transparent = true }
func by(name string) func(*rules.Packet)         { return func(p *rules.Packet) { p.In, p.Out = name, name } }
func owned(uid, gid uint32) func(*rules.Packet) {
	return func(p *rules.Packet) { p.UID, p.GID = uid, gid }
}

const (
	established = rules.StateEstablished
	markRoute   = 7 // the plans of this file route packets with this mark to the pod
)

// What the kernel does with a packet, one fact after the other. Each end is as End prints it, with the zone
// and the connection's mark behind it where there are any.
func TestTraceEnds(t *testing.T) {
	const outside, own = "198.51.100.1:80", "10.244.1.7:80"
	toProxy := "REDIRECT --to-ports 15001"
	tproxy := "TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x7/0xffffffff"
	save := "CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"
	restore := "CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"
	for _, tt := range []struct {
		name   string
		rules  []string
		packet rules.Packet
		want   string
	}{
		{"no rules, outbound", nil, sentTo(outside), "leaves for 198.51.100.1:80 by eth0"},
		{"no rules, by another interface", nil, sentTo(outside, by("net1")), "leaves for 198.51.100.1:80 by net1"},
		{"no rules, to itself", nil, sentTo(own), "delivered to 10.244.1.7:80"},
		{"no rules, by loopback", nil, sentTo("127.9.9.9:80"), "delivered to 127.9.9.9:80"},
		{"no rules, IPv6 loopback", nil, sentTo("[::1]:80"), "delivered to [::1]:80"},
		{"no rules, inbound", nil, toPod(own), "delivered to 10.244.1.7:80"},
		{"no rules, for somebody behind the pod", nil, toPod(outside), "leaves for 198.51.100.1:80, forwarded"},
		{"no rules, forwarded by", nil, edited(toPod(outside), []func(*rules.Packet){func(p *rules.Packet) { p.Out = "net1" }}), "leaves for 198.51.100.1:80 by net1"},

		{"redirect sends to loopback", []string{"nat OUTPUT: -j " + toProxy}, sentTo(outside), "redirected to port 15001, original destination 198.51.100.1:80"},
		{"redirect of IPv6", []string{"nat OUTPUT: -j " + toProxy}, sentTo("[2001:db8::1]:80"), "redirected to port 15001, original destination [2001:db8::1]:80"},
		{"redirect where it arrives", []string{"nat PREROUTING: -j " + toProxy}, toPod("10.244.1.8:80"), "redirected to port 15001, original destination 10.244.1.8:80"},
		{"redirect of what is not the pod's", []string{"nat PREROUTING: -j " + toProxy}, toPod(outside), "redirected to port 15001, original destination 198.51.100.1:80"},
		{"redirect by an interface without address", []string{"nat PREROUTING: -j " + toProxy}, toPod(outside, by("net1")), "dropped"},
		{"nat is asked of first packets", []string{"nat OUTPUT: -j " + toProxy}, sentTo(outside, state(established)), "leaves for 198.51.100.1:80 by eth0"},
		{"related ones are first packets", []string{"nat OUTPUT: -j " + toProxy}, sentTo(outside, state(rules.StateRelated)), "redirected to port 15001, original destination 198.51.100.1:80"},
		{"invalid ones have no connection", []string{"nat OUTPUT: -j " + toProxy}, sentTo(outside, state(rules.StateInvalid)), "leaves for 198.51.100.1:80 by eth0"},
		{"nor have untracked ones", []string{"nat PREROUTING: -j " + toProxy}, toPod(own, state(rules.StateUntracked)), "delivered to 10.244.1.7:80"},
		{"nat is asked once: by lo not again", []string{"nat PREROUTING: -j " + toProxy}, sentTo(own), "delivered to 10.244.1.7:80"},
		{"nor of the source", []string{"nat INPUT: -j DROP"}, sentTo(own), "delivered to 10.244.1.7:80"},
		{"the source is asked about at INPUT", []string{"nat INPUT: -j DROP"}, toPod(own), "dropped"},
		{"and at POSTROUTING", []string{"nat POSTROUTING: -o eth0 -j DROP"}, sentTo(outside), "dropped"},
		{"mangle is asked again by lo", []string{"mangle PREROUTING: -i lo -j DROP"}, sentTo(own), "dropped"},
		{"and after a redirect", []string{"nat OUTPUT: -j " + toProxy, "mangle PREROUTING: -d 127.0.0.1/32 -i lo -p tcp -m tcp --dport 15001 -j DROP"}, sentTo(outside), "dropped"},

		{"OUTPUT has no interface that it came by", []string{"filter OUTPUT: -i lo -j DROP"}, sentTo(own), "delivered to 10.244.1.7:80"},
		{"INPUT none that it leaves by", []string{"filter INPUT: -o lo -j DROP"}, sentTo(own), "delivered to 10.244.1.7:80"},
		{"filter sees the interface of before the redirect", []string{"nat OUTPUT: -j " + toProxy, "filter OUTPUT: -d 127.0.0.1/32 -o eth0 -j DROP"}, sentTo(outside), "dropped"},
		{"POSTROUTING sees that of after it", []string{"nat OUTPUT: -j " + toProxy, "mangle POSTROUTING: -d 127.0.0.1/32 -o lo -j DROP"}, sentTo(outside), "dropped"},
		{"an interface that begins so", []string{"filter OUTPUT: -o eth+ -j DROP"}, sentTo(outside), "dropped"},
		{"and one that does not", []string{"filter OUTPUT: -o net+ -j DROP"}, sentTo(outside), "leaves for 198.51.100.1:80 by eth0"},

		{"return from a chain goes on", []string{"nat OUTPUT: -j A", "nat A: -p tcp -j RETURN", "nat A: -j DROP", "nat OUTPUT: -j " + toProxy}, sentTo(outside), "redirected to port 15001, original destination 198.51.100.1:80"},
		{"return from a built-in chain accepts", []string{"nat OUTPUT: -p tcp -j RETURN", "nat OUTPUT: -j DROP"}, sentTo(outside), "leaves for 198.51.100.1:80 by eth0"},
		{"the end of a chain goes on", []string{"nat OUTPUT: -j A", "nat A: -p udp -j DROP", "nat OUTPUT: -j DROP"}, sentTo(outside), "dropped"},
		{"accept in a chain ends the table", []string{"nat OUTPUT: -j A", "nat A: -j ACCEPT", "nat OUTPUT: -j DROP"}, sentTo(outside), "leaves for 198.51.100.1:80 by eth0"},
		{"but not the next table", []string{"mangle OUTPUT: -j ACCEPT", "filter OUTPUT: -j DROP"}, sentTo(outside), "dropped"},
		{"nothing comes after drop", []string{"mangle OUTPUT: -j DROP", "nat OUTPUT: -j " + toProxy}, sentTo(outside), "dropped"},
		{"raw is before mangle", []string{"mangle OUTPUT: -j DROP", "raw OUTPUT: -j DROP"}, sentTo(outside), "dropped"},
		{"reset", []string{"filter OUTPUT: -p tcp -j REJECT --reject-with tcp-reset"}, sentTo(outside), "refused"},
		{"reset where it arrives", []string{"filter INPUT: -p tcp -j REJECT --reject-with tcp-reset"}, toPod(own), "refused"},
		{"reset of what is forwarded", []string{"filter FORWARD: -i eth0 -p tcp -j REJECT --reject-with tcp-reset"}, toPod(outside), "refused"},
		{"what is forwarded does not come in", []string{"filter INPUT: -j DROP"}, toPod(outside), "leaves for 198.51.100.1:80, forwarded"},

		{"the owner", []string{"filter OUTPUT: -m owner --uid-owner 5 -m owner --gid-owner 6 -j DROP"}, sentTo(outside, owned(5, 6)), "dropped"},
		{"the group is another", []string{"filter OUTPUT: -m owner --uid-owner 5 -m owner --gid-owner 6 -j DROP"}, sentTo(outside, owned(5, 7)), "leaves for 198.51.100.1:80 by eth0"},
		{"nobody is no owner, not root either", []string{"filter OUTPUT: -m owner --uid-owner 0 -j DROP"}, sentTo(outside, noSocket), "leaves for 198.51.100.1:80 by eth0"},
		{"nobody is not that owner", []string{"filter OUTPUT: -m owner ! --uid-owner 0 -m owner ! --gid-owner 0 -j DROP"}, sentTo(outside, noSocket), "dropped"},
		{"the owner is known at POSTROUTING", []string{"mangle POSTROUTING: -m owner --uid-owner 1000 -j DROP"}, sentTo(outside), "dropped"},
		{"a port of TCP is none of UDP", []string{"filter OUTPUT: -p tcp -m tcp --dport 80 -j DROP"}, sentTo(outside, udp), "leaves for 198.51.100.1:80 by eth0"},
		{"nor another one", []string{"filter OUTPUT: -p tcp -m tcp ! --dport 81 -j DROP"}, sentTo(outside, udp), "leaves for 198.51.100.1:80 by eth0"},
		{"another port", []string{"filter OUTPUT: -p tcp -m tcp ! --dport 81 -j DROP"}, sentTo(outside), "dropped"},
		{"not that port", []string{"filter OUTPUT: -p tcp -m tcp ! --dport 80 -j DROP"}, sentTo(outside), "leaves for 198.51.100.1:80 by eth0"},
		{"the source port", []string{"filter OUTPUT: -p tcp -m tcp --sport 40000 -j DROP"}, sentTo(outside), "dropped"},
		{"none of the ports", []string{"filter OUTPUT: -p tcp -m multiport ! --dports 53,81 -j DROP"}, sentTo(outside), "dropped"},
		{"one of the ports", []string{"filter OUTPUT: -p tcp -m multiport ! --dports 53,80 -j DROP"}, sentTo(outside), "leaves for 198.51.100.1:80 by eth0"},
		{"the source", []string{"filter INPUT: -s 192.0.2.0/24 -j DROP"}, toPod(own), "dropped"},
		{"another source", []string{"filter INPUT: -s 192.0.3.0/24 -j DROP"}, toPod(own), "delivered to 10.244.1.7:80"},
		{"anywhere", []string{"filter INPUT: -d 0.0.0.0/0 -j DROP"}, toPod(own), "dropped"},
		{"anywhere, of whatever family", []string{"filter INPUT: -s ::/0 -j DROP"}, toPod(own), "dropped"},
		{"anywhere else", []string{"filter OUTPUT: ! -d 198.51.100.0/24 -j DROP"}, sentTo(outside), "leaves for 198.51.100.1:80 by eth0"},

		{"the state", []string{"mangle PREROUTING: -m conntrack --ctstate INVALID -j DROP"}, toPod(own, state(rules.StateInvalid)), "dropped"},
		{"one of the states", []string{"mangle PREROUTING: -m conntrack --ctstate RELATED,ESTABLISHED -j DROP"}, toPod(own, state(established)), "dropped"},
		{"another state", []string{"mangle PREROUTING: -m conntrack --ctstate RELATED,ESTABLISHED -j DROP"}, toPod(own), "delivered to 10.244.1.7:80"},
		{"raw knows no state", []string{"raw PREROUTING: -m conntrack --ctstate NEW,ESTABLISHED -j DROP"}, toPod(own), "delivered to 10.244.1.7:80"},
		{"but by lo", []string{"raw PREROUTING: -m conntrack --ctstate NEW -j DROP"}, sentTo(own), "dropped"},
		{"nor the connection's mark", []string{"raw OUTPUT: -m connmark --mark 0x0 -j DROP"}, sentTo(outside), "leaves for 198.51.100.1:80 by eth0"},

		{"a mark is routed by", []string{"mangle OUTPUT: -j MARK --set-xmark 0x7/0xffffffff"}, sentTo(outside), "delivered to 198.51.100.1:80"},
		{"another is not", []string{"mangle OUTPUT: -j MARK --set-xmark 0x8/0xffffffff"}, sentTo(outside), "leaves for 198.51.100.1:80 by eth0"},
		{"a mark of the socket", nil, sentTo(outside, marked(markRoute)), "delivered to 198.51.100.1:80"},
		{"a route of the other family", nil, sentTo("[2001:db8::1]:80", marked(markRoute)), "leaves for [2001:db8::1]:80 by eth0"},
		{"that is taken off", []string{"mangle OUTPUT: -o lo -m mark --mark 0x7 -j MARK --set-xmark 0x0/0xffffffff"}, sentTo(outside, marked(markRoute)), "leaves for 198.51.100.1:80 by eth0"},
		{"of raw nothing is routed again", []string{"raw OUTPUT: -j MARK --set-xmark 0x7/0xffffffff"}, sentTo(outside), "leaves for 198.51.100.1:80 by eth0"},
		{"a mark where it arrives", []string{"mangle PREROUTING: -j MARK --set-xmark 0x7/0xffffffff"}, toPod(outside), "delivered to 198.51.100.1:80"},
		{"the mark is kept by lo", []string{"mangle PREROUTING: -i lo -m mark --mark 0x9 -j DROP"}, sentTo(own, marked(9)), "dropped"},
		{"not that mark", []string{"mangle PREROUTING: -m mark ! --mark 0x9 -j DROP"}, sentTo(own, marked(9)), "delivered to 10.244.1.7:80"},
		{"a connection remembers", []string{"mangle OUTPUT: -j " + save}, sentTo(own, marked(9)), "delivered to 10.244.1.7:80 connmark 0x9"},
		{"and tells", []string{"mangle OUTPUT: -m connmark --mark 0x7 -j " + restore}, sentTo(outside, state(established), connMarked(markRoute)), "delivered to 198.51.100.1:80 connmark 0x7"},
		{"no connection remembers nothing", []string{"mangle OUTPUT: -j " + save}, sentTo(own, marked(9), state(rules.StateInvalid)), "delivered to 10.244.1.7:80"},
		{"nor tells", []string{"mangle OUTPUT: -j " + restore}, sentTo(outside, marked(markRoute), state(rules.StateUntracked)), "delivered to 198.51.100.1:80"},
		{"nor has a mark of 0", []string{"mangle OUTPUT: -m connmark --mark 0x0 -j DROP"}, sentTo(own, state(rules.StateInvalid)), "delivered to 10.244.1.7:80"},

		{"a zone", []string{"raw OUTPUT: -j CT --zone 3"}, sentTo(outside), "leaves for 198.51.100.1:80 by eth0 zone 3"},
		{"the first zone is kept", []string{"raw OUTPUT: -j CT --zone 3", "raw OUTPUT: -j CT --zone 4"}, sentTo(outside), "leaves for 198.51.100.1:80 by eth0 zone 3"},
		{"with a zone chosen, a packet looks new to raw", []string{"raw OUTPUT: -j CT --zone 3", "raw OUTPUT: -m conntrack --ctstate NEW -j DROP"}, sentTo(outside, state(established)), "dropped zone 3"},
		{"no connection, no zone", []string{"raw PREROUTING: -j CT --zone 4"}, toPod(own, state(rules.StateInvalid)), "delivered to 10.244.1.7:80"},
		{"by lo too", []string{"raw OUTPUT: -j CT --zone 3", "raw PREROUTING: -j CT --zone 4"}, sentTo(own), "delivered to 10.244.1.7:80 zone 3"},
		{"what has come by lo gets none", []string{"raw PREROUTING: -j CT --zone 4"}, sentTo(own), "delivered to 10.244.1.7:80"},
		{"a dropped packet's zone", []string{"raw PREROUTING: -j CT --zone 4", "mangle PREROUTING: -j DROP"}, toPod(own), "dropped zone 4"},

		{"TPROXY", []string{"mangle PREROUTING: -p tcp -j " + tproxy}, toPod(own), "tproxied to port 15006, original destination 10.244.1.7:80"},
		{"TPROXY marks what is routed", []string{"mangle PREROUTING: -p tcp -j " + tproxy}, toPod(outside), "tproxied to port 15006, original destination 198.51.100.1:80"},
		{"TPROXY without a route", []string{"mangle PREROUTING: -p tcp -j " + strings.Replace(tproxy, "0x7", "0x8", 1)}, toPod(outside), "dropped"},
		{"TPROXY without a route, of a connection of its own", []string{"mangle PREROUTING: -p tcp -j " + strings.Replace(tproxy, "0x7", "0x8", 1)}, toPod(outside, state(established), transparent), "dropped"},
		{"TPROXY by lo", []string{"mangle PREROUTING: -p tcp -j " + tproxy}, sentTo(own), "tproxied to port 15006, original destination 10.244.1.7:80"},
		{"TPROXY ends the table", []string{"mangle PREROUTING: -p tcp -j " + tproxy, "mangle PREROUTING: -j DROP"}, toPod(own), "tproxied to port 15006, original destination 10.244.1.7:80"},
		{"TPROXY and then a redirect", []string{"mangle PREROUTING: -p tcp -j " + tproxy, "nat PREROUTING: -j " + toProxy}, toPod(own), "tproxied to port 15006, original destination 10.244.1.7:80"},
		{"TPROXY of a connection of its own", []string{"mangle PREROUTING: -p tcp -j " + tproxy}, toPod(own, state(established), transparent), "delivered to 10.244.1.7:80"},
		{"TPROXY of the app's connection", []string{"mangle PREROUTING: -p tcp -j " + tproxy}, toPod(own, state(established)), "dropped"},

		{"loopback from outside", nil, toPod("127.0.0.1:80"), "dropped"},
		{"from loopback from outside", nil, toPod(own, from("127.0.0.1:1")), "dropped"},
		{"loopback from outside, redirected", []string{"nat PREROUTING: -j " + toProxy}, toPod("127.0.0.1:80"), "redirected to port 15001, original destination 127.0.0.1:80"},
		{"IPv6 loopback from outside is not asked about", []string{"nat PREROUTING: -j " + toProxy}, toPod("[::1]:80"), "dropped"},
		{"an address that the plan puts on lo", nil, sentTo("[::6]:80"), "delivered to [::6]:80"},
		{"one beside it", nil, sentTo("[::7]:80"), "leaves for [::7]:80 by eth0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plan := traced(t, tt.packet.Family(), tt.rules...)
			plan.Routes = []rules.PolicyRoute{{Family: rules.IPv4, Mark: markRoute, Table: 1}}
			plan.Loopback = []netip.Prefix{netip.MustParsePrefix("::6/128")}
			path, err := effect.Trace(plan, tt.packet, podInterfaces)
			if err != nil {
				t.Fatal(err)
			}
			if got := path.End.String(); got != tt.want {
				t.Errorf("got  %s\nwant %s\n%s", got, tt.want, path)
			}
		})
	}
}

// Where REDIRECT sends what arrives: the interface's first address, of IPv6 one of the destination's scope.
func TestTraceRedirectAddress(t *testing.T) {
	for _, tt := range []struct{ in, dst, want string }{
		{"eth0", "10.244.1.8:80", "10.244.1.7:1"},
		{"eth0", "[fd00::8]:80", "[fd00::7]:1"},
		{"eth0", "[2001:db8::]:1", "[fd00::7]:1"},
		{"eth0", "[fe80::7]:80", "[fe80::7]:1"},
		{"net2", "[fd00::8]:80", "[fe80::2]:1"},
	} {
		packet := toPod(tt.dst, by(tt.in))
		path, err := effect.Trace(traced(t, packet.Family(), "nat PREROUTING: -j REDIRECT --to-ports 1"), packet, podInterfaces)
		if err != nil || path.End.To.String() != tt.want {
			t.Errorf("%s by %s: %s, %v; want %s", tt.dst, tt.in, path.End.To, err, tt.want)
		}
	}
}

// A port is one of its protocol, even in a rule that does not ask for the protocol itself.
func TestTracePortsHaveAProtocol(t *testing.T) {
	for _, m := range []rules.Match{
		rules.SourcePort(rules.TCP, 40000),
		rules.DestinationPort(rules.TCP, 80),
		rules.Not(rules.DestinationPort(rules.TCP, 81)),
	} {
		plan := rules.Plan{V4: appended(rules.Ruleset{}, "filter", "OUTPUT", rules.Rule{Match: []rules.Match{m}, Target: rules.Drop})}
		for protocol, want := range map[string]rules.EndKind{rules.TCP: rules.Dropped, rules.UDP: rules.Leaves} {
			path, err := effect.Trace(plan, sentTo("198.51.100.1:80", func(p *rules.Packet) { p.Protocol = protocol }), podInterfaces)
			if err != nil || path.End.Kind != want {
				t.Errorf("%#v, %s: %v, %v", m, protocol, path.End, err)
			}
		}
	}
}

// A printed path is what an operator reads.
func TestPathGolden(t *testing.T) {
	pod := rules.Pod{Annotations: map[string]string{"sidecar.istio.io/status": "{}", "sidecar.istio.io/interceptionMode": "TPROXY"},
		IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")}}
	defaults := istio.Standard()
	defaults.DNSCapture = true
	plan := planFor(t, defaults, pod)
	text := ""
	for _, p := range []rules.Packet{
		sentTo("10.96.0.10:80"),
		sentTo("10.96.0.10:53", udp),
		sentTo("10.96.0.10:80", noSocket),
		sentTo("10.244.1.7:8080", owned(0, 1337)),
		sentTo("192.0.2.9:50000", from("10.244.1.7:8080"), state(established), connMarked(1337)),
		toPod("10.244.1.7:8080"),
		toPod("10.244.1.7:8080", state(established), transparent),
		toPod("10.244.1.7:15021"),
	} {
		path, err := effect.Trace(plan, p, podInterfaces)
		if err != nil {
			t.Fatal(err)
		}
		text += path.String() + "\n"
	}
	golden.Check(t, "paths.golden", text)
}

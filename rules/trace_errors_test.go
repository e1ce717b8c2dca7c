// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// A packet that cannot be is refused, not traced.
func TestTraceRefusesPackets(t *testing.T) {
	const out, in = "198.51.100.1:80", "10.244.1.7:80"
	for name, tt := range map[string]struct {
		packet rules.Packet
		want   string
	}{
		"no protocol":             {sentTo(out, func(p *rules.Packet) { p.Protocol = "" }), "no protocol"},
		"two families":            {sentTo(out, from("[fd00::7]:1")), "from fd00::7 to 198.51.100.1: want two addresses of one family"},
		"a mapped address":        {sentTo("[::ffff:198.51.100.1]:80"), "from fd00::7 to ::ffff:198.51.100.1: want two addresses of one family"},
		"no address":              {rules.Packet{Protocol: rules.TCP}, "from invalid IP to invalid IP: want two addresses of one family"},
		"to nowhere":              {sentTo("0.0.0.0:80"), "to 0.0.0.0: no packet goes there; the kernel takes the pod's own loopback address in its place"},
		"two states":              {sentTo(out, state(rules.StateNew|rules.StateRelated)), "connection state NEW,RELATED: want exactly one"},
		"in by nothing":           {toPod(in, by("")), `arrives by interface "": what comes by lo was sent in the pod`},
		"in by lo":                {toPod(in, by("lo")), `arrives by interface "lo": what comes by lo was sent in the pod`},
		"in with an owner":        {toPod(in, func(p *rules.Packet) { p.Socket = true }), "arrives by interface eth0 with a socket"},
		"in with a mark":          {toPod(in, marked(1)), "arrives by interface eth0 with a mark"},
		"out by no way":           {sentTo(out, by("")), "no interface leads to 198.51.100.1: name one, or give the pod that address"},
		"new with a memory":       {sentTo(out, connMarked(1)), "a mark of a connection that does not exist"},
		"untracked with a memory": {sentTo(out, connMarked(1), state(rules.StateUntracked)), "a mark of a connection that does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := effect.Trace(rules.Plan{}, tt.packet, podInterfaces)
			if err == nil || !strings.HasPrefix(err.Error(), "trace ") || !strings.HasSuffix(err.Error(), ": "+tt.want) {
				t.Errorf("got  %v\nwant trace ...: %s", err, tt.want)
			}
		})
	}
}

// What cannot be known, and what the kernel would not have taken, is an error as soon as the packet gets there.
func TestTraceRefusesRules(t *testing.T) {
	const tproxy = "-p tcp -j TPROXY --on-port 1 --on-ip 0.0.0.0 --tproxy-mark 0x7/0xffffffff"
	const misplaced = "the kernel refuses this target in table "
	for name, tt := range map[string]struct {
		rules  []string
		packet rules.Packet
		want   string
	}{
		"a rule of others": {[]string{"nat OUTPUT: -p tcp -j RETURN", "filter OUTPUT: -m set --match-set x dst -j DROP"}, sentTo("198.51.100.1:80"),
			"table filter, chain OUTPUT, rule 1, -m set --match-set x dst -j DROP: a rule of somebody else decides here: it cannot be known how"},
		"no such chain":     {[]string{"nat OUTPUT: -j GONE"}, sentTo("198.51.100.1:80"), "table nat has no chain GONE"},
		"a loop":            {[]string{"nat OUTPUT: -j A", "nat A: -j B", "nat B: -j A"}, sentTo("198.51.100.1:80"), "table nat: the jumps to chain A are a loop, or too deep for the kernel"},
		"owner inbound":     {[]string{"nat PREROUTING: -m owner ! --uid-owner 1 -j DROP"}, toPod("10.244.1.7:80"), "the kernel refuses an owner at PREROUTING"},
		"group inbound":     {[]string{"filter INPUT: -m owner --gid-owner 1 -j DROP"}, toPod("10.244.1.7:80"), "the kernel refuses an owner at INPUT"},
		"redirect, mangle":  {[]string{"mangle OUTPUT: -j REDIRECT --to-ports 1"}, sentTo("198.51.100.1:80"), misplaced + "mangle at OUTPUT"},
		"redirect at INPUT": {[]string{"nat INPUT: -j REDIRECT --to-ports 1"}, toPod("10.244.1.7:80"), misplaced + "nat at INPUT"},
		"tproxy in nat":     {[]string{"nat PREROUTING: " + tproxy}, toPod("10.244.1.7:80"), misplaced + "nat at PREROUTING"},
		"tproxy at OUTPUT":  {[]string{"mangle OUTPUT: " + tproxy}, sentTo("198.51.100.1:80"), misplaced + "mangle at OUTPUT"},
		"zone in mangle":    {[]string{"mangle OUTPUT: -j CT --zone 1"}, sentTo("198.51.100.1:80"), misplaced + "mangle at OUTPUT"},
		"reset in mangle":   {[]string{"mangle OUTPUT: -p tcp -j REJECT --reject-with tcp-reset"}, sentTo("198.51.100.1:80"), misplaced + "mangle at OUTPUT"},
		"reset of UDP":      {[]string{"filter OUTPUT: -j REJECT --reject-with tcp-reset"}, sentTo("198.51.100.1:80", udp), "the kernel refuses a TCP reset for udp"},
	} {
		t.Run(name, func(t *testing.T) {
			path, err := effect.Trace(traced(t, rules.IPv4, tt.rules...), tt.packet, podInterfaces)
			if err == nil || !strings.HasSuffix(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant ...%s", err, tt.want)
			}
			if path.End.Kind != "" {
				t.Errorf("an end in spite of the error: %s", path.End)
			}
		})
	}
}

// A target that the tracer was not taught is not passed over.
func TestTraceRefusesUnknownTargets(t *testing.T) {
	for _, target := range []rules.Target{nil, rules.Verdict("QUEUE")} {
		plan := rules.Plan{V4: appended(rules.Ruleset{}, "filter", "OUTPUT", rules.Rule{Target: target})}
		if _, err := effect.Trace(plan, sentTo("198.51.100.1:80"), podInterfaces); err == nil || !strings.Contains(err.Error(), "the tracer does not know target") {
			t.Errorf("%v: %v", target, err)
		}
	}
}

// Tracing changes neither the plan nor the packet, so that a plan can be asked again.
func TestTraceKeepsThePlan(t *testing.T) {
	plan := traced(t, rules.IPv4, "nat OUTPUT: -p tcp -j A", "nat A: -j REDIRECT --to-ports 1")
	before := plan.V4.String()
	first, err := effect.Trace(plan, sentTo("198.51.100.1:80"), podInterfaces)
	if err != nil {
		t.Fatal(err)
	}
	again, err := effect.Trace(plan, first.Packet, podInterfaces)
	if err != nil || first.End != again.End || first.String() != again.String() || plan.V4.String() != before {
		t.Errorf("%v\n%s\n%s", err, first, again)
	}
	if !generate.Meets(first, "nat", "A", 1) || generate.Meets(first, "nat", "A", 2) || generate.Meets(first, "nat", "OUTPUT", 2) {
		t.Errorf("met: %s", first)
	}
	if first.End.To != netip.MustParseAddrPort("127.0.0.1:1") || first.End.Port != 1 {
		t.Errorf("ends at %s", first.End.To)
	}
}

func TestPacketString(t *testing.T) {
	for want, p := range map[string]rules.Packet{
		"tcp 10.244.1.7:40000 to 198.51.100.1:80 of uid 1000 gid 1000":                           sentTo("198.51.100.1:80"),
		"udp 10.244.1.7:40000 to 198.51.100.1:53 of no socket mark 0x9":                          sentTo("198.51.100.1:53", udp, noSocket, marked(9)),
		"tcp 192.0.2.9:50000 to 10.244.1.7:80 in by eth0 connmark 0x9 RELATED":                   toPod("10.244.1.7:80", connMarked(9), state(rules.StateRelated)),
		"tcp [2001:db8::9]:50000 to [fd00::7]:80 in by net1 ESTABLISHED of a transparent socket": toPod("[fd00::7]:80", by("net1"), state(established), transparent),
	} {
		if got := p.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// nft shows what is meant, without a word that it does not know, and takes it as its own input.
func TestNativeAsNFTShowsIt(t *testing.T) {
	nstest.Require(t, "nft")
	listing := listed(t)
	listing["expressions"] = everyExpression()
	for name, plan := range listing {
		t.Run(name, func(t *testing.T) {
			s, again := newSandbox(t), newSandbox(t)
			s.native(t, plan)
			s.holds(t, plan)
			text := s.Run(t, "nft", "list", "table", "inet", "meshnetd")
			golden.Check(t, "native-"+name+".golden", text)
			again.RunInput(t, text, "nft", "-f", "-")
			if back := again.Run(t, "nft", "list", "table", "inet", "meshnetd"); back != text {
				t.Errorf("nft makes something else of what it lists:\n%s", back)
			}
			if strings.Contains(text, "xt ") || strings.Contains(text, "@nh") || strings.Contains(text, "@th") {
				t.Error("nft does not know all of it")
			}
		})
	}
}

// listed are plans whose tables are in testdata, by the file's name.
func listed(t *testing.T) map[string]rules.Plan {
	recorded := map[string]rules.Plan{}
	for _, c := range plans.Recorded(t) {
		recorded[c.Name] = plans.Of(t, istio.Standard(), c.Pod())
	}
	return map[string]rules.Plan{"default": recorded["default_dualstack"], "everything": recorded["all_together_redirect"],
		"tproxy-list": recorded["inbound_list_tproxy"]}
}

// What meshnetd wrote when each family had chains of its own does what the plan says, and is replaced by what it writes now.
func TestNativeOfAnEarlierVersion(t *testing.T) {
	nstest.Require(t, "nft")
	for name, plan := range listed(t) {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", "earlier", name+".nft"))
			if err != nil {
				t.Fatal(err)
			}
			s := newSandbox(t)
			s.RunInput(t, string(text), "nft", "-f", "-")
			if r := s.effect(t, plan, generate.Interfaces(plan, addresses)); r.Answer != effect.Equal {
				t.Errorf("it %s: %v", r.Answer, r.Differences)
			}
			s.native(t, plan)
			s.holds(t, plan)
			if have := s.Run(t, "nft", "list", "ruleset"); strings.Contains(have, " ip-") || strings.Contains(have, " ip6-") {
				t.Errorf("what was there stays:\n%s", have)
			}
		})
	}
}

// everyExpression is a plan of one family with every match and target, and with lists of each kind.
func everyExpression() rules.Plan {
	var b rules.Builder
	tcp, udp := rules.Protocol(rules.TCP), rules.Protocol(rules.UDP)
	to := func(protocol string, port uint16) rules.Match {
		return rules.DestinationPort(protocol, port)
	}
	network := func(text string) rules.Match { return rules.Destination(netip.MustParsePrefix(text)) }
	out := func(table string, target rules.Target, match ...rules.Match) {
		b.Append(table, "OUTPUT", "", target, match...)
	}
	in := func(table string, target rules.Target, match ...rules.Match) {
		b.Append(table, "PREROUTING", "", target, match...)
	}
	in("raw", rules.CTZone(1), udp, rules.SourcePort(rules.UDP, 53))
	in("raw", rules.CTZone(1), udp, rules.SourcePort(rules.UDP, 54))
	out("raw", rules.CTZone(2), udp, to(rules.UDP, 53))

	in("mangle", rules.Drop, rules.InState(rules.StateInvalid))
	in("mangle", rules.Return, rules.InInterface("eth+"), rules.PacketMark(7))
	in("mangle", rules.SaveMark{}, rules.Not(rules.PacketMark(7)))
	in("mangle", rules.SetMark(7), tcp, rules.InState(rules.StateRelated|rules.StateEstablished))
	in("mangle", rules.TProxy{Port: 15006, Addr: netip.IPv4Unspecified(), Mark: 7}, tcp, to(rules.TCP, 80))
	in("mangle", rules.TProxy{Port: 15006, Addr: netip.IPv4Unspecified(), Mark: 7}, tcp, to(rules.TCP, 81))
	in("mangle", rules.TProxy{Port: 15006, Addr: netip.MustParseAddr("127.0.0.1"), Mark: 7}, tcp)
	out("mangle", rules.SetConnMark(8), udp)
	out("mangle", rules.RestoreMark{}, rules.ConnMark(7))

	out("nat", rules.Return, rules.OutInterface("lo"), rules.Source(netip.MustParsePrefix("127.0.0.6/32")))
	for _, text := range []string{"10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8", "192.168.0.0/17"} {
		out("nat", rules.Return, network(text))
	}
	for _, port := range []uint16{22, 23} {
		out("nat", rules.Return, tcp, to(rules.TCP, port))
		out("nat", rules.Return, udp, to(rules.UDP, port))
	}
	for _, id := range []uint32{5, 6} {
		out("nat", rules.Return, rules.OwnerUID(id))
		out("nat", rules.Return, rules.OwnerGID(id))
	}
	out("nat", rules.Return, rules.Not(rules.OwnerGID(7)), rules.Not(rules.OwnerGID(8)))
	out("nat", rules.Accept, network("172.16.0.0/12"), rules.Not(rules.OwnerUID(1)))
	out("nat", rules.Jump("OWN"), tcp, rules.ToNone(53, 15008))
	out("nat", rules.Jump("OWN"), tcp, rules.ToNone(53))
	b.Append("nat", "OWN", "", rules.Redirect{Port: 15001}, tcp, rules.Not(rules.DestinationPort(rules.TCP, 99)),
		rules.Not(rules.Destination(netip.MustParsePrefix("127.0.0.1/32"))))

	out("filter", rules.RejectReset, tcp, rules.Source(netip.MustParsePrefix("10.0.0.0/9")))
	return rules.Plan{V4: b.Ruleset(rules.IPv4)}
}

// SPDX-License-Identifier: Apache-2.0

package effect_test

import (
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// on is a condition on one of these values.
func on(f effect.Field, values ...uint64) effect.Condition {
	return effect.Condition{Field: f, Set: effect.Values(values...)}
}

// in returns a base chain with one rule.
func in(hook effect.Hook, kind effect.Kind, priority int, conditions []effect.Condition, actions ...effect.Action) effect.Base {
	return effect.Base{Hook: hook, Kind: kind, Priority: priority, Chain: &effect.Chain{Rules: []effect.Rule{{Conditions: conditions, Actions: actions}}}}
}

type when = []effect.Condition

// Rules in the place of a plan's that seem to stop or take all that it does, and do not: whoever has NET_ADMIN in a pod can write
// any of them.
func TestRulesThatSeemToTakeMore(t *testing.T) {
	const tcp, udp, fresh = 6, 17, uint64(rules.StateNew)
	connected := []uint64{fresh, uint64(rules.StateRelated), uint64(rules.StateEstablished)}
	address := func(text string) effect.Number { return effect.Address(netip.MustParseAddr(text)) }
	drop, accept := effect.Action{Verb: effect.Drop}, effect.Action{Verb: effect.Accept}
	inbound := []rules.Rule{{Match: []rules.Match{rules.Protocol(rules.TCP)}, Target: rules.Redirect{Port: 15006}}}
	outbound := []rules.Rule{{Match: []rules.Match{rules.Protocol(rules.TCP)}, Target: rules.Redirect{Port: 15001}}}
	transparent := []rules.Rule{{Match: []rules.Match{rules.Protocol(rules.TCP), rules.InState(rules.StateNew)}, Target: rules.TProxy{Port: 15006, Addr: netip.IPv4Unspecified(), Mark: 1337}}}
	locked := []rules.Rule{{Match: []rules.Match{rules.InInterface("eth0"), rules.Protocol(rules.UDP), rules.InState(rules.StateNew)}, Target: rules.Drop}}
	for name, tt := range map[string]struct {
		table, chain string
		plan         []rules.Rule
		have         []effect.Base
		want         effect.Answer
	}{
		"the proxy's port by a REDIRECT of somebody else": {"nat", "PREROUTING", inbound,
			[]effect.Base{in(effect.Prerouting, effect.NAT, -110, when{on(effect.Protocol, tcp)}, effect.Action{Verb: effect.Redirect, Port: 15006})}, effect.Equal},
		"a drop behind a TPROXY to where nobody listens": {"nat", "PREROUTING", inbound,
			[]effect.Base{in(effect.Prerouting, effect.Filter, -160, when{on(effect.Protocol, tcp)}, effect.Action{Verb: effect.TProxy, Port: 9}, drop)}, effect.Less},
		"and to the port of a proxy whose socket is not a transparent one": {"nat", "PREROUTING", inbound,
			[]effect.Base{in(effect.Prerouting, effect.Filter, -160, when{on(effect.Protocol, tcp)}, effect.Action{Verb: effect.TProxy, Port: 15006}, drop)}, effect.Less},
		"and to the port of one whose socket is, which listens or is away": {"mangle", "PREROUTING", transparent,
			[]effect.Base{in(effect.Prerouting, effect.Filter, -160, when{on(effect.Protocol, tcp), on(effect.CTState, fresh)}, effect.Action{Verb: effect.TProxy, Port: 15006}, drop)}, effect.LessWhileAway},
		"and of another protocol to that port": {"filter", "INPUT", append(locked, transparent...),
			[]effect.Base{in(effect.Prerouting, effect.Filter, -160, when{on(effect.Protocol, udp)}, effect.Action{Verb: effect.TProxy, Port: 15006}, drop),
				in(effect.Prerouting, effect.Filter, -150, when{on(effect.Protocol, tcp), on(effect.CTState, fresh)}, effect.Action{Verb: effect.TProxy, Port: 15006, Stops: true, Value: effect.N(1337)})}, effect.Less},
		"a TPROXY of somebody's beside the plan's, which takes it or does not": {"nat", "PREROUTING", inbound,
			[]effect.Base{in(effect.Prerouting, effect.Filter, -160, when{on(effect.Protocol, tcp)}, effect.Action{Verb: effect.TProxy, Port: 9}, accept),
				in(effect.Prerouting, effect.NAT, -100, when{on(effect.Protocol, tcp)}, effect.Action{Verb: effect.Redirect, Port: 15006})}, effect.Less},
		"what is to be dropped, given to whoever listens": {"filter", "INPUT", locked,
			[]effect.Base{in(effect.Prerouting, effect.NAT, -100, when{on(effect.Protocol, udp)}, effect.Action{Verb: effect.Redirect, Port: 5353})}, effect.Less},
		"a drop of nat that only a table which may go has asked": {"nat", "PREROUTING", inbound,
			[]effect.Base{{Hook: effect.Prerouting, Kind: effect.Filter, Fleeting: true, Chain: &effect.Chain{Rules: []effect.Rule{{Unknown: "flags owner", Actions: []effect.Action{{Verb: effect.SetConnMark}}}}}},
				in(effect.Prerouting, effect.NAT, -100, when{on(effect.Protocol, tcp)}, drop)}, effect.CannotTell},
		"what the plan lets be, given to another port": {"nat", "PREROUTING", inbound,
			[]effect.Base{in(effect.Prerouting, effect.NAT, -110, when{on(effect.Protocol, udp)}, effect.Action{Verb: effect.Redirect, Port: 1514}),
				in(effect.Prerouting, effect.NAT, -100, when{on(effect.Protocol, tcp)}, effect.Action{Verb: effect.Redirect, Port: 15006})}, effect.More},
		"a mark that a zone's template does not take": {"nat", "OUTPUT", outbound,
			[]effect.Base{in(effect.Output, effect.Filter, -300, nil, effect.Action{Verb: effect.Zone, Value: effect.N(1)}, effect.Action{Verb: effect.SetConnMark, Value: effect.N(7)}),
				in(effect.Output, effect.Filter, 0, when{on(effect.CTState, connected...), on(effect.ConnMark, 7)}, drop)}, effect.Less},
		"a mark of the template, which nobody knows": {"nat", "OUTPUT", outbound,
			[]effect.Base{in(effect.Output, effect.Filter, -300, nil, effect.Action{Verb: effect.Zone, Value: effect.N(1)}),
				in(effect.Output, effect.Filter, -290, when{on(effect.CTState, connected...), on(effect.ConnMark, 0)}, drop)}, effect.CannotTell},
		"another address at the proxy's port": {"nat", "PREROUTING", inbound,
			[]effect.Base{in(effect.Prerouting, effect.NAT, -100, when{on(effect.Protocol, tcp)}, effect.Action{Verb: effect.DNAT, Value: address("10.9.9.9"), Port: 15006})}, effect.Less},
		"the address that REDIRECT takes": {"nat", "PREROUTING", inbound,
			[]effect.Base{in(effect.Prerouting, effect.NAT, -100, when{on(effect.Protocol, tcp)}, effect.Action{Verb: effect.DNAT, Value: address("10.99.0.2"), Port: 15006})}, effect.Equal},
		"an owner where early demux may have found a socket": {"filter", "INPUT", locked,
			[]effect.Base{in(effect.Input, effect.Filter, -10, when{on(effect.UID, 1000)}, effect.Action{Verb: effect.SetMark, Value: effect.N(5)}),
				in(effect.Input, effect.Filter, 0, when{on(effect.Protocol, udp), on(effect.CTState, fresh), {Field: effect.Mark, Set: effect.Between(0, 1<<32-1).Without(effect.Values(5))}}, drop)}, effect.CannotTell},
	} {
		t.Run(name, func(t *testing.T) {
			var b rules.Builder
			for _, r := range tt.plan {
				if _, is := r.Target.(rules.TProxy); is {
					b.Append("mangle", "PREROUTING", "", r.Target, r.Match...)
				} else {
					b.Append(tt.table, tt.chain, "", r.Target, r.Match...)
				}
			}
			plan := rules.Plan{V4: b.Ruleset(rules.IPv4)}
			pod := effect.NewPod(append(interfaces, rules.Interface{Name: "lo", Addresses: []netip.Addr{netip.MustParseAddr("10.9.9.9")}}))
			have := effect.NewSide(pod, rules.IPv4, nil, nil)
			have.Add(tt.have...)
			if r := effect.Compare(pod, effect.OfPlan(pod, plan, rules.IPv4), have); r.Answer != tt.want {
				t.Errorf("got %s, want %s: %v", r.Answer, tt.want, r.Differences)
			}
		})
	}
}

// Docker in a pod masquerades what its containers send: what comes back by lo has an address of the pod then, and no other that a rule of
// the plan asks for. Of another source NAT nobody knows.
func TestSourcesBehindMasquerade(t *testing.T) {
	var b rules.Builder
	tcp, fresh := rules.Protocol(rules.TCP), rules.InState(rules.StateNew)
	b.Append("mangle", "PREROUTING", "", rules.Return, rules.InInterface("lo"), rules.Source(netip.MustParsePrefix("127.0.0.6/32")), tcp)
	b.Append("mangle", "PREROUTING", "", rules.TProxy{Port: 15006, Addr: netip.IPv4Unspecified(), Mark: 1337}, tcp, fresh)
	plan := rules.Plan{V4: b.Ruleset(rules.IPv4)}
	docker := effect.Condition{Field: effect.Source, Set: effect.Prefix(netip.MustParsePrefix("172.17.0.0/16"))}
	for verb, want := range map[effect.Verb]effect.Answer{effect.Masquerade: effect.Equal, effect.SNAT: effect.CannotTell} {
		pod := effect.NewPod(interfaces)
		have := effect.OfPlan(pod, plan, rules.IPv4)
		have.Add(in(effect.Postrouting, effect.NAT, 100, when{docker}, effect.Action{Verb: verb}))
		if r := effect.Compare(pod, effect.OfPlan(pod, plan, rules.IPv4), have); r.Answer != want {
			t.Errorf("%d: got %s, want %s: %v", verb, r.Answer, want, r.Differences)
		}
	}
}

// The kernel routes packets again where their destination or their mark is another one than before, and nowhere else.
func TestRoutedAgain(t *testing.T) {
	plan := rules.Plan{Routes: []rules.PolicyRoute{{Family: rules.IPv4, Mark: 1337}}}
	var b rules.Builder
	b.Append("nat", "OUTPUT", "", rules.Redirect{Port: 15001}, rules.Protocol(rules.TCP))
	plan.V4 = b.Ruleset(rules.IPv4)
	x := effect.Address(netip.MustParseAddr("203.0.113.9"))
	mark := func(v uint64) effect.Action { return effect.Action{Verb: effect.SetMark, Value: effect.N(v)} }
	const tcp = 6
	to := func(address effect.Number) []effect.Base {
		return []effect.Base{in(effect.Output, effect.Filter, -140, nil, mark(1337)),
			in(effect.Output, effect.NAT, -110, when{on(effect.Protocol, tcp), {Field: effect.Destination, Set: effect.Single(x)}}, effect.Action{Verb: effect.DNAT, Value: address, Port: 15001}),
			in(effect.Output, effect.Filter, -90, nil, mark(0))}
	}
	early := func(kind effect.Kind) []effect.Base {
		return []effect.Base{in(effect.Output, kind, -350, nil, mark(1337)), in(effect.Output, effect.Filter, -340, nil, mark(0))}
	}
	for name, tt := range map[string]struct {
		have []effect.Base
		kind rules.EndKind // of packets to X
	}{
		"a destination that it had already":   {to(x), rules.Leaves},
		"another destination":                 {to(effect.Address(netip.MustParseAddr("203.0.113.8"))), rules.Redirected},
		"a mark before connections are known": {early(effect.Route), rules.Delivered},
		"a mark by a chain of filter":         {early(effect.Filter), rules.Leaves},
	} {
		t.Run(name, func(t *testing.T) {
			pod := effect.NewPod(interfaces)
			side := effect.NewSide(pod, rules.IPv4, plan.Routes, nil)
			side.Add(tt.have...)
			all, ok := effect.Ends(pod, side)
			if !ok {
				t.Fatal("too much work")
			}
			p := rules.Packet{Direction: rules.Outbound, Protocol: rules.TCP, Source: netip.MustParseAddrPort("10.99.0.2:40000"),
				Destination: netip.MustParseAddrPort("203.0.113.9:443"), Out: "eth0", State: rules.StateNew, Socket: true, UID: 1000, GID: 1000}
			for _, e := range all {
				if got := e.Kind(); e.Has(pod, p) && got != tt.kind {
					t.Errorf("it ends as %s, want %s", got, tt.kind)
				}
			}
		})
	}
}

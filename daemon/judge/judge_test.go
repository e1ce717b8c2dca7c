// SPDX-License-Identifier: Apache-2.0

//go:build linux

package judge

import (
	"context"
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// held is what a namespace holds: a firewall's rules, and addresses.
type held struct {
	kernel.Firewall
	rules  rules.Plan
	judged int
}

func (h *held) Name(*netns.Namespace, rules.Plan) string { return "held" }
func (h *held) Fingerprint(context.Context, *netns.Namespace) (string, string, error) {
	return h.rules.Key(), "1", nil
}
func (h *held) Generation(context.Context, *netns.Namespace) (string, error) { return "1", nil }
func (h *held) Verify(context.Context, *netns.Namespace, rules.Plan) ([]rules.Difference, error) {
	return []rules.Difference{{}}, nil
}

func (h *held) Effect(_ context.Context, _ *netns.Namespace, plan, _ rules.Plan, interfaces []rules.Interface) (effect.Result, error) {
	h.judged++
	pod := effect.NewPod(interfaces)
	wanted, found := effect.OfPlan(pod, plan, rules.IPv4), effect.OfPlan(pod, h.rules, rules.IPv4)
	r := effect.Compare(pod, wanted, found)
	r.Bounds = &effect.Bounds{}
	r.Bounds.Add(wanted, found)
	return r, nil
}

type addresses struct {
	kernel.Routes
	all []netip.Addr
}

func (a addresses) Verify(rules.Plan) ([]string, error)     { return nil, nil }
func (a addresses) Own(rules.Footprint) (rules.Plan, error) { return rules.Plan{}, nil }
func (a addresses) Interfaces() ([]rules.Interface, error) {
	return []rules.Interface{{Name: "eth0", Addresses: a.all}}, nil
}

// Pods whose addresses no rule tells apart are judged once. What is shown by a packet with a pod's own address is said of
// that pod only, and of an address that a rule names nothing is known from others.
func TestJudgedOnce(t *testing.T) {
	capture := func(match ...rules.Match) rules.Plan {
		var b rules.Builder
		b.Append("nat", "OUTPUT", "", rules.Redirect{Port: 15001}, append(match, rules.Protocol(rules.TCP))...)
		b.Append("nat", "PREROUTING", "", rules.Redirect{Port: 15006}, rules.Protocol(rules.TCP))
		return rules.Plan{V4: b.Ruleset(rules.IPv4)}
	}
	plan := capture()
	outbound := capture() // what arrives goes around the proxy: shown by a packet to the pod
	outbound.V4.Tables[0].Chains = outbound.V4.Tables[0].Chains[1:]
	named := rules.Not(rules.Destination(netip.MustParsePrefix("10.244.1.2/32")))
	for name, tt := range map[string]struct {
		rules rules.Plan
		want  effect.Answer
		times int
	}{
		"the same":                 {capture(rules.Comment("x")), effect.Equal, 1},
		"a packet to the pod":      {outbound, effect.Less, 4},
		"an address that is named": {capture(named), effect.Less, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var j Judge
			h := &held{rules: tt.rules}
			for _, own := range []string{"10.244.1.7", "10.244.1.8", "10.244.200.9", "10.244.1.2"} {
				in := kernel.Inside{Rules: h, Routes: addresses{all: []netip.Addr{netip.MustParseAddr(own)}}}
				for range 2 {
					f, err := j.Rules(context.Background(), in, plan, plan.Key())
					if err != nil || f.Answer != tt.want {
						t.Errorf("%s: %s, %v", own, f.Answer, err)
					}
				}
			}
			if h.judged != tt.times {
				t.Errorf("judged %d times, want %d", h.judged, tt.times)
			}
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package effect_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Where a pod's addresses change and its symbols do not, the answer stays; where a rule tells the addresses apart, the
// symbols differ.
func TestSymbols(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	same, apart := 0, 0
	total := draws(t, 40)
	for range total {
		s := generate.Draw(random)
		other := s.Plan
		other.V4 = generate.Damaged(random, s.Plan.V4)
		answer := func(interfaces []rules.Interface) (effect.Answer, effect.Bounds) {
			pod := effect.NewPod(interfaces)
			wanted, held := effect.OfPlan(pod, s.Plan, rules.IPv4), effect.OfPlan(pod, other, rules.IPv4)
			var bounds effect.Bounds
			bounds.Add(wanted, held)
			return effect.Compare(pod, wanted, held).Answer, bounds
		}
		was, bounds := answer(s.Interfaces)
		for range 10 {
			p := s.Packet(random)
			if p.Family() != rules.IPv4 {
				continue
			}
			a := []netip.Addr{p.Source.Addr(), p.Destination.Addr()}[random.IntN(2)]
			moved := slices.Clone(s.Interfaces)
			moved[0].Addresses = append([]netip.Addr{a}, moved[0].Addresses[1:]...)
			now, _ := answer(moved)
			if bounds.Symbols(moved) != bounds.Symbols(s.Interfaces) {
				if now != was {
					apart++
				}
			} else if same++; now != was {
				t.Fatalf("%s with %v, %s with %v\n%s%s", was, s.Interfaces, now, moved, s.Plan.V4, other.V4)
			}
		}
	}
	if same < total/2 {
		t.Errorf("only %d pods had the same symbols", same)
	}
	t.Logf("%d pods with the same symbols, and the same answers; of those with others, %d had other answers", same, apart)
}

// An address that a rule names is like no other, one that is there twice not like two, and the order counts.
func TestSymbolsTellApart(t *testing.T) {
	plan := edited(t, istioPlan(t), func(text string) string {
		const jump = "-A OUTPUT -j ISTIO_OUTPUT\n"
		return strings.Replace(text, jump, "-A OUTPUT -p udp -j DNAT --to-destination 10.96.0.1\n"+jump, 1) + "*raw\n:OUTPUT ACCEPT\n-A OUTPUT -d 10.99.0.2/32 -j DROP\n-A OUTPUT -d 10.98.0.0/16 -j DROP\nCOMMIT\n"
	})
	plan.Loopback = []netip.Prefix{netip.MustParsePrefix("10.97.0.1/32")}
	with := func(text ...string) string {
		i := rules.Interface{Name: "eth0"}
		for _, a := range text {
			i.Addresses = append(i.Addresses, netip.MustParseAddr(a))
		}
		pod := effect.NewPod([]rules.Interface{i})
		var bounds effect.Bounds
		bounds.Add(effect.OfPlan(pod, plan, rules.IPv4), effect.OfPlan(pod, plan, rules.IPv6))
		return bounds.Symbols([]rules.Interface{i})
	}
	for _, tt := range []struct {
		a, b []string
		same bool
	}{
		{[]string{"10.98.0.1"}, []string{"10.98.200.1"}, true},
		{[]string{"10.98.0.1"}, []string{"10.99.0.1"}, false},
		{[]string{"10.99.0.1"}, []string{"10.99.0.2"}, false},
		{[]string{"10.99.0.3"}, []string{"10.99.0.2"}, false},
		{[]string{"10.99.0.3"}, []string{"10.99.7.9"}, true},
		{[]string{"10.96.0.1"}, []string{"10.96.0.2"}, false},
		{[]string{"127.0.0.1"}, []string{"127.0.0.2"}, false},
		{[]string{"fe80::1"}, []string{"fd00::1"}, false},
		{[]string{"fe80::1"}, []string{"fe80::2"}, true},
		{[]string{"10.97.0.1"}, []string{"10.97.0.2"}, false},
		{[]string{"10.98.0.1", "10.99.0.9"}, []string{"10.99.0.9", "10.98.0.1"}, false},
		{[]string{"10.98.0.1", "10.98.0.1"}, []string{"10.98.0.1", "10.98.0.2"}, false},
		{[]string{"10.98.0.1", "10.98.0.9"}, []string{"10.98.0.8", "10.98.0.2"}, true},
		{[]string{"10.98.0.1"}, []string{"10.98.0.1", "fd00::1"}, false},
	} {
		if got := with(tt.a...) == with(tt.b...); got != tt.same {
			t.Errorf("%v and %v: alike %t", tt.a, tt.b, got)
		}
	}
}

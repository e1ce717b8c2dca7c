// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/gaps"
)

// gapsOf returns what each drawn pod is said to leave out, by seed.
var gapsOf = sync.OnceValue(func() [][]rules.Gap {
	var all [][]rules.Gap
	for _, s := range drawn() {
		all = append(all, gaps.Of(s.Plan, s.Interfaces, rules.Proxy{UID: s.Intent.UID, GID: s.Intent.GID}))
	}
	return all
})

// around reports whether nothing stopped the packet and no rule gave it to the proxy.
func (x sent) around() bool {
	return x.end.Kind == rules.Delivered || x.end.Kind == rules.Leaves
}

// What is said not to be captured is not captured: the packet that shows it, and every drawn one of its kind.
func TestGapsAreTrue(t *testing.T) {
	t.Parallel()
	for seed, s := range drawn() {
		tracer := effect.NewTracer(s.Plan, s.Interfaces)
		for _, gap := range gapsOf()[seed] {
			x, err := send(&s, tracer, *gap.Packet)
			if err != nil {
				t.Fatalf("seed %d: %s: %v", seed, gap.What, err)
			}
			if !gap.Covers(*gap.Packet) || !x.around() {
				x.seed = seed
				t.Fatalf("%q is not shown by its packet (covered: %v)\n%s", gap.What, gap.Covers(*gap.Packet), x.way())
			}
		}
	}
}

// The packet that shows a gap has nothing to do with the ranges that other settings name.
func TestGapsAreShownOutOfNamedRanges(t *testing.T) {
	for _, tt := range []struct{ key, ranges, what, want string }{
		{"excludeOutboundIPRanges", "203.0.113.0/24", "outbound TCP and UDP: port 15020 is excluded", "10.244.1.7 to 198.51.100.10:15020"},
		{"includeOutboundIPRanges", "203.0.113.0/24,198.51.100.0/24", "outbound TCP apart from what the rules name: only what is included is captured", "10.244.1.7 to 8.8.8.8:8080"},
	} {
		d := mesh.Decide(injected("traffic.sidecar.istio.io/"+tt.key, tt.ranges))
		plan, err := d.Planner(rules.Network{Addresses: only4})
		if err != nil {
			t.Fatal(err)
		}
		all := gaps.Of(plan, []rules.Interface{{Name: "eth0", Addresses: only4}}, d.Proxy)
		i := slices.IndexFunc(all, func(gap rules.Gap) bool { return gap.What == tt.what })
		if i < 0 {
			t.Errorf("%s %s: not said: %s", tt.key, tt.ranges, tt.what)
			continue
		}
		if got := fmt.Sprintf("%s to %s", all[i].Packet.Source.Addr(), all[i].Packet.Destination); got != tt.want {
			t.Errorf("%s: shown from %s, want %s", tt.what, got, tt.want)
		}
	}
}

func TestGapsCoverNothingThatIsCaptured(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		asked := false
		for _, gap := range gapsOf()[x.seed] {
			if !gap.Covers(x.packet) {
				continue
			}
			asked = true
			if x.taken() || x.end.Kind == rules.Refused {
				return wrong("%q covers a packet that ends at %s", gap.What, x.end)
			}
		}
		return asked, ""
	})
}

// What is not captured is said: every first packet of an app that goes around the proxy is covered.
func TestGapsAreAll(t *testing.T) {
	everyPacketOf(t, firstPackets, func(x sent) (bool, string) {
		if !x.around() || x.packet.Mark != 0 || x.outbound() && x.proxys() {
			return false, ""
		}
		for _, gap := range gapsOf()[x.seed] {
			if gap.Covers(x.packet) {
				return true, ""
			}
		}
		return wrong("goes around the proxy, and nothing says so: %s", x.end)
	})
}

// firstPackets draws packets that open connections, on sockets without a mark, and now and then one of a
// connection that exists.
func firstPackets(s generate.Setting, random *rand.Rand) rules.Packet {
	p := s.Packet(random)
	p.Mark = 0
	p.ConnMark, p.Transparent = 0, false
	if random.IntN(10) > 0 || p.State != rules.StateEstablished {
		p.State = rules.StateNew
	}
	return p
}

// ICMP and SCTP cannot be traced: no rule that takes or stops a packet is for more than TCP, lookups apart. What
// drops invalid packets is for packets of no connection.
func TestGapsOfOtherProtocols(t *testing.T) {
	t.Parallel()
	for seed, s := range drawn() {
		for _, rs := range s.Plan.Rulesets() {
			for _, table := range rs.Tables {
				for _, c := range table.Chains {
					for _, r := range c.Rules {
						switch r.Target.(type) {
						case rules.Redirect, rules.TProxy, rules.RejectWith:
							if !slices.Contains(r.Match, rules.Protocol(rules.TCP)) && !slices.Contains(r.Match, rules.Protocol(rules.UDP)) {
								t.Fatalf("seed %d: -A %s %s is for every protocol", seed, c.Name, r)
							}
						}
					}
				}
			}
		}
	}
}

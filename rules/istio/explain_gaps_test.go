// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio/generate"
)

// gapsOf returns what each drawn pod is said to leave out, by seed.
var gapsOf = sync.OnceValue(func() [][]rules.Gap {
	var all [][]rules.Gap
	for _, s := range drawn() {
		all = append(all, s.Intent.Gaps(s.Plan, s.Interfaces))
	}
	return all
})

// around tells whether nothing stopped the packet and no rule gave it to the proxy.
func (x sent) around() bool {
	return x.end.Kind == rules.Delivered || x.end.Kind == rules.Leaves
}

// What is said not to be captured is not captured: the packet that shows it, and every drawn one of its kind.
func TestGapsAreTrue(t *testing.T) {
	t.Parallel()
	for seed, s := range drawn() {
		for _, gap := range gapsOf()[seed] {
			x, err := send(&s, *gap.Packet)
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

func TestGapsCoverNothingThatIsCaptured(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		asked := false
		for _, gap := range gapsOf()[x.seed] {
			if !gap.Covers(x.packet) {
				continue
			}
			asked = true
			if x.taken() || x.end.Kind == rules.Reset {
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
						case rules.Redirect, rules.TProxy, rules.RejectReset:
							if !slices.Contains(r.Match, rules.Match(rules.Protocol(rules.TCP))) && !slices.Contains(r.Match, rules.Match(rules.Protocol(rules.UDP))) {
								t.Fatalf("seed %d: -A %s %s is for every protocol", seed, c.Name, r)
							}
						}
					}
				}
			}
		}
	}
}

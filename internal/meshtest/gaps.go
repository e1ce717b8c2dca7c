// SPDX-License-Identifier: Apache-2.0

package meshtest

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/gaps"
)

// DrawnGaps holds Gaps against drawn pods of a mesh, each with packets that are drawn for it.
func DrawnGaps(t testing.TB, draw func(*rand.Rand) (rules.Mesh, rules.Pod), packet func(*rand.Rand, Scene, rules.Decision) rules.Packet) {
	t.Helper()
	both := []netip.Addr{Scenes[0].Own, Scenes[1].Own}
	for _, seed := range sample.Seeds(t, 100, 800) {
		random := rand.New(rand.NewPCG(seed, 2))
		mesh, pod := draw(random)
		pod.IPs = [][]netip.Addr{both, both[:1], both[1:]}[random.IntN(3)]
		d := mesh.Decide(pod)
		var packets []rules.Packet
		for range 60 {
			p := packet(random, Scenes[random.IntN(2)], d)
			if p.Direction == rules.Inbound && random.IntN(4) == 0 {
				p = Forwarded(p)
			}
			packets = append(packets, p)
		}
		Gaps(t, d, Plan(t, mesh, pod), packets)
	}
}

// Gaps holds for what an intent says goes around its proxy: the packet that shows it does, nothing of it is captured,
// and whatever goes around is said.
func Gaps(t testing.TB, d rules.Decision, plan rules.Plan, packets []rules.Packet) {
	t.Helper()
	tracer := effect.NewTracer(plan, Interfaces())
	found := gaps.Of(plan, Interfaces(), d.Proxy)
	for _, gap := range found {
		if end := ends(t, tracer, *gap.Packet); !gap.Covers(*gap.Packet) || !around(end) {
			t.Fatalf("%q is not shown by %s, which ends at %s (covered: %v)", gap.What, gap.Packet, end, gap.Covers(*gap.Packet))
		}
	}
	for _, p := range packets {
		end := ends(t, tracer, p)
		i := slices.IndexFunc(found, func(gap rules.Gap) bool { return gap.Covers(p) })
		switch {
		case i >= 0 && !around(end):
			t.Fatalf("%q covers %s, which ends at %s", found[i].What, p, end)
		case i < 0 && around(end):
			t.Fatalf("%s goes around the proxy, and nothing says so: %s\n%+v", p, end, d.Intent)
		}
	}
}

func ends(t testing.TB, tracer *effect.Tracer, p rules.Packet) rules.End {
	t.Helper()
	end, err := tracer.End(p)
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	return end
}

// around reports whether nothing stopped a packet, and no rule gave it to the proxy.
func around(end rules.End) bool { return end.Kind == rules.Delivered || end.Kind == rules.Leaves }

// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/internal/recorded"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/gaps"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// The commands that are said to show what is not captured do show it: for each, the words make the very packet,
// and what is printed ends outside of the proxy.
func TestGapsAreShownByTheirCommands(t *testing.T) {
	shown := 0
	cases, err := recorded.Cases()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		v := View{Pod: c.Pod(), Decision: rules.Node{Meshes: []rules.Mesh{istio.New(istio.Standard())}, RuntimeHandlers: []string{""}}.Explain(c.Pod())}.Planned(rules.Network{Addresses: c.Pod().IPs})
		shown += shownByCommands(t, c.Name, v, Assumed(c.Pod().IPs))
	}
	seeds := uint64(500)
	if testing.Short() {
		seeds = 100
	}
	for seed := range seeds {
		s := generate.Draw(rand.New(rand.NewPCG(seed, 11)))
		v := View{Pod: s.Pod, Decision: rules.Node{Meshes: []rules.Mesh{istio.New(s.Defaults)}, RuntimeHandlers: []string{""}, Policies: []rules.CapturePolicy{{MayLoosen: true}}}.Explain(s.Pod)}.Planned(rules.Network{Addresses: s.Pod.IPs})
		shown += shownByCommands(t, "drawn", v, s.Interfaces)
	}
	if shown < int(8*seeds) {
		t.Errorf("only %d gaps", shown)
	}
}

// shownByCommands returns how many gaps of a pod are shown by their commands.
func shownByCommands(t *testing.T, name string, v View, interfaces []rules.Interface) (shown int) {
	t.Helper()
	x := Of(v, interfaces)
	found := gaps.Of(v.Plan, interfaces, v.Decision.Proxy)
	for i, told := range x.NotCaptured {
		if told.Trace == nil {
			p := found[i].Packet
			// Of what arrives by an interface without an address of its family, no words tell whose it is.
			if unknown := p.Direction == rules.Inbound && !addressed(interfaces, *p); p.State != rules.StateEstablished && !unknown {
				t.Errorf("%s: %q has no command", name, told.What)
			}
			continue
		}
		q, err := ParseQuestion(strings.Join(told.Trace, " "))
		if err != nil {
			t.Fatalf("%s: %q: %v: %v", name, told.What, told.Trace, err)
		}
		got, _, err := q.packet(interfaces)
		if err != nil {
			t.Fatalf("%s: %q: %v: %v", name, told.What, told.Trace, err)
		}
		want := *found[i].Packet
		want.State = rules.StateNew
		got.Out, want.Out = outOf(got), outOf(want)
		if got != want {
			t.Fatalf("%s: %q: %v is %+v, want %+v", name, told.What, told.Trace, got, want)
		}
		w, err := q.Answer(Scene{Pod: name, Plan: v.Plan, Interfaces: interfaces})
		if err != nil || w.End.Kind != string(rules.Leaves) && w.End.Kind != string(rules.Delivered) {
			t.Fatalf("%s: %q: %v ends %v, %v", name, told.What, told.Trace, w.End, err)
		}
		shown++
	}
	return shown
}

// outOf is the interface that a sent packet is asked about where it leaves the pod; an inbound one has none.
func outOf(p rules.Packet) string {
	if p.Direction == rules.Inbound {
		return ""
	}
	return p.Out
}

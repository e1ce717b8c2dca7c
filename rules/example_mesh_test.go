// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// tollbooth is a mesh whose proxy runs as user 4000 and listens on port 16001 for what the pod sends.
type tollbooth struct{}

func (tollbooth) Name() string          { return "tollbooth" }
func (tollbooth) Reads(key string) bool { return key == "tollbooth.example.com/injected" }
func (tollbooth) Refines(string) bool   { return false } // no container says more than the pod does
func (tollbooth) Widest() []rules.Plan  { return []rules.Plan{tollboothPlan()} }
func (tollbooth) Footprint() rules.Footprint {
	return rules.Footprint{Chains: []string{"TOLLBOOTH_OUT"}}
}

func (tollbooth) Decide(pod rules.Pod) rules.Decision {
	if pod.Annotations["tollbooth.example.com/injected"] != "true" {
		return rules.Decision{Action: rules.Skip, Reason: rules.ReasonNotInjected, Detail: "tollbooth's injector has not marked the pod"}
	}
	return rules.Decision{Mesh: "tollbooth", Action: rules.Enrol, Reason: rules.ReasonInjected, Detail: "tollbooth's injector has marked the pod",
		Proxy:   rules.Proxy{UID: 4000, GID: rules.NoID, Containers: []rules.Sidecar{{Name: "tollbooth", Command: []string{"tollboothd"}}}},
		Planner: func(rules.Network) (rules.Plan, error) { return tollboothPlan(), nil }}
}

func tollboothPlan() rules.Plan {
	var b rules.Builder
	tcp := rules.Protocol(rules.TCP)
	b.Append("nat", "OUTPUT", "what the pod sends", rules.Jump("TOLLBOOTH_OUT"), tcp)
	b.Append("nat", "TOLLBOOTH_OUT", "the proxy's own traffic goes out", rules.Return, rules.OwnerUID{ID: 4000})
	b.Append("nat", "TOLLBOOTH_OUT", "to the proxy", rules.Redirect{Port: 16001}, tcp)
	return rules.Plan{V4: b.Ruleset(rules.IPv4), Footprint: tollbooth{}.Footprint()}
}

// A mesh is what its marks on a pod mean, and the rules they give. Whatever is written, compared, explained and traced
// follows from that.
func ExampleMesh() {
	node := rules.Node{Meshes: []rules.Mesh{tollbooth{}}, RuntimeHandlers: []string{""}}
	decision := node.Decide(rules.Pod{Annotations: map[string]string{"tollbooth.example.com/injected": "true"}})
	plan, err := decision.Planner(rules.Network{})
	if err != nil {
		panic(err)
	}
	fmt.Print(plan.V4)
	path, err := effect.Trace(plan, rules.Packet{Protocol: rules.TCP, Socket: true, UID: 1000, Out: "eth0",
		Source: netip.MustParseAddrPort("10.0.0.7:40000"), Destination: netip.MustParseAddrPort("203.0.113.10:443")}, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(path.End)
	// Output:
	// *nat
	// :TOLLBOOTH_OUT - [0:0]
	// -A OUTPUT -p tcp -j TOLLBOOTH_OUT
	// -A TOLLBOOTH_OUT -m owner --uid-owner 4000 -j RETURN
	// -A TOLLBOOTH_OUT -p tcp -j REDIRECT --to-ports 16001
	// COMMIT
	// redirected to port 16001, original destination 203.0.113.10:443
}

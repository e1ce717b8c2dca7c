// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"net/netip"

	"github.com/meshnetd/meshnetd/internal/meshtest/tollbooth"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// toll is a mesh that declares the least that one can.
var toll = tollbooth.New(mesh.Common{})

// A mesh is what its marks on a pod mean, and the rules they give. Whatever is written, compared, explained and traced
// follows from that.
func ExampleMesh() {
	node := rules.Node{Meshes: []rules.Mesh{toll}, RuntimeHandlers: []string{""}}
	decision := node.Decide(rules.Pod{Annotations: map[string]string{tollbooth.KeyInjected: "true"}})
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

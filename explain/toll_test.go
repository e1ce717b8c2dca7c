// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/internal/meshtest/tollbooth"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
	"github.com/meshnetd/meshnetd/status"
)

// A mesh is its package and a line, here the second one: what plans, explains, traces, finds gaps and proves the backend knows
// it by its declaration.
func TestAMeshIsItsDeclaration(t *testing.T) {
	toll := tollbooth.New(mesh.Common{ExcludeNamespaces: []string{"toll-system"}, WithoutIPv6: rules.IPv6Block})
	node := rules.Node{Meshes: []rules.Mesh{toll}, RuntimeHandlers: []string{""}, Origin: map[string]string{"tollbooth.ipv6": "meshnetd.toml:3"}}

	pod := rules.Pod{Namespace: "shop", Name: "web", IPs: meshtest.Addresses("10.244.1.7"), Annotations: map[string]string{
		tollbooth.KeyInjected: "true", tollbooth.KeyPort: "16002", "tollbooth.example.com/prot": "16003"}}
	v := View{Pod: pod, Decision: node.Explain(pod)}.Planned(rules.Network{Addresses: pod.IPs})
	x := Of(v, Assumed(pod.IPs))
	var shown strings.Builder
	if err := Print(&shown, x); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"annotation tollbooth.example.com/prot is read by no mesh: is tollbooth.example.com/port meant?",
		"namespace shop is not one of exclude_namespaces or tollbooth.exclude_namespaces",
		"redirect (injected): tollbooth's injector has marked the pod",
		"annotation tollbooth.example.com/port", // of 16002
		"meshnetd.toml:3 tollbooth.ipv6",
		"-A TOLLBOOTH_OUT -p tcp -j REDIRECT --to-ports 16002",
		"IPv6 is refused: the proxy speaks only IPv4 (tollbooth speaks IPv4 only)",
	} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("explained without %q:\n%s", want, shown.String())
		}
	}
	if !slices.ContainsFunc(x.NotCaptured, func(g status.Gap) bool { return strings.Contains(g.What, "the proxy's own traffic goes out") }) {
		t.Errorf("gaps %v", x.NotCaptured)
	}
	q, err := ParseQuestion("tcp 203.0.113.10:443")
	if err != nil {
		t.Fatal(err)
	}
	if path, _, err := q.Path(v.Plan, Assumed(pod.IPs)); err != nil || path.End.Port != 16002 {
		t.Errorf("traced: %v, %v", path.End, err)
	}

	meshtest.Explained(t, toll, pod)
	meshtest.Check(t, toll, pod)
	meshtest.Widest(t, toll, v.Plan)
	if all := backend.Modules(node.Widest()); !slices.Contains(all, "xt_owner") {
		t.Errorf("modules %v", all)
	}
	if d := node.Decide(rules.Pod{Namespace: "toll-system", Annotations: pod.Annotations}); d.Reason != rules.ReasonNamespaceExcluded {
		t.Errorf("excluded: %s", d.Reason)
	}
	pod.Annotations = map[string]string{tollbooth.KeyInjected: "true", tollbooth.KeyPort: "0"}
	if d := node.Decide(pod); d.Reason != rules.ReasonBadInput {
		t.Errorf("bad port: %s", d.Reason)
	}
	pod.Annotations[tollbooth.KeyPort] = strings.Repeat("1", 20<<10)
	if d := node.Decide(pod); d.Reason != rules.ReasonOverBudget {
		t.Errorf("over budget: %s", d.Reason)
	}
}

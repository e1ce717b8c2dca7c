// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
)

// checkRemembered sees that a pod as it is remembered is decided about as the whole pod is, and has no more than it may.
func checkRemembered(t *testing.T, node rules.Node, pod rules.Pod, d rules.Decision) {
	t.Helper()
	pod.Annotations = maps.Clone(pod.Annotations)
	pod.Annotations["notes.example.org/last"] = strings.Repeat("x", 200<<10)
	kept := node.Remembered(pod, d)
	size := 0
	for key, value := range kept.Annotations {
		size += len(key) + len(value)
	}
	if _, idle := kept.Annotations["notes.example.org/last"]; idle || size > 64<<10 {
		t.Errorf("%d bytes are remembered of %d annotations", size, len(kept.Annotations))
	}
	if kept.Said > 0 && d.Action == rules.Skip {
		return // nobody asks again
	}
	if len(kept.Unread) > 16 {
		t.Errorf("%d keys are remembered of annotations that nobody reads", len(kept.Unread))
	}
	again := node.Decide(kept)
	if kept.Said > 0 && d.Reason == rules.ReasonForbidden {
		d.Reason, d.Detail = rules.ReasonOverBudget, again.Detail
	}
	if again.Action != d.Action || again.Reason != d.Reason || again.Detail != d.Detail {
		t.Errorf("is remembered as %s (%s: %s), and was %s (%s: %s)", again.Action, again.Reason, again.Detail, d.Action, d.Reason, d.Detail)
	}
}

// What a mesh reads is bounded, whichever mesh it is, and of what nobody reads nothing is kept.
func TestRemembered(t *testing.T) {
	node := within(rules.StandardBudget())
	for name, tt := range map[string]struct {
		pod  rules.Pod
		want string // in the decision
	}{
		"honest": {injectedBy([]string{"istio"}, "traffic.sidecar.istio.io/excludeOutboundPorts", "80"), ""},
		"sets itself up": {injectedBy([]string{"istio"}, "sidecar.istio.io/status", `{"initContainers":["istio-init"]}`,
			"required-plugins.noderesource.dev", `["meshnetd"]`), ""},
		"another mesh's list": {injectedBy([]string{"istio"}, "traffic.kuma.io/transparent-proxy-config", strings.Repeat("x", 60<<10)), ""},
		"other meshes' lists": {injectedBy([]string{"istio"}, "traffic.kuma.io/transparent-proxy-config", strings.Repeat("x", 40<<10),
			"consul.hashicorp.com/redirect-traffic-config", strings.Repeat("x", 40<<10)), "more than the 65536 that a pod may have (4 times budget.bytes)"},
	} {
		d := node.Decide(tt.pod)
		if over := d.Reason == rules.ReasonOverBudget; over != (tt.want != "") || !strings.Contains(d.Detail, tt.want) {
			t.Errorf("%s: %s (%s: %s)", name, d.Action, d.Reason, d.Detail)
		}
		checkRemembered(t, node, tt.pod, d)
	}
}

// What a pod says is bounded before it is decided about, whatever the node's policies read, and decides the same.
func TestDecidingIsBounded(t *testing.T) {
	node := within(rules.StandardBudget())
	node.Annotations = []rules.AnnotationPolicy{{Annotation: "*", Otherwise: rules.Ignore}}
	many := map[string]string{}
	for i := range 10_000 {
		many[fmt.Sprintf("%04x", i)] = ""
	}
	outside := rules.Pod{Namespace: "shop", Name: "web", Annotations: many}
	long := outside
	long.Annotations = map[string]string{"traffic.sidecar.istio.io/excludeOutboundPorts": strings.Repeat("1,", 100<<10)}
	meshed := outside
	meshed.Annotations = maps.Clone(many)
	meshed.Annotations["sidecar.istio.io/status"] = "{}"
	large := injectedBy([]string{"istio"}, "traffic.sidecar.istio.io/excludeOutboundPorts", strings.Repeat("1,", 100<<10))
	for name, pod := range map[string]rules.Pod{"outside": outside, "outside, and long": long, "in the mesh": meshed, "in the mesh, and long": large} {
		kept := node.Deciding(pod)
		size := 0
		for key, value := range kept.Annotations {
			size += 64 + len(key) + len(value)
		}
		was, is := node.Decide(pod), node.Decide(kept)
		if again := node.Deciding(kept); again.Said != kept.Said || len(again.Annotations) != len(kept.Annotations) {
			t.Errorf("%s: it is kept as another one the second time", name)
		}
		if size > 64<<10 || is.Action != was.Action || is.Action == rules.Skip && is.Detail != was.Detail {
			t.Errorf("%s: %d bytes of %d annotations are kept; it is %s (%s), and was %s (%s)", name, size, len(kept.Annotations), is.Action, is.Detail, was.Action, was.Detail)
		}
	}
}

// A pod of which too much was cut is not taken for one that says no more than is left, whatever is allowed by now.
func TestCutPodIsOverAnyBudget(t *testing.T) {
	small, large := rules.StandardBudget(), rules.StandardBudget()
	small.Bytes, large.Bytes = 4<<10, 64<<10
	pod := injectedBy([]string{"istio"}, "traffic.sidecar.istio.io/excludeOutboundPorts", strings.Repeat("1,", 20<<10))
	for name, kept := range map[string]rules.Pod{"told": within(small).Deciding(pod), "remembered": within(small).Remembered(pod, rules.Decision{})} {
		if d := within(large).Decide(kept); d.Reason != rules.ReasonOverBudget || !strings.Contains(d.Detail, "more than was allowed") {
			t.Errorf("%s: %s (%s: %s)", name, d.Action, d.Reason, d.Detail)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/heap"
	"github.com/meshnetd/meshnetd/rules"
)

// checkBounded sees that a pod with its containers as they are remembered is decided about as it is with the whole ones, and
// that little is kept of them.
func checkBounded(t *testing.T, node rules.Node, pod rules.Pod, d rules.Decision) {
	t.Helper()
	var words, bytes, said int
	pod.Containers = slices.Clone(pod.Containers)
	for i, c := range pod.Containers {
		kept := node.Bounded(c)
		if again := node.Bounded(kept); !reflect.DeepEqual(again, kept) {
			t.Errorf("container %s is remembered as another one the second time: %s", c.Name, cmp.Diff(kept, again))
		}
		for _, word := range slices.AppendSeq(slices.Clone(kept.Args), maps.Values(kept.Env)) {
			words, bytes = words+1, bytes+len(word)
		}
		pod.Containers[i], said = kept, said+kept.Said
	}
	if most := len(pod.Containers) * 16 << 10; bytes > most || words > most/16 {
		t.Errorf("%d words with %d bytes are kept of %d containers", words, bytes, len(pod.Containers))
	}
	again := node.Decide(pod)
	if said > 0 { // what of it is too much is not known any more
		d.Detail = again.Detail
	}
	if again.Action != d.Action || again.Reason != d.Reason || again.Detail != d.Detail {
		t.Errorf("is remembered as %s (%s: %s), and was %s (%s: %s)", again.Action, again.Reason, again.Detail, d.Action, d.Reason, d.Detail)
	}
}

// Of a container is kept what a mesh reads of it; that an environment is known is not forgotten with its variables.
func TestBounded(t *testing.T) {
	node := within(rules.StandardBudget())
	long, many := strings.Repeat("x", 20<<10), slices.Repeat([]string{""}, 2000)
	id, groups := int64(1337), make([]uint32, 1000)
	for name, tt := range map[string]struct{ told, want rules.Container }{
		"unknown":      {rules.Container{Name: "istio-proxy"}, rules.Container{Name: "istio-proxy"}},
		"nothing read": {rules.Container{Name: "istio-proxy", Env: map[string]string{"A": long}}, rules.Container{Name: "istio-proxy", Env: map[string]string{}}},
		"what is read": {rules.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar", "a", "b", "c"}, UID: &id, Running: true,
			Env: map[string]string{"A": long, "ISTIO_DUAL_STACK": "true"}},
			rules.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar", "a", "b", "c"}, UID: &id, Running: true, Env: map[string]string{"ISTIO_DUAL_STACK": "true"}}},
		"too long": {rules.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, Env: map[string]string{"DISABLE_ENVOY": "1", "INVALID_DROP": long}},
			rules.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, Env: map[string]string{"DISABLE_ENVOY": "1"}, Said: 20 << 10}},
		"too many": {rules.Container{Name: "istio-validation", Args: append([]string{"a", "b", "c", long}, many...)},
			rules.Container{Name: "istio-validation", Args: []string{"a", "b", "c", ""}, Said: 20<<10 + 2000*16}},
		"another mesh's": {rules.Container{Name: "linkerd-proxy", Image: "i", Args: []string{long, "b", "c", "d", long}, Env: map[string]string{"ISTIO_DUAL_STACK": "true"}, Groups: groups},
			rules.Container{Name: "linkerd-proxy", Image: "i", Args: []string{long[:64], "b", "c", long[:64]}, Groups: groups[:129]}},
	} {
		if diff := cmp.Diff(tt.want, node.Bounded(tt.told)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A map keeps room for all that it ever had: of pods with many keys that nobody reads there must be none.
func TestManyKeysTakeNoRoom(t *testing.T) {
	const many, pods = 20_000, 8
	node := within(rules.StandardBudget())
	kept := make([]rules.Pod, pods)
	before := heap.Live()
	for i := range kept {
		pod := injectedBy([]string{"istio", "linkerd"})
		pod.Labels = maps.Clone(pod.Labels)
		for key := range many {
			pod.Annotations[fmt.Sprint(key)], pod.Labels[fmt.Sprint(key)] = "", ""
		}
		if kept[i] = node.Remembered(pod, rules.Decision{}); len(kept[i].Annotations) == 0 || len(kept[i].Labels) == 0 {
			t.Fatal("what is read is not remembered")
		}
	}
	if took := heap.Live() - before; took > pods*64<<10 {
		t.Errorf("%d bytes are kept of each pod", took/pods)
	}
	runtime.KeepAlive(kept)
}

// Keys take room of their own, however short they are.
func TestManyForbiddenKeys(t *testing.T) {
	node := within(rules.StandardBudget())
	node.Annotations = []rules.AnnotationPolicy{{Annotation: "*", Otherwise: rules.Refuse}}
	pod := injectedBy([]string{"istio"})
	for key := range 8000 {
		pod.Annotations[fmt.Sprint(key)] = ""
	}
	d := node.Decide(pod)
	kept := node.Remembered(pod, d)
	if again := node.Decide(kept); d.Reason != rules.ReasonForbidden || len(kept.Annotations) > 1 || again.Action != rules.Reject {
		t.Errorf("%d annotations are kept; %s, then %s", len(kept.Annotations), d.Reason, again.Reason)
	}
}

// What was cut by a configuration that allowed less is not taken for all that a container says.
func TestCutIsOverAnyBudget(t *testing.T) {
	small := rules.StandardBudget()
	small.Bytes = 1 << 10
	pod := injectedBy([]string{"istio"})
	proxy := rules.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar", strings.Repeat("x", 2<<10)}, Env: map[string]string{}}
	pod.Containers = []rules.Container{within(small).Bounded(proxy)}
	if d := within(rules.StandardBudget()).Decide(pod); d.Reason != rules.ReasonOverBudget || !strings.Contains(d.Detail, "more than was allowed") {
		t.Errorf("%s (%s: %s)", d.Action, d.Reason, d.Detail)
	}
}

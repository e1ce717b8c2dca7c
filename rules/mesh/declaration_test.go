// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"
	"weak"

	"github.com/meshnetd/meshnetd/rules"
)

// intent is a pod's wish for a port, with the words that a whole comparison must not miss.
type intent struct {
	Ports []uint16
	notes []string
}

// ports is a mesh whose pods name what they want, and how often rules were made for it.
func ports() (mesh rules.Mesh, made *atomic.Int32) {
	made = new(atomic.Int32)
	return Declare(Declaration[intent]{
		Belongs: func(rules.Pod, *Steps) Verdict { return Injected("") },
		Read: func(r *Reader, in *intent) error {
			in.Ports, in.notes = []uint16{uint16(len(r.Pod.Name))}, []string{r.Pod.Annotations["note"]}
			return nil
		},
		Alone: func(_ *Reader, whole, alone *intent) error { *alone = *whole; return nil },
		Proxy: func(rules.Pod, *intent) rules.Proxy { return rules.Proxy{} },
		Rules: func(in *intent) rules.Families {
			made.Add(1)
			ports := in.Ports
			return rules.Families{SpeaksIPv6: true, Notes: in.notes, Redirect: func(family rules.Family) rules.Ruleset {
				var b rules.Builder
				b.Append("nat", "OUTPUT", "", rules.Accept, rules.DestinationPort(rules.TCP, ports[0]))
				return b.Ruleset(family)
			}}
		},
	}), made
}

func planOf(t *testing.T, d rules.Decision) rules.Plan {
	t.Helper()
	plan, err := d.Planner(rules.Network{})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// Pods with one intent have one ruleset in memory, and any other intent has its own.
func TestPodsOfAKindShareTheirRules(t *testing.T) {
	mesh, made := ports()
	first := mesh.Decide(rules.Pod{Name: "a"})
	one := planOf(t, first)
	for _, tt := range []struct {
		pod    rules.Pod
		shares bool
	}{
		{rules.Pod{Name: "b", Annotations: map[string]string{"else": "x"}}, true},
		{rules.Pod{Name: "bb"}, false},
		{rules.Pod{Name: "b", Annotations: map[string]string{"note": "another word"}}, false},
		{rules.Pod{Name: "c"}, true},
	} {
		other := planOf(t, mesh.Decide(tt.pod))
		if shares := &one.V4.Tables[0] == &other.V4.Tables[0] && &one.V6.Tables[0] == &other.V6.Tables[0]; shares != tt.shares {
			t.Errorf("%v shares: %v", tt.pod, shares)
		}
		other.Notes = append(other.Notes, "of this pod")
	}
	if made.Load() != 3 || len(planOf(t, first).Notes) != len(one.Notes) {
		t.Errorf("rules were made %d times, and the first pod is told %q", made.Load(), planOf(t, first).Notes)
	}
}

// A kind is forgotten with its last pod, and after some others: no pod makes the daemon keep more.
func TestKindsAreForgotten(t *testing.T) {
	mesh, made := ports()
	last := &mesh.(declared[intent]).kinds.last
	planOf(t, mesh.Decide(rules.Pod{Name: "a"}))
	runtime.GC()
	if p := last[0].Value(); p != nil {
		t.Error("a kind without a pod is kept")
	}
	var pods []rules.Decision
	for i := range 3 * len(last) {
		pods = append(pods, mesh.Decide(rules.Pod{Annotations: map[string]string{"note": fmt.Sprint(i)}}))
	}
	made.Store(0)
	planOf(t, pods[0])
	planOf(t, mesh.Decide(rules.Pod{Annotations: map[string]string{"note": "0"}}))
	if made.Load() != 2 {
		t.Errorf("rules were made %d times", made.Load())
	}
	runtime.KeepAlive(pods)
}

// Pods are decided about at the same time.
func TestPodsOfAKindAtOnce(t *testing.T) {
	mesh, _ := ports()
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			note := fmt.Sprint(i % 3)
			plan, err := mesh.Decide(rules.Pod{Name: "a", Annotations: map[string]string{"note": note}}).Planner(rules.Network{})
			if err != nil || plan.Notes[0] != note {
				t.Errorf("the pod with note %s has the plan of another: %q, %v", note, plan.Notes, err)
			}
		})
	}
	all.Wait()
}

// A decision that is remembered keeps nothing of what its pod says to others: that can be megabytes for each.
func TestDecisionsForgetTheirPods(t *testing.T) {
	mesh, _ := ports()
	decided := func(pod rules.Pod) (rules.Decision, weak.Pointer[byte], weak.Pointer[rules.Container]) {
		return mesh.Decide(pod), weak.Make(unsafe.StringData(pod.Annotations["other"])), weak.Make(&pod.Containers[0])
	}
	d, annotation, container := decided(rules.Pod{Annotations: map[string]string{"other": strings.Repeat("x", 1<<10)}, Containers: []rules.Container{{Name: "app"}}})
	runtime.GC()
	if annotation.Value() != nil || container.Value() != nil {
		t.Errorf("annotation kept: %t, container kept: %t", annotation.Value() != nil, container.Value() != nil)
	}
	if _, err := d.SandboxPlanner(rules.Network{}); err != nil {
		t.Error(err)
	}
}

// What a mesh does not declare of an environment it cannot read, since nothing of it is remembered.
func TestOnlyDeclaredVariablesAreRead(t *testing.T) {
	seen := map[string]int{}
	mesh := Declare(Declaration[intent]{
		Containers: []string{"proxy"}, Environment: []string{"DECLARED"},
		Belongs: func(pod rules.Pod, _ *Steps) Verdict {
			for _, c := range pod.Containers {
				for name := range c.Env {
					seen[c.Name+" "+name]++
				}
			}
			return Injected("")
		},
		Read: func(r *Reader, _ *intent) error {
			if app := r.Pod.Container("app"); r.Pod.Container("proxy").Env["DECLARED"] != "1" || app.Env == nil {
				t.Errorf("%v, %v", r.Pod.Containers, app.Env)
			}
			return nil
		},
		Proxy: func(rules.Pod, *intent) rules.Proxy { return rules.Proxy{} },
	})
	all := map[string]string{"DECLARED": "1", "OTHER": "2"}
	pod := rules.Pod{Containers: []rules.Container{{Name: "proxy", Env: all}, {Name: "app", Env: all}}}
	mesh.Decide(pod)
	mesh.Explain(pod)
	if len(seen) != 1 || seen["proxy DECLARED"] != 2 || len(all) != 2 {
		t.Errorf("read: %v, left: %v", seen, all)
	}
	if !mesh.ReadsVariable("proxy", "DECLARED") || mesh.ReadsVariable("proxy", "OTHER") || mesh.ReadsVariable("app", "DECLARED") {
		t.Error("declared otherwise than it is read")
	}
}

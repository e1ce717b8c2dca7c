// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshnetd/meshnetd/rules"
)

// The kubelet's word fills what the runtime has not told, and nothing else.
func TestPodWith(t *testing.T) {
	spec := rules.Pod{UID: "u", Namespace: "shop", Name: "web", HostPID: true, Complete: true, Containers: []rules.Container{
		{Name: "early", Phase: rules.PhaseInit},
		{Name: "istio-proxy", Image: "registry.example/proxyv2:1", Args: []string{"proxy", "sidecar"}, ArgsOnly: true, Env: map[string]string{"A": "spec"}, UID: id(5), Groups: []uint32{7}},
		{Name: "app", Args: []string{"run"}, Env: map[string]string{"A": "spec"}, UID: id(5), GID: id(6), Groups: []uint32{7}, Powers: rules.Powers{NetAdmin: true}},
	}}
	told := rules.Pod{UID: "u", Namespace: "shop", Name: "web", NetNS: "/var/run/netns/a", Containers: []rules.Container{
		{Name: "app", Image: "by-the-runtime", Args: []string{"/bin/app", "run"}, UID: id(1000), GID: id(1000)},
		{Name: "unlisted", Args: []string{"sh"}},
	}}
	want := told
	want.HostPID, want.Specified = true, true
	want.Containers = []rules.Container{
		{Name: "early", Phase: rules.PhaseInit},
		{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, ArgsOnly: true, Env: map[string]string{"A": "spec"}, UID: id(5), Groups: []uint32{7},
			ByKubelet: rules.ValueArgs | rules.ValueEnv | rules.ValueUser},
		{Name: "app", Image: "by-the-runtime", Args: []string{"/bin/app", "run"}, UID: id(1000), GID: id(1000), Powers: rules.Powers{NetAdmin: true}},
		{Name: "unlisted", Args: []string{"sh"}},
	}
	if diff := cmp.Diff(want, told.With(spec), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, other := range []rules.Pod{{}, {UID: "u", Namespace: "shop", Name: "other"}, {UID: "other", Namespace: "shop", Name: "web"}, {UID: "u", Namespace: "other", Name: "web"}} {
		other.Containers, other.HostPID, other.HostNetwork = spec.Containers, true, true
		if diff := cmp.Diff(told, told.With(other), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("another pod's word counts:\n%s", diff)
		}
	}
}

// A network namespace that the runtime names is the pod's, whatever its specification says: it is looked into.
func TestHostNetworkByTheKubelet(t *testing.T) {
	spec := rules.Pod{UID: "u", HostNetwork: true}
	for _, tt := range []struct {
		pod  rules.Pod
		want bool
	}{
		{rules.Pod{UID: "u"}, true},
		{rules.Pod{UID: "u", NetNS: "/proc/7/ns/net", NetNSOfPause: true}, true},
		{rules.Pod{UID: "u", NetNS: "/proc/7/ns/net"}, false},
		{rules.Pod{UID: "u", NetNS: "/var/run/netns/cni"}, false},
		{rules.Pod{UID: "other"}, false},
	} {
		if got := tt.pod.With(spec).HostNetwork; got != tt.want {
			t.Errorf("%+v: host network %t", tt.pod, got)
		}
	}
}

// A runtime that tells no user is completed by what the specification says of it.
func TestContainerWith(t *testing.T) {
	spec := rules.Container{Name: "app", UID: id(1337), GID: id(1337), Groups: []uint32{1}, Args: []string{"x"}, Env: map[string]string{"A": "a"}}
	got := rules.Container{Name: "app", Args: []string{"sh"}}.With(spec)
	want := rules.Container{Name: "app", Args: []string{"sh"}, UID: id(1337), GID: id(1337), Groups: []uint32{1}, ByKubelet: rules.ValueUser | rules.ValueGroup}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := enrolled().Impostor(got); !strings.Contains(got, "user 1337") {
		t.Errorf("as an impostor: %q", got)
	}
}

func TestContradicts(t *testing.T) {
	spec := rules.Container{Name: "app", Args: []string{"run", "-v"}, ArgsOnly: true, Env: map[string]string{"A": "a", "B": "b"}, UID: id(5)}
	whole := spec
	whole.Args, whole.ArgsOnly = []string{"/bin/app", "run", "-v"}, false
	env := map[string]string{"A": "a", "B": "b", "PATH": "/bin"}
	for _, tt := range []struct {
		name    string
		created rules.Container
		spec    rules.Container
		want    []string
	}{
		{"the same, with the image's program", rules.Container{Args: []string{"/bin/app", "run", "-v"}, Env: env, UID: id(5), GID: id(9)}, spec, nil},
		{"the same, with the specification's", rules.Container{Args: []string{"/bin/app", "run", "-v"}, Env: env, UID: id(5)}, whole, nil},
		{"nothing is known", rules.Container{Args: []string{"sh"}, UID: id(0)}, rules.Container{}, nil},
		{"nothing is told", rules.Container{}, spec, nil},
		{"other arguments", rules.Container{Args: []string{"/bin/app", "walk", "-v"}}, spec, []string{"other arguments"}},
		{"another program", rules.Container{Args: []string{"/bin/sh", "run", "-v"}}, whole, []string{"other arguments"}},
		{"more arguments", rules.Container{Args: []string{"x", "/bin/app", "run", "-v"}}, whole, []string{"other arguments"}},
		{"another user", rules.Container{UID: id(0)}, spec, []string{"user 0 instead of 5"}},
		{"another group", rules.Container{GID: id(0)}, rules.Container{GID: id(5)}, []string{"group 0 instead of 5"}},
		{"another environment", rules.Container{Env: map[string]string{"A": "a"}}, spec, []string{"another environment (B)"}},
	} {
		if got := tt.created.Contradicts(tt.spec); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// That the kubelet's word cannot be read is known, and nothing else by it; it is not remembered.
func TestPodWithoutReadableWord(t *testing.T) {
	told := rules.Pod{UID: "u", Namespace: "shop", Name: "web", Containers: []rules.Container{{Name: "app", Args: []string{"run"}}}}
	want := told
	want.Unreadable = "too many containers"
	spec := rules.Pod{UID: "u", Namespace: "shop", Name: "web", Unreadable: want.Unreadable}
	got := told.With(spec)
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	spec.Name = "other"
	if other := told.With(spec); other.Unreadable != "" {
		t.Error("what is said of another pod counts")
	}
	if kept := (rules.Node{}).Remembered(got, rules.Decision{}); kept.Unreadable != "" {
		t.Error("it is remembered")
	}
}

// Of a pod that hides what its containers are given nobody says that it can go nowhere; what forbids going around refuses it.
func TestUnreadablePodsAreRefused(t *testing.T) {
	pod := rules.Pod{Namespace: "shop", Annotations: map[string]string{"tollbooth.example.com/injected": "true"}, Unreadable: "more than 1024 containers"}
	raw := func(how rules.Raw) []rules.Lockdown { return []rules.Lockdown{{Raw: how, Place: "m.toml:7"}} }
	for name, tt := range map[string]struct {
		node rules.Node
		want rules.Action
		says string
	}{
		"nothing is refused":      {rules.Node{}, rules.Enrol, ""},
		"powers are":              {rules.Node{RefusePowers: true}, rules.Reject, "bypass.privileged"},
		"but not here":            {rules.Node{RefusePowers: true, PowersExempt: []string{"shop"}}, rules.Enrol, ""},
		"packet sockets are said": {rules.Node{Lockdowns: raw(rules.RawReport)}, rules.Enrol, ""},
		"and refused":             {rules.Node{Lockdowns: raw(rules.RawRefuse)}, rules.Reject, "[[lockdown]] of m.toml:7"},
	} {
		tt.node.Meshes, tt.node.RuntimeHandlers = []rules.Mesh{toll}, []string{""}
		d := tt.node.Decide(pod)
		if d.Action != tt.want || !strings.Contains(d.Detail, tt.says) {
			t.Errorf("%s: %s, %s", name, d.Action, d.Detail)
		}
		if tt.want == rules.Reject && (d.Reason != rules.ReasonBypass || !strings.Contains(d.Detail, pod.Unreadable)) {
			t.Errorf("%s: %s, %s", name, d.Reason, d.Detail)
		}
		readable := pod
		readable.Unreadable = ""
		if d := tt.node.Decide(readable); d.Action != rules.Enrol {
			t.Errorf("%s: of a pod that can be read: %s, %s", name, d.Action, d.Detail)
		}
		outside := pod
		outside.Annotations = nil
		if d := tt.node.Decide(outside); d.Action != rules.Skip {
			t.Errorf("%s: outside the mesh: %s, %s", name, d.Action, d.Detail)
		}
	}
}

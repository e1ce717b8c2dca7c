// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
)

func TestBypasses(t *testing.T) {
	admin := rules.Powers{NetAdmin: true}
	pod := rules.Pod{Containers: []rules.Container{
		{Name: "istio-proxy", Args: []string{"pilot-agent", "proxy"}, UID: id(1337), Powers: admin},
		{Name: "plain", UID: id(1000)},
		{Name: "dropped", Powers: rules.Powers{DropsNetRaw: true}},
		{Name: "all", UID: id(1337), Powers: rules.Powers{Privileged: true, NetAdmin: true, NetRaw: true}},
		{Name: "member", Groups: []uint32{1338}},
	}}
	got := enrolled().Bypasses(pod)
	want := []rules.Bypass{
		{Container: "all", Ways: []rules.Way{rules.WayPrivileged, rules.WayNetAdmin, rules.WayNetRaw, rules.WayProxyUser}},
		{Container: "member", Ways: []rules.Way{rules.WayProxyUser}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	pod.HostPID = true
	if got := enrolled().Bypasses(pod); len(got) != 4 || !slices.Equal(got[0].Ways, []rules.Way{rules.WayHostPID}) {
		t.Errorf("with the host's process ids: %v", got)
	}
	if got := (rules.Decision{Action: rules.Skip}).Bypasses(pod); got != nil {
		t.Errorf("of a pod without rules: %v", got)
	}
	pod.Containers[0].Args = []string{"/bin/sh"} // a name is nobody's proof
	if got := enrolled().Bypasses(pod); got[0].Container != "istio-proxy" || got[0].Ways[0] != rules.WayNetAdmin {
		t.Errorf("of a shell that bears the proxy's name: %v", got)
	}
	if got := rules.SayBypasses(enrolled().Bypasses(pod)); !strings.HasPrefix(got, "container istio-proxy (net_admin, host_pid, proxy_user), container plain (host_pid), ") ||
		!strings.HasSuffix(got, ", and 2 more") {
		t.Errorf("said: %s", got)
	}
}

// bypass.privileged = "refuse" refuses what was given a way around; the proxy's user is proxy_identity's matter.
func TestRefusePowers(t *testing.T) {
	node := rules.Node{Meshes: []rules.Mesh{toll}, RuntimeHandlers: []string{""}, RefusePowers: true, PowersExempt: []string{"ops-*"}}
	pod := rules.Pod{Namespace: "shop", Annotations: map[string]string{"tollbooth.example.com/injected": "true"}}
	for _, tt := range []struct {
		namespace string
		container rules.Container
		hostPID   bool
		want      rules.Action
	}{
		{"shop", rules.Container{Name: "app"}, false, rules.Enrol},
		{"shop", rules.Container{Name: "app", UID: id(4000)}, false, rules.Enrol},
		{"shop", rules.Container{Name: "app", Powers: rules.Powers{NetRaw: true}}, false, rules.Reject},
		{"shop", rules.Container{Name: "app"}, true, rules.Reject},
		{"shop", rules.Container{Name: "tollbooth", Args: []string{"tollboothd"}, Powers: rules.Powers{NetAdmin: true}}, false, rules.Enrol},
		{"ops-1", rules.Container{Name: "app", Powers: rules.Powers{Privileged: true}}, false, rules.Enrol},
	} {
		pod.Namespace, pod.Containers, pod.HostPID = tt.namespace, []rules.Container{tt.container}, tt.hostPID
		d := node.Decide(pod)
		if d.Action != tt.want || tt.want == rules.Reject && (d.Reason != rules.ReasonBypass || !strings.Contains(d.Detail, "container app (")) {
			t.Errorf("%+v in %s: %s, %s: %s", tt.container, tt.namespace, d.Action, d.Reason, d.Detail)
		}
	}
	node.RefusePowers = false
	if d := node.Decide(pod); d.Action != rules.Enrol {
		t.Errorf("without the key: %s", d.Action)
	}
}

// A debug container cannot be taken out of its pod again: it is refused, and nobody else for it.
func TestDebugContainersAreRefusedAlone(t *testing.T) {
	d := enrolled()
	d.RefusesPowers = true
	pod := rules.Pod{Specified: true, Containers: []rules.Container{{Name: "app"}, {Name: "debugger", Phase: rules.PhaseDebug, Powers: rules.Powers{Privileged: true}}}}
	for starts, want := range map[string]string{"": "", "app": "", "debugger": "container debugger (privileged) can go around the pod's rules"} {
		if got := d.Barred(pod, starts); want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("when %q starts: %q, want %q", starts, got, want)
		}
	}
	d.RefusesPowers, d.RefusesRaw = false, "[[lockdown]] of m.toml:3"
	if got := d.Barred(pod, "debugger"); !strings.Contains(got, "by packet sockets, and [[lockdown]] of m.toml:3 refuses that") {
		t.Errorf("by a lockdown: %q", got)
	}
	d.RefusesRaw = ""
	if got := d.Barred(pod, "debugger"); got != "" || d.Bars() {
		t.Errorf("where nothing is refused: %q", got)
	}
}

// What a decision of earlier let containers have may be refused today, and the other way round.
func TestWhatIsRefusedToday(t *testing.T) {
	raw := []rules.Lockdown{{Namespaces: []string{"shop"}, Raw: rules.RawRefuse, Place: "m.toml:3"}}
	allows, powers, both := rules.Node{}, rules.Node{RefusePowers: true, PowersExempt: []string{"elsewhere"}}, rules.Node{RefusePowers: true, Lockdowns: raw}
	for _, tt := range []struct {
		name          string
		before, today rules.Node
		more, bars    bool
	}{
		{"nothing, as before", allows, allows, false, false},
		{"something", allows, powers, true, true},
		{"the same", powers, powers, false, true},
		{"another way as well", powers, both, true, true},
		{"one way less", both, powers, false, true},
		{"nothing any more", both, allows, false, false},
	} {
		before := tt.before.Refusing("shop", rules.Decision{Action: rules.Enrol})
		today := tt.today.Refusing("shop", before)
		if today.BarsMore(before) != tt.more || today.Bars() != tt.bars {
			t.Errorf("%s: more %t, bars %t", tt.name, today.BarsMore(before), today.Bars())
		}
	}
	if powers.Refusing("elsewhere", rules.Decision{}).Bars() {
		t.Error("an exempt namespace is none")
	}
}

// What runs before the proxy does has nobody who takes its connections, and the plan says so.
func TestEarlyInitContainers(t *testing.T) {
	node := rules.Node{Meshes: []rules.Mesh{toll}, RuntimeHandlers: []string{""}}
	early := rules.Container{Name: "migrate", Phase: rules.PhaseInit}
	late := rules.Container{Name: "late", Phase: rules.PhaseInit}
	for _, tt := range []struct {
		name       string
		containers []rules.Container
		want       string
	}{
		{"of a sidecar among the containers", []rules.Container{early, {Name: "app"}, {Name: "tollbooth"}}, "init container migrate runs before the proxy does"},
		{"before a native sidecar", []rules.Container{early, {Name: "tollbooth", Phase: rules.PhaseSidecar}, late, {Name: "app"}}, "init container migrate runs before"},
		{"after a native sidecar", []rules.Container{{Name: "tollbooth", Phase: rules.PhaseSidecar}, late, {Name: "app"}}, ""},
		{"the mesh's own", []rules.Container{{Name: "tollbooth", Phase: rules.PhaseInit}, {Name: "app"}}, ""},
		{"many", []rules.Container{early, late, early, late, early, {Name: "app"}}, "migrate, late, migrate and 2 more runs before"},
		{"nothing is known", nil, ""},
	} {
		pod := rules.Pod{Annotations: map[string]string{"tollbooth.example.com/injected": "true"}, Containers: tt.containers}
		plan, err := node.Decide(pod).Planner(rules.Network{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7")}})
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(plan.Notes, "; ")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// raw of a lockdown names containers that keep NET_RAW, or refuses their pods, as far as anybody has told what they are given.
func TestRawSockets(t *testing.T) {
	pod := rules.Pod{Namespace: "shop", UID: "u", Name: "cart", Annotations: map[string]string{"tollbooth.example.com/injected": "true"}}
	for _, tt := range []struct {
		name    string
		raw     []rules.Raw
		powers  rules.Powers
		told    bool
		refused bool
		way     bool
	}{
		{"nobody asks", []rules.Raw{""}, rules.Powers{}, true, false, false},
		{"reported", []rules.Raw{rules.RawReport}, rules.Powers{}, true, false, true},
		{"refused", []rules.Raw{rules.RawRefuse}, rules.Powers{}, true, true, false},
		{"the strictest counts", []rules.Raw{rules.RawRefuse, "", rules.RawReport}, rules.Powers{}, true, true, false},
		{"dropped", []rules.Raw{rules.RawRefuse}, rules.Powers{DropsNetRaw: true}, true, false, false},
		{"privileged", []rules.Raw{rules.RawRefuse}, rules.Powers{Privileged: true}, true, true, false},
		{"nobody tells", []rules.Raw{rules.RawRefuse}, rules.Powers{}, false, false, false},
	} {
		node := rules.Node{Meshes: []rules.Mesh{toll}, RuntimeHandlers: []string{""}}
		for _, raw := range tt.raw {
			node.Lockdowns = append(node.Lockdowns, rules.Lockdown{Place: "m.toml:3", Raw: raw})
		}
		p := pod
		p.Containers = []rules.Container{{Name: "app"}}
		if tt.told {
			spec := pod
			spec.Containers = []rules.Container{{Name: "app", Powers: tt.powers}}
			p = p.With(spec)
		}
		d := node.Decide(p)
		if (d.Action == rules.Reject) != tt.refused || tt.refused && (d.Reason != rules.ReasonBypass || !strings.Contains(d.Detail, "[[lockdown]] of m.toml:3")) {
			t.Errorf("%s: %s, %s", tt.name, d.Action, d.Detail)
		}
		named := slices.ContainsFunc(d.Bypasses(p), func(b rules.Bypass) bool { return slices.Contains(b.Ways, rules.WayNetRaw) })
		if named != tt.way {
			t.Errorf("%s: %v", tt.name, d.Bypasses(p))
		}
	}
}

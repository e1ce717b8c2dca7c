// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

func ptr(n int64) *int64 { return &n }

// told is the pod as a runtime tells it when it creates these containers, one after the other.
func told(pod rules.Pod, containers ...rules.Container) rules.Pod {
	pod.Complete, pod.Containers = false, nil
	for _, c := range containers {
		if mesh.Refines(c.Name) {
			pod.Containers = append(pod.Containers, started(c))
		}
	}
	return pod
}

// started gives a container of a manifest the arguments of its process: the image's program comes first.
func started(c rules.Container) rules.Container {
	program := "/usr/local/bin/pilot-agent"
	if len(c.Args) > 0 && strings.HasPrefix(c.Args[0], "-") {
		program = "/usr/local/bin/istio-iptables"
	}
	c.Args = append([]string{program}, c.Args...)
	return c
}

func TestRefines(t *testing.T) {
	for name, want := range map[string]bool{"istio-proxy": true, "istio-validation": true, "istio-init": false, "app": false, "": false} {
		if got := mesh.Refines(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}

// Only what is beyond doubt takes a pod out of the mesh; a manifest's arguments and a process's are both read.
func TestProxyArguments(t *testing.T) {
	for _, tt := range []struct {
		args []string
		kind string // "" where the pod is a sidecar's
	}{
		{[]string{"proxy", "router"}, "router"},
		{[]string{"proxy", "router", "--domain", "x"}, "router"},
		{[]string{"/usr/local/bin/pilot-agent", "proxy", "router"}, "router"},
		{[]string{"pilot-agent", "proxy", "waypoint"}, "waypoint"},
		{[]string{"./agent", "proxy", "router"}, "router"},
		{[]string{"/usr/local/bin/pilot-agent", "proxy", "sidecar", "--domain", "x"}, ""},
		{[]string{"/usr/local/bin/pilot-agent", "proxy"}, ""},
		{[]string{"/usr/local/bin/pilot-agent", "proxy", ""}, ""},
		{[]string{"/usr/local/bin/pilot-agent", "proxy", "--domain", "router"}, ""},
		{[]string{"proxy", "--domain", "router"}, ""},
		{[]string{"/usr/local/bin/pilot-agent", "wait", "router"}, ""},
		{[]string{"/usr/local/bin/pilot-agent", "/x/proxy", "router"}, ""},
		{[]string{"wait", "proxy", "router"}, ""},
		{[]string{"/bin/sh", "-c", "proxy", "router"}, ""},
		{[]string{"/bin/env", "pilot-agent", "proxy", "router"}, ""},
		{[]string{"/usr/local/bin/pilot-agent"}, ""},
		{[]string{"router"}, ""},
		{nil, ""},
	} {
		for _, complete := range []bool{false, true} {
			pod := with(rules.Container{Name: "istio-proxy", Args: tt.args})
			pod.Complete = complete
			d := mesh.Decide(pod)
			switch {
			case tt.kind == "" && d.Action != rules.Enrol,
				tt.kind != "" && (d.Reason != rules.ReasonNotSidecar || d.Detail != "container istio-proxy is a "+tt.kind):
				t.Errorf("%q, complete %t: %s, %s: %s", tt.args, complete, d.Action, d.Reason, d.Detail)
			}
		}
	}
}

func TestValidationArguments(t *testing.T) {
	const notRead = "container istio-validation does not run istio-iptables: its arguments are not read"
	flags := []string{"-p", "1", "-z", "2", "-u", "1000660000", "-g", "1000670000", "--run-validation"}
	for _, tt := range []struct {
		before []string
		heard  bool
	}{
		{nil, true},
		{[]string{"istio-iptables"}, true},
		{[]string{"/usr/local/bin/istio-iptables"}, true},
		{[]string{"pilot-agent", "istio-iptables"}, true},
		{[]string{"/usr/local/bin/pilot-agent", "istio-iptables"}, true},
		{[]string{"/usr/local/bin/pilot-agent"}, false},
		{[]string{"/usr/local/bin/pilot-agent", "istio-clean-iptables"}, false},
		{[]string{"echo", "istio-iptables"}, false},
		{[]string{"/bin/sh", "-c", "istio-iptables"}, false},
		{[]string{"/bin/env", "x", "istio-iptables"}, false},
		{[]string{"sleep"}, false},
	} {
		pod := injected()
		pod.Containers = []rules.Container{{Name: "istio-validation", Args: slices.Concat(tt.before, flags)}}
		for _, pod := range []rules.Pod{pod, edit(withProxy(pod), func(p *rules.Pod) { p.Complete = true })} {
			want := standard(nil)
			var notes []string
			if tt.heard {
				want.OutboundPort, want.InboundPort, want.UID, want.GID = 1, 2, 1000660000, 1000670000
			} else {
				notes = []string{notRead}
			}
			if diff := cmp.Diff(want, intentOf(t, mesh, pod), compare); diff != "" {
				t.Errorf("%q (-want +got):\n%s", tt.before, diff)
			}
			if diff := cmp.Diff(notes, planOf(t, mesh, pod, only4).Notes, compare); diff != "" {
				t.Errorf("%q: notes (-want +got):\n%s", tt.before, diff)
			}
		}
	}
}

// What is known when, from the sandbox to the proxy.
func TestPhases(t *testing.T) {
	const config = "proxy.istio.io/config"
	defaults := istio.Standard()
	defaults.DNSCapture = true
	validation := func(args ...string) rules.Container {
		return rules.Container{Name: "istio-validation", Args: append([]string{"istio-iptables"}, args...)}
	}
	as := func(c rules.Container, uid, gid int64) rules.Container {
		c.UID, c.GID = &uid, &gid
		return c
	}
	proxy := rules.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, Env: map[string]string{"ISTIO_DUAL_STACK": "true"}}
	only := `{"containers":["istio-proxy"]}`
	tproxy := injected(mode, "TPROXY")
	for _, tt := range []struct {
		name       string
		pod        rules.Pod
		containers []rules.Container
		uid, gid   uint32
		port       uint16
		dns, dual  bool
	}{
		{"the sandbox", injected(config, "{}"), nil, 1337, 1337, 15001, true, false},
		{"dual stack asked for", injected(config, "proxyMetadata: {ISTIO_DUAL_STACK: \"true\"}"), nil, 1337, 1337, 15001, true, true},
		{"lookups not wanted: that is the proxy's to say", injected(config, "proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"false\"}"), nil, 1337, 1337, 15001, true, false},
		{"the proxy over what was asked for", injected(config, "proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\"}"), []rules.Container{proxy}, 1337, 1337, 15001, false, true},
		{"validation", injected(config, "{}"), []rules.Container{validation("-p", "15100", "-u", "5")}, 5, 1337, 15100, true, false},
		{"validation, its own environment", injected(), []rules.Container{{Name: "istio-validation", Env: map[string]string{
			"ISTIO_META_DNS_CAPTURE": "false", "ISTIO_DUAL_STACK": "true"}}}, 1337, 1337, 15001, true, true},
		{"the proxy over validation's environment", injected(), []rules.Container{{Name: "istio-validation", Env: map[string]string{
			"ISTIO_META_DNS_CAPTURE": "true", "ISTIO_DUAL_STACK": "true"}}, {Name: "istio-proxy", Args: []string{"proxy", "sidecar"},
			Env: map[string]string{"X": "y"}}}, 1337, 1337, 15001, false, false},
		{"the environment of a validation that the injector did not add", injected("sidecar.istio.io/status", only), []rules.Container{{
			Name: "istio-validation", Env: map[string]string{"ISTIO_DUAL_STACK": "true"}}}, 1337, 1337, 15001, true, false},
		{"validation, its own user", injected(), []rules.Container{as(validation(), 5, 6)}, 5, 6, 15001, true, false},
		{"validation, arguments over its user", injected(), []rules.Container{as(validation("-u", "7"), 5, 6)}, 7, 6, 15001, true, false},
		{"validation, and then the proxy", injected(config, "{}"), []rules.Container{validation("-p", "15100", "-u", "5"), proxy}, 5, 1337, 15100, false, true},
		{"the proxy alone", injected(), []rules.Container{proxy}, 1337, 1337, 15001, false, true},
		{"the proxy's user", injected(), []rules.Container{as(proxy, 8, 9)}, 8, 9, 15001, false, true},
		{"the proxy's user over all", injected(overrides, `{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":3,"runAsGroup":4}}]}`),
			[]rules.Container{as(validation("-u", "5", "-g", "6"), 5, 6), as(proxy, 8, 9)}, 8, 9, 15001, false, true},
		{"overrides, the runtime tells no user", injected(overrides, `{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":3,"runAsGroup":4}}]}`),
			[]rules.Container{proxy}, 3, 4, 15001, false, true},
		{"OpenShift", injected(), []rules.Container{as(validation("-u", "1000660000"), 1000660000, 1000660000)},
			1000660000, 1000660000, 15001, true, false},
		{"OpenShift, then the proxy", injected(), []rules.Container{as(validation("-u", "1000660000"), 1000660000, 1000660000), as(proxy, 1000660000, 1000660000)},
			1000660000, 1000660000, 15001, false, true},
		{"TPROXY", tproxy, []rules.Container{as(validation("-u", "1337"), 1337, 1337), as(proxy, 0, 1337)}, 1337, 1337, 15001, false, true},
		{"user and group 0 leave what was known", tproxy, []rules.Container{validation("-u", "5", "-g", "6"), as(proxy, 0, 0)}, 5, 6, 15001, false, true},
		{"a validation that the injector did not add", injected("sidecar.istio.io/status", only),
			[]rules.Container{as(validation("-p", "1", "-u", "5", "-g", "6"), 5, 6)}, 1337, 1337, 15001, true, false},
		{"a status without names", injected("sidecar.istio.io/status", "true"), []rules.Container{validation("-u", "5")}, 5, 1337, 15001, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := istio.New(defaults)
			pod := told(tt.pod, tt.containers...)
			in := intentOf(t, m, pod)
			if in.UID != tt.uid || in.GID != tt.gid || in.OutboundPort != tt.port || in.DNSCapture != tt.dns || in.DualStack != tt.dual {
				t.Errorf("got user %d:%d, port %d, dns %t, dual stack %t", in.UID, in.GID, in.OutboundPort, in.DNSCapture, in.DualStack)
			}
			d := m.Decide(pod)
			if d.Proxy.UID != tt.uid || d.Proxy.GID != tt.gid {
				t.Errorf("the proxy is %+v", d.Proxy)
			}
		})
	}
}

// The pod may turn out to have no sidecar only when its proxy is created.
func TestPhasesEndWithoutSidecar(t *testing.T) {
	for name, proxy := range map[string]rules.Container{
		"router":    {Name: "istio-proxy", Args: []string{"proxy", "router"}},
		"proxyless": {Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, Env: map[string]string{"DISABLE_ENVOY": "true"}},
	} {
		validation := rules.Container{Name: "istio-validation", Args: []string{"istio-iptables"}}
		if d := mesh.Decide(told(injected(), validation)); d.Action != rules.Enrol {
			t.Errorf("%s: before the proxy: %s, %s", name, d.Action, d.Detail)
		}
		if d := mesh.Decide(told(injected(), validation, proxy)); d.Action != rules.Skip || d.Reason != rules.ReasonNotSidecar {
			t.Errorf("%s: with the proxy: %s, %s, %s", name, d.Action, d.Reason, d.Detail)
		}
	}
	absent := injected("sidecar.istio.io/status", `{"containers":["other"]}`)
	if d := mesh.Decide(told(absent)); d.Reason != rules.ReasonNoProxy {
		t.Errorf("a status that names no proxy: %s, %s", d.Action, d.Reason)
	}
	if d := mesh.Decide(told(absent, sidecar)); d.Action != rules.Enrol {
		t.Errorf("a status that names no proxy, and then a proxy: %s, %s", d.Action, d.Reason)
	}
}

// A user that cannot be one is refused, not cut to 32 bits.
func TestUsersRejected(t *testing.T) {
	for _, id := range []int64{-1, 1<<32 - 1, 1 << 32, 1<<32 + 1337} {
		value := fmt.Sprint(id)
		proxy := edit(withProxy(injected()), func(p *rules.Pod) { p.Containers[0].UID = &id })
		rejected(t, proxy, "container istio-proxy user", value, "not a user or group id")
		validation := withValidation(injected())
		validation.Containers[0].GID = &id
		rejected(t, validation, "container istio-validation user", value, "not a user or group id")
	}
}

func TestProxyContainers(t *testing.T) {
	const key = "sidecar.istio.io/status"
	both := []rules.Sidecar{{Name: "istio-proxy", Command: []string{"pilot-agent", "proxy"}}, {Name: "istio-validation", Command: []string{"pilot-agent", "istio-iptables"}}}
	for _, tt := range []struct {
		status string
		want   []rules.Sidecar
	}{
		{status, both},
		{statusNative, both},
		{"true", both[:1]},
		{"{}", both[:1]},
		{`{"containers":["istio-proxy"],"initContainers":null}`, both[:1]},
		{`{"containers":["istio-proxy","other"]}`, both[:1]},
		{`{"containers":["other"],"initContainers":["istio-validation"]}`, both[1:]},
		{`{"containers":["other"]}`, nil},
	} {
		pod := with(sidecar)
		pod.Annotations[key] = tt.status
		if diff := cmp.Diff(tt.want, mesh.Decide(pod).Proxy.Containers, compare); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.status, diff)
		}
	}
	optIn := rules.Pod{Annotations: map[string]string{"istio-pod-network-controller/initialize": "true"}}
	if diff := cmp.Diff(rules.Proxy{UID: 1337, GID: 1337, Containers: both[:1]}, mesh.Decide(optIn).Proxy); diff != "" {
		t.Errorf("opt-in (-want +got):\n%s", diff)
	}
	if got := mesh.Decide(rules.Pod{}).Proxy; got.Containers != nil {
		t.Errorf("a pod outside the mesh: %+v", got)
	}
}

// What a runtime tells in pieces, in whatever order, comes to what a manifest says at once.
func TestOneByOneIsAtOnce(t *testing.T) {
	for _, c := range corpus(t) {
		sameInPieces(t, c.Name, c.Pod())
	}
	actions := map[rules.Action]int{}
	seeds := sample.Seeds(t, 600, 3000)
	for _, seed := range seeds {
		pod := randomInjected(rand.New(rand.NewPCG(seed, 0)))
		actions[sameInPieces(t, fmt.Sprint("seed ", seed), pod)]++
		if t.Failed() {
			return
		}
	}
	if len(actions) != 3 || slices.Min([]int{actions[rules.Enrol], actions[rules.Skip], actions[rules.Reject]}) < len(seeds)/30 {
		t.Errorf("the random pods show too little: %v", actions)
	}
}

func sameInPieces(t *testing.T, name string, pod rules.Pod) rules.Action {
	t.Helper()
	pod.Complete = true
	atOnce := mesh.Decide(pod)
	backwards := slices.Clone(pod.Containers)
	slices.Reverse(backwards)
	for _, order := range [][]rules.Container{pod.Containers, backwards} {
		got := mesh.Decide(told(pod, order...))
		ignore := cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Planner" || p.String() == "SandboxPlanner" }, cmp.Ignore())
		if diff := cmp.Diff(atOnce, got, compare, ignore); diff != "" {
			t.Errorf("%s: (-at once +one by one):\n%s", name, diff)
			continue
		}
		if got.Action != rules.Enrol {
			continue
		}
		want, err := atOnce.Planner(rules.Network{Addresses: first4})
		have, err2 := got.Planner(rules.Network{Addresses: first4})
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if diff := cmp.Diff(want.Notes, have.Notes); diff != "" || want.Key() != have.Key() {
			t.Errorf("%s: keys %s, %s; notes (-at once +one by one):\n%s", name, want.Key(), have.Key(), diff)
		}
	}
	return atOnce.Action
}

// randomInjected has a proxy always, and anything else that containers can say.
func randomInjected(random *rand.Rand) rules.Pod {
	pick := func(values ...string) string { return values[random.IntN(len(values))] }
	id := func() *int64 {
		if random.IntN(50) == 0 {
			return ptr(1 << 32)
		}
		return []*int64{nil, nil, ptr(0), ptr(1337), ptr(5), ptr(1000660000)}[random.IntN(6)]
	}
	pairs := []string{"sidecar.istio.io/status", pick(status, status, statusNative, "{}", `{"containers":["istio-proxy"]}`, `{"containers":["x"]}`)}
	for _, pair := range [][]string{
		{mode, pick("REDIRECT", "TPROXY")},
		{"inject.istio.io/templates", pick("sidecar", "gateway", "sidecar,custom")},
		{"proxy.istio.io/config", pick("{}", "proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\"}", "proxyMetadata: {INVALID_DROP: '1', X: y}")},
		{overrides, `{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":3}}]}`},
	} {
		if random.IntN(2) == 0 {
			pairs = append(pairs, pair...)
		}
	}
	pod := injected(pairs...)
	args := func(text string) []string { return strings.Fields(text) }
	validation := rules.Container{Name: "istio-validation", UID: id(), GID: id(), Args: args(pick("", "istio-iptables",
		"istio-iptables -p 15100 -z 15106 -u 5", "-p 15100 -u 7 -g 8", "istio-iptables --proxy-uid=9", "other -u 10", "istio-iptables -p x"))}
	env := map[string]string{}
	for _, name := range []string{"ISTIO_META_DNS_CAPTURE", "ISTIO_DUAL_STACK", "INVALID_DROP"} {
		if random.IntN(2) == 0 {
			env[name] = pick("true", "false", "yes")
		}
	}
	if random.IntN(10) == 0 {
		env["DISABLE_ENVOY"] = pick("true", "false")
	}
	proxy := rules.Container{Name: "istio-proxy", UID: id(), GID: id(), Env: env,
		Args: args(pick("", "proxy", "proxy sidecar", "proxy sidecar", "proxy sidecar --domain x", "proxy router", "proxy --domain x", "wait router"))}
	app := rules.Container{Name: "app", Args: args("istio-iptables -u 4"), UID: ptr(6)}
	pod.Containers = []rules.Container{validation, proxy, app}
	if random.IntN(3) == 0 {
		pod.Containers = []rules.Container{app, proxy}
	}
	return pod
}

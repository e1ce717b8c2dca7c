// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"encoding/json"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// talkative returns a drawn pod whose containers, overrides and opt-in say more, any of it or nothing.
func talkative(seed int) (rules.Mesh, rules.Pod) {
	random := rand.New(rand.NewPCG(uint64(seed), 3))
	some := func() bool { return random.IntN(2) == 0 }
	s := drawn()[seed]
	pod := s.Pod
	pod.Annotations = maps.Clone(pod.Annotations)
	set := func(key, value string) {
		if some() {
			pod.Annotations[key] = value
		}
	}
	set("istio-pod-network-controller/initialize", "true")
	set("pod-network-controller.istio.io/envoy-port", "30001")
	set("pod-network-controller.istio.io/envoy-userid", "4001")
	set("pod-network-controller.istio.io/envoy-groupid", "4002")
	set("traffic.sidecar.istio.io/kubevirtInterfaces", "net2")
	set("proxy.istio.io/overrides", `{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":5001,"runAsGroup":5002}}]}`)
	user := func(ids ...int64) (uid, gid *int64) {
		if some() {
			uid = &ids[0]
		}
		if some() {
			gid = &ids[1]
		}
		return uid, gid
	}
	if some() {
		c := rules.Container{Name: "istio-validation", Args: []string{"istio-iptables"}}
		c.UID, c.GID = user(6001, 6002)
		for _, arg := range []string{"-p=31001", "--inbound-capture-port=31006", "-e=31008", "-u=6003", "--proxy-gid=6004"} {
			if some() {
				c.Args = append(c.Args, arg)
			}
		}
		pod.Containers = append(pod.Containers, c)
	}
	if some() {
		c := rules.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}}
		c.UID, c.GID = user([]int64{0, 7001}[random.IntN(2)], 7002)
		for name, value := range map[string]string{"ISTIO_META_DNS_CAPTURE": "true", "ISTIO_DUAL_STACK": "yes", "INVALID_DROP": "1",
			"ISTIO_OUTBOUND_OWNER_GROUPS": "8001,8002", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "8003", "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.0/16"} {
			if c.Env == nil && some() {
				c.Env = map[string]string{}
			}
			if c.Env != nil && some() {
				c.Env[name] = value
			}
		}
		pod.Containers = append(pod.Containers, c)
	}
	return istio.New(s.Defaults), pod
}

// anything lets containers say what they like.
var anything = []rules.CapturePolicy{{Namespaces: []string{"*"}, MayLoosen: true}}

// An explanation is of the same decision, and of every field of its intent.
func TestExplainIsTheDecision(t *testing.T) {
	t.Parallel()
	for seed := range drawn() {
		m, pod := talkative(seed)
		d := m.Decide(pod)
		e := rules.Node{Meshes: []rules.Mesh{m}, RuntimeHandlers: []string{""}, Policies: anything}.Explain(pod)
		if diff := cmp.Diff([]any{d.Action, d.Reason, d.Detail, d.Intent, d.Proxy}, []any{e.Action, e.Reason, e.Detail, e.Intent, e.Proxy}, compare); diff != "" {
			t.Fatalf("seed %d: explained is another decision (-decided +explained):\n%s", seed, diff)
		}
		if d.Account != nil || e.Account == nil {
			t.Fatalf("seed %d: accounts %v and %v", seed, d.Account, e.Account)
		}
		text, err := json.Marshal(d.Intent)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]any
		if err := json.Unmarshal(text, &fields); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range e.Account.Settings {
			names = append(names, s.Name)
			if want := spelt(s.Name, fields[s.Name]); s.Value != want || s.Source == "" {
				t.Fatalf("seed %d: %+v, want value %q", seed, s, want)
			}
		}
		if slices.Sort(names); !slices.Equal(names, slices.Sorted(maps.Keys(fields))) {
			t.Fatalf("seed %d: explains %v", seed, names)
		}
	}
}

// spelt is how an explanation prints a value of the intent's JSON.
func spelt(name string, value any) string {
	switch value := value.(type) {
	case nil:
		if name == "ownerGroups" {
			return "all"
		}
		return "none"
	case []any:
		var words []string
		for _, v := range value {
			words = append(words, strings.Trim(mustJSON(v), `"`))
		}
		if len(words) == 0 {
			return "none"
		}
		return strings.Join(words, ", ")
	}
	return strings.Trim(mustJSON(value), `"`)
}

func mustJSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// The named source alone gives the value: in a pod that says nothing else it is the same.
func TestTheSourceGivesTheValue(t *testing.T) {
	t.Parallel()
	asked := map[string]int{}
	for seed := range drawn() {
		m, pod := talkative(seed)
		e := rules.Node{Meshes: []rules.Mesh{m}, RuntimeHandlers: []string{""}, Policies: anything}.Explain(pod)
		if e.Action != rules.Enrol {
			t.Fatalf("seed %d: %s: %s", seed, e.Action, e.Detail)
		}
		for i, s := range e.Account.Settings {
			alone := rules.Node{Meshes: []rules.Mesh{m}, RuntimeHandlers: []string{""}, Policies: anything}.Explain(saying(t, pod, s.Source))
			if alone.Action != rules.Enrol {
				t.Fatalf("seed %d: %s: %s", seed, s.Source, alone.Detail)
			}
			if got := alone.Account.Settings[i]; got.Value != s.Value || got.Source != s.Source {
				t.Fatalf("seed %d: %+v, but alone %+v", seed, s, got)
			}
			asked[s.Source]++
		}
	}
	if len(asked) != 10+3+2+4+5+6+3+1 { // annotations, opt-in, overrides, ids of either container, arguments, environment, what it lacks, built-in
		t.Errorf("%d sources: %v", len(asked), slices.Sorted(maps.Keys(asked)))
	}
}

// saying returns the pod with what a source names and nothing else.
func saying(t *testing.T, pod rules.Pod, source string) rules.Pod {
	t.Helper()
	alone := pod
	alone.Containers, alone.Annotations = nil, map[string]string{"sidecar.istio.io/status": "{}"}
	kind, rest, _ := strings.Cut(source, " ")
	name, what, _ := strings.Cut(rest, " ")
	switch {
	case source == rules.BuiltIn:
		return alone
	case kind == "annotation":
		alone.Annotations[name] = pod.Annotations[name]
		if strings.HasPrefix(name, "pod-network-controller.") {
			alone.Annotations["istio-pod-network-controller/initialize"] = "true"
		}
		return alone
	}
	c := *pod.Container(name)
	args, env := c.Args, c.Env
	c.Args, c.Env = c.Args[:1:1], nil
	if name == "istio-proxy" {
		c.Args = args
	}
	uid, gid := c.UID, c.GID
	c.UID, c.GID = nil, nil
	kind, what, _ = strings.Cut(what, " ")
	switch kind {
	case "user":
		c.UID = uid
	case "group":
		c.GID = gid
	case "argument":
		for _, arg := range args[1:] {
			flag, _, _ := strings.Cut(arg, "=")
			if strings.HasPrefix(what, flag+" ") || strings.Contains(what, "("+flag+")") {
				c.Args = append(c.Args, arg)
			}
		}
	case "environment":
		c.Env = map[string]string{what: env[what]}
	case "environment,":
		c.Env = map[string]string{}
	default:
		t.Fatalf("source %q", source)
	}
	alone.Containers = []rules.Container{c}
	return alone
}

// What the node's configuration says, and where, is told of what no pod says itself.
func TestExplainTheConfiguration(t *testing.T) {
	origin := map[string]string{"istio.dns_capture": "meshnetd.toml:3", "istio.proxy_uid": "meshnetd.toml:5"}
	pod := injected("traffic.sidecar.istio.io/excludeOutboundPorts", "9000")
	pod.Containers = []rules.Container{{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, UID: new(int64(2102))}}
	got := map[string]string{}
	d := rules.Node{Meshes: []rules.Mesh{mesh}, RuntimeHandlers: []string{""}, Origin: origin}.Explain(pod)
	for _, s := range d.Account.Settings {
		got[s.Name] = s.Source
	}
	for name, want := range map[string]string{"dnsCapture": "meshnetd.toml:3 istio.dns_capture", "proxyUID": "container istio-proxy user", "proxyGID": rules.BuiltIn,
		"outboundPortsExcluded": "annotation traffic.sidecar.istio.io/excludeOutboundPorts", "inboundPortsExcluded": rules.BuiltIn} {
		if got[name] != want {
			t.Errorf("%s is from %q, want %q", name, got[name], want)
		}
	}
}

func TestExplainSteps(t *testing.T) {
	for name, tt := range map[string]struct {
		node rules.Node
		pod  rules.Pod
		want []string
	}{
		"a sidecar": {rules.Node{RuntimeHandlers: []string{""}}, withProxy(injected()), []string{
			"the pod is not known to share the node's network namespace", "namespace shop is not one of exclude_namespaces", "annotation sidecar.istio.io/status is present: the injector has been here",
			"neither label nor annotation sidecar.istio.io/inject is false", "annotation sidecar.istio.io/status lists istio-validation, istio-proxy",
			"no init container istio-init that would set the pod up", "container istio-proxy runs a sidecar",
			"the annotations and the containers that are known say what is to be redirected, and contradict nothing",
			"redirect (injected): annotation sidecar.istio.io/status is present"}},
		"outside": {rules.Node{}, rules.Pod{Namespace: "shop"}, []string{
			"the pod is not known to share the node's network namespace", "namespace shop is not one of exclude_namespaces", "skip (not-injected): no annotation sidecar.istio.io/status"}},
		"another runtime": {rules.Node{RuntimeHandlers: []string{"runc"}}, injected(), []string{"",
			`reject (runtime-handler): runtime handler "" is not one of runtime_handlers in the node's configuration: what its sandboxes send may not pass the node's kernel, where the rules are`}},
		"a policy that refuses": {rules.Node{Annotations: []rules.AnnotationPolicy{{Annotation: "*/excludeOutboundPorts", Otherwise: rules.Refuse}}},
			injected("traffic.sidecar.istio.io/excludeOutboundPorts", "22"), []string{"", `reject (forbidden): annotation traffic.sidecar.istio.io/excludeOutboundPorts: "22" ` +
				"is not allowed in namespace shop by the node's configuration, which allows nothing"}},
	} {
		tt.node.Meshes = []rules.Mesh{mesh}
		d := tt.node.Explain(tt.pod)
		got := d.Account.Steps
		if tt.want[0] == "" { // only the end
			tt.want, got = tt.want[1:], got[len(got)-1:]
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	ignoring := rules.Node{Meshes: []rules.Mesh{mesh}, RuntimeHandlers: []string{""}, Annotations: []rules.AnnotationPolicy{{Annotation: "*/excludeOutboundPorts", Otherwise: rules.Ignore}}}
	if d := ignoring.Explain(injected("traffic.sidecar.istio.io/excludeOutboundPorts", "22")); !strings.HasSuffix(d.Account.Steps[0], "; it is ignored") || d.Action != rules.Enrol {
		t.Errorf("says first %q", d.Account.Steps[0])
	}
}

// Nobody pays for an explanation that nobody asked for: a decision allocates what it did before there were any.
// The least of many calls counts: the race detector, which itself adds one to the second pod, has sync.Pool (encoding/json)
// forget things at random.
func TestDecideAllocatesNothingForExplanations(t *testing.T) {
	for _, tt := range []struct {
		pod  rules.Pod
		most float64
	}{{rules.Pod{Namespace: "shop", Name: "plain"}, 1}, {injected(), 35}} {
		least := math.Inf(1)
		for range 200 {
			least = min(least, testing.AllocsPerRun(1, func() { mesh.Decide(tt.pod) }))
		}
		if least > tt.most {
			t.Errorf("%v allocations for %v, at most %v", least, tt.pod.Annotations, tt.most)
		}
	}
}

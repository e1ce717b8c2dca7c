// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshnetd/meshnetd/internal/recorded"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmpopts.IgnoreUnexported(istio.Intent{}),
	cmpopts.EquateEmpty(),
}

// What the injector writes for a classic and for a native sidecar.
const (
	status       = `{"initContainers":["istio-validation"],"containers":["istio-proxy"],"volumes":null,"imagePullSecrets":null,"revision":"default"}`
	statusNative = `{"initContainers":["istio-validation","istio-proxy"],"containers":null}`
)

var (
	only4   = addrs("10.244.1.7")
	only6   = addrs("fd00:10:244::7")
	first4  = addrs("10.244.1.7", "fd00:10:244::7")
	first6  = addrs("fd00:10:244::7", "10.244.1.7")
	mesh    = istio.New(istio.Standard())
	sidecar = rules.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar", "--domain", "x"}}
)

func addrs(texts ...string) []netip.Addr {
	var ips []netip.Addr
	for _, s := range texts {
		ips = append(ips, netip.MustParseAddr(s))
	}
	return ips
}

// injected is a pod with the injector's annotation and others, given in pairs.
func injected(pairs ...string) rules.Pod {
	pod := rules.Pod{Namespace: "shop", Name: "cart", Annotations: map[string]string{"sidecar.istio.io/status": status}}
	for pair := range slices.Chunk(pairs, 2) {
		pod.Annotations[pair[0]] = pair[1]
	}
	return pod
}

// withProxy gives the pod a proxy container with environment variables, given in pairs.
func withProxy(pod rules.Pod, pairs ...string) rules.Pod {
	proxy := sidecar
	proxy.Env = map[string]string{}
	for pair := range slices.Chunk(pairs, 2) {
		proxy.Env[pair[0]] = pair[1]
	}
	pod.Containers = append(slices.Clone(pod.Containers), proxy)
	return pod
}

func withValidation(pod rules.Pod, args ...string) rules.Pod {
	pod.Containers = append([]rules.Container{{Name: "istio-validation", Args: args}}, pod.Containers...)
	if pod.Container("istio-proxy") == nil {
		return withProxy(pod)
	}
	return pod
}

func intentOf(t *testing.T, m rules.Mesh, pod rules.Pod) istio.Intent {
	t.Helper()
	d := m.Decide(pod)
	if d.Action != rules.Enrol {
		t.Fatalf("%s (%s): %s", d.Action, d.Reason, d.Detail)
	}
	return d.Intent.(istio.Intent)
}

func planOf(t *testing.T, m rules.Mesh, pod rules.Pod, ips []netip.Addr) rules.Plan {
	t.Helper()
	d := m.Decide(pod)
	if d.Action != rules.Enrol {
		t.Fatalf("%s (%s): %s", d.Action, d.Reason, d.Detail)
	}
	plan, err := d.Planner(rules.Network{Addresses: ips})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// chain returns the rules of one chain as text.
func chain(rs rules.Ruleset, table, name string) []string {
	c, _ := rs.Table(table).Chain(name)
	var lines []string
	for _, r := range c.Rules {
		lines = append(lines, r.String())
	}
	return lines
}

func corpus(t testing.TB) []recorded.Case {
	t.Helper()
	cases, err := recorded.Cases()
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

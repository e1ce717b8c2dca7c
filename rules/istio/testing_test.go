// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

var update = flag.Bool("update", false, "write the golden files")

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
	mesh    = istio.Mesh{Defaults: istio.Standard()}
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

func intentOf(t *testing.T, m istio.Mesh, pod rules.Pod) istio.Intent {
	t.Helper()
	d := m.Decide(pod)
	if d.Action != rules.Enrol {
		t.Fatalf("%s (%s): %s", d.Action, d.Reason, d.Detail)
	}
	return d.Intent.(istio.Intent)
}

func planOf(t *testing.T, m istio.Mesh, pod rules.Pod, ips []netip.Addr) rules.Plan {
	t.Helper()
	d := m.Decide(pod)
	if d.Action != rules.Enrol {
		t.Fatalf("%s (%s): %s", d.Action, d.Reason, d.Detail)
	}
	plan, err := d.Planner(ips)
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

// recorded is a pod and what Istio's own tool leaves in the kernel for it.
type recorded struct {
	Name        string            `json:"name"`
	Annotations map[string]string `json:"annotations"`
	PodIPs      []netip.Prefix    `json:"pod_ips"`
	ProxyEnv    map[string]string `json:"proxy_env"`
	ProxyUID    *int64            `json:"proxy_uid"`
	ProxyGID    *int64            `json:"proxy_gid"`
	Expect      struct {
		Exit      int      `json:"exit"`
		IPTables  []string `json:"iptables"`
		IP6Tables []string `json:"ip6tables"`
		Rule4     []string `json:"rule4"`
		Rule6     []string `json:"rule6"`
		Route4    []string `json:"route4"`
		Route6    []string `json:"route6"`
		Lo        []string `json:"lo"`
	} `json:"expect"`
}

func (r recorded) pod() rules.Pod {
	pod := rules.Pod{Namespace: "default", Name: r.Name, Annotations: r.Annotations,
		Containers: []rules.Container{{Name: "istio-proxy", Args: sidecar.Args, Env: r.ProxyEnv, UID: r.ProxyUID, GID: r.ProxyGID}}}
	for _, ip := range r.PodIPs {
		pod.IPs = append(pod.IPs, ip.Addr())
	}
	return pod
}

func corpus(t testing.TB) []recorded {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "istio-open.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []recorded
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 40 {
		t.Fatalf("%d cases, want 40", len(cases))
	}
	return cases
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", path, diff)
	}
}

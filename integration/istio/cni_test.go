// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/cri"
	"github.com/meshnetd/meshnetd/integration/kube"
	"github.com/meshnetd/meshnetd/integration/lab"
)

const (
	agentImage   = "localhost/istio/install-cni:1"
	agentInstall = "istioctl install --set components.cni.enabled=true"
)

// beside is a cluster whose Istio has its own CNI plugin, by its own DaemonSet, and that has no meshnetd.
func beside(t *testing.T) *mesh {
	t.Helper()
	return run(t, part{"rig", (*mesh).agent}, part{"Istio", func(m *mesh, ctx context.Context, t *testing.T) error {
		_, err := m.C.Kubectl(ctx, "", "create", "namespace", "istio-system")
		m.follow(t, agentInstall)
		return err
	}}, part{"Istio", (*mesh).istiod}, part{"rig, Istio", (*mesh).namespaces}, part{"Istio", (*mesh).chained})
}

// agentDir is where Istio's agent has its files on the node.
func (m *mesh) agentDir() string { return filepath.Join(m.C.Lab().Dir(), "istio-cni") }

// agent is the image of Istio's DaemonSet.
func (m *mesh) agent(ctx context.Context, t *testing.T) error {
	file := filepath.Join(t.TempDir(), "image.tar")
	image := kube.Image{Tag: agentImage, Programs: map[string]string{"/usr/local/bin/install-cni": m.program("install-cni"),
		"/opt/cni/bin/istio-cni": m.program("istio-cni")}, Directories: []string{"/tmp"}}
	if err := image.Write(file); err != nil {
		return err
	}
	if err := m.C.Import(ctx, file); err != nil {
		return err
	}
	plugin := filepath.Join(m.C.Lab().Binaries(), "cni", "istio-cni")
	t.Cleanup(func() { _ = os.Remove(plugin) }) // unless the agent could end as it wanted
	return nil
}

// chained waits until the runtime runs Istio's plugin after the network's own.
func (m *mesh) chained(ctx context.Context, t *testing.T) error {
	m.Kubectl(t, "-n", "istio-system", "rollout", "status", "daemonset", "istio-cni-node", "--timeout="+kube.Patience.String())
	return m.chain(ctx, true)
}

func (m *mesh) chain(ctx context.Context, there bool) error {
	ctx, cancel := context.WithTimeout(ctx, kube.Patience/4)
	defer cancel()
	said := ""
	err := lab.Poll(ctx, func() (bool, error) {
		status, err := m.C.Lab().CRI().Status(ctx, &criv1.StatusRequest{Verbose: true})
		said = status.GetInfo()["cniconfig"]
		return err == nil && said != "" && strings.Contains(said, "istio-cni") == there, nil
	})
	if err != nil {
		return fmt.Errorf("istio-cni is not chained (%t): %w: %s", there, err, said)
	}
	return nil
}

// Pods that Istio's plugin made, in each of its dialects, are as good as meshnetd's own: whatever its backend, it lets them be,
// or writes them anew in one transaction, and nobody who stops unprotected pods stops these.
func TestTakeover(t *testing.T) {
	m := beside(t)
	m.run(t, plain)
	pods := map[string]pod{}
	for _, dialect := range []string{"iptables", "nftables"} {
		if dialect == "nftables" {
			m.follow(t, agentInstall+" --set values.global.nativeNftables=true")
			m.Kubectl(t, "-n", "istio-system", "rollout", "restart", "daemonset", "istio-cni-node")
			if err := m.chained(t.Context(), t); err != nil {
				t.Fatal(err)
			}
		}
		p := pod{namespace: "shop", name: "by-" + dialect}
		m.run(t, p)
		m.proxied(t, p)
		if rules := m.kernel(t, p); strings.Contains(rules, "istio-proxy-nat") != (dialect == "nftables") || strings.Contains(rules, "chain ISTIO_OUTPUT") != (dialect == "iptables") {
			t.Errorf("%s: the kernel has\n%s", dialect, rules)
		}
		pods[dialect] = p
	}
	came := cri.Client{Socket: m.C.Lab().Socket()}.Canary(t.Context(), appImage)
	if came.Err != nil || came.Refused == "" || len(came.Left) > 0 {
		t.Errorf("the canary beside istio-cni: %+v", came)
	}
	m.System(t)
	var table strings.Builder
	table.WriteString("| Rules of istio-cni | `backend` | `replace_outdated` | What meshnetd says | The kernel is changed |\n|---|---|---|---|---|\n")
	for _, c := range []struct{ backend, replace string }{{"iptables", "false"}, {"nftables", "false"}, {"auto", "false"}, {"iptables", "true"}, {"nftables", "true"}} {
		m.meshnetd(t, fmt.Sprintf("backend = %q\nreplace_outdated = %s\ncatch_up = \"stop\"\ncri_socket = %q\n", c.backend, c.replace, m.C.Lab().Socket()))
		if err := m.poll(t.Context(), "", "-n", "meshnetd-system", "exec", "ds/meshnetd", "--", "meshnetd", "verify", "--all"); err != nil {
			t.Fatal(err)
		}
		m.untroubled(t)
		for _, dialect := range []string{"iptables", "nftables"} {
			event, changed := m.event(t, pods[dialect])
			fmt.Fprintf(&table, "| %s | `%s` | %s | `%s` | %s |\n", dialect, c.backend, c.replace, event, changed)
			m.proxied(t, pods[dialect])
		}
		if c.replace == "false" {
			m.follow(t, "helm uninstall meshnetd -n meshnetd-system")
		}
	}
	for _, p := range pods { // as meshnetd left them
		m.proxied(t, p)
	}
	compare(t, "takeover", table.String())
}

// meshnetd is installed with this configuration.
func (m *mesh) meshnetd(t *testing.T, config string) {
	t.Helper()
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte("config: "+quoted(config)+"\ncri: {directory: "+m.C.Lab().Dir()+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.follow(t, "helm upgrade --install meshnetd packaging/helm/meshnetd -n meshnetd-system --wait -f "+values)
}

var eventField = regexp.MustCompile(`event"?[=:]"?(pod_\w+)`)

// event is the last that the running meshnetd tells of a pod's rules, and whether it changed the kernel for them.
func (m *mesh) event(t *testing.T, p pod) (event, changed string) {
	t.Helper()
	last := ""
	for line := range strings.Lines(m.Kubectl(t, "-n", "meshnetd-system", "logs", "ds/meshnetd")) {
		if strings.Contains(line, p.namespace+"/"+p.name) && strings.Contains(line, "changed") {
			last = line
		}
	}
	found := eventField.FindStringSubmatch(last)
	if found == nil {
		t.Fatalf("nothing is told of the rules of %s: %q", p.name, last)
	}
	t.Logf("%s", last)
	if strings.Contains(strings.ReplaceAll(last, `"`, ""), "changed:true") || strings.Contains(last, "changed=true") {
		return found[1], "yes"
	}
	return found[1], "no"
}

// The steps of docs/migrate.md, in their order. At no time does a pod run without its rules, and who runs already is not touched.
func TestFromIstioCNI(t *testing.T) {
	m := beside(t)
	step := steps(t, "migrate.md", "From istio-cni")
	older := pod{namespace: "shop", name: "earlier"}
	m.Apply(t, served())
	m.run(t, plain, older)
	m.proxied(t, older, m.served(t))

	m.follow(t, step[0])
	m.proxied(t, older)
	m.untroubled(t)

	m.follow(t, step[1])
	both := pod{namespace: "shop", name: "both"}
	m.run(t, both)
	m.protected(t, both)

	m.follow(t, step[2])
	m.protected(t, m.served(t))
	m.proxied(t, both, m.served(t))

	m.follow(t, step[3]+"\n"+step[4])
	if err := m.chain(t.Context(), false); err != nil {
		t.Error(err)
	}
	alone := pod{namespace: "shop", name: "alone"}
	m.run(t, alone)
	m.protected(t, alone, both)
	m.proxied(t, alone, both, older)
}

// And the way back, from where docs/istio.md has come to. Whose injector asked for meshnetd runs on, but does not come back.
func TestBackToIstioCNI(t *testing.T) {
	m := run(t, part{"rig", (*mesh).agent}, part{"meshnetd, Istio", (*mesh).setUp}, part{"Istio", (*mesh).istiod}, part{"rig, Istio", (*mesh).namespaces})
	step := steps(t, "migrate.md", "The way back, and removal")
	older := pod{namespace: "shop", name: "earlier"}
	m.Apply(t, served())
	m.run(t, plain, older)
	m.proxied(t, older, m.served(t))

	m.follow(t, step[0])
	if err := m.chain(t.Context(), true); err != nil {
		t.Error(err)
	}
	m.follow(t, step[1])
	m.Wait(t, "daemon-removal", "-n", "meshnetd-system", "exec", "ds/meshnetd", "--", "meshnetd", "doctor")
	m.follow(t, step[2]+"\n"+step[3])
	again := pod{namespace: "shop", name: "again"}
	m.run(t, again)
	m.proxied(t, again, older, m.served(t))

	m.ends(t, older)
	m.ends(t, again)
	m.Wait(t, `required plugin "meshnetd" not present`, "-n", "shop", "get", "events", "--field-selector", "involvedObject.name="+older.name)
	m.Wait(t, "=1true=", "-n", "shop", "get", "pod", again.name, "-o",
		`jsonpath={range .status.containerStatuses[?(@.name=="app")]}={.restartCount}{.ready}={end}`)
	m.proxied(t, again)
}

// served is a Deployment.
func served() string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: served, namespace: shop}
spec:
  selector: {matchLabels: {app: served}}
  template:
    metadata: {labels: {app: served}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {seccompProfile: {type: RuntimeDefault}}
      containers: [{name: app, image: %s, imagePullPolicy: Never, args: [web, served, ":8080", ":8081"], securityContext: %s}]
`, appImage, restricted)
}

// served waits for the Deployment's one pod.
func (m *mesh) served(t *testing.T) pod {
	t.Helper()
	m.Kubectl(t, "-n", "shop", "rollout", "status", "deployment", "served", "--timeout="+kube.Patience.String())
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience)
	defer cancel()
	var names []string
	if err := lab.Poll(ctx, func() (bool, error) {
		out, err := m.C.Kubectl(ctx, "", "-n", "shop", "get", "pods", "-l", "app=served", "-o", "jsonpath={.items[*].metadata.name}")
		names = strings.Fields(out)
		return len(names) == 1, err
	}); err != nil {
		t.Fatalf("the Deployment has the pods %q: %v", names, err)
	}
	return pod{namespace: "shop", name: names[0]}
}

// ends has the app of a pod end as by itself.
func (m *mesh) ends(t *testing.T, p pod) {
	t.Helper()
	if err := syscall.Kill(m.process(t, p, "app"), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

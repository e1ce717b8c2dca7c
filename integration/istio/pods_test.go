// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/kube"
	"github.com/meshnetd/meshnetd/integration/lab"
)

// pod is what a tenant writes; Istio's injector does the rest.
type pod struct {
	namespace, name string
	annotations     map[string]string
	args            []string // of the app; a server on port 8080 by default
	more            string   // behind its containers, at their place in the manifest
	container       string   // more of the app's container, as a flow mapping's content
}

// restricted is what Pod Security's strictest level asks of a container; of a pod it asks a seccomp profile, for the injector's containers too.
const restricted = "{runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}"

func (p pod) manifest() string {
	args := p.args
	if args == nil {
		args = []string{"web", p.name, ":8080", ":8081"}
	}
	annotations, words := quoted(p.annotations), quoted(args)
	container := p.container
	if container != "" {
		container = ", " + container
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: %s}, annotations: %s}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  containers:
    - {name: app, image: %s, imagePullPolicy: Never, args: %s, securityContext: %s%s}
%s---
`, p.name, p.namespace, p.name, annotations, appImage, words, restricted, container, p.more)
}

// quoted is a value as JSON, which is YAML.
func quoted(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // it is a list or a map of texts
	}
	return string(text)
}

// proxyMetadata is the annotation that gives the proxy these variables.
func proxyMetadata(pairs ...string) map[string]string {
	metadata := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		metadata[pairs[i]] = pairs[i+1]
	}
	return map[string]string{"proxy.istio.io/config": quoted(map[string]any{"proxyMetadata": metadata})}
}

// with is the one and the other.
func with(annotations map[string]string, more ...string) map[string]string {
	all := maps.Clone(annotations)
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}

// run makes pods, waits until they are ready, and takes them away at the test's end.
func (m *mesh) run(t *testing.T, pods ...pod) {
	t.Helper()
	m.create(t, pods...)
	m.ready(t, pods...)
}

func (m *mesh) ready(t *testing.T, pods ...pod) {
	t.Helper()
	for _, p := range pods {
		m.Kubectl(t, "-n", p.namespace, "wait", "pod/"+p.name, "--for=condition=Ready", "--timeout="+kube.Patience.String())
	}
}

func (m *mesh) create(t *testing.T, pods ...pod) {
	t.Helper()
	m.make(t, pods...)
	m.toTell(t, pods...)
}

// toTell tells of the pods at the test's end, if it failed.
func (m *mesh) toTell(t *testing.T, pods ...pod) {
	t.Helper()
	t.Cleanup(func() {
		for _, p := range pods {
			if t.Failed() {
				m.tell(t, p)
			}
		}
	})
}

// make makes pods until the test's end.
func (m *mesh) make(t *testing.T, pods ...pod) {
	t.Helper()
	var manifest strings.Builder
	for _, p := range pods {
		manifest.WriteString(p.manifest())
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), kube.Patience)
		defer cancel()
		if _, err := m.C.Kubectl(ctx, manifest.String(), "delete", "--now", "--ignore-not-found", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	m.Apply(t, manifest.String())
}

// tell says of a pod of a failed test which part it was that failed: meshnetd does not vouch for the pod, Istio's proxy is
// not ready, or neither.
func (m *mesh) tell(t *testing.T, p pod) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kube.Patience)
	defer cancel()
	verified, err := m.ask(ctx, "verify", p.namespace+"/"+p.name)
	if err != nil {
		t.Logf("meshnetd: %v\n%s", err, verified)
	}
	for part, args := range map[string][]string{
		"rig":   {"-n", p.namespace, "describe", "pod", p.name},
		"Istio": {"-n", p.namespace, "logs", p.name, "-c", "istio-proxy", "--tail=30"},
		"app":   {"-n", p.namespace, "logs", p.name, "-c", "app", "--tail=30"},
	} {
		out, err := m.C.Kubectl(ctx, "", args...)
		t.Logf("%s: %v\n%s", part, err, out)
	}
}

// ask asks meshnetd, a pod or a process of the node.
func (m *mesh) ask(ctx context.Context, args ...string) (string, error) {
	if m.host == nil {
		return m.C.Kubectl(ctx, "", append([]string{"-n", "meshnetd-system", "exec", "ds/meshnetd", "--", "meshnetd"}, args...)...)
	}
	program, err := buildMeshnetd(ctx)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, program, append(args, "--config", filepath.Join(m.C.Lab().Dir(), "meshnetd.toml"))...).CombinedOutput()
	return string(out), err
}

func buildMeshnetd(ctx context.Context) (string, error) {
	return lab.Build(ctx, "meshnetd", "./cmd/meshnetd")
}

// get asks from within a pod, and returns what is answered.
func (m *mesh) get(ctx context.Context, namespace, pod, url string) (string, error) {
	out, err := m.C.Kubectl(ctx, "", "-n", namespace, "exec", pod, "-c", "app", "--", "/app", "get", url)
	if err != nil {
		return out, fmt.Errorf("%w: %s", err, out)
	}
	return out, nil
}

// answered waits until the answer has the text: a proxy learns of what is new some moments later.
func (m *mesh) answered(t *testing.T, text, namespace, pod, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience)
	defer cancel()
	last := ""
	if err := lab.Poll(ctx, func() (bool, error) {
		out, err := m.get(ctx, namespace, pod, url)
		if last = out; err != nil {
			last = err.Error()
		}
		return strings.Contains(last, text), nil
	}); err != nil {
		t.Fatalf("%s/%s asked for %s: never %q, but at last %s", namespace, pod, url, text, last)
	}
	return last
}

// lines waits for a line of a pod's access log, in namespace shop, that has all the texts.
func (m *mesh) lines(t *testing.T, pod string, texts ...string) {
	t.Helper()
	m.accessed(t, "shop", pod, texts...)
}

// accessed does so in any namespace.
func (m *mesh) accessed(t *testing.T, namespace, pod string, texts ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience/4)
	defer cancel()
	last := ""
	if err := lab.Poll(ctx, func() (bool, error) {
		var err error
		last, err = m.C.Kubectl(ctx, "", "-n", namespace, "logs", pod, "-c", "istio-proxy")
		return len(accesses(last, texts...)) > 0, err
	}); err != nil {
		t.Fatalf("the proxy of %s/%s logged no access with %q (%v), but\n%s", namespace, pod, texts, err, strings.Join(accesses(last), "\n"))
	}
}

// none is for what the access log is not to have. Lines are written together, some moments late: something later has to
// be there.
func (m *mesh) none(t *testing.T, namespace, pod string, texts ...string) {
	t.Helper()
	if found := accesses(m.Kubectl(t, "-n", namespace, "logs", pod, "-c", "istio-proxy"), texts...); len(found) > 0 {
		t.Errorf("the proxy of %s/%s has to do with %q:\n%s", namespace, pod, texts, strings.Join(found, "\n"))
	}
}

// accesses are the lines of an access log that have all the texts.
func accesses(log string, texts ...string) []string {
	var found []string
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "access ") && !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// inbound has the pod outside the mesh ask the pod at a port, and is what its proxy logs of a pod without a Service.
func (m *mesh) inbound(t *testing.T, p pod, family int, port string) (line []string) {
	t.Helper()
	address := net.JoinHostPort(m.address(t, p, family), port)
	m.answered(t, p.name+" peer=", plain.namespace, plain.name, "http://"+address+"/in")
	return []string{"cluster=InboundPassthroughCluster", "to=" + address}
}

// outbound has the pod ask the server outside the mesh, and is what its proxy logs of that.
func (m *mesh) outbound(t *testing.T, p pod, family int, port string) (line []string) {
	t.Helper()
	m.answered(t, "outside peer=", p.namespace, p.name, m.outside(family, port))
	return []string{"cluster=PassthroughCluster", "to=" + m.outsideAddress(family, port)}
}

// outside is the server that is none of the mesh, by IPv4 (family 0) or IPv6.
func (m *mesh) outside(family int, port string) string {
	return "http://" + m.outsideAddress(family, port) + "/"
}

func (m *mesh) outsideAddress(family int, port string) string {
	return net.JoinHostPort(m.bridge[family].String(), port)
}

// passes has the pod ask and be asked, both through its proxy.
func (m *mesh) passes(t *testing.T, p pod, families ...int) {
	t.Helper()
	for _, family := range families {
		m.accessed(t, p.namespace, p.name, m.outbound(t, p, family, outsidePort)...)
		m.accessed(t, p.namespace, p.name, m.inbound(t, p, family, "8080")...)
	}
}

// address is a pod's, of IPv4 (family 0) or IPv6.
func (m *mesh) address(t *testing.T, p pod, family int) string {
	t.Helper()
	all := m.Kubectl(t, "-n", p.namespace, "get", "pod", p.name, "-o", "jsonpath={.status.podIPs[*].ip}")
	for _, word := range strings.Fields(all) {
		if strings.Contains(word, ":") == (family == 1) {
			return word
		}
	}
	t.Fatalf("rig: %s/%s has the addresses %s", p.namespace, p.name, all)
	return ""
}

// protected fails unless meshnetd vouches for every pod, by its own rules or by others that do the same, and never had to mend
// one.
func (m *mesh) protected(t *testing.T, pods ...pod) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience)
	defer cancel()
	for _, p := range pods {
		out, err := m.ask(ctx, "verify", p.namespace+"/"+p.name)
		if err != nil || !strings.Contains(out, "the kernel holds the plan") && !strings.Contains(out, "by what becomes of packets: equal") {
			t.Errorf("meshnetd: verify %s/%s: %v: %s", p.namespace, p.name, err, out)
		}
	}
	m.untroubled(t)
}

// untroubled fails where meshnetd tells of a pod that it had to mend, but for those that run longer than it.
func (m *mesh) untroubled(t *testing.T) {
	t.Helper()
	for line := range strings.Lines(m.said(t)) {
		if slices.ContainsFunc([]string{"pod_late", "pod_unprotected", "pod_stopped", "drift_found"}, func(event string) bool { return strings.Contains(line, event) }) &&
			!strings.Contains(line, "shop/older") {
			t.Errorf("meshnetd tells of %s", line)
		}
	}
}

// said is what the running meshnetd has written.
func (m *mesh) said(t *testing.T) string {
	t.Helper()
	if m.host != nil {
		return m.host.Log()
	}
	return m.Kubectl(t, "-n", "meshnetd-system", "logs", "ds/meshnetd")
}

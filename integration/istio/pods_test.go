// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
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
	for _, p := range pods {
		m.Kubectl(t, "-n", p.namespace, "wait", "pod/"+p.name, "--for=condition=Ready", "--timeout="+kube.Patience.String())
	}
}

func (m *mesh) create(t *testing.T, pods ...pod) {
	t.Helper()
	var manifest strings.Builder
	for _, p := range pods {
		manifest.WriteString(p.manifest())
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range pods {
				m.tell(t, p)
			}
		}
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
	verified, err := m.C.Kubectl(ctx, "", "-n", "meshnetd-system", "exec", "ds/meshnetd", "--", "meshnetd", "verify", p.namespace+"/"+p.name)
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
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience/4)
	defer cancel()
	last := ""
	if err := lab.Poll(ctx, func() (bool, error) {
		var err error
		last, err = m.C.Kubectl(ctx, "", "-n", "shop", "logs", pod, "-c", "istio-proxy")
		return len(accesses(last, texts...)) > 0, err
	}); err != nil {
		t.Fatalf("the proxy of shop/%s logged no access with %q (%v), but\n%s", pod, texts, err, strings.Join(accesses(last), "\n"))
	}
}

// none is for what the access log is not to have.
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

// addresses are a pod's, the one of IPv4 first.
func (m *mesh) addresses(t *testing.T, namespace, pod string) []netip.Addr {
	t.Helper()
	var all []netip.Addr
	for _, word := range strings.Fields(m.Kubectl(t, "-n", namespace, "get", "pod", pod, "-o", "jsonpath={.status.podIPs[*].ip}")) {
		addr, err := netip.ParseAddr(word)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, addr)
	}
	if len(all) != 2 {
		t.Fatalf("%s/%s has the addresses %v", namespace, pod, all)
	}
	return all
}

// protected fails unless meshnetd vouches for every pod, and never had to mend one.
func (m *mesh) protected(t *testing.T, pods ...pod) {
	t.Helper()
	for _, p := range pods {
		m.Wait(t, "the kernel holds the plan", "-n", "meshnetd-system", "exec", "ds/meshnetd", "--", "meshnetd", "verify", p.namespace+"/"+p.name)
	}
	said := m.Kubectl(t, "-n", "meshnetd-system", "logs", "ds/meshnetd")
	for _, event := range []string{"pod_late", "pod_unprotected", "pod_stopped", "drift_found"} {
		for line := range strings.Lines(said) {
			if strings.Contains(line, event) {
				t.Errorf("meshnetd tells of %s", line)
			}
		}
	}
}

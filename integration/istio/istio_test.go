// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/kube"
)

// The pods that most tests ask, and that ask.
var (
	web    = pod{namespace: "shop", name: "web"}
	client = pod{namespace: "shop", name: "client"}
	plain  = pod{namespace: "elsewhere", name: "plain"}
)

// webName is a name that the name server and Istio know.
const webName = "http://web.shop.svc.cluster.local:8080/"

// TestIstio is what tenants of a real Istio see.
func TestIstio(t *testing.T) {
	m := start(t)
	t.Run("pods", m.pods)
	t.Run("without validation", m.withoutValidation)
	t.Run("values for Helm", m.silent)
	t.Run("back", m.back)
}

// pods are what authors write, each with what the injector makes of it.
func (m *mesh) pods(t *testing.T) {
	m.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: %s, selector: {app: web}, ports: [{name: http, port: 8080}]}
`, webAddress))
	m.run(t, web, client, plain)
	t.Run("injected", m.injected)
	t.Run("strict", m.strict)
	t.Run("registry only", m.registryOnly)
	t.Run("DNS capture", m.dnsCapture)
	t.Run("TPROXY", m.transparent)
	t.Run("first act", m.firstAct)
	t.Run("families before the proxy", m.familiesBeforeProxy)
	t.Run("job", m.job)
	t.Run("dual stack", m.dualStack)
	t.Run("annotations", m.annotations)
	t.Run("probes", m.probes)
	t.Run("ephemeral container", m.ephemeral)
	t.Run("proxy user", m.proxyUser)
	t.Run("ten at once", m.tenAtOnce)
	t.Run("away", m.away)
}

// No container of the pod has a privilege, istio-validation finds the rules, and both proxies have what is said, with the
// client's identity.
func (m *mesh) injected(t *testing.T) {
	containers := m.Kubectl(t, "-n", "shop", "get", "pod", "web", "-o", "jsonpath={range .spec.initContainers[*]}{.name} {end}")
	if containers != "istio-validation istio-proxy " {
		t.Errorf("init containers are %q", containers)
	}
	if code := m.Kubectl(t, "-n", "shop", "get", "pod", "web", "-o", "jsonpath={.status.initContainerStatuses[0].state.terminated.exitCode}"); code != "0" {
		t.Errorf("istio-validation ended with %q", code)
	}
	if required := m.Kubectl(t, "-n", "shop", "get", "pod", "web", "-o", `jsonpath={.metadata.annotations.required-plugins\.noderesource\.dev}`); required != `["meshnetd"]` {
		t.Errorf("required are %q", required)
	}
	if wanted := m.Kubectl(t, "-n", "istio-system", "get", "daemonset", "istio-cni-node", "-o", "jsonpath={.status.desiredNumberScheduled}"); wanted != "0" {
		t.Errorf("Istio's own DaemonSet wants %q pods", wanted)
	}
	m.protected(t, web, client)
	m.guide(t, "Look")
	answer := m.answered(t, "web peer=", "shop", "client", webName+"injected")
	const identity = "spiffe://cluster.local/ns/shop/sa/default"
	if !strings.Contains(answer, "URI="+identity) {
		t.Errorf("no client certificate in %q", answer)
	}
	m.lines(t, "shop", "client", "path=/injected", "cluster=outbound|8080||web.shop.svc.cluster.local", "code=200")
	m.lines(t, "shop", "web", "path=/injected", "cluster=inbound|8080||", "peer="+identity, "code=200")
}

// With STRICT a pod without a proxy is refused, by a proxy that it did not ask for.
func (m *mesh) strict(t *testing.T) {
	url := "http://" + net.JoinHostPort(m.addresses(t, "shop", "web")[0].String(), "8080") + "/"
	m.answered(t, "web peer=", "elsewhere", "plain", url+"permissive")
	m.lines(t, "shop", "web", "path=/permissive", "peer=-")
	m.object(t, "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict, namespace: shop}, spec: {mtls: {mode: STRICT}}}")
	m.answered(t, "failed:", "elsewhere", "plain", url+"changing")
	if answer, err := m.get(t.Context(), "elsewhere", "plain", url+"plain"); err == nil {
		t.Errorf("a pod without a proxy got %q", answer)
	}
	m.none(t, "shop", "web", "path=/plain")
	m.answered(t, "web peer=", "shop", "client", webName+"strict")
	m.lines(t, "shop", "web", "path=/strict", "peer=spiffe://")
}

// object is there until the test's end.
func (m *mesh) object(t *testing.T, manifest string) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), kube.Patience)
		defer cancel()
		if _, err := m.C.Kubectl(ctx, manifest, "delete", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	m.Apply(t, manifest)
}

// What no Service or ServiceEntry names is let through, or stopped, by the proxy.
func (m *mesh) registryOnly(t *testing.T) {
	m.answered(t, "outside peer=", "shop", "client", m.outside(0, outsidePort)+"any")
	m.lines(t, "shop", "client", "cluster=PassthroughCluster", "path=/any")
	m.object(t, "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default, namespace: shop}, spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}}")
	m.answered(t, "502 Bad Gateway", "shop", "client", m.outside(0, outsidePort)+"only")
	m.lines(t, "shop", "client", "cluster=BlackHoleCluster", "path=/only", "code=502")
}

const capture = "ISTIO_META_DNS_CAPTURE"

// A name that Istio alone knows is answered by the proxy, and the server of the pod is not asked.
func (m *mesh) dnsCapture(t *testing.T) {
	m.object(t, fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: only, namespace: shop}
spec: {hosts: [only.mesh.test], addresses: [240.240.1.1], ports: [{name: http, number: 80, protocol: HTTP, targetPort: %s}], resolution: STATIC, endpoints: [{address: %q}]}
`, outsidePort, m.bridge[0]))
	captured := pod{namespace: "shop", name: "captured", annotations: proxyMetadata(capture, "true")}
	m.run(t, captured)
	m.answered(t, "outside peer=", "shop", "captured", "http://only.mesh.test/captured")
	m.lines(t, "shop", "captured", "path=/captured", "cluster=outbound|80||only.mesh.test", "to=240.240.1.1:80")
	m.protected(t, captured)
	if asked, err := m.C.Log("names"); err != nil || strings.Contains(asked, "only.mesh.test") {
		t.Errorf("the name server was asked (%v):\n%s", err, asked)
	}
	// One that does not capture asks it, and learns nothing.
	m.answered(t, "failed:", "shop", "client", "http://only.mesh.test/")
	if asked, err := m.C.Log("names"); err != nil || !strings.Contains(asked, "only.mesh.test") {
		t.Errorf("the name server was not asked (%v)", err)
	}
}

// With TPROXY the app sees who asks, through the proxy.
func (m *mesh) transparent(t *testing.T) {
	through := pod{namespace: "transparent", name: "through", annotations: map[string]string{"sidecar.istio.io/interceptionMode": "TPROXY"}}
	m.run(t, through)
	url := "http://" + net.JoinHostPort(m.addresses(t, "transparent", "through")[0].String(), "8080") + "/tproxy"
	asker := m.addresses(t, "elsewhere", "plain")[0].String()
	m.answered(t, "through peer="+asker+":", "elsewhere", "plain", url)
	m.lines(t, "transparent", "through", "path=/tproxy", "by="+asker+":", "cluster=inbound|8080||")
	m.answered(t, "outside peer=", "transparent", "through", m.outside(0, outsidePort)+"out")
	m.lines(t, "transparent", "through", "path=/out", "cluster=PassthroughCluster")
	m.protected(t, through)
}

// The first thing that an app does is the proxy's: it goes through, or, before a classic sidecar is there, it fails. Around
// the proxy it never goes.
func (m *mesh) firstAct(t *testing.T) {
	first := func(name string, annotations map[string]string) pod {
		return pod{namespace: "shop", name: name, annotations: annotations, args: []string{"first", webName + name}}
	}
	classic := map[string]string{"sidecar.istio.io/nativeSidecar": "false"}
	native := first("native", nil)
	held := first("held", with(classic, "proxy.istio.io/config", `{"holdApplicationUntilProxyStarts": true}`))
	alone := first("classic", classic)
	m.run(t, native, held, alone)
	for _, p := range []pod{native, held} {
		m.Wait(t, "answer: web", "-n", "shop", "logs", p.name, "-c", "app")
		m.lines(t, "shop", p.name, "path=/"+p.name, "cluster=outbound|8080||web.shop.svc.cluster.local", "code=200")
	}
	// Its lookup goes around by design; without DNS capture that is no traffic of the mesh.
	m.Wait(t, "connection refused", "-n", "shop", "logs", "classic", "-c", "app")
	m.protected(t, native, held, alone)
}

// A classic sidecar that speaks both families and answers names: what the app does before it is there goes around it in
// neither family, and to no name server. The proxy's own container, which says that it does, is created after the app.
func (m *mesh) familiesBeforeProxy(t *testing.T) {
	early := pod{namespace: "shop", name: "early", args: []string{"first", m.outside(1, outsidePort) + "early"},
		annotations: with(proxyMetadata(capture, "true", "ISTIO_DUAL_STACK", "true"), "sidecar.istio.io/nativeSidecar", "false")}
	asking := early
	asking.name, asking.args = "asking", []string{"first", "http://asking.example.com/"}
	m.run(t, early, asking)
	m.Wait(t, "connection refused", "-n", "shop", "logs", "early", "-c", "app")
	m.Wait(t, "failed:", "-n", "shop", "logs", "asking", "-c", "app")
	m.protected(t, early, asking)
	if served, err := m.C.Log("outside"); err != nil || strings.Contains(served, "/early") {
		t.Errorf("the first connection went around (%v)", err)
	}
	if asked, err := m.C.Log("names"); err != nil || strings.Contains(asked, "asking.example.com") {
		t.Errorf("the name server was asked (%v)", err)
	}
	m.answered(t, "outside peer=", "shop", "early", m.outside(1, outsidePort)+"later")
	m.lines(t, "shop", "early", "cluster=PassthroughCluster", "path=/later")
}

// A Job's only act is the proxy's, and the Job ends.
func (m *mesh) job(t *testing.T) {
	m.object(t, fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: shop}
spec:
  backoffLimit: 0
  template:
    metadata: {labels: {app: once}}
    spec:
      restartPolicy: Never
      securityContext: {seccompProfile: {type: RuntimeDefault}}
      containers: [{name: app, image: %s, imagePullPolicy: Never, args: [get, %q], securityContext: %s}]
`, appImage, webName+"job", restricted))
	m.Kubectl(t, "-n", "shop", "wait", "job/once", "--for=condition=Complete", "--timeout="+kube.Patience.String())
	m.lines(t, "shop", "web", "path=/job", "peer=spiffe://")
}

// Both families are the proxy's, in both directions.
func (m *mesh) dualStack(t *testing.T) {
	both := pod{namespace: "shop", name: "both", annotations: proxyMetadata("ISTIO_DUAL_STACK", "true")}
	m.run(t, both)
	for family, addr := range m.addresses(t, "shop", "both") {
		path := fmt.Sprintf("family%d", family)
		m.answered(t, "outside peer=", "shop", "both", m.outside(family, outsidePort)+path)
		m.lines(t, "shop", "both", "cluster=PassthroughCluster", "path=/"+path)
		m.answered(t, "both peer=", "elsewhere", "plain", "http://"+net.JoinHostPort(addr.String(), "8080")+"/in"+path)
		m.lines(t, "shop", "both", "cluster=inbound|8080||", "path=/in"+path)
	}
	m.protected(t, both)
}

// What is excluded goes around the proxy, and what is not does not.
func (m *mesh) annotations(t *testing.T) {
	const traffic = "traffic.sidecar.istio.io/"
	bridge := m.bridge[0].String() + "/32"
	tests := []struct {
		pod     pod
		out, in map[string]bool // by port, whether it is the proxy's
	}{
		{pod{annotations: map[string]string{traffic + "excludeOutboundPorts": "18081", traffic + "excludeInboundPorts": "8081"}},
			map[string]bool{outsidePort: true, "18081": false}, map[string]bool{"8080": true, "8081": false}},
		{pod{annotations: map[string]string{traffic + "excludeOutboundIPRanges": bridge, traffic + "includeInboundPorts": "8081"}},
			map[string]bool{outsidePort: false, "18081": false}, map[string]bool{"8080": false, "8081": true}},
		{pod{annotations: map[string]string{traffic + "includeOutboundIPRanges": "192.0.2.0/24", traffic + "includeOutboundPorts": "18081", traffic + "includeInboundPorts": ""}},
			map[string]bool{outsidePort: false, "18081": true}, map[string]bool{"8080": false, "8081": false}},
		{pod{annotations: map[string]string{traffic + "excludeInterfaces": "eth0"}},
			map[string]bool{outsidePort: false}, map[string]bool{"8080": false}},
	}
	var pods []pod
	for i := range tests {
		tests[i].pod.namespace, tests[i].pod.name = "shop", fmt.Sprintf("annotated-%d", i)
		pods = append(pods, tests[i].pod)
	}
	m.run(t, pods...)
	for _, tt := range tests {
		name := tt.pod.name
		check := func(path string, captured bool) {
			t.Helper()
			if captured {
				m.lines(t, "shop", name, "path=/"+path)
			} else {
				m.none(t, "shop", name, "path=/"+path)
			}
		}
		for port, captured := range tt.out {
			m.answered(t, "outside peer=", "shop", name, m.outside(0, port)+"out"+port)
			check("out"+port, captured)
		}
		for port, captured := range tt.in {
			m.answered(t, name+" peer=", "elsewhere", "plain", "http://"+net.JoinHostPort(m.addresses(t, "shop", name)[0].String(), port)+"/in"+port)
			check("in"+port, captured)
		}
	}
	m.protected(t, pods...)
}

// The kubelet's probes get to the app: by the agent, which asks for it, or through the proxy.
func (m *mesh) probes(t *testing.T) {
	const probe = "readinessProbe: {httpGet: {path: /%s, port: 8080}, periodSeconds: 1}"
	rewritten := pod{namespace: "shop", name: "rewritten", container: fmt.Sprintf(probe, "rewritten")}
	as := pod{namespace: "shop", name: "as-written", container: fmt.Sprintf(probe, "as-written"), annotations: map[string]string{"sidecar.istio.io/rewriteAppHTTPProbers": "false"}}
	m.run(t, rewritten, as)
	m.lines(t, "shop", "as-written", "path=/as-written", "cluster=inbound|8080||")
	m.Wait(t, "/rewritten", "-n", "shop", "logs", "rewritten", "-c", "app")
	m.none(t, "shop", "rewritten", "path=/rewritten")
	m.protected(t, rewritten, as)
}

// A container that is added to a running pod is of the mesh as well.
func (m *mesh) ephemeral(t *testing.T) {
	custom := filepath.Join(t.TempDir(), "container.yaml")
	if err := os.WriteFile(custom, []byte("{securityContext: "+restricted+"}"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Kubectl(t, "-n", "shop", "debug", "client", "--image="+appImage, "--image-pull-policy=Never", "--profile=restricted", "--custom="+custom,
		"-c", "added", "--", "/app", "first", m.outside(0, outsidePort)+"ephemeral")
	m.Wait(t, "answer: outside", "-n", "shop", "logs", "client", "-c", "added")
	m.lines(t, "shop", "client", "cluster=PassthroughCluster", "path=/ephemeral")
}

// A proxy that runs as another user: its own traffic is let out, and the app's is not.
func (m *mesh) proxyUser(t *testing.T) {
	other := pod{namespace: "shop", name: "other", more: "    - {name: istio-proxy, image: auto, securityContext: {runAsUser: 4321, runAsGroup: 4321}}\n"}
	m.run(t, other)
	if user := m.Kubectl(t, "-n", "shop", "get", "pod", "other", "-o", `jsonpath={..containers[?(@.name=="istio-proxy")].securityContext.runAsUser}{..initContainers[?(@.name=="istio-proxy")].securityContext.runAsUser}`); user != "4321" {
		t.Errorf("the proxy runs as %q", user)
	}
	m.answered(t, "outside peer=", "shop", "other", m.outside(0, outsidePort)+"other")
	m.lines(t, "shop", "other", "cluster=PassthroughCluster", "path=/other")
	m.protected(t, other)
}

// Ten pods that start at once all have their rules before their first act.
func (m *mesh) tenAtOnce(t *testing.T) {
	var pods []pod
	for i := range 10 {
		name := fmt.Sprintf("at-once-%d", i)
		pods = append(pods, pod{namespace: "shop", name: name, args: []string{"first", webName + name}})
	}
	m.run(t, pods...)
	for _, p := range pods {
		m.Wait(t, "answer: web", "-n", "shop", "logs", p.name, "-c", "app")
		m.lines(t, "shop", "web", "path=/"+p.name, "peer=spiffe://")
	}
	m.protected(t, pods...)
}

// While meshnetd is away pods of the mesh wait, and those that run go on; then they start.
func (m *mesh) away(t *testing.T) {
	m.Kubectl(t, "-n", "meshnetd-system", "delete", "daemonset", "meshnetd", "--cascade=foreground", "--wait")
	waiting := pod{namespace: "shop", name: "waiting", args: []string{"first", webName + "waiting"}}
	m.create(t, waiting)
	m.Wait(t, `required plugin "meshnetd" not present`, "-n", "shop", "describe", "pod", "waiting")
	m.answered(t, "web peer=", "shop", "client", webName+"away")
	m.lines(t, "shop", "web", "path=/away", "peer=spiffe://")
	m.Upgrade(t)
	m.Ready(t, "waiting")
	m.Wait(t, "answer: web", "-n", "shop", "logs", "waiting", "-c", "app")
	m.protected(t, web, client, waiting)
}

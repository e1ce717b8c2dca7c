// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"context"
	"fmt"
	"net"
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
}

// pods are what authors write, each with what the injector makes of it.
func (m *mesh) pods(t *testing.T) {
	m.service(t)
	m.run(t, web, client, plain)
	tenants := []tenant{
		m.dnsCapture(), m.firstAct(), m.earlyFamilies(), m.registryOnly(), m.transparent(), m.dualStack(), m.annotations(),
		m.initContainers(), m.probes(), m.proxyUser(), m.atOnce(),
	}
	var all []pod
	for _, tenant := range tenants {
		all = append(all, tenant.pods...)
	}
	m.make(t, all...)
	for _, tenant := range tenants {
		t.Run(tenant.name, func(t *testing.T) {
			m.toTell(t, tenant.pods...)
			m.ready(t, tenant.pods...)
			tenant.see(t)
			m.protected(t, tenant.pods...)
		})
	}
	t.Run("injected", m.injected)
	t.Run("strict", m.strict)
	t.Run("job", m.job)
	t.Run("ephemeral container", m.ephemeral)
	t.Run("proxy's user", m.asProxy)
	t.Run("gateway", m.gateway)
}

// service is what others ask.
func (m *mesh) service(t *testing.T) {
	t.Helper()
	m.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: %s, selector: {app: web}, ports: [{name: http, port: 8080}]}
`, webAddress))
}

// tenant is what an author writes, and what is seen of it. The pods of all start at once.
type tenant struct {
	name string
	pods []pod
	see  func(*testing.T)
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
	m.lines(t, "client", "path=/injected", "cluster=outbound|8080||web.shop.svc.cluster.local", "code=200")
	m.lines(t, "web", "path=/injected", "cluster=inbound|8080||", "peer="+identity, "code=200")
}

// With STRICT a pod without a proxy is refused, by a proxy that it did not ask for.
func (m *mesh) strict(t *testing.T) {
	url := "http://" + net.JoinHostPort(m.address(t, web, 0), "8080") + "/"
	m.answered(t, "web peer=", "elsewhere", "plain", url+"permissive")
	m.lines(t, "web", "path=/permissive", "peer=-")
	m.object(t, "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict, namespace: shop}, spec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}}")
	m.answered(t, "failed:", "elsewhere", "plain", url+"changing")
	if answer, err := m.get(t.Context(), "elsewhere", "plain", url+"plain"); err == nil {
		t.Errorf("a pod without a proxy got %q", answer)
	}
	m.answered(t, "web peer=", "shop", "client", webName+"strict")
	m.lines(t, "web", "path=/strict", "peer=spiffe://")
	m.none(t, "shop", "web", "path=/plain")
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

const capture = "ISTIO_META_DNS_CAPTURE"

// A name that Istio alone knows is answered by the proxy, and the server of the pod is not asked.
func (m *mesh) dnsCapture() tenant {
	captured := pod{namespace: "shop", name: "captured", annotations: proxyMetadata(capture, "true")}
	return tenant{"DNS capture", []pod{captured}, func(t *testing.T) {
		m.object(t, fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: only, namespace: shop}
spec: {hosts: [only.mesh.test], addresses: [240.240.1.1], ports: [{name: http, number: 80, protocol: HTTP, targetPort: %s}], resolution: STATIC, endpoints: [{address: %q}]}
`, outsidePort, m.bridge[0]))
		m.answered(t, "outside peer=", "shop", "captured", "http://only.mesh.test/captured")
		m.lines(t, "captured", "path=/captured", "cluster=outbound|80||only.mesh.test", "to=240.240.1.1:80")
		m.notLooked(t, "only.mesh.test")
		// One that does not capture asks it, and learns nothing.
		m.answered(t, "failed:", "shop", "client", "http://only.mesh.test/")
		if asked, err := m.C.Log("names"); err != nil || !strings.Contains(asked, "only.mesh.test") {
			t.Errorf("the name server was not asked (%v)", err)
		}
	}}
}

// notLooked fails if the pods' name server was asked for a name.
func (m *mesh) notLooked(t *testing.T, name string) {
	t.Helper()
	if asked, err := m.C.Log("names"); err != nil || strings.Contains(asked, name) {
		t.Errorf("the name server was asked (%v):\n%s", err, asked)
	}
}

// classic has the sidecar among the containers, where it starts with the app.
var classic = map[string]string{"sidecar.istio.io/nativeSidecar": "false"}

// The first thing that an app does is the proxy's: it goes through, or, before a classic sidecar is there, it fails. Around
// the proxy it never goes.
func (m *mesh) firstAct() tenant {
	first := func(name string, annotations map[string]string) pod {
		return pod{namespace: "shop", name: name, annotations: annotations, args: []string{"first", webName + name}}
	}
	native := first("native", nil)
	held := first("held", with(classic, "proxy.istio.io/config", `{"holdApplicationUntilProxyStarts": true}`))
	alone := first("classic", classic)
	return tenant{"first act", []pod{native, held, alone}, func(t *testing.T) {
		for _, p := range []pod{native, held} {
			m.Wait(t, "answer: web", "-n", "shop", "logs", p.name, "-c", "app")
			m.lines(t, p.name, "path=/"+p.name, "cluster=outbound|8080||web.shop.svc.cluster.local", "code=200")
		}
		// Its lookup goes around by design; without DNS capture that is no traffic of the mesh.
		m.Wait(t, "connection refused", "-n", "shop", "logs", "classic", "-c", "app")
	}}
}

// A classic sidecar that speaks both families and answers names: what the app does before it is there goes around it in
// neither family, and to no name server. The proxy's own container, which says that it does, is created after the app.
func (m *mesh) earlyFamilies() tenant {
	early := pod{namespace: "shop", name: "early", args: []string{"first", m.outside(1, "18081") + "early"},
		annotations: with(classic, "proxy.istio.io/config", quoted(map[string]any{"proxyMetadata": map[string]string{capture: "true", "ISTIO_DUAL_STACK": "true"}}))}
	asking := early
	asking.name, asking.args = "asking", []string{"first", "http://asking.example.com/"}
	return tenant{"families and names before the proxy", []pod{early, asking}, func(t *testing.T) {
		m.Wait(t, "connection refused", "-n", "shop", "logs", "early", "-c", "app")
		m.Wait(t, "failed:", "-n", "shop", "logs", "asking", "-c", "app")
		if served, err := m.C.Log("outside"); err != nil || strings.Contains(served, "/early") {
			t.Errorf("the first connection went around (%v)", err)
		}
		m.notLooked(t, "asking.example.com")
		m.lines(t, "early", m.outbound(t, early, 1, outsidePort)...)
	}}
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
	m.lines(t, "web", "path=/job", "peer=spiffe://")
}

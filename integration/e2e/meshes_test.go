// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// member is a pod of one mesh, and the stand-in for its proxy.
type member struct {
	mesh                string
	labels, annotations map[string]string
	container           string
	uid                 int64
	outbound, inbound   int
}

// members are one of each mesh; the last one's is described in examples/static.toml.
func members() []member {
	return []member{
		{"istio", nil, labtest.Injected(), "istio-proxy", proxy, 15001, 15006},
		{"consul", nil, map[string]string{"consul.hashicorp.com/connect-inject-status": "injected", "consul.hashicorp.com/transparent-proxy-status": "enabled",
			"consul.hashicorp.com/redirect-traffic-config": `{"ProxyUserID":"5995","ProxyInboundPort":20000,"ProxyOutboundPort":15001}`}, "consul-dataplane", 5995, 15001, 20000},
		{"kuma", nil, map[string]string{"kuma.io/sidecar-injected": "true", "traffic.kuma.io/transparent-proxy-config": "cniMode: true"}, "kuma-sidecar", 5678, 15001, 15006},
		{"linkerd", map[string]string{"linkerd.io/control-plane-ns": "linkerd"}, map[string]string{"linkerd.io/proxy-version": "x"}, "linkerd-proxy", 2102, 4140, 4143},
		{"house", map[string]string{"proxy.example.com/sidecar": "on"}, nil, "house-proxy", 4000, 16001, 16006},
	}
}

func (m member) spec(name string) lab.PodSpec {
	return lab.PodSpec{Name: name, Labels: maps.Clone(m.labels), Annotations: maps.Clone(m.annotations)}
}

// with returns a pod that is of another mesh as well.
func (m member) with(other member, name string) lab.PodSpec {
	spec := m.spec(name)
	for into, from := range map[*map[string]string]map[string]string{&spec.Labels: other.labels, &spec.Annotations: other.annotations} {
		if *into == nil {
			*into = map[string]string{}
		}
		maps.Copy(*into, from)
	}
	return spec
}

// join runs the stand-in in its pod.
func (m member) join(t *testing.T, pod *lab.Pod) {
	t.Helper()
	c, err := pod.RunContainer(labtest.Within(t, time.Minute), lab.ContainerSpec{Name: m.container, User: m.uid, Group: m.uid,
		Env:  []string{"ISTIO_DUAL_STACK=true"}, // as the node has it; it is Istio's alone
		Args: []string{"proxy", "--outbound", fmt.Sprint(m.outbound), "--inbound", fmt.Sprint(m.inbound)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []int{m.outbound, m.inbound} {
		addr := fmt.Sprintf("0.0.0.0:%d", port)
		if _, err := c.WaitFor(labtest.Within(t, time.Minute), func(e lab.Event) bool { return e.Event == "listening" && e.Addr == addr }); err != nil {
			t.Fatal(err)
		}
	}
}

// caught sends a container's first packet, which must come to the pod's proxy.
func (m member) caught(t *testing.T, pod *lab.Pod, target string) {
	t.Helper()
	reply, err := labtest.FirstAct(labtest.Within(t, time.Minute), pod, app, "tcp4", target)
	if err != nil || reply != "outbound original_dst="+target {
		t.Errorf("%s: got %q %v", m.mesh, reply, err)
	}
}

// One pod of each mesh on one node: the first packet of each is caught, rules that are flushed come back, another
// daemon takes them over, and what two meshes claim does not start.
func TestSeveralMeshesOnOneNode(t *testing.T) {
	root, err := lab.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	profile, err := os.ReadFile(filepath.Join(root, "examples", "static.toml"))
	if err != nil {
		t.Fatal(err)
	}
	config := []string{`audit_interval = "1s"`, string(profile)}
	l := labtest.DualStack(t, lab.Runtimes()[0])
	daemon := labtest.RunDaemon(t, l, config...)
	peer := labtest.RunPod(t, l, "peer", nil)
	pods := map[string]*lab.Pod{}
	for _, m := range members() {
		pod, err := l.RunPod(labtest.Within(t, time.Minute), m.spec(m.mesh))
		if err != nil {
			t.Fatal(err)
		}
		pods[m.mesh] = pod
		m.join(t, pod)
		if line := daemon.Event(t, "pod_protected", "default/"+m.mesh); line.Mesh != m.mesh {
			t.Errorf("%s: protected for mesh %q", m.mesh, line.Mesh)
		}
		m.caught(t, pod, "203.0.113.1:80")
		target := labtest.Address(pod, 0, 8080)
		if reply, err := labtest.FirstAct(labtest.Within(t, time.Minute), peer, app, "tcp4", target); err != nil || reply != "inbound original_dst="+target {
			t.Errorf("%s, inbound: got %q %v", m.mesh, reply, err)
		}
	}
	if line := daemon.Event(t, "pod_skipped", "default/peer"); line.Mesh != "" || line.Reason != string(rules.ReasonNotInjected) {
		t.Errorf("a pod of no mesh is skipped by %q (%s)", line.Mesh, line.Reason)
	}
	for _, m := range members() { // each is repaired, and the others stay as they are
		labtest.InNetNS(t, pods[m.mesh].NetNS(), "iptables-nft", "-t", "nat", "-F")
		if line := daemon.Event(t, "drift_repaired", "default/"+m.mesh); line.Mesh != m.mesh {
			t.Errorf("%s: repaired for mesh %q", m.mesh, line.Mesh)
		}
		m.caught(t, pods[m.mesh], "203.0.113.2:80")
	}
	saysEachMesh(t, l)

	daemon.Kill()
	late := members()[3]
	missed, err := l.RunPod(labtest.Within(t, time.Minute), late.spec("missed"))
	if err != nil {
		t.Fatal(err)
	}
	labtest.RunContainer(t, missed, "early", "pause")
	next := labtest.RunDaemon(t, l, config...)
	for _, m := range members() {
		if line := next.Event(t, "pod_protected", "default/"+m.mesh); line.Changed || line.Mesh != m.mesh {
			t.Errorf("%s: taken over for %q, changed %v", m.mesh, line.Mesh, line.Changed)
		}
		m.caught(t, pods[m.mesh], "203.0.113.3:80")
	}
	if line := next.Event(t, "pod_late", "default/missed"); line.Mesh != late.mesh {
		t.Errorf("late, for mesh %q", line.Mesh)
	}
	late.join(t, missed)
	late.caught(t, missed, "203.0.113.1:80")

	for _, two := range [][2]member{{members()[0], members()[3]}, {members()[2], members()[4]}} {
		name := two[0].mesh + "-" + two[1].mesh
		_, err := l.RunPod(labtest.Within(t, time.Minute), two[0].with(two[1], name))
		want := two[0].mesh + " and " + two[1].mesh + " claim the pod"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", name, err)
		}
		if line := next.Event(t, "pod_blocked", "default/"+name); line.Reason != string(rules.ReasonTwoMeshes) || !strings.Contains(line.Message, want) {
			t.Errorf("%s: %s, %q", name, line.Reason, line.Message)
		}
	}
}

// saysEachMesh asks the daemon for what it says of the pods.
func saysEachMesh(t *testing.T, l *lab.Lab) {
	t.Helper()
	socket := filepath.Join(l.Dir(), "meshnetd.sock")
	s, err := status.Read(labtest.Within(t, time.Minute), socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members() {
		i := slices.IndexFunc(s.Sandboxes, func(sb status.Sandbox) bool { return sb.Name == m.mesh })
		if i < 0 || s.Sandboxes[i].Mesh != m.mesh || s.Sandboxes[i].Drift.Times == 0 {
			t.Errorf("%s: status has %+v", m.mesh, s.Sandboxes)
			continue
		}
		x, err := status.Explain(labtest.Within(t, time.Minute), socket, s.Sandboxes[i].ID)
		if err != nil || x.Mesh != m.mesh || len(x.Settings) == 0 || len(x.Steps) < len(members()) {
			t.Errorf("%s: explained %v by %q in %q", m.mesh, err, x.Mesh, x.Steps)
		}
	}
}

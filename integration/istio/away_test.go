// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/integration/kube"
	"github.com/meshnetd/meshnetd/integration/lab"
)

// What becomes of a pod.
const (
	withRules = "runs with its rules"
	bare      = "**runs without rules**"
	invalid   = "istio-validation fails"
	refused   = "has no sandbox"
	held      = "is held"
	either    = "is held, or runs with its rules" // by when its agent died

	whileStarting = "is killed while the pod starts"
)

// agent is a DaemonSet that has to do with pods' rules.
type agent struct {
	namespace, name, main, image string            // main is its container
	marks                        map[string]string // annotations of its pods
}

// away has pods made while the agent is away, in every way in which it can be, with and without istio-validation.
type away struct {
	*mesh
	agent
	table strings.Builder
	pods  int
}

// Istio's plugin does not need its agent, but for its files.
func TestAwayIstioCNI(t *testing.T) {
	m := beside(t)
	m.follow(t, agentInstall+" -f packaging/istio/istioctl-without-validation.yaml")
	a := away{mesh: m, agent: agent{namespace: "istio-system", name: "istio-cni-node", main: "install-cni", image: agentImage}}
	a.all(t)
	compare(t, "istio-cni is away", a.table.String())
}

// Pods that require meshnetd wait for it.
func TestAwayMeshnetd(t *testing.T) {
	m := run(t, part{"Istio, meshnetd", func(m *mesh, ctx context.Context, t *testing.T) error {
		_, err := m.C.Kubectl(ctx, "", "create", "namespace", "istio-system")
		m.System(t)
		m.meshnetd(t, "")
		m.follow(t, agentInstall+" -f packaging/istio/istioctl-without-validation.yaml")
		m.Kubectl(t, "-n", "istio-system", "delete", "daemonset", "istio-cni-node")
		return err
	}}, part{"Istio", (*mesh).istiod}, part{"rig, Istio", (*mesh).namespaces})
	a := away{mesh: m, agent: agent{namespace: "meshnetd-system", name: "meshnetd", main: "meshnetd", image: "localhost/meshnetd/meshnetd:kube",
		marks: map[string]string{"required-plugins.noderesource.dev": `["meshnetd"]`}}}
	a.all(t)
	compare(t, "meshnetd is away", a.table.String())
}

func (a *away) all(t *testing.T) {
	a.table.WriteString("| It | A pod | When it is back | A pod without istio-validation | When it is back |\n|---|---|---|---|---|\n")
	ended, killed, early := a.two(), a.two(), a.two()
	a.row(t, "was ended", ended, a.end, a.create, a.start)
	a.forget(t, ended)
	a.row(t, "was killed", killed, a.kill, a.create, a.revive)
	a.row(t, whileStarting, early, func(t *testing.T) {}, func(t *testing.T, pods ...pod) {
		a.create(t, pods...)
		a.kill(t)
	}, a.revive)
	a.row(t, "lost power with the node, and comes late", early, a.lose, a.boot, a.revive)
	a.forget(t, early)
	a.row(t, "was ended, the node switched on", killed, a.end, a.boot, a.start)
}

// two pods, the second without istio-validation.
func (a *away) two() []pod {
	a.pods++
	validated := map[string]string{"inject.istio.io/templates": "sidecar"}
	for key, value := range a.marks {
		validated[key] = value
	}
	return []pod{{namespace: "shop", name: fmt.Sprintf("validated-%d", a.pods), annotations: validated},
		{namespace: "shop", name: fmt.Sprintf("sooner-%d", a.pods), annotations: a.marks}}
}

// row has the agent go, pods be made, and the agent come back.
func (a *away) row(t *testing.T, name string, pods []pod, goes func(*testing.T), made func(*testing.T, ...pod), back func(*testing.T)) {
	t.Helper()
	goes(t)
	since := time.Now().Truncate(time.Second)
	made(t, pods...)
	var fates []string
	for _, p := range pods {
		fate := a.fate(t, p, since)
		if name == whileStarting && a.main == "meshnetd" && (fate == withRules || fate == held) {
			fate = either
		}
		fates = append(fates, fate)
	}
	back(t)
	fmt.Fprintf(&a.table, "| %s", name)
	for i, p := range pods {
		later := "-"
		switch fates[i] {
		case held, refused, either:
			later = a.fate(t, p, time.Now())
		case invalid, bare:
			if later = "has rules"; !redirects(a.kernel(t, p)) {
				later = "still has none"
			}
		}
		fmt.Fprintf(&a.table, " | %s | %s", fates[i], later)
	}
	a.table.WriteString(" |\n")
	t.Logf("%s: %q", name, fates)
}

// forget takes pods away that no row needs any more.
func (a *away) forget(t *testing.T, pods []pod) {
	t.Helper()
	for _, p := range pods {
		a.Kubectl(t, "-n", p.namespace, "delete", "pod", p.name, "--now", "--wait=false")
	}
}

func redirects(ruleset string) bool { return strings.Contains(strings.ToLower(ruleset), "redirect") }

// fate waits until it is known what becomes of a pod that was made since then.
func (a *away) fate(t *testing.T, p pod, since time.Time) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience)
	defer cancel()
	found := ""
	if err := lab.Poll(ctx, func() (bool, error) {
		switch runs, failed, err := a.containers(ctx, p); {
		case err != nil:
			return false, err
		case runs:
			found = bare
		case failed:
			found = invalid
		default:
			found = a.told(ctx, p, since)
		}
		return found != "", nil
	}); err != nil {
		t.Fatalf("it is not known what becomes of %s: %v", p.name, err)
	}
	if found != bare {
		return found
	}
	server := net.JoinHostPort(a.bridge[0].String(), outsidePort)
	if redirects(a.kernel(t, p)) {
		a.more(t, p, func() { a.asks(t, p, server) }, "cluster=PassthroughCluster", "to="+server)
		return withRules
	}
	before := len(a.accesses(t, p, "to="+server))
	if a.asks(t, p, server); len(a.accesses(t, p, "to="+server)) > before {
		t.Errorf("%s has no rules, and its proxy has what it asks", p.name)
	}
	return found
}

// containers says whether the pod's app runs, and whether its istio-validation has failed.
func (a *away) containers(ctx context.Context, p pod) (runs, failed bool, err error) {
	client := a.C.Lab().CRI()
	list, err := client.ListContainers(ctx, &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{LabelSelector: p.labels()}})
	if err != nil {
		return false, false, err
	}
	for _, c := range list.GetContainers() {
		switch c.GetMetadata().GetName() {
		case "app":
			runs = runs || c.GetState() == criv1.ContainerState_CONTAINER_RUNNING
		case "istio-validation":
			answer, err := client.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: c.GetId()})
			failed = failed || err == nil && c.GetState() == criv1.ContainerState_CONTAINER_EXITED && answer.GetStatus().GetExitCode() == 126
		}
	}
	return runs, failed, nil
}

// told is what the kubelet's events say of a pod since then.
func (a *away) told(ctx context.Context, p pod, since time.Time) string {
	const each = `jsonpath={range .items[*]}{.lastTimestamp}{" "}{.message}{"\n"}{end}`
	events, err := a.C.Kubectl(ctx, "", "-n", p.namespace, "get", "events", "--field-selector", "involvedObject.name="+p.name, "-o", each)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(events) {
		at, message, _ := strings.Cut(line, " ")
		when, err := time.Parse(time.RFC3339, at)
		switch {
		case err != nil || when.Before(since):
		case strings.Contains(strings.ReplaceAll(message, `\`, ""), `required plugin "meshnetd" not present`):
			return held
		case strings.Contains(message, "istio-cni-kubeconfig"):
			return refused
		}
	}
	return ""
}

// end takes the agent from the node, as a drain does or an update.
func (a *away) end(t *testing.T) {
	a.Kubectl(t, "-n", a.namespace, "patch", "daemonset", a.name, "-p", `{"spec":{"template":{"spec":{"nodeSelector":{"nobody":"here"}}}}}`)
	a.Wait(t, "=0=", "-n", a.namespace, "get", "daemonset", a.name, "-o", "jsonpath=={.status.currentNumberScheduled}=")
	a.Kubectl(t, "-n", a.namespace, "wait", "--for=delete", "pod", "--all", "--timeout="+kube.Patience.String())
}

func (a *away) start(t *testing.T) {
	a.Kubectl(t, "-n", a.namespace, "patch", "daemonset", a.name, "--type=json", "-p", `[{"op":"remove","path":"/spec/template/spec/nodeSelector/nobody"}]`)
	a.ready(t)
}

func (a *away) ready(t *testing.T) {
	t.Helper()
	a.Wait(t, "=1=1=", "-n", a.namespace, "get", "daemonset", a.name, "-o", "jsonpath=={.status.desiredNumberScheduled}={.status.numberReady}=")
	if a.main == "meshnetd" {
		a.Wait(t, "nri_connected", "-n", a.namespace, "logs", "ds/meshnetd")
	}
}

// kill kills the agent, and the kubelet does not find its image.
func (a *away) kill(t *testing.T) {
	a.lose(t)
	if err := syscall.Kill(a.process(t, pod{namespace: a.namespace}, a.main), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
	a.Wait(t, "ErrImageNeverPull", "-n", a.namespace, "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}")
}

// lose takes the agent's image from the node.
func (a *away) lose(t *testing.T) {
	if err := errors.Join(a.C.Ctr(t.Context(), "images", "tag", "--force", a.image, a.image+"-kept"), a.C.Ctr(t.Context(), "images", "rm", "--sync", a.image)); err != nil {
		t.Fatal(err)
	}
}

// revive gives the image back, to a new pod: the kubelet has a dead one wait before it tries again.
func (a *away) revive(t *testing.T) {
	if err := a.C.Ctr(t.Context(), "images", "tag", a.image+"-kept", a.image); err != nil {
		t.Fatal(err)
	}
	a.Kubectl(t, "-n", a.namespace, "delete", "pod", "--all", "--now")
	a.ready(t)
}

// boot switches the node off and on. What is in /run is lost.
func (a *away) boot(t *testing.T, _ ...pod) {
	if err := errors.Join(a.C.PowerOff(t.Context()), os.RemoveAll(a.agentDir()), a.C.PowerOn(t.Context(), func() error { return nil })); err != nil {
		t.Fatalf("rig: %v", err)
	}
}

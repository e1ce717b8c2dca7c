// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/podsapi"
)

// What lockdowns in mode "report" counted of a pod becomes entries of its keys: with them, what the pod did goes on where the
// lockdown is enforced, and nothing else does.
func TestFromReportToEnforce(t *testing.T) {
	const report = "[[lockdown]]\nmode = \"report\"\nudp = \"none\"\negress = \"proxy\"\n"
	l := labtest.DualStack(t, lab.Runtimes()[0])
	d := labtest.RunDaemon(t, l, `audit_interval = "1s"`, report)
	outside := labtest.RunPod(t, l, "outside", nil)
	for name, args := range map[string][]string{"statsd": {"0.0.0.0:8125", "--udp"}, "other": {"0.0.0.0:8126", "--udp"}, "database": {"0.0.0.0:5432"}, "cache": {"0.0.0.0:6379"}} {
		c := labtest.RunContainer(t, outside, name, append([]string{"serve", args[0], name}, args[1:]...)...)
		if _, err := c.WaitEvent(labtest.Within(t, time.Minute), "listening"); err != nil {
			t.Fatal(err)
		}
	}
	web := labtest.RunPod(t, l, "web", labtest.Injected("traffic.sidecar.istio.io/excludeOutboundPorts", "5432,6379"))
	acts := 0
	act := func(network string, port int) string { // what a program of the app reaches
		t.Helper()
		acts++
		c := labtest.RunContainer(t, web, fmt.Sprintf("act-%d", acts), "connect", network, fmt.Sprintf("%s:%d", outside.IP(), port), "--exit")
		e, err := c.WaitFor(labtest.Within(t, time.Minute), func(e lab.Event) bool { return e.Event == "connected" || e.Event == "failed" })
		if err != nil {
			t.Fatal(err)
		}
		return e.Reply + e.Error
	}
	goesOn := map[int]string{8125: "statsd", 5432: "database"}
	network := map[int]string{8125: "udp4", 8126: "udp4", 5432: "tcp4", 6379: "tcp4"}
	for port, server := range goesOn {
		if got := act(network[port], port); !strings.HasPrefix(got, server+" ") {
			t.Fatalf("counted only, it reaches %q", got)
		}
	}
	var entries string
	if err := lab.Poll(labtest.Within(t, time.Minute), func() (bool, error) { // the auditor comes by
		_, entries, _ = d.Command(t, "lockdown", "default")
		return strings.Contains(entries, "8125/udp") && strings.Contains(entries, "5432/tcp"), nil
	}); err != nil {
		t.Fatalf("%v: meshnetd lockdown says\n%s", err, entries)
	}
	if line := d.Event(t, "lockdown_packet", "default/web"); !strings.Contains(line.Message, "counted ") || !strings.Contains(line.Message, outside.IP().String()) {
		t.Errorf("the event says %q", line.Message)
	}
	if _, row, _ := d.Command(t, "status", "default/web"); !strings.Contains(row, "lockdown: counted udp ") || !strings.Contains(row, "counted egress ") {
		t.Errorf("status says\n%s", row)
	}
	if _, why, _ := d.Command(t, "explain", "default/web"); !strings.Contains(why, "[tcp: counted as egress, udp: counted as udp] outbound TCP and UDP: port 5432 is excluded") {
		t.Errorf("explain says\n%s", why)
	}
	if all := metricsOf(t, l); !strings.Contains(all, `meshnetd_lockdown_packets_total{action="counted",class="udp",namespace="default"} `) {
		t.Errorf("no packets by namespace and class in\n%s", all)
	}

	rewrite(t, l, report, strings.Replace(report, `"report"`, `"enforce"`, 1)+entries)
	reload(t, d)
	if code, stdout, stderr := d.Command(t, "verify", "--all", "--repair"); code != 0 {
		t.Fatalf("verify --all --repair: exit %d\n%s%s", code, stdout, stderr)
	}
	for port, net := range network {
		if got, server := act(net, port), goesOn[port]; server != "" && !strings.HasPrefix(got, server+" ") || server == "" && !refusedAtOnce(got) {
			t.Errorf("enforced, %s to port %d reaches %q, want %q", net, port, got, server)
		}
	}
	if _, lacking, _ := d.Command(t, "lockdown", "default"); lacking != "# nothing is known that a lockdown counted and does not let pass\n" {
		t.Errorf("with these entries, still lacking:\n%s", lacking)
	}
}

// refusedAtOnce reports whether a program was told so by the kernel of its own pod.
func refusedAtOnce(said string) bool {
	return strings.Contains(said, "operation not permitted") || strings.Contains(said, "connection refused")
}

// A pod without a mesh, in a namespace that a lockdown is for, is named where that is reported, also one that ran before; and is
// refused where it is not wanted, with the reason.
func TestPodsWithoutAMesh(t *testing.T) {
	const reports = "[[lockdown]]\nnamespaces = [\"locked\"]\nunmeshed = \"report\"\n"
	l := labtest.DualStack(t, lab.Runtimes()[0])
	plain := func(namespace, name string) error {
		pod, err := l.RunPod(labtest.Within(t, time.Minute), lab.PodSpec{Namespace: namespace, Name: name})
		if err == nil {
			labtest.RunContainer(t, pod, "app", "pause")
		}
		return err
	}
	start := func(namespace, name string) {
		t.Helper()
		if err := plain(namespace, name); err != nil {
			t.Fatal(err)
		}
	}
	start("locked", "before")
	start("free", "before")
	d := labtest.RunDaemon(t, l, reports)
	start("locked", "new")
	for _, pod := range []string{"locked/before", "locked/new"} {
		if line := d.Event(t, "pod_unmeshed", pod); line.Reason != "not-injected" || !strings.Contains(line.Message, "the pod runs without a mesh, which [[lockdown]] of /") {
			t.Errorf("%s: %+v", pod, line)
		}
		if code, row, _ := d.Command(t, "status", pod); code != 0 || !strings.Contains(row, "skipped") {
			t.Errorf("status of %s: exit %d\n%s", pod, code, row)
		}
	}
	metrics := metricsOf(t, l)
	for _, want := range []string{`meshnetd_sandboxes{state="skipped"} 2`, `meshnetd_outcomes_total{event="pod_unmeshed",mesh="",reason="not-injected"} 2`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in\n%s", want, metrics)
		}
	}
	if _, all, _ := d.Command(t, "status"); strings.Contains(all, "free/before") {
		t.Errorf("a pod elsewhere is named:\n%s", all)
	}

	rewrite(t, l, `"report"`, `"refuse"`)
	reload(t, d)
	err := plain("locked", "late")
	for _, want := range []string{"the pod would run without a mesh (not-injected: ", "), and [[lockdown]] of /", " refuses that (unmeshed)"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("refused with %v, want %q in it", err, want)
		}
	}
	start("free", "late")
}

// Where the kubelet tells what is in a pod, one that can send past all rules is refused, and an init container that reaches nothing is
// named before it tries, and when it did.
func TestLockdownByTheKubelet(t *testing.T) {
	l := labtest.DualStack(t, lab.Runtimes()[0])
	outside := labtest.RunPod(t, l, "outside", nil)
	webApp := lab.ContainerSpec{Name: "app", Args: []string{"pause"}, User: app, Group: app}
	migrate := lab.ContainerSpec{Name: "migrate", Args: []string{"connect", "tcp4", fmt.Sprintf("%s:5432", outside.IP()), "--exit"}, User: app, Group: app}
	web := lab.PodSpec{Name: "web", UID: "uid-of-web", Annotations: labtest.Injected("traffic.sidecar.istio.io/excludeOutboundPorts", "5432")}
	raw := lab.PodSpec{Namespace: "strict", Name: "raw", UID: "uid-of-raw", Annotations: labtest.Injected()}
	kubelet := &podsapi.Server{Socket: filepath.Join(l.Dir(), "pods-api.sock"), Watch: podsapi.Telling(
		podsapi.WithInit(podsapi.Pod(web, webApp, labtest.ProxyContainer), migrate), podsapi.Pod(raw, webApp, labtest.ProxyContainer))}
	if err := kubelet.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kubelet.Stop)
	d := labtest.RunDaemon(t, l, `audit_interval = "1s"`, fmt.Sprintf("kubelet.pods_api = %q", kubelet.Socket), `
[[lockdown]]
namespaces = ["default"]
mode = "enforce"
egress = "proxy"

[[lockdown]]
namespaces = ["strict"]
raw = "refuse"`)
	d.Expect(t, func(l lab.Line) bool { return l.Event == "kubelet_known" })

	const past = "container app (net_raw) can send what meets no rule, by packet sockets, and [[lockdown]] of /"
	if _, err := l.RunPod(labtest.Within(t, time.Minute), raw); err == nil || !strings.Contains(err.Error(), past) {
		t.Errorf("a pod with NET_RAW: %v, want %q in it", err, past)
	}
	pod, err := l.RunPod(labtest.Within(t, time.Minute), web)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pod.RunContainer(labtest.Within(t, time.Minute), migrate)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.WaitEvent(labtest.Within(t, time.Minute), "failed"); err != nil || !refusedAtOnce(e.Error) {
		t.Errorf("the init container: %+v, %v", e, err)
	}
	for _, event := range []string{"pod_protected", "lockdown_packet"} {
		d.Expect(t, func(l lab.Line) bool { // one of its notes
			return l.Event == event && l.Pod == "default/web" && strings.Contains(l.Raw, "init container migrate reaches nothing: ")
		})
	}
}

// rewrite changes the daemon's configuration.
func rewrite(t *testing.T, l *lab.Lab, from, to string) {
	t.Helper()
	file := filepath.Join(l.Dir(), "meshnetd.toml")
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), from) {
		t.Fatalf("%v: no %q in\n%s", err, from, text)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func reload(t *testing.T, d labtest.Meshnetd) {
	t.Helper()
	if code, stdout, stderr := d.Command(t, "reload"); code != 0 {
		t.Fatalf("meshnetd reload: exit %d\n%s%s", code, stdout, stderr)
	}
}

// metricsOf asks the daemon of the lab.
func metricsOf(t *testing.T, l *lab.Lab) string {
	t.Helper()
	text, err := lab.Metrics(t.Context(), filepath.Join(l.Dir(), "meshnetd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

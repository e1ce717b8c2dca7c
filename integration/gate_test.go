// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

func flush(t *testing.T, pod *lab.Pod) {
	t.Helper()
	labtest.InNetNS(t, pod.NetNS(), "iptables-nft", "-t", "nat", "-F")
}

// What the proxy's container says is the mesh's last word; an older runtime does not say as whom it runs.
func TestProxyRefinesThePod(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		daemon := labtest.RunDaemon(t, l)
		pod := labtest.RunPod(t, l, "web", labtest.Injected())
		const user, dns, drop = "--uid-owner 1000719999", "ISTIO_OUTPUT_DNS", "ISTIO_DROP"
		if text := labtest.Saved(t, pod); strings.Contains(text, user) || strings.Contains(text, dns) || strings.Contains(text, drop) {
			t.Fatalf("the sandbox has them already:\n%s", text)
		}
		spec := labtest.ProxyContainer
		spec.User, spec.Group = 1000719999, 1000719999 // as OpenShift gives them
		spec.Env = append(spec.Env, "ISTIO_META_DNS_CAPTURE=true", "INVALID_DROP=true")
		if _, err := pod.RunContainer(labtest.Within(t, time.Minute), spec); err != nil {
			t.Fatal(err)
		}
		daemon.Event(t, "pod_refined", "default/web")
		text := labtest.Saved(t, pod)
		tellsUser := l.Runtime().TellsUser()
		if l.Runtime().Validates() { // this one has its validator off
			if line := daemon.Event(t, "pod_not_held", "default/web"); line.Message != "not held back while meshnetd is away: the validator is off" {
				t.Errorf("said %q", line.Message)
			}
			for _, ask := range [][2]string{{"status", "best effort: Its validator is off"}, {"explain", "not held back while meshnetd is away: the validator is off"}} {
				args := []string{ask[0], "default/web"}
				if _, told, stderr := daemon.Command(t, args...); !strings.Contains(told, ask[1]) {
					t.Errorf("%v does not say %q:\n%s%s", args, ask[1], told, stderr)
				}
			}
		}
		if !strings.Contains(text, dns) || !strings.Contains(text, drop) || strings.Contains(text, user) != tellsUser {
			t.Errorf("the proxy's word is not in the rules:\n%s", text)
		}
		if !tellsUser {
			connected := daemon.Expect(t, func(l lab.Line) bool { return l.Event == "nri_connected" })
			if !strings.Contains(connected.Limits, "user of a container is not told") {
				t.Errorf("the limit is not told: %q", connected.Limits)
			}
			const overrides = `{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":1000719999,"runAsGroup":1000719999}}]}`
			pod = labtest.RunPod(t, l, "overridden", labtest.Injected("proxy.istio.io/overrides", overrides))
			if !strings.Contains(labtest.Saved(t, pod), user) {
				t.Error("nor is it with proxy.istio.io/overrides")
			}
		}
		labtest.RunContainer(t, pod, "app", "pause")
		spec.Attempt = 1 // the proxy is restarted
		if _, err := pod.RunContainer(labtest.Within(t, time.Minute), spec); err != nil {
			t.Fatal(err)
		}
	})
}

// The arguments of istio-validation are those of the mesh's own tool: its ids are the pod's. Its ports are the mesh's, or the
// app could be where inbound traffic goes.
func TestValidationRefinesThePod(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		daemon := labtest.RunDaemon(t, l, "istio.outbound_port = 16001", "istio.inbound_port = 16006")
		pod := labtest.RunPod(t, l, "web", labtest.Injected())
		if _, err := pod.CreateContainer(labtest.Within(t, time.Minute), lab.ContainerSpec{Name: "istio-validation", User: 2000, Group: 2000,
			Args: []string{"istio-iptables", "-p", "16001", "-z", "16006", "-u", "2000", "-g", "2000", "--run-validation", "--skip-rule-apply"}}); err != nil {
			t.Fatal(err)
		}
		daemon.Event(t, "pod_refined", "default/web")
		for _, want := range []string{"--to-ports 16001", "--to-ports 16006", "--uid-owner 2000", "--gid-owner 2000"} {
			if text := labtest.Saved(t, pod); !strings.Contains(text, want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
	})
}

// A pod whose proxy turns out to be a gateway's loses its rules before the proxy starts, in the namespaces whose containers
// may take rules away.
func TestGatewayLosesItsRules(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		daemon := labtest.RunDaemon(t, l, "[[policy]]", `namespaces = ["def*"]`, "may_loosen = true")
		pod := labtest.RunPod(t, l, "gateway", labtest.Injected())
		spec := labtest.ProxyContainer
		spec.Args = []string{"proxy", "router"}
		if _, err := pod.CreateContainer(labtest.Within(t, time.Minute), spec); err != nil {
			t.Fatal(err)
		}
		daemon.Event(t, "pod_refined", "default/gateway")
		labtest.RunContainer(t, pod, "app", "pause")
		if text := labtest.Saved(t, pod); strings.Contains(text, "ISTIO") {
			t.Errorf("a gateway has rules:\n%s", text)
		}
	})
}

// A pod's author loosens after injection: containers that take rules away are refused, and the rules stay; a pod that is
// left alone although the injector was there is seen. A gateway, which its injector marks as one, is such a pod.
func TestAuthorLoosensAfterInjection(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		daemon := labtest.RunDaemon(t, l)
		pod := labtest.RunPod(t, l, "web", labtest.Injected())
		before := labtest.Saved(t, pod)
		refusedToLoosen(t, pod, lab.ContainerSpec{Name: "istio-validation", Args: []string{"istio-iptables", "-z", "8080", "--run-validation", "--skip-rule-apply"}})
		spec := labtest.ProxyContainer
		for _, env := range []string{"DISABLE_ENVOY=true", "ISTIO_OUTBOUND_OWNER_GROUPS=4000", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=1000", "ISTIO_DUAL_STACK=false"} {
			spec.Env = []string{"ISTIO_DUAL_STACK=true", env}
			refusedToLoosen(t, pod, spec)
		}
		spec.Env = labtest.ProxyContainer.Env
		spec.Args = []string{"proxy", "router"}
		refusedToLoosen(t, pod, spec)
		if after := labtest.Saved(t, pod); after != before {
			t.Errorf("the rules are others:\n%s", after)
		}
		labtest.RunProxy(t, pod)
		for name, annotations := range map[string]map[string]string{
			"edited":  labtest.Injected("sidecar.istio.io/inject", "false"),
			"gateway": labtest.Injected("inject.istio.io/templates", "gateway"),
		} {
			left := labtest.RunPod(t, l, name, annotations)
			daemon.Event(t, "pod_skipped", "default/"+name)
			labtest.RunContainer(t, left, "app", "pause")
			if text := labtest.Saved(t, left); strings.Contains(text, "ISTIO") {
				t.Errorf("%s has rules:\n%s", name, text)
			}
		}
	})
}

func refusedToLoosen(t *testing.T, pod *lab.Pod, spec lab.ContainerSpec) {
	t.Helper()
	_, err := pod.CreateContainer(labtest.Within(t, time.Minute), spec)
	if err == nil || !strings.Contains(err.Error(), "meshnetd refuses container "+spec.Name+" of pod default/web") || !strings.Contains(err.Error(), "may_loosen") {
		t.Errorf("%q, %q: %v", spec.Args, spec.Env, err)
	}
}

// A container that would go around the mesh as the proxy is refused, where the runtime tells who it is.
func TestProxyIdentityIsRefused(t *testing.T) {
	l := labtest.DualStack(t, lab.Runtimes()[0])
	daemon := labtest.RunDaemon(t, l)
	pod := labtest.RunPod(t, l, "web", labtest.Injected())
	_, err := pod.CreateContainer(labtest.Within(t, time.Minute), lab.ContainerSpec{Name: "app", Args: []string{"pause"}, User: proxy})
	if err == nil || !strings.Contains(err.Error(), "meshnetd refuses container app of pod default/web") {
		t.Errorf("got %v", err)
	}
	daemon.Event(t, "pod_blocked", "default/web")
	labtest.RunProxy(t, pod)
	labtest.RunContainer(t, pod, "other", "pause")
}

// A name of the injector's is nobody's proof, and a group is the proxy's by a setgid file too: what a pod's author writes
// to become the proxy is refused, and without any of it nobody is let past the proxy.
func TestImpostorsAreRefused(t *testing.T) {
	l := labtest.DualStack(t, lab.Runtimes()[0])
	daemon := labtest.RunDaemon(t, l, `proxy_images = ["`+lab.Image+`"]`)
	peer := labtest.RunPod(t, l, "peer", nil)
	labtest.RunServer(t, peer, "8080", "around the mesh")
	target := peer.IP().String() + ":8080"
	pod := labtest.RunPod(t, l, "web", labtest.Injected())
	attempt := []string{"connect", "tcp4", target}
	for _, spec := range []lab.ContainerSpec{
		{Name: "istio-proxy", Command: []string{"/standin"}, Args: attempt, User: proxy, Group: proxy},
		{Name: "istio-validation", Command: []string{"/standin"}, Args: attempt, User: proxy, Group: proxy},
		{Name: "envoy-sidecar", Args: attempt, User: proxy, Group: proxy},
		{Name: "kuma-validation", Args: attempt, User: app, Group: proxy},
		{Name: "linkerd-network-validator", Args: attempt, User: proxy, Group: app},
		{Name: "setgid", Args: append([]string{"setgid", fmt.Sprint(proxy)}, attempt...), User: app, Group: app, Groups: []int64{proxy}},
	} {
		_, err := pod.RunContainer(labtest.Within(t, time.Minute), spec)
		if err == nil || !strings.Contains(err.Error(), "meshnetd refuses container "+spec.Name+" of pod default/web") {
			t.Errorf("%s: got %v", spec.Name, err)
		}
	}
	daemon.Event(t, "pod_blocked", "default/web")
	labtest.RunProxy(t, pod)
	c, err := pod.RunContainer(labtest.Within(t, time.Minute), lab.ContainerSpec{Name: "app", Args: append(attempt, "--exit"), User: app, Group: app, Groups: []int64{1336}})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.WaitEvent(labtest.Within(t, time.Minute), "connected"); err != nil || e.Reply != "outbound original_dst="+target {
		t.Errorf("an honest container reached %q, %v", e.Reply, err)
	}
}

// What the test before refuses is an attack: where nobody looks, a member of the proxy's group gets around.
func TestSetgidFilesGoAround(t *testing.T) {
	l := labtest.DualStack(t, lab.Runtimes()[0])
	labtest.RunDaemon(t, l, `proxy_identity = "off"`)
	peer := labtest.RunPod(t, l, "peer", nil)
	labtest.RunServer(t, peer, "8080", "around the mesh")
	pod := labtest.RunPod(t, l, "web", labtest.Injected())
	labtest.RunProxy(t, pod)
	for name, want := range map[string]string{"setgid": "around the mesh", "member": "outbound original_dst=" + peer.IP().String() + ":8080"} {
		args := []string{"connect", "tcp4", peer.IP().String() + ":8080", "--exit"}
		if name == "setgid" {
			args = append([]string{"setgid", fmt.Sprint(proxy)}, args...)
		}
		c, err := pod.RunContainer(labtest.Within(t, time.Minute), lab.ContainerSpec{Name: name, Args: args, User: app, Group: app, Groups: []int64{proxy}})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := c.WaitEvent(labtest.Within(t, time.Minute), "connected"); err != nil || !strings.HasPrefix(e.Reply, want) {
			t.Errorf("%s reached %q, %v", name, e.Reply, err)
		}
	}
}

// Where the node names the images of proxies, another one is not the proxy; only this runtime tells them.
func TestImagesOfProxies(t *testing.T) {
	l := labtest.DualStack(t, lab.Containerd24)
	labtest.RunDaemon(t, l, `proxy_images = ["registry.example/istio/proxyv2:*"]`)
	pod := labtest.RunPod(t, l, "web", labtest.Injected())
	if _, err := pod.CreateContainer(labtest.Within(t, time.Minute), labtest.ProxyContainer); err == nil || !strings.Contains(err.Error(), "is none of proxy_images") {
		t.Errorf("got %v", err)
	}
}

// What the node forbids is refused with its reason, or counts as absent.
func TestForbiddenAnnotations(t *testing.T) {
	l := labtest.DualStack(t, lab.Runtimes()[0])
	labtest.RunDaemon(t, l, `
[[annotations]]
annotation = "traffic.sidecar.istio.io/excludeOutboundPorts"
namespaces = ["team-*"]
otherwise = "ignore"
[[annotations]]
annotation = "traffic.sidecar.istio.io/excludeOutboundPorts"
allow = ["5432", "9000-9100"]`)
	const key = "traffic.sidecar.istio.io/excludeOutboundPorts"
	run := func(namespace, name, value string) (*lab.Pod, error) {
		return l.RunPod(labtest.Within(t, time.Minute), lab.PodSpec{Namespace: namespace, Name: name, Annotations: labtest.Injected(key, value)})
	}
	if pod, err := run("shop", "allowed", "5432,9050"); err != nil || !strings.Contains(labtest.Saved(t, pod), "--dport 9050 -j RETURN") {
		t.Errorf("what is allowed: %v", err)
	}
	if _, err := run("shop", "forbidden", "5432,443"); err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "443") {
		t.Errorf("what is forbidden: %v", err)
	}
	if pod, err := run("team-a", "ignored", "443"); err != nil || strings.Contains(labtest.Saved(t, pod), "--dport 443 -j RETURN") {
		t.Errorf("what is ignored: %v", err)
	}
}

// Somebody flushes the rules of a running pod: it is found, told, and repaired, or told only.
func TestDriftIsRepaired(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		daemon := labtest.RunDaemon(t, l, `audit_interval = "1s"`)
		pod := labtest.RunPod(t, l, "web", labtest.Injected())
		labtest.RunProxy(t, pod)
		before := labtest.Saved(t, pod)
		flush(t, pod)
		found := daemon.Event(t, "drift_found", "default/web")
		if !strings.Contains(found.Message, "missing: -A OUTPUT -j ISTIO_OUTPUT") {
			t.Errorf("what differs is not told: %s", found.Message)
		}
		daemon.Event(t, "drift_repaired", "default/web")
		if after := labtest.Saved(t, pod); after != before {
			t.Errorf("repaired, but\n%s\nwas\n%s", after, before)
		}
	})
}

// Rules that are lost are found before the next container of the pod is created, whatever the auditor does; and one that is
// created has them.
func TestNoContainerAfterAFlush(t *testing.T) {
	l := labtest.DualStack(t, lab.Runtimes()[0])
	daemon := labtest.RunDaemon(t, l, `on_drift = "report"`)
	pod := labtest.RunPod(t, l, "web", labtest.Injected())
	labtest.RunProxy(t, pod)
	flush(t, pod)
	spec := lab.ContainerSpec{Name: "app", Args: []string{"pause"}, User: app, Group: app}
	if _, err := pod.CreateContainer(labtest.Within(t, time.Minute), spec); err == nil || !strings.Contains(err.Error(), "the sandbox has lost its rules") {
		t.Errorf("got %v", err)
	}
	daemon.Event(t, "pod_blocked", "default/web")
	const target = "203.0.113.7:80"
	spec.Attempt, spec.Args = 1, []string{"connect", "tcp4", target, "--exit"} // as the kubelet does
	c, err := pod.RunContainer(labtest.Within(t, time.Minute), spec)
	if err != nil {
		t.Fatalf("the next try: %v", err)
	}
	if e, err := c.WaitEvent(labtest.Within(t, time.Minute), "connected"); err != nil || e.Reply != "outbound original_dst="+target {
		t.Errorf("the next try reached %q, %v", e.Reply, err)
	}
	daemon.Event(t, "drift_repaired", "default/web")
}

// A pod that runs without its rules when meshnetd comes is stopped over CRI, where that is wished for.
func TestLatePodIsStopped(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		running, waiting := labtest.RunPod(t, l, "running", labtest.Injected()), labtest.RunPod(t, l, "waiting", labtest.Injected())
		labtest.RunContainer(t, running, "app", "pause")
		daemon := labtest.RunDaemon(t, l, `catch_up = "stop"`)
		daemon.Event(t, "pod_stopped", "default/running")
		daemon.Event(t, "pod_protected", "default/waiting")
		for pod, want := range map[*lab.Pod]bool{running: false, waiting: true} {
			if ready, err := pod.Ready(labtest.Within(t, time.Minute)); err != nil || ready != want {
				t.Errorf("%s: ready %v, %v", pod.Spec.Name, ready, err)
			}
		}
		if !strings.Contains(labtest.Saved(t, waiting), "ISTIO_OUTPUT") {
			t.Error("the pod that had no container yet has no rules")
		}
	})
}

// A new configuration leaves running pods as they are, and says so, unless it is asked to replace their rules.
func TestOutdatedRulesStay(t *testing.T) {
	l := labtest.DualStack(t, lab.Runtimes()[0])
	first := labtest.RunDaemon(t, l)
	pod := labtest.RunPod(t, l, "web", labtest.Injected())
	labtest.RunContainer(t, pod, "app", "pause")
	before := labtest.Saved(t, pod)
	first.End(t)
	second := labtest.RunDaemon(t, l, "istio.inbound_port = 16006")
	second.Event(t, "pod_outdated", "default/web")
	labtest.RunContainer(t, pod, "another", "pause") // validated against what it has
	if now := labtest.Saved(t, pod); now != before {
		t.Errorf("rules of a running pod were changed:\n%s", now)
	}
	if text := labtest.Saved(t, labtest.RunPod(t, l, "new", labtest.Injected())); !strings.Contains(text, "--to-ports 16006") {
		t.Errorf("a new pod has the old rules:\n%s", text)
	}
	second.End(t)
	third := labtest.RunDaemon(t, l, "istio.inbound_port = 16006", "replace_outdated = true")
	third.Event(t, "pod_protected", "default/web")
	if text := labtest.Saved(t, pod); !strings.Contains(text, "--to-ports 16006") {
		t.Errorf("asked to replace them, it did not:\n%s", text)
	}
}

// A pod with a user namespace of its own (hostUsers: false) is served by nftables: the kernel refuses iptables'
// owner match there. Its containers are created; to start them, containerd asks for a newer runc than
// distributions have. Packets of such a pod are those of TestOwnUsers in daemon/nftables.
func TestUserNamespacedPod(t *testing.T) {
	t.Setenv("TMPDIR", "/tmp") // ids of files on a tmpfs are mapped by Linux 6.3 and newer
	l := labtest.DualStack(t, lab.Runtimes()[0])
	host := labtest.HostRules(t)
	daemon := labtest.RunDaemon(t, l)
	web, err := l.RunPod(labtest.Within(t, time.Minute), lab.PodSpec{Name: "web", UserNS: true, Annotations: labtest.Injected()})
	if err != nil {
		t.Fatal(err)
	}
	if line := daemon.Event(t, "pod_protected", "default/web"); line.Backend != "nftables" {
		t.Errorf("its rules were written by %s", line.Backend)
	}
	for name, id := range map[string]int64{"istio-proxy": 2000, "app": app} {
		if _, err := web.CreateContainer(labtest.Within(t, time.Minute), lab.ContainerSpec{Name: name, Args: labtest.ProxyContainer.Args, User: id, Group: id, Env: labtest.ProxyContainer.Env}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if text := labtest.InNetNS(t, web.NetNS(), "nft", "list", "table", "inet", "meshnetd"); !strings.Contains(text, "skuid 2000") {
		t.Errorf("its rules do not follow its proxy:\n%s", text)
	}
	if text := labtest.Saved(t, web); strings.Contains(text, "ISTIO") {
		t.Errorf("iptables has rules too:\n%s", text)
	}
	if now := labtest.HostRules(t); now != host {
		t.Errorf("the host's rules have changed:\n%s", now)
	}
}

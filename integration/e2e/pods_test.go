// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/nriplugin"
)

// Of 100 pods, half of them on each runtime, each app's very first connection must reach the proxy, with its original destination.
func TestFirstConnectionIsCaught(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		labtest.RunDaemon(t, l)
		server := labtest.RunPod(t, l, "server", nil)
		servers := labtest.RunServer(t, server, "8080", "server")
		target := labtest.Address(server, 0, 8080)
		const pods, atOnce = 50, 4
		replies := firstConnections(t, l, pods, atOnce, target)
		for i, reply := range replies {
			if want := "outbound original_dst=" + target; reply != want {
				t.Errorf("pod %d: got %q, want %q", i, reply, want)
			}
		}
		for _, s := range servers {
			events, err := s.Events()
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if e.Event == "accepted" {
					t.Errorf("a connection went around the proxy: %+v", e)
				}
			}
		}
	})
}

// The same without meshnetd: the test above can fail.
func TestFirstConnectionWithoutMeshnetd(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		server := labtest.RunPod(t, l, "server", nil)
		labtest.RunServer(t, server, "8080", "server")
		for _, reply := range firstConnections(t, l, 3, 1, labtest.Address(server, 0, 8080)) {
			if !strings.HasPrefix(reply, "server peer=") {
				t.Errorf("got %q, want the server itself", reply)
			}
		}
	})
}

// firstConnections runs pods of the mesh, and returns what the first connection of each one's app reached.
func firstConnections(t *testing.T, l *lab.Lab, pods, atOnce int, target string) []string {
	t.Helper()
	replies := make([]string, pods)
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i := range pods {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx := labtest.Within(t, 2*time.Minute)
			reply, err := func() (string, error) {
				pod, err := l.RunPod(ctx, lab.PodSpec{Name: fmt.Sprintf("meshed-%d", i), Annotations: labtest.Injected()})
				if err != nil {
					return "", err
				}
				c, err := pod.RunContainer(ctx, labtest.ProxyContainer)
				if err != nil {
					return "", err
				}
				if _, err := c.WaitFor(ctx, func(e lab.Event) bool { return e.Event == "listening" && e.Addr == "0.0.0.0:15001" }); err != nil {
					return "", err
				}
				reply, err := labtest.FirstAct(ctx, pod, app, "tcp4", target)
				if err != nil {
					return "", err
				}
				return reply, pod.Remove(ctx)
			}()
			if err != nil {
				t.Error(err)
			}
			replies[i] = reply
		})
	}
	wg.Wait()
	return replies
}

// Inbound and outbound, both families, the proxy's own traffic, and what is none of meshnetd's business.
func TestTrafficOfRealPods(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		host := labtest.HostRules(t)
		daemon := labtest.RunDaemon(t, l, `proxy_identity = "off"`) // containers of the test speak as the proxy
		peer := labtest.RunPod(t, l, "peer", nil)
		labtest.RunServer(t, peer, "8080", "peer")
		meshed := labtest.RunPod(t, l, "meshed", labtest.Injected())
		labtest.RunProxy(t, meshed)
		labtest.RunServer(t, meshed, "8080", "app")
		labtest.RunServer(t, meshed, "15021", "ready")
		daemon.Event(t, "pod_protected", "default/meshed")
		for _, a := range []struct {
			what string
			from *lab.Pod
			uid  int
			to   string
			want string
		}{
			{"outbound", meshed, app, labtest.Address(peer, 0, 8080), "outbound original_dst=" + labtest.Address(peer, 0, 8080)},
			{"outbound IPv6", meshed, app, labtest.Address(peer, 1, 8080), "outbound original_dst=" + labtest.Address(peer, 1, 8080)},
			{"inbound from a peer", peer, app, labtest.Address(meshed, 0, 8080), "inbound original_dst=" + labtest.Address(meshed, 0, 8080)},
			{"inbound IPv6", peer, app, labtest.Address(meshed, 1, 8080), "inbound original_dst=" + labtest.Address(meshed, 1, 8080)},
			{"readiness port", peer, app, labtest.Address(meshed, 0, 15021), "ready"},
			{"proxy's own traffic", meshed, proxy, labtest.Address(peer, 0, 8080), "peer"},
			{"proxy's own traffic IPv6", meshed, proxy, labtest.Address(peer, 1, 8080), "peer"},
			{"app to itself", meshed, app, labtest.Address(meshed, 0, 8080), "app"},
			{"from outside the mesh", peer, app, labtest.Address(peer, 0, 8080), "peer"},
		} {
			t.Run(a.what, func(t *testing.T) {
				network := "tcp4"
				if strings.HasPrefix(a.to, "[") {
					network = "tcp6"
				}
				reply, err := labtest.FirstAct(labtest.Within(t, time.Minute), a.from, a.uid, network, a.to)
				if err != nil || !strings.HasPrefix(reply, a.want) {
					t.Errorf("got %q %v, want %q", reply, err, a.want)
				}
			})
		}
		daemon.Event(t, "pod_skipped", "default/peer")
		if text := labtest.Saved(t, peer); text != "" {
			t.Errorf("a pod outside the mesh has rules:\n%s", text)
		}
		for name, annotations := range map[string]map[string]string{"host": nil, "host-injected": labtest.Injected()} {
			pod, err := l.RunPod(labtest.Within(t, time.Minute), lab.PodSpec{Name: name, HostNetwork: true, Annotations: annotations})
			if err != nil {
				t.Fatalf("a hostNetwork pod is refused: %v", err)
			}
			daemon.Event(t, "pod_skipped", "default/"+pod.Spec.Name)
		}
		if now := labtest.HostRules(t); now != host {
			t.Errorf("the host's rules have changed:\n%s", now)
		}
	})
}

// The pod's author reads what is wrong; once it is mended, the pod starts.
func TestBadAnnotationRefusesThePod(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		daemon := labtest.RunDaemon(t, l)
		const key = "traffic.sidecar.istio.io/includeOutboundIPRanges"
		spec := lab.PodSpec{Name: "web", UID: "1234", Annotations: labtest.Injected(key, "10.0.0.0/8,10.1.0.0")}
		for attempt := range uint32(2) { // kubelet tries again and again
			spec.Attempt = attempt
			pod, err := l.RunPod(labtest.Within(t, time.Minute), spec)
			what := "pod"
			if err == nil && l.Runtime().RefusesLate() {
				what = "container app of pod"
				_, err = pod.CreateContainer(labtest.Within(t, time.Minute), lab.ContainerSpec{Name: "app"})
				if err := pod.Remove(labtest.Within(t, time.Minute)); err != nil {
					t.Fatal(err)
				}
			}
			want := `meshnetd refuses ` + what + ` default/web: annotation ` + key + `: "10.0.0.0/8,10.1.0.0": item 2, "10.1.0.0", is not a CIDR`
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("got %v\nwant %s", err, want)
			}
		}
		daemon.Event(t, "pod_blocked", "default/web")
		spec.Attempt, spec.Annotations = 2, labtest.Injected(key, "10.0.0.0/8")
		pod, err := l.RunPod(labtest.Within(t, time.Minute), spec)
		if err != nil {
			t.Fatalf("mended: %v", err)
		}
		if text := labtest.Saved(t, pod); !strings.Contains(text, "-d 10.0.0.0/8 -j ISTIO_REDIRECT") {
			t.Errorf("mended, but without its rules:\n%s", text)
		}
	})
}

// Rules outlive the daemon; a pod that came while it was away gets them when it is back.
func TestDaemonRestarted(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		first := labtest.RunDaemon(t, l)
		before := labtest.RunPod(t, l, "before", labtest.Injected())
		first.Event(t, "pod_protected", "default/before")
		rules := labtest.Saved(t, before)
		first.End(t)
		missed := labtest.RunPod(t, l, "missed", labtest.Injected())
		labtest.RunContainer(t, missed, "early", "pause")
		if now := labtest.Saved(t, before); now != rules {
			t.Errorf("rules did not outlive the daemon:\n%s", now)
		}
		second := labtest.RunDaemon(t, l)
		if l := second.Event(t, "pod_protected", "default/before"); l.Changed {
			t.Error("a running pod was changed by a restart of the daemon")
		}
		second.Event(t, "pod_late", "default/missed")
		labtest.RunProxy(t, missed)
		reply, err := labtest.FirstAct(labtest.Within(t, time.Minute), missed, app, "tcp4", "203.0.113.7:80")
		if err != nil || reply != "outbound original_dst=203.0.113.7:80" {
			t.Errorf("got %q %v", reply, err)
		}
		second.Kill()
		third := labtest.RunDaemon(t, l)
		third.Event(t, "pod_protected", "default/missed")
	})
}

// The daemon finds the runtime again, however often it goes away.
func TestRuntimeRestarted(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		daemon := labtest.RunDaemon(t, l)
		for round := range 2 {
			if err := l.Restart(labtest.Within(t, time.Minute)); err != nil {
				t.Fatal(err)
			}
			connected := 0
			daemon.Expect(t, func(l lab.Line) bool {
				if l.Event == "nri_connected" {
					connected++
				}
				return connected == round+2
			})
			name := fmt.Sprintf("after-%d", round)
			pod := labtest.RunPod(t, l, name, labtest.Injected())
			daemon.Event(t, "pod_protected", "default/"+name)
			if text := labtest.Saved(t, pod); !strings.Contains(text, "ip6 nat -A OUTPUT -j ISTIO_OUTPUT") {
				t.Errorf("no rules after a restart of the runtime:\n%s", text)
			}
		}
		said, err := l.CRI().Version(labtest.Within(t, time.Minute), &criv1.VersionRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if c := daemon.Expect(t, func(l lab.Line) bool { return l.Event == "nri_connected" }); c.Runtime != said.GetRuntimeName() || c.Version != said.GetRuntimeVersion() {
			t.Errorf("connected to %s %s, which calls itself %s", c.Runtime, c.Version, said)
		}
		identified, err := nriplugin.Identify(said.GetRuntimeName(), said.GetRuntimeVersion())
		if r := l.Runtime(); err != nil || identified.Validates != r.Validates() || identified.TellsUser != r.TellsUser() || identified.RefuseLate != r.RefusesLate() {
			t.Errorf("the version table says of %s %+v, %v", r, identified, err)
		}
	})
}

// In a pod that the runtime starts, istio-validation comes before the proxy, and ends well.
func TestIstioValidationInAPod(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		labtest.RunDaemon(t, l, `proxy_identity = "off"`) // the stand-in has words of its own
		pod := labtest.RunPod(t, l, "web", labtest.Injected())
		c, err := pod.RunContainer(labtest.Within(t, time.Minute), lab.ContainerSpec{Name: "istio-validation", Args: []string{"validate"}, User: proxy, Group: proxy})
		if err != nil {
			t.Fatal(err)
		}
		if code, err := c.Wait(labtest.Within(t, time.Minute)); err != nil || code != 0 {
			events, _ := c.Events()
			t.Errorf("ends with %d, %v: %+v", code, err, events)
		}
	})
}

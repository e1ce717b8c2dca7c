// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/faults"
	"github.com/meshnetd/meshnetd/integration/lab"
)

// peerPort is one where nobody listens: a connection that goes around the mesh is seen, and refused.
const peerPort = 9

// peers are the node's own addresses on the pods' bridge, one of each family: what pods can reach in any case.
func (s *story) peers(t *testing.T) []netip.AddrPort {
	t.Helper()
	addresses, err := s.C.BridgeAddresses()
	if err != nil || len(addresses) != 2 {
		t.Fatalf("the bridge has %v, want an address of each family; %v", addresses, err)
	}
	var all []netip.AddrPort
	for _, addr := range addresses {
		all = append(all, netip.AddrPortFrom(addr, peerPort))
	}
	return all
}

// calling is a pod of the mesh that connects to the peers from its first instruction on, again and again.
func (s *story) calling(t *testing.T, name string) string {
	t.Helper()
	return after(t, dualStack(t, meshed(name, "")), "  containers:\n", s.caller(t))
}

func (s *story) caller(t *testing.T) string {
	t.Helper()
	var words []string
	for _, peer := range s.peers(t) {
		words = append(words, fmt.Sprintf("%q", peer))
	}
	return fill("", "", "    - {name: caller, image: IMAGE, imagePullPolicy: Never, args: [flood, "+strings.Join(words, ", ")+"], securityContext: APP}\n")
}

// watching captures on the pods' bridge for the time of the test.
func (s *story) watching(t *testing.T) *eye {
	t.Helper()
	capture, err := faults.NewCapture(s.C.Lab().Bridge())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(capture.Close)
	return &eye{s: s, capture: capture}
}

// eye sees what reaches the pods' peer.
type eye struct {
	s       *story
	capture *faults.Capture
}

// around returns who called the peers since the mark: addresses of pods, and how often.
func (e *eye) around(t *testing.T, since faults.Mark) map[netip.Addr]int {
	t.Helper()
	peers := e.s.peers(t)
	// A beacon to the bridge itself would never be on it.
	packets, err := e.capture.Since(t.Context(), since, e.s.podIPs(t, "outsider")[0])
	if err != nil {
		t.Fatal(err)
	}
	callers := map[netip.Addr]int{}
	for _, p := range packets {
		if slices.Contains(peers, p.Dst) {
			callers[p.Src.Addr()]++
		}
	}
	return callers
}

// outside runs a pod outside the mesh that calls in the same way, and sees that the capture sees it, in both families.
func (e *eye) outside(t *testing.T) {
	t.Helper()
	e.s.Apply(t, after(t, plain("outsider"), "  containers:\n", e.s.caller(t)))
	e.s.Ready(t, "outsider")
	e.s.Wait(t, "attempted", "-n", "shop", "logs", "outsider", "-c", "caller")
	for _, addr := range e.s.podIPs(t, "outsider") {
		if seen := e.around(t, 0)[addr]; seen == 0 {
			t.Fatalf("the capture does not see %s call", addr)
		}
	}
	// It goes on without calling, as the one to whom beacons are sent.
	e.s.Kubectl(t, "-n", "shop", "delete", "pod", "outsider", "--now")
	e.s.Apply(t, plain("outsider"))
	e.s.Ready(t, "outsider")
}

// While a meshnetd of an earlier time is replaced by this one, a Deployment is restarted again and again, and its pods call from their
// first instruction on: nothing of it leaves a pod.
func (s *story) upgrades(t *testing.T) {
	eye := s.watching(t)
	eye.outside(t)
	mark := eye.capture.Mark()
	if before := s.version(t); before != "frozen" {
		t.Fatalf("meshnetd is %q before", before)
	}
	s.Apply(t, workload(t, s.calling(t, "spinning"), "apps/v1", "Deployment", map[string]any{
		"replicas": 3, "selector": map[string]any{"matchLabels": map[string]any{"app": "spinning"}}}))
	begun := time.Now()
	restarts := 0
	restart := func() {
		s.Kubectl(t, "-n", "shop", "rollout", "restart", "deployment/spinning")
		s.Kubectl(t, "-n", "shop", "rollout", "status", "deployment/spinning", "--timeout="+Patience.String())
		restarts++
	}
	restart()
	done := make(chan error, 1)
	current := Chart(t)
	go func() { done <- s.Release(t.Context(), current, "kube") }()
	for replacing := true; replacing; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			replacing = false // and one more, with the new one alone
		default:
		}
		restart()
	}
	t.Logf("restarted %d times in %s", restarts, time.Since(begun).Round(time.Second))
	if now := s.version(t); now != "kube" {
		t.Errorf("meshnetd is %q after", now)
	}
	s.refused(t, "spinning-")
	s.alone(t, "spinning", 3)
	for _, peer := range s.peers(t) { // they do call
		s.Wait(t, fmt.Sprintf(`"original_dst":"%s"`, peer), "-n", "shop", "logs", "-l", "app=spinning", "-c", "istio-proxy", "--tail=100")
	}
	first := s.Kubectl(t, "-n", "shop", "logs", "-l", "app=spinning", "-c", "app", "--tail=-1")
	if !strings.Contains(first, `"reply":"outbound original_dst=203.0.113.10:443"`) || strings.Contains(first, `"event":"failed"`) {
		t.Errorf("a first connection ended elsewhere: %s", first)
	}
	if around := eye.around(t, mark); len(around) > 0 {
		t.Errorf("went around the mesh, by source: %v", around)
	}
	s.whole(t)
	s.Kubectl(t, "-n", "shop", "delete", "deployment", "spinning", "--cascade=foreground", "--wait")
	s.Kubectl(t, "-n", "shop", "delete", "pod", "outsider", "--now")
}

// alone waits until the pods that a rollout replaced are gone, which it does not wait for: who asks for their logs by
// label fails on one that goes meanwhile.
func (s *story) alone(t *testing.T, app string, replicas int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	var names string
	if err := lab.Poll(ctx, func() (done bool, err error) {
		names, err = s.C.Kubectl(ctx, "", "-n", "shop", "get", "pods", "-l", "app="+app, "-o", "name")
		return err == nil && len(strings.Fields(names)) == replicas, nil
	}); err != nil {
		t.Fatalf("there were never %d pods of %s alone (%v), but at last\n%s", replicas, app, err, names)
	}
}

// version returns what the running meshnetd says of itself.
func (s *story) version(t *testing.T) string {
	t.Helper()
	said := strings.Fields(s.Kubectl(t, "-n", "meshnetd-system", "exec", "ds/meshnetd", "--", "meshnetd", "version"))
	if len(said) < 2 {
		t.Fatalf("says %q", said)
	}
	return said[1]
}

// refused fails where a pod whose name begins so was refused for another reason than that meshnetd was away, or where
// a container of it ended. A pod that is tried again is none of it: that is what a kubelet does.
func (s *story) refused(t *testing.T, name string) {
	t.Helper()
	const failed = `jsonpath={range .items[*]}{.involvedObject.name}{"|"}{.reason}{"|"}{.count}{"|"}{.message}{"\n"}{end}`
	counts := map[string]int{}
	for line := range strings.Lines(s.Kubectl(t, "-n", "shop", "get", "events", "--field-selector=type=Warning", "-o", failed)) {
		fields := strings.SplitN(strings.TrimSpace(line), "|", 4)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], name) || fields[1] == "Unhealthy" {
			continue
		}
		counts[fields[1]]++
		away := strings.Contains(fields[3], "meshnetd is being stopped") || strings.Contains(fields[3], `required plugin "meshnetd" not present`) ||
			strings.Contains(fields[3], `required plugin \"meshnetd\" not present`) || strings.Contains(fields[3], "ttrpc: closed")
		// The kubelet says so of a pod that is deleted while it starts.
		deleted := strings.Contains(fields[3], "context canceled") || fields[1] == "FailedMount"
		if !away && !deleted {
			t.Errorf("%v", fields)
		}
	}
	t.Logf("starts that were refused and tried again: %v", counts)
	const restarted = `jsonpath={range .items[*]}{.metadata.name} {.status.phase}{range .status.containerStatuses[*]} {.restartCount}{end}{"\n"}{end}`
	for line := range strings.Lines(s.Kubectl(t, "-n", "shop", "get", "pods", "-o", restarted)) {
		fields := strings.Fields(line)
		if !strings.HasPrefix(fields[0], name) {
			continue
		}
		if fields[1] == "Failed" || slices.ContainsFunc(fields[2:], func(n string) bool { return n != "0" }) {
			t.Errorf("ended and was started again: %v", fields)
		}
	}
}

// whole fails unless every pod of the mesh has its rules now, and had them when meshnetd found it.
func (s *story) whole(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	var last error
	if err := lab.Poll(ctx, func() (bool, error) { // pods that ended a moment ago are known until the auditor comes around
		_, last = s.C.Kubectl(ctx, "", "-n", "meshnetd-system", "exec", "ds/meshnetd", "--", "meshnetd", "verify", "--all")
		return last == nil, nil
	}); err != nil {
		t.Errorf("%v: %v", err, last)
	}
	said := s.Kubectl(t, "-n", "meshnetd-system", "logs", "ds/meshnetd")
	for _, event := range []string{"pod_late", "pod_unprotected", "pod_stopped", "drift_found"} {
		if strings.Contains(said, event) {
			t.Errorf("meshnetd tells of %s:\n%s", event, said)
		}
	}
}

// A new meshnetd that has no session with the runtime does not take the place of the old one.
func (s *story) stuck(t *testing.T) {
	values := s.Values("kube")
	values["nri.directory"] = s.C.path("nobody") // a directory without a socket
	if out, err := s.C.Helm(t.Context(), s.Helm, s.command(Chart(t), values)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.Wait(t, "not ready: no session with the runtime", "-n", "meshnetd-system", "get", "events")
	const state = `jsonpath={range .items[*]}{.status.containerStatuses[0].ready} {end}`
	s.Wait(t, "true", "-n", "meshnetd-system", "get", "pods", "-o", state)
	if ready := strings.Fields(s.Kubectl(t, "-n", "meshnetd-system", "get", "pods", "-o", state)); len(ready) != 2 || ready[0] == ready[1] {
		t.Errorf("ready: %v, want the old one and not the new one", ready)
	}
	s.Apply(t, meshed("served", ""))
	s.Ready(t, "served")
	s.byTheProxy(t, "served")
	s.Kubectl(t, "-n", "shop", "delete", "pod", "served", "--now")
	s.Upgrade(t)
}

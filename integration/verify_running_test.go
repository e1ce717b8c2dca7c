// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// An operator asks, sees what is wrong, repairs, and sees that it is right, on real containerds.
func TestVerifyRunningPods(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		d := labtest.RunDaemon(t, l, `on_drift = "report"`)
		pod := labtest.RunPod(t, l, "web", labtest.Injected("traffic.sidecar.istio.io/excludeInboundPorts", "18081"))
		labtest.RunPod(t, l, "other", labtest.Injected())
		labtest.RunPod(t, l, "outside", nil)
		labtest.RunProxy(t, pod)
		excluded := labtest.RunServer(t, pod, "18081", "excluded")
		expect := func(code int, out, failure string, args ...string) string {
			t.Helper()
			gotCode, stdout, stderr := d.Command(t, append([]string{"verify"}, args...)...)
			if gotCode != code || !strings.Contains(stdout, out) || out == "" && stdout != "" || !strings.Contains(stderr, failure) || failure == "" && stderr != "" {
				t.Errorf("verify %s: exit %d, want %d, %q, %q\n%s\n%s", strings.Join(args, " "), gotCode, code, out, failure, stdout, stderr)
			}
			return stdout
		}
		expect(0, "the kernel holds the plan", "", "default/web")
		expect(0, "default/other: the kernel holds the plan", "", "--all")
		expect(0, ", 0 wrong\n", "", "--traffic", "default/web")
		expect(0, "default/other: ok", "", "--traffic", "--all")
		expect(1, "", "no pod default/outside of the mesh runs on this node", "default/outside")
		labtest.InNetNS(t, pod.NetNS(), "iptables-nft", "-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT")
		expect(4, "iptables nat: missing: -A OUTPUT -j ISTIO_OUTPUT", "1 differences", "default/web")
		expect(4, "WRONG         the app, out of the pod", "differences", "--traffic", "default/web")
		if all := expect(4, "default/web: iptables nat: missing", "1 differences", "--all"); !strings.Contains(all, "default/other: the kernel holds the plan") {
			t.Errorf("says\n%s", all)
		}
		expect(0, "repaired: the kernel holds the plan", "", "--repair", "default/web")
		d.Event(t, "drift_repaired", "default/web")
		// The plan's rules are whole, and somebody else's table decides before them.
		labtest.InNetNS(t, pod.NetNS(), "nft", "add table inet other; add chain inet other c { type nat hook output priority -110; }; "+
			"add rule inet other c tcp dport 443 dnat ip to 203.0.113.1")
		expect(4, "by what becomes of packets: takes less\n  tcp", "1 differences", "default/web")
		labtest.InNetNS(t, pod.NetNS(), "nft", "delete table inet other")
		expect(0, "the kernel holds the plan", "", "default/web")
		if document := expect(0, `"result": "whole"`, "", "--all", "--json"); !strings.Contains(document, `"netns": "`+pod.NetNS()+`"`) {
			t.Errorf("says\n%s", document)
		}
		if table := expect(0, `"verdict": "ok"`, "", "--traffic", "--json", "default/web"); strings.Contains(table, `"verdict": "wrong"`) {
			t.Errorf("says\n%s", table)
		}
		for _, c := range excluded {
			if events, err := c.Events(); err != nil || slices.ContainsFunc(events, func(e lab.Event) bool { return e.Event == "accepted" }) {
				t.Errorf("the app noticed: %+v, %v", events, err)
			}
		}
		ended := labtest.RunPod(t, l, "ended", labtest.Injected())
		if err := ended.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if all := expect(0, "default/other: the kernel holds the plan", "", "--all"); strings.Contains(all, "ended") {
			t.Errorf("a pod that has ended counts:\n%s", all)
		}
		// A StatefulSet makes its pod anew under the same name.
		again := labtest.RunPod(t, l, "ended", labtest.Injected())
		expect(0, "the kernel holds the plan", "", "default/ended")
		if _, told, _ := d.Command(t, "status"); strings.Contains(told, ended.ID[:13]) || !strings.Contains(told, again.ID[:13]) {
			t.Errorf("of %s, which has ended, and %s the status says\n%s", ended.ID, again.ID, told)
		}
		if left := labtest.Tracked(t, pod.NetNS()); len(left) > 0 {
			t.Errorf("the kernel remembers %v", left)
		}
		d.End(t)
	})
}

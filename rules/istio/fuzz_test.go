// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// checkDecision holds whatever the pod says: skipped or refused with a reason in words, or a plan whose
// every rule reads back as the same text.
func checkDecision(t *testing.T, m rules.Mesh, pod rules.Pod) {
	t.Helper()
	d := m.Decide(pod)
	if d.Reason == "" || d.Detail == "" || strings.HasSuffix(d.Detail, ": ") {
		t.Errorf("%s without a reason: %q, %q", d.Action, d.Reason, d.Detail)
	}
	if d.Action != rules.Enrol {
		return
	}
	if _, err := json.Marshal(d.Intent); err != nil {
		t.Errorf("intent: %v", err)
	}
	plan, err := d.Planner(rules.Network{Addresses: first4})
	if err != nil {
		t.Fatalf("no plan for a pod that is enrolled: %v", err)
	}
	for _, rs := range plan.Rulesets() {
		for _, table := range rs.Tables {
			for _, c := range table.Chains {
				for _, r := range c.Rules {
					text := r.String()
					again := rules.ParseRule(text)
					if _, foreign := again.Target.(rules.Foreign); foreign || again.String() != text || strings.ContainsAny(text, "\n\"'\\") {
						t.Errorf("%s %s: %q reads back as %#v", table.Name, c.Name, text, again)
					}
					if strings.Contains(text, "-owner 4294967295") {
						t.Errorf("%s %s: %q has an id that iptables refuses", table.Name, c.Name, text)
					}
				}
			}
		}
		saved := save(rs)
		again, err := rules.ParseSave(rs.Family, strings.NewReader(saved))
		if err != nil {
			t.Fatal(err)
		}
		if left := rules.Diff(again, rs, plan.Footprint); len(left) > 0 {
			t.Errorf("read back, it differs from itself: %v\n%s", left, saved)
		}
	}
}

// save prints what iptables-save would, were nothing else in the kernel.
func save(rs rules.Ruleset) string {
	var out strings.Builder
	for _, table := range rs.Tables {
		fmt.Fprintf(&out, "*%s\n", table.Name)
		for _, c := range table.Chains {
			policy := "-"
			if c.Builtin {
				policy = "ACCEPT"
			}
			fmt.Fprintf(&out, ":%s %s [0:0]\n", c.Name, policy)
		}
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				fmt.Fprintf(&out, "-A %s %s\n", c.Name, r)
			}
		}
		out.WriteString("COMMIT\n")
	}
	return out.String()
}

func FuzzAnnotations(f *testing.F) {
	for _, c := range corpus(f) {
		a := c.Annotations
		get := func(key, absent string) string {
			if value, ok := a[key]; ok {
				return value
			}
			return absent
		}
		f.Add(get(mode, "REDIRECT"), get(inboundPorts, "*"), get(inboundExcluded, "15020"), get(outboundRanges, "*"), get(outboundExcluded, ""),
			get(outboundPorts, ""), get(outboundNotPorts, "15020"), get(excludeInterfaces, ""), get(rerouteInterfaces, ""), get(kubevirt, ""),
			"15001", "1337", "1337", "", "sidecar", "true", "true", "*", "", "127.0.0.1/32")
	}
	f.Add("TPROXY", "80", "*", "::ffff:1.2.3.4/120", "0.0.0.0/0,::/0", "0", "65535", "a\n", "lo", "lo", "1", "0", "4294967295",
		`{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":1}}]}`, "gateway,sidecar", "T", "yes", "1,2", "3", "127.0.0.0/8")
	f.Add("REDIRECT", "80, 443", "", "", "", "", "", "a.b-c_d", "x0,x1", "", "15001", "1", "1",
		"", "custom", "1", "", "", "", "127.0.0.1/8")
	f.Fuzz(func(t *testing.T, mode_, in, inX, out, outX, outP, outPX, ifX, reroute, virt, port, uid, gid, over, template, dns, dual, groups, groupsX, loopback string) {
		pairs := []string{mode, mode_, inboundPorts, in, inboundExcluded, inX, outboundRanges, out, outboundExcluded, outX,
			outboundPorts, outP, outboundNotPorts, outPX, excludeInterfaces, ifX, rerouteInterfaces, reroute,
			"pod-network-controller.istio.io/envoy-port", port, "pod-network-controller.istio.io/envoy-userid", uid,
			"pod-network-controller.istio.io/envoy-groupid", gid, overrides, over, "inject.istio.io/templates", template,
			kubevirt, virt}
		optIn := []string{"istio-pod-network-controller/initialize", "true"}
		for pair := range slices.Chunk(pairs, 2) { // one at a time too: together, the first bad one hides the rest
			checkDecision(t, mesh, injected(append(pair, optIn...)...))
		}
		pod := injected(append(pairs, optIn...)...)
		d := istio.Standard()
		d.WithoutIPv6 = rules.IPv6Block
		checkDecision(t, mesh, pod)
		checkDecision(t, istio.New(d), pod)
		delete(pod.Annotations, rerouteInterfaces)
		checkDecision(t, mesh, withProxy(pod, "ISTIO_META_DNS_CAPTURE", dns, "ISTIO_DUAL_STACK", dual, "INVALID_DROP", dns,
			"ISTIO_OUTBOUND_OWNER_GROUPS", groups, "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", groupsX, "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", loopback))
		checkDecision(t, mesh, withValidation(pod, "-p", port, "--proxy-uid="+uid, "-g"+gid, "-z", in))
	})
}

func FuzzStatus(f *testing.F) {
	for _, seed := range []string{status, statusNative, "true", "{}", "", "null", "[]", `{"containers":[1]}`, `{"containers":{}}`, `{`, "injected",
		`{"initContainers":["istio-init"]}`, `{"containers":["\u0000"]}`, "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		pod := injected("sidecar.istio.io/status", value)
		checkDecision(t, mesh, pod)
		d := mesh.Decide(pod)
		switch {
		case strings.TrimSpace(value) == "" || json.Valid([]byte(value)):
		case d.Action != rules.Reject || !strings.Contains(d.Detail, "annotation sidecar.istio.io/status: ") || !strings.Contains(d.Detail, "not JSON at byte "):
			t.Errorf("%q is not JSON: %s, %s", value, d.Action, d.Detail)
		}
	})
}

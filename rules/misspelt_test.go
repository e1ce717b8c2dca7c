// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
)

// An annotation that nobody reads, and that is nearly one which is read, is named with that one.
func TestMisspeltAnnotations(t *testing.T) {
	node := within(rules.StandardBudget())
	for key, want := range map[string]string{
		"traffic.sidecar.istio.io/excludeOutboundPort":  "traffic.sidecar.istio.io/excludeOutboundPorts",
		"traffic.sidecar.istio.io/excludeoutboundports": "traffic.sidecar.istio.io/excludeOutboundPorts",
		"sidecar.istio.io/excludeOutboundPorts":         "traffic.sidecar.istio.io/excludeOutboundPorts",
		"traffic.sidecar.istio.io/interceptionMode":     "sidecar.istio.io/interceptionMode",
		"config.linkerd.io/skip-outbond-ports":          "config.linkerd.io/skip-outbound-ports",
		"config.linkerd.io/skip-outbound-port":          "config.linkerd.io/skip-outbound-ports",
		"traffic.kuma.io/transparent-proxy-conf":        "traffic.kuma.io/transparent-proxy-config",
		"traffic.sidecar.istio.io/excludeOutboundPorts": "",
		"sidecar.istio.io/proxyCPU":                     "",
		"config.linkerd.io/proxy-cpu-limit":             "",
		"example.org/excludeOutboundPorts":              "",
		"prometheus.io/scrape":                          "",
		strings.Repeat("x", 300):                        "",
	} {
		steps := node.Explain(injectedBy([]string{"istio"}, key, "80")).Account.Steps
		i := slices.IndexFunc(steps, func(step string) bool { return strings.Contains(step, "is read by no mesh") })
		switch {
		case want == "" && i >= 0:
			t.Errorf("%s: %s", key, steps[i])
		case want != "" && (i < 0 || !strings.Contains(steps[i], key+" is read by no mesh: is "+want+" meant?")):
			t.Errorf("%s: %q", key, steps)
		}
	}
	var many []string
	for i := range 200 {
		many = append(many, "traffic.sidecar.istio.io/excludeOutboundPorts"+string(rune('a'+i%26))+string(rune('a'+i/26)), "80")
	}
	if n := strings.Count(strings.Join(node.Explain(injectedBy([]string{"istio"}, many...)).Account.Steps, " "), "read by no mesh"); n != 5 {
		t.Errorf("%d are named", n)
	}
}

// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
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

// What may be misspelt is known of a remembered pod, too, however often it is remembered; of what is nobody's, or too long,
// or more than a person would look at, nothing is.
func TestMisspeltIsRemembered(t *testing.T) {
	node := within(rules.StandardBudget())
	const misspelt, long = "traffic.sidecar.istio.io/excludeOutboundPort", "traffic.sidecar.istio.io/excludeOutboundPorts"
	pod := injectedBy([]string{"istio"}, misspelt, "80", "example.org/excludeOutboundPorts", "80", "sidecar.istio.io/proxyCPU", "1",
		"x.istio.io/"+strings.Repeat("x", 100), "")
	kept := node.Remembered(node.Deciding(pod), node.Decide(pod))
	if want := []string{"sidecar.istio.io/proxyCPU", misspelt}; !slices.Equal(kept.Unread, want) {
		t.Errorf("%q are remembered, want %q", kept.Unread, want)
	}
	if said := node.Misspelt(kept); len(said) != 1 || !strings.Contains(said[0], misspelt+" is read by no mesh: is "+long+" meant?") {
		t.Errorf("%q", said)
	}
	for i := range 1000 {
		pod.Annotations[fmt.Sprintf("sidecar.istio.io/a%03d", i)] = ""
	}
	kept = node.Remembered(pod, node.Decide(pod))
	if len(kept.Unread) != 16 || kept.Unread[0] != "sidecar.istio.io/a000" || kept.Unread[15] != "sidecar.istio.io/a015" {
		t.Errorf("%q are remembered", kept.Unread)
	}
}

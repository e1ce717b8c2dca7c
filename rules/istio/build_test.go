// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"testing"

	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// Combinations that the recorded cases do not have, as iptables-restore reads them. They follow the facts
// about Istio's builder, or where Istio has no such setting, what the setting means.
func TestPlanGolden(t *testing.T) {
	both := []string{"ISTIO_DUAL_STACK", "true"}
	for _, tt := range []struct {
		name string
		pod  rules.Pod
	}{
		{"ports", withValidation(injected(mode, "TPROXY"), "-p", "25001", "-z", "25006", "-e", "25008", "-u", "2102", "-g", "3102")},
		{"dns-ports", withValidation(withProxy(injected(), "ISTIO_META_DNS_CAPTURE", "true"), "-p", "25001", "-e", "25008")},
		{"tproxy-nothing-inbound", injected(mode, "TPROXY", inboundPorts, "")},
		{"tproxy-reroute", injected(mode, "TPROXY", rerouteInterfaces, "k6t0", excludeInterfaces, "net1")},
		{"tproxy-everything", withProxy(injected(mode, "TPROXY", excludeInterfaces, "net1"),
			append(both, "ISTIO_META_DNS_CAPTURE", "true", "INVALID_DROP", "true")...)},
		{"dns-interfaces", withProxy(injected(excludeInterfaces, "net1"), "ISTIO_META_DNS_CAPTURE", "true")},
		{"dns-loopback", withProxy(injected(outboundRanges, "127.1.2.3/32"), "ISTIO_META_DNS_CAPTURE", "true")},
		{"loopback6-captured", withProxy(injected(outboundRanges, "::1/128"), both...)},
		{"ports-and-ranges", injected(outboundPorts, "443", outboundExcluded, "10.1.0.0/16", outboundRanges, "10.0.0.0/8", outboundNotPorts, "25")},
		{"groups-dns", withProxy(injected(), "ISTIO_OUTBOUND_OWNER_GROUPS", "7,8", "ISTIO_META_DNS_CAPTURE", "true")},
		{"reroute-families", withProxy(injected(rerouteInterfaces, "a0,b0", outboundRanges, "10.0.0.0/8,fd00::/8"), both...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plan := planOf(t, istio.New(istio.Standard()), tt.pod, first4)
			text := ""
			for _, rs := range plan.Rulesets() {
				text += "# " + rs.Family.String() + "\n" + rs.String()
			}
			golden.Check(t, "plan-"+tt.name+".golden", text)
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/rules"
)

// Of each gap it is said what a lockdown does with it, by the protocols that go through it; without one nothing is.
func TestLockdownOfGaps(t *testing.T) {
	pod := rules.Pod{Namespace: "shop", Name: "cart", Complete: true, IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00::7")},
		Annotations: map[string]string{"sidecar.istio.io/status": "{}", "traffic.sidecar.istio.io/excludeOutboundPorts": "5432"},
		Containers:  []rules.Container{{Name: "app"}, {Name: "istio-proxy", Args: []string{"proxy", "sidecar"}}}}
	for text, want := range map[string]map[string]string{
		"":                                      {},
		"[[lockdown]]\nunmeshed = \"report\"\n": {},
		"[[lockdown]]\nmode = \"enforce\"\nudp = \"quic\"\negress = \"proxy\"\n": {"IPv6, all": "tcp: closed as egress, udp: open", "UDP, ICMP": "open",
			"outbound TCP and UDP: port 5432": "tcp: closed as egress, udp: open", "outbound TCP and UDP of user 1337": "open", "connections that were open": "open", "what these containers": "open"},
		"[[lockdown]]\nudp = \"none\"\negress = \"proxy\"\ninbound = \"proxy\"\n": {"IPv6, all": "tcp: counted as egress, udp: counted as udp", "UDP, ICMP": "counted as udp",
			"outbound TCP and UDP: port 5432": "tcp: counted as egress, udp: counted as udp", "outbound TCP and UDP of user 1337": "open", "what these containers": "open"},
		"[[lockdown]]\negress = \"proxy\"\n[[lockdown]]\nmode = \"enforce\"\negress = \"proxy\"\n": {"outbound TCP and UDP: port 5432": "tcp: closed as egress, udp: open"},
	} {
		cfg, err := config.Parse("a.toml", text)
		if err != nil {
			t.Fatal(err)
		}
		x := Of(Plan(cfg, pod), Assumed(pod.IPs))
		got := map[string]string{}
		for _, gap := range x.NotCaptured {
			for begin := range want {
				if strings.HasPrefix(gap.What, begin) {
					got[begin] = gap.Lockdown
				}
			}
			if len(want) == 0 && gap.Lockdown != "" {
				t.Errorf("%q: %s is %s", text, gap.What, gap.Lockdown)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

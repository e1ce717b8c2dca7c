// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/sdk/iptables"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
)

func consulPod(config string, dualStack bool) rules.Pod {
	return rules.Pod{Namespace: "shop", Name: "cart", IPs: []netip.Addr{classScenes[0].Own, classScenes[1].Own}, Annotations: map[string]string{
		"consul.hashicorp.com/connect-inject-status": "injected", "consul.hashicorp.com/transparent-proxy-status": "enabled",
		"consul.hashicorp.com/dual-stack": fmt.Sprint(dualStack), "consul.hashicorp.com/redirect-traffic-config": config}}
}

// The library of Consul's own CNI plugin, version 0.18.1, leaves the same lines in the kernel as ours. Ranges of ports
// are left out, which it hands to iptables as they are, and so are ranges of addresses in a dual-stack pod, one family
// of which it fails on.
func TestConsulsLibraryLeavesTheSameRules(t *testing.T) {
	nstest.Require(t, "iptables", "ip6tables", "iptables-save", "ip6tables-save")
	isolated, err := netns.Isolate()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(isolated.Close)
	for name, tt := range map[string]struct {
		config    string // without the keys that it must have
		dualStack bool
	}{
		"nothing said":              {"", false},
		"excluded ports":            {`,"ExcludeInboundPorts":["20200","20300","20400"],"ExcludeOutboundPorts":["80","443"]`, false},
		"excluded ranges":           {`,"ExcludeOutboundCIDRs":["10.1.2.3/8","192.0.2.1","198.51.100.0/24"]`, false},
		"extra users":               {`,"ExcludeUIDs":["5996","0","1000"]`, false},
		"lookups at a port":         {`,"ConsulDNSIP":"127.0.0.1","ConsulDNSPort":8600`, false},
		"lookups at a port only":    {`,"ConsulDNSPort":8600`, false},
		"lookups at an address":     {`,"ConsulDNSIP":"10.0.0.10"`, false},
		"another outbound port":     {`,"ProxyOutboundPort":15002`, false},
		"everything":                {`,"ConsulDNSIP":"127.0.0.1","ConsulDNSPort":8600,"ExcludeInboundPorts":["20200"],"ExcludeOutboundPorts":["80"],"ExcludeOutboundCIDRs":["10.0.0.0/8"],"ExcludeUIDs":["5996"]`, false},
		"dual stack":                {"", true},
		"dual stack, lookups":       {`,"ConsulDNSIP":"::1","ConsulDNSPort":8600`, true},
		"dual stack, by an address": {`,"ConsulDNSIP":"fd00::10"`, true},
		"dual stack, exclusions":    {`,"ExcludeInboundPorts":["20200","20300"],"ExcludeOutboundPorts":["80","443"],"ExcludeUIDs":["5996","0"]`, true},
	} {
		t.Run(name, func(t *testing.T) {
			config := `{"ProxyUserID":"5995","ProxyInboundPort":20000` + tt.config + `}`
			theirs := nstest.New(t)
			var cfg iptables.Config
			if err := json.Unmarshal([]byte(config), &cfg); err != nil {
				t.Fatal(err)
			}
			cfg.NetNS = theirs.Path
			if err := iptables.Setup(cfg, tt.dualStack); err != nil {
				t.Fatal(err)
			}
			want := shown(t, theirs, "")
			if len(want) < 6 {
				t.Fatalf("too few rules: %q", want)
			}
			plan := meshtest.Plan(t, consul.Mesh{Defaults: consul.Standard()}, consulPod(config, tt.dualStack))
			for _, variant := range variants {
				ours := nstest.New(t)
				firewall, err := backend.Find(t.Context(), variant, false, isolated)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := firewall.Apply(t.Context(), opened(t, ours), plan); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, shown(t, ours, tools(variant))); diff != "" {
					t.Errorf("%s (-theirs +ours):\n%s", variant, diff)
				}
			}
		})
	}
}

// Version 0.19 of the library writes a table of nf_tables. It asks for a later Go than go.mod has, and a module can
// have one version of it only, so that it cannot be imported: what it was seen to leave stands here. The same packets
// that end by our rules where they should do so by its table.
func TestConsulsTableDoesTheSame(t *testing.T) {
	nstest.Require(t, "nft")
	m := classedMeshes()[1]
	if m.name != "consul" {
		t.Fatal(m.name)
	}
	for _, s := range classScenes {
		unless, lookups, to := "meta nfproto ipv6 return", "ip daddr 127.0.0.1", "ip to 127.0.0.1:8600"
		if s.Family == rules.IPv6 {
			unless, lookups, to = "", "ip6 daddr ::1", "ip6 to [::1]:8600"
		}
		table := fmt.Sprintf(`table inet consul_tproxy {
	chain CONSUL_PROXY_REDIRECT { meta l4proto tcp redirect to :15001; }
	chain CONSUL_PROXY_IN_REDIRECT { meta l4proto tcp redirect to :20000; }
	chain CONSUL_DNS_REDIRECT {
		%[2]s udp dport 53 dnat %[3]s
		%[2]s tcp dport 53 dnat %[3]s
	}
	chain CONSUL_PROXY_OUTPUT {
		meta skuid 5996 return
		tcp dport 3306 return
		meta skuid 5995 return
		ip daddr 127.0.0.1 return
		ip6 daddr ::1 return
		jump CONSUL_PROXY_REDIRECT
	}
	chain CONSUL_PROXY_INBOUND {
		tcp dport 20200 return
		meta l4proto tcp jump CONSUL_PROXY_IN_REDIRECT
	}
	chain CONSUL_NAT_OUTPUT {
		type nat hook output priority -100
		%[1]s
		%[2]s udp dport 53 jump CONSUL_DNS_REDIRECT
		%[2]s tcp dport 53 jump CONSUL_DNS_REDIRECT
		meta l4proto tcp jump CONSUL_PROXY_OUTPUT
	}
	chain CONSUL_NAT_PREROUTING {
		type nat hook prerouting priority -100
		%[1]s
		meta l4proto tcp jump CONSUL_PROXY_INBOUND
	}
}
`, unless, lookups, to)
		h := newHouse(t, m.probe)
		h.pod.RunInput(t, table, "nft", "-f", "-")
		plan := meshtest.Plan(t, m.mesh, consulPod(m.annotations(s.Family)["consul.hashicorp.com/redirect-traffic-config"], s.Family == rules.IPv6))
		h.classes(t, m, s, plan)
	}
}

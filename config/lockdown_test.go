// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshnetd/meshnetd/rules"
)

// A lockdown that leaves a key out closes nothing by it; one that says everything has everything.
func TestLockdowns(t *testing.T) {
	c, err := Parse("m.toml", `
[[lockdown]]
udp = "quic"

[[lockdown]]
namespaces = ["agents-*"]
mode = "enforce"
verdict = "drop"
unmeshed = "refuse"
udp = "dns"
dns_servers = ["10.96.0.10", "fd00::a"]
icmp = "errors"
other_protocols = "none"
egress = "proxy"
proxy_egress = ["fd00::/8:15012/tcp"]
inbound = "proxy"
allow = ["node-local-dns", "10.0.0.0/8:8000-8010/udp"]
allow_inbound = ["10.0.0.0/8:9090/tcp"]
local_ports = [15000, "15004-15005"]
local_ports_root = true
`)
	if err != nil {
		t.Fatal(err)
	}
	peer := func(prefix string, first, last uint16, protocol string) rules.Peer {
		return rules.Peer{Prefix: netip.MustParsePrefix(prefix), Ports: rules.PortRange{First: first, Last: last}, Protocol: protocol}
	}
	want := []rules.Lockdown{{Place: "m.toml:2", UDP: rules.UDPNoQUIC}, {
		Namespaces: []string{"agents-*"}, Place: "m.toml:5", Unmeshed: rules.UnmeshedRefuse, Enforce: true, Drop: true,
		UDP: rules.UDPLookups, DNSServers: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::a")}, ICMP: true, Others: true,
		Egress: true, ProxyEgress: []rules.Peer{peer("fd00::/8", 15012, 15012, "tcp")}, Inbound: true,
		Allow:      []rules.Peer{peer("169.254.20.10/32", 53, 53, "udp"), peer("169.254.20.10/32", 53, 53, "tcp"), peer("10.0.0.0/8", 8000, 8010, "udp")},
		Admit:      []rules.Peer{peer("10.0.0.0/8", 9090, 9090, "tcp")},
		LocalPorts: []rules.PortRange{{First: 15000, Last: 15000}, {First: 15004, Last: 15005}}, LocalRoot: true,
	}}
	if diff := cmp.Diff(want, c.Lockdowns, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
}

// ICMP can be closed by either of two words, which mean the same.
func TestLockedICMP(t *testing.T) {
	for text, want := range map[string]bool{"any": false, "errors": true, "none": true} {
		cfg, err := Parse("m.toml", "[[lockdown]]\nudp = \"none\"\nicmp = \""+text+"\"\n")
		if err != nil || cfg.Lockdowns[0].ICMP != want {
			t.Errorf("%s: %v, %v", text, cfg.Lockdowns, err)
		}
	}
}

// What a lockdown cannot mean is said with its line and key.
func TestProblemsOfLockdowns(t *testing.T) {
	for text, want := range map[string]string{
		``:                   "m.toml:1: lockdown[0]: closes nothing: ",
		`mode = "enforce"`:   "m.toml:1: lockdown[0]: closes nothing: ",
		`mode = "on"`:        `m.toml:2: lockdown[0].mode: "on" is none of report, enforce`,
		`udp = "lookups"`:    `m.toml:2: lockdown[0].udp: "lookups" is none of any, dns, quic, none`,
		`icmp = "echo"`:      `m.toml:2: lockdown[0].icmp: "echo" is none of any, errors, none`,
		`egress = "sidecar"`: `m.toml:2: lockdown[0].egress: "sidecar" is none of any, proxy`,
		`tcp = "none"`:       "m.toml:2: lockdown[0].tcp: unknown key",
		`namespaces = [""]`:  `m.toml:2: lockdown[0].namespaces: `,
		"udp = \"none\"\ndns_servers = [\"10.0.0.1\"]":                           `m.toml:3: lockdown[0].dns_servers: has no effect without udp = "dns"`,
		"udp = \"dns\"\ndns_servers = [\"kube-dns\"]":                            `m.toml:3: lockdown[0].dns_servers: "kube-dns" is no address`,
		"udp = \"none\"\nproxy_egress = [\"10.0.0.0/8:1/tcp\"]":                  `m.toml:3: lockdown[0].proxy_egress: has no effect without egress = "proxy"`,
		"icmp = \"errors\"\nallow = [\"10.0.0.0/8:1/tcp\"]":                      `m.toml:3: lockdown[0].allow: has no effect without udp, egress or other_protocols`,
		"udp = \"none\"\nallow_inbound = [\"10.0.0.0/8:1/tcp\"]":                 `m.toml:3: lockdown[0].allow_inbound: has no effect without inbound = "proxy"`,
		"udp = \"none\"\nlocal_ports_root = true":                                `m.toml:3: lockdown[0].local_ports_root: has no effect without local_ports`,
		"udp = \"none\"\nallow = [\"10.0.0.1/8:1/udp\"]":                         `m.toml:3: lockdown[0].allow: "10.0.0.1/8:1/udp" is not without host bits`,
		"udp = \"none\"\nallow = [\"10.0.0.0/8\"]":                               `m.toml:3: lockdown[0].allow: "10.0.0.0/8" is not CIDR:PORT/PROTOCOL`,
		"udp = \"none\"\nallow = [\"10.0.0.0/8:0/udp\"]":                         `m.toml:3: lockdown[0].allow: "10.0.0.0/8:0/udp" is not CIDR:PORT/PROTOCOL`,
		"udp = \"none\"\nallow = [\"10.0.0.0/8:1/icmp\"]":                        `m.toml:3: lockdown[0].allow: "10.0.0.0/8:1/icmp" is not CIDR:PORT/PROTOCOL`,
		"udp = \"none\"\nallow = [\"metadata\"]":                                 `m.toml:3: lockdown[0].allow: "metadata" is not CIDR:PORT/PROTOCOL`,
		"udp = \"none\"\nallow = [\"10.0.0.0/8:1-9/udp\",\"10.1.0.0/16:5/udp\"]": `m.toml:3: lockdown[0].allow: "10.1.0.0/16:5/udp" says nothing that 10.0.0.0/8:1-9/udp does not`,
		"udp = \"none\"\nallow = [\"10.1.0.0/16:5/udp\",\"10.0.0.0/8:1-9/udp\"]": `m.toml:3: lockdown[0].allow: "10.1.0.0/16:5/udp" says nothing that 10.0.0.0/8:1-9/udp does not`,
		"udp = \"none\"\nallow = [\"169.254.0.0/16:80/tcp\",\"imds\"]":           `m.toml:3: lockdown[0].allow: "imds" says nothing that 169.254.0.0/16:80/tcp does not`,
	} {
		if _, err := Parse("m.toml", "[[lockdown]]\n"+text+"\n"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := Parse("m.toml", strings.Repeat("[[lockdown]]\nudp = \"none\"\n", mostLockdowns+1)); err == nil || !strings.HasSuffix(err.Error(), "one more than the 16 that there may be") {
		t.Errorf("too many: %v", err)
	}
}

// A lockdown opens nothing that another one closes for each of its namespaces, and whoever writes that is told so: by the entry, or by
// the table that comes later and closes it.
func TestLockdownsThatContradict(t *testing.T) {
	const closes = "mode = \"enforce\"\nudp = \"dns\"\ndns_servers = [\"10.96.0.10\"]\negress = \"proxy\"\ninbound = \"proxy\"\nallow = [\"10.0.0.0/8:443/tcp\"]\n"
	open := func(key, value string) string {
		needs := map[string]string{"allow": `udp = "none"`, "dns_servers": `udp = "dns"`, "proxy_egress": `egress = "proxy"`, "allow_inbound": `inbound = "proxy"`}[key]
		return fmt.Sprintf("%s\n%s = [%q]\n", needs, key, value)
	}
	const shop, shops, bank = "namespaces = [\"shop\"]\n", "namespaces = [\"shop\", \"bank\"]\n", "namespaces = [\"bank\"]\n"
	const vain = "m.toml:12: lockdown[1].%s: %s is closed all the same by [[lockdown]] of m.toml:1, which is for each of these namespaces and lets none of it pass"
	for _, tt := range []struct{ first, second, want string }{
		{shops + closes, shop + open("allow", "10.1.0.5/32:8125/udp"), fmt.Sprintf(vain, "allow", "10.1.0.5/32:8125/udp")},
		{shops + closes, shop + open("allow", "11.0.0.0/8:443/tcp"), fmt.Sprintf(vain, "allow", "11.0.0.0/8:443/tcp")},
		{shops + closes, shop + open("dns_servers", "10.96.0.11"), fmt.Sprintf(vain, "dns_servers", "10.96.0.11/32:53/udp")},
		{shops + closes, shop + open("allow_inbound", "10.0.0.0/8:9090/tcp"), fmt.Sprintf(vain, "allow_inbound", "10.0.0.0/8:9090/tcp")},
		{shop + open("allow", "10.1.0.5/32:8125/udp"), closes, "m.toml:5: lockdown[1]: closes 10.1.0.5/32:8125/udp, which allow of [[lockdown]] of m.toml:1 opens for no other namespaces"},
		// It can pass both, in part, or in some namespace, or is counted only.
		{shops + closes, shop + open("allow", "10.0.0.0/7:400-500/tcp"), ""},
		{shops + closes, shop + open("allow", "10.96.0.0/16:53/udp"), ""},
		{shops + closes, shop + open("proxy_egress", "11.0.0.0/8:443/tcp"), ""},
		{shop + closes, bank + open("allow", "10.1.0.5/32:8125/udp"), ""},
		{shop + closes, shops + open("allow", "10.1.0.5/32:8125/udp"), ""},
		{shop + closes, open("allow", "10.1.0.5/32:8125/udp"), ""},
		{strings.Replace(closes, "enforce", "report", 1), open("allow", "10.1.0.5/32:8125/udp"), ""},
		{"mode = \"enforce\"\nudp = \"quic\"\n", open("allow", "10.1.0.5/32:80-443/udp"), ""},
	} {
		_, err := Parse("m.toml", "[[lockdown]]\n"+tt.first+"[[lockdown]]\n"+tt.second)
		if said := fmt.Sprint(err); tt.want == "" && err != nil || tt.want != "" && !strings.Contains(said, tt.want) {
			t.Errorf("%s beside\n%s:\n%s\nwant %s", tt.first, tt.second, said, tt.want)
		}
	}
}

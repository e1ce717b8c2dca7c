// SPDX-License-Identifier: Apache-2.0

package kuma_test

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
)

func TestInputs(t *testing.T) {
	meshtest.Inputs(t, mesh, func(key, value string) rules.Pod {
		keys := strings.Split(key, ".")
		return injected(strings.Join(keys, ": {") + ": " + value + strings.Repeat("}", len(keys)-1) + "\ncniMode: true")
	})
}

func TestRefused(t *testing.T) {
	redirect := func(direction, more string) string {
		return "cniMode: true\nredirect: {" + direction + ": {" + more + "}}"
	}
	for _, tt := range []struct{ config, problem string }{
		{"", "is missing or empty"},
		{"%TAG !a! a\n---\ncniMode: true", "begins with %"},
		{"# a\r%TAG !a! a\n---\ncniMode: true", "begins with %"},
		{"\ufeff%TAG !a! a\n---\ncniMode: true", "begins with %"},
		{"# nothing", "not"},
		{"[]", "the configuration (line 1) is not an object"},
		{"text", "is not an object"},
		{"a: b: c", "not YAML"},
		{"cniMode: true\n---\ncniMode: true", "something follows"},
		{"cniMode: true\n---\n}", "something follows"},
		{"cniMode: true\ncniMode: true", "cniMode (line 2) is there twice"},
		{"cnimode: true", "cnimode (line 1) is not known"},
		{"cniMode: yes", "cniMode (line 1) is not true or false"},
		{"cniMode: 'true'", "cniMode (line 1) is not true or false"},
		{"cniMode: 1", "cniMode (line 1) is not true or false"},
		{"cniMode: &a true", "anchor"},
		{"cniMode: !!bool true", "anchor, alias or tag"},
		{"&a {cniMode: true}", "is not an object"},
		{"a: &x null\nwait: *x", "anchor"},
		{"<<: {cniMode: true}", "has a key that is not a text"},
		{"1: true", "has a key that is not a text"},
		{"tomorrow: false", "tomorrow (line 1) is not known"},
		{redirect("inbound", "ports: [80]"), "redirect.inbound.ports (line 2) is not known"},
		{"kumaDPUser: kuma-dp", `kumaDPUser: "kuma-dp" is not a number`},
		{"kumaDPUser: 0", "kumaDPUser"},
		{"kumaDPUser: [5678]", "is not a text"},
		{"kumaDPUser: 4294967295", "not a number from 1"},
		{"ipFamilyMode: ipv5", `ipFamilyMode: "ipv5" is not dualstack, ipv4 or ipv6`},
		{"log: {enabled: true}", "log.enabled: true"},
		{"ebpf: {enabled: true}", "ebpf.enabled: true"},
		{"log: true", "log (line 1) is not an object"},
		{"redirect: [1]", "redirect (line 1) is not an object"},
		{redirect("dns", "enabled: true"), "redirect.dns.captureAll: is not true"},
		{redirect("dns", "enabled: true, captureAll: false"), "redirect.dns.captureAll: is not true"},
		{redirect("dns", "port: 0"), "redirect.dns.port (line 2) is not a port from 1"},
		{redirect("dns", "port: domain"), "not a port"},
		{redirect("inbound", "port: 15001"), "cannot share a port"},
		{redirect("inbound", "port: 65536"), "not a port"},
		{redirect("inbound", "port: 1.5"), "not a port"},
		{redirect("inbound", "port: [1]"), "not a port"},
		{redirect("inbound", "excludePorts: [80-90]"), "not a port"},
		{redirect("inbound", "excludePorts: [80-80]"), "not a port"},
		{redirect("inbound", "excludePorts: [-80]"), "not a port"},
		{redirect("inbound", "excludePorts: [0x50]"), "not a port"},
		{redirect("inbound", "excludePorts: [null]"), "neither text nor number"},
		{redirect("inbound", "excludePorts: [[80]]"), "neither text nor number"},
		{redirect("inbound", "includePorts: [http]"), "not a port"},
		{redirect("inbound", "excludePortsForUIDs: [1000]"), "what arrives has no user"},
		{redirect("inbound", "excludePortsForIPs: ['']"), "not an address"},
		{redirect("outbound", "excludePortsForIPs: [example.org]"), "not an address"},
		{redirect("outbound", "excludePortsForIPs: ['fe80::1%eth0']"), "not an address"},
		{redirect("outbound", "excludePortsForUIDs: ['*']"), "not one of a user's number"},
		{redirect("outbound", "excludePortsForUIDs: ['80:']"), "not one of a user's number"},
		{redirect("outbound", "excludePortsForUIDs: ['5-1']"), "not one of a user's number"},
		{redirect("outbound", "excludePortsForUIDs: ['1,2']"), "not one of a user's number"},
		{redirect("outbound", "excludePortsForUIDs: ['root']"), "not one of a user's number"},
		{redirect("outbound", "excludePortsForUIDs: ['1-4294967295']"), "not one of a user's number"},
		{redirect("outbound", "excludePortsForUIDs: ['sctp:80:1000']"), "not of tcp or udp"},
		{redirect("outbound", "excludePortsForUIDs: ['tcp:http:1000']"), "is not a port or a range"},
		{redirect("outbound", "excludePortsForUIDs: ['tcp:80:1000:x']"), "not UID, PORTS:UID"},
		{redirect("outbound", "excludePortsForUIDs: ['tcp:1-2,3-4,5-6,7-8,9-10,11-12,13-14,15-16:1']"), "more ports than a rule can hold"},
		{redirect("vnet", "networks: [docker0]"), "not an interface and its network"},
		{redirect("vnet", "networks: ['docker0:172.17.0.1']"), "not an interface and its network"},
		{redirect("vnet", "networks: [':172.17.0.0/16']"), "not an interface and its network"},
		{redirect("vnet", "networks: ['-i:172.17.0.0/16']"), "not an interface and its network"},
		{redirect("vnet", "networks: ['+:172.17.0.0/16']"), "not an interface and its network"},
		{redirect("vnet", "networks: ['a b:172.17.0.0/16']"), "not an interface and its network"},
		{redirect("vnet", "networks: ['sixteenletters01:172.17.0.0/16']"), "not an interface and its network"},
		{redirect("vnet", "networks: ['d0:172.17.0.0/16', 'd0:172.18.0.0/16']"), "interface d0 is there twice"},
	} {
		t.Run(tt.config, func(t *testing.T) {
			d := mesh.Decide(injected(tt.config))
			if d.Action != rules.Reject || d.Reason != rules.ReasonBadInput || d.Planner != nil {
				t.Fatalf("%s (%s): %s", d.Action, d.Reason, d.Detail)
			}
			for _, part := range []string{"annotation traffic.kuma.io/transparent-proxy-config", tt.problem} {
				if !strings.Contains(d.Detail, part) {
					t.Errorf("%q does not say %q", d.Detail, part)
				}
			}
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"
	"testing"
)

// A policy knows where it stands; a list that is there and empty allows nothing, one that is not there anything.
func TestPolicies(t *testing.T) {
	c, err := Parse("m.toml", "backend = \"auto\"\n[[policy]]\nnamespaces = [\"a-*\"]\nexcluded_outbound_ports = []\nskips = []\n\n[[policy]]\nmay_loosen = true\naccepted_tables = [\"inet telepresence\"]\n")
	if err != nil {
		t.Fatal(err)
	}
	first, second := c.Policies[0], c.Policies[1]
	if first.Place != "m.toml:2" || second.Place != "m.toml:7" {
		t.Errorf("places %q, %q", first.Place, second.Place)
	}
	if first.OutboundPorts == nil || first.Skips == nil || first.InboundPorts != nil || first.Users != nil || first.MayLoosen || !second.MayLoosen ||
		first.Accepted != nil || !slices.Equal(second.Accepted, []string{"inet telepresence"}) {
		t.Errorf("%+v\n%+v", first, second)
	}
	for text, want := range map[string]string{
		`skips = ["gateway"]`:                 `m.toml:2: policy[0].skips: "gateway" is none of `,
		`excluded_users = [-1]`:               "m.toml:2: policy[0].excluded_users: -1 is not between",
		`excluded_ranges = ["10.0.0.1/8"]`:    "m.toml:2: policy[0].excluded_ranges: ",
		`excluded_interfaces = ["lo"]`:        "m.toml:2: policy[0].excluded_interfaces: ",
		`excluded_inbound_ports = ["8-7"]`:    "m.toml:2: policy[0].excluded_inbound_ports: ",
		`namespaces = ["["]`:                  "m.toml:2: policy[0].namespaces: ",
		`accepted_tables = ["telepresence"]`:  `m.toml:2: policy[0].accepted_tables: "telepresence" is no table`,
		`accepted_tables = ["ip nat"]`:        `m.toml:2: policy[0].accepted_tables: "ip nat" is where the pods' own rules are`,
		`accepted_tables = ["inet meshnetd"]`: `m.toml:2: policy[0].accepted_tables: "inet meshnetd" is where`,
		`accepted_tables = ["inet *"]`:        `m.toml:2: policy[0].accepted_tables: "inet *" is no table`,
		`capture = "all"`:                     "m.toml:2: policy[0].capture: unknown key",
	} {
		if _, err := Parse("m.toml", "[[policy]]\n"+text+"\n"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

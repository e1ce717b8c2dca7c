// SPDX-License-Identifier: Apache-2.0

package explain_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// What is printed is a part of a configuration, with which the lockdown lacks nothing.
func TestEntries(t *testing.T) {
	const head = "[[lockdown]]\nudp = \"dns\"\negress = \"proxy\"\nother_protocols = \"none\"\nlocal_ports = [15000]\n"
	locked := func(text string) rules.Lockdown {
		t.Helper()
		cfg, err := config.Parse("m.toml", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		return cfg.Lockdowns[0]
	}
	seen := func(class rules.Class, protocol, peer string, port uint16) rules.Seen {
		return rules.Seen{Class: class, Protocol: protocol, Peer: netip.MustParseAddr(peer), Port: port}
	}
	all := []rules.Seen{seen(rules.ClassUDP, rules.UDP, "10.96.0.10", 53), seen(rules.ClassEgress, rules.TCP, "10.0.0.5", 5432), seen(rules.ClassEgress, rules.TCP, "10.0.0.4", 5432),
		seen(rules.ClassUDP, rules.UDP, "10.0.0.4", 8125), seen(rules.ClassUDP, rules.UDP, "10.0.0.4", 8126), seen(rules.ClassUDP, rules.UDP, "fd00::5", 123),
		seen(rules.ClassOther, "sctp", "10.0.0.4", 0), seen(rules.ClassLocal, rules.TCP, "127.0.0.1", 15000)}
	lacks := func(l rules.Lockdown) (lacks []status.Lack) {
		for i, s := range all {
			if key, value := l.Lacks(s); key != "" {
				lacks = append(lacks, status.Lack{Namespace: "shop", Lockdown: l.Place, Key: key, Value: value, Seen: s.String(), Pods: []string{"cart", string(rune('a' + i))}})
			}
		}
		return lacks
	}
	before := lacks(locked(head))
	if len(before) != len(all) {
		t.Fatalf("%d lack of %d: %+v", len(before), len(all), before)
	}
	entries, err := explain.Entries(before)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := explain.PrintEntries(&out, entries, []string{"team-a"}); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "entries.golden", out.String())
	after := strings.Replace(head, "other_protocols = \"none\"\n", "", 1)
	after = strings.Replace(after, "local_ports = [15000]\n", "", 1) + out.String()
	if still := lacks(locked(after)); len(still) > 0 {
		t.Errorf("with\n%s\nit lacks %+v", after, still)
	}
	if _, err := explain.Entries([]status.Lack{{Key: "allow", Value: "everything"}}); err == nil {
		t.Error("what the daemon cannot mean is taken")
	}
}

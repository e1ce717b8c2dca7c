// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-iptables/iptables"
	"github.com/vishvananda/netlink"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/rules"
)

// Planned returns a plan's chains and rules as Shown does.
func Planned(plan rules.Plan) []string {
	var lines []string
	for i, set := range plan.Rulesets() {
		for _, table := range set.Tables {
			prefix := families[i].name + " " + table.Name
			for _, chain := range table.Chains {
				if !chain.Builtin {
					lines = append(lines, prefix+" -N "+chain.Name)
				}
				for _, rule := range chain.Rules {
					lines = append(lines, prefix+" -A "+chain.Name+" "+rule.String())
				}
			}
		}
	}
	return byChain(lines)
}

// Shown returns what go-iptables, a reader that shares nothing with ours, lists in a namespace by the programs of a kind
// ("-nft", "-legacy", or "" for the machine's usual ones): chains, rules, and policies other than ACCEPT, with their family
// and table.
func Shown(t *testing.T, path, kind string) []string {
	t.Helper()
	ns, err := netns.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var lines []string
	err = ns.Do(func() error {
		for _, family := range families {
			reader, err := iptables.New(iptables.IPFamily(family.protocol), iptables.Path(family.program+kind))
			if err != nil {
				return err
			}
			tables := []string{"filter", "mangle", "nat", "raw"}
			if kind == "-legacy" { // which makes the tables that it is asked for
				names, err := os.ReadFile("/proc/thread-self/net/" + family.tables)
				if err != nil {
					return err
				}
				tables = strings.Fields(string(names))
			}
			for _, table := range tables {
				all, err := reader.List(table, family.option)
				if err != nil {
					return err
				}
				for _, line := range all {
					if !usualPolicy.MatchString(line) {
						lines = append(lines, family.name+" "+table+" "+line)
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return byChain(lines)
}

// families are what the programs of each are called, and an option that changes nothing: in a chain's place it has all
// chains listed at once.
var families = []struct {
	name, program, option, tables string
	protocol                      iptables.Protocol
}{
	{"ip", "iptables", "--ipv4", "ip_tables_names", iptables.ProtocolIPv4},
	{"ip6", "ip6tables", "--ipv6", "ip6_tables_names", iptables.ProtocolIPv6},
}

var usualPolicy = regexp.MustCompile(`^-P \S+ ACCEPT$`)

// byChain orders lines by family, table and chain, whose order is nobody's business; that within a chain stays.
func byChain(lines []string) []string {
	chain := func(line string) string {
		words := strings.Fields(line)
		return strings.Join([]string{words[0], words[1], words[3]}, " ")
	}
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(chain(a), chain(b)) })
	return lines
}

// Tracked returns the connections of a namespace to or from addresses that are nobody's.
func Tracked(t *testing.T, path string) []string {
	t.Helper()
	ns, err := netns.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var found []string
	if err := ns.Do(func() error {
		for _, family := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return err
			}
			for _, f := range flows {
				for _, nobody := range []string{"192.0.2.", "2001:db8:", "10.8.", "fd08:", "127.0.0.6", "::6"} {
					if strings.Contains(f.Forward.SrcIP.String()+" "+f.Forward.DstIP.String(), nobody) {
						found = append(found, f.String())
						break
					}
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// Firewall returns the backend of a name, for the rules of any mesh.
func Firewall(t testing.TB, name string) *backend.Backend {
	t.Helper()
	isolated, err := netns.Isolate()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(isolated.Close)
	firewall, err := backend.Find(t.Context(), backend.Want{Name: name, Plan: explain.Node(config.Default()).Widest()}, isolated)
	if err != nil {
		t.Fatal(err)
	}
	return firewall
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-iptables/iptables"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/rules"
)

// planned returns a plan's chains and rules as shown does.
func planned(plan rules.Plan) []string {
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

// shown returns what go-iptables, a reader that shares nothing with ours, lists in a namespace by the programs of a kind
// ("-nft", "-legacy", or "" for the machine's usual ones): chains, rules, and policies other than ACCEPT, with their family
// and table.
func shown(t *testing.T, path, kind string) []string {
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

// saved is what is shown of a pod, as one text.
func saved(t *testing.T, pod *lab.Pod) string {
	t.Helper()
	return strings.Join(shown(t, pod.NetNS(), "-nft"), "\n")
}

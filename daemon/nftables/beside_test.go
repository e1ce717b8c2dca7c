// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// As many tables as are read at most are told apart without a look at all objects for each.
func TestManyTables(t *testing.T) {
	var s state
	for _, family := range []uint8{unix.NFPROTO_INET, unix.NFPROTO_IPV4} {
		for i := range standard.objects / 2 {
			o := object{family: family, table: fmt.Appendf(nil, "%05d\x00", i)}
			s.tables = append(s.tables, o)
			o.chain = []byte("c\x00")
			s.chains, s.rules = append(s.chains, o), append(s.rules, o, o)
		}
	}
	s.tables, s.chains, s.rules = sorted(s.tables), sorted(s.chains), sorted(s.rules)
	all, err := s.neighbours(rules.Plan{})
	if err != nil || len(all) != standard.objects {
		t.Fatalf("%d, %v", len(all), err)
	}
	for _, n := range all {
		if len(n.alone.tables) != 1 || len(n.alone.chains) != 1 || n.Rules != 2 || string(n.alone.rules[1].table) != string(n.alone.tables[0].table) {
			t.Fatalf("%s: %v", n.Table, n.alone)
		}
	}
}

// Each table of somebody else's is told with whose it is by its name and what it does; one that the plan accepts does not count.
func TestBeside(t *testing.T) {
	nstest.Require(t, "nft", "iptables-nft", "iptables-legacy")
	plan := plans.DualStack(t)
	interfaces := generate.Interfaces(plan, addresses)
	for name, tt := range map[string]struct {
		program, input string
		table, said    string           // which is accepted in a second look, and what is said of it; "" where nothing is to be said
		whole          [3]effect.Answer // by dialect, and where the table is accepted
	}{
		"nothing": {"true", "", "", "", [3]effect.Answer{}},
		"Istio's, of other settings": {"nft -f -", "table inet istio-proxy-nat { chain output { type nat hook output priority -100; tcp dport 443 redirect to :9 } }",
			"inet istio-proxy-nat", "table inet istio-proxy-nat (Istio's native rules by its name), 1 rules",
			[3]effect.Answer{effect.CannotTell, effect.More, effect.Equal}},
		"a debugger's": {"nft -f -", "table ip debug { chain c { type filter hook output priority -400; tcp dport 443 notrack } }", "ip debug",
			"table ip debug, 1 rules, asked before the pod's: takes from the pod's rules: tcp ", [3]effect.Answer{effect.Less, effect.Less, effect.Equal}},
		"one that counts": {"nft -f -", "table inet cilium-x { chain c { type filter hook output priority 10; counter } }", "inet cilium-x",
			"table inet cilium-x (Cilium by its name), 1 rules: harmless", [3]effect.Answer{}},
		"a policy": {"nft -f -", "table ip6 x { chain c { type filter hook input priority 0; policy drop; } }", "ip6 x",
			"table ip6 x, 0 rules: takes or stops more than the pod's rules, and nothing from them: tcp ", [3]effect.Answer{effect.More, effect.More, effect.Equal}},
		"none that decides":  {"nft -f -", "table inet x { chain c { type filter hook input priority 0; }\n set s { type ipv4_addr; } }", "", "", [3]effect.Answer{}},
		"a dormant one":      {"nft -f -", "table inet x { flags dormant; chain c { type filter hook input priority 0; drop; } }", "", "", [3]effect.Answer{}},
		"another's protocol": {"nft -f -", "table arp x { chain c { type filter hook input priority 0; drop; } }", "", "", [3]effect.Answer{}},
		"Telepresence's": {"iptables-nft-restore --noflush", "*nat\n:TEL_INBOUND_TCP -\n-I PREROUTING -p tcp -j TEL_INBOUND_TCP\n" +
			"-A TEL_INBOUND_TCP -p tcp --dport 8080 -j REDIRECT --to-ports 9900\nCOMMIT\n", "", "", [3]effect.Answer{effect.Less, effect.Equal}}, // the native table is asked first
		"docker's": {"iptables-legacy-restore", docker, "iptables-legacy nat", "table iptables-legacy nat (Docker by its name), 4 rules",
			[3]effect.Answer{effect.More, effect.More, effect.More}},
		"docker's filter": {"iptables-legacy-restore", docker, "iptables-legacy filter",
			"table iptables-legacy filter (Docker by its name), 11 rules: takes or stops more than the pod's rules, and nothing from them: ",
			[3]effect.Answer{effect.More, effect.More, effect.Equal}},
	} {
		for i, dialect := range []Dialect{IPTables, Native} {
			t.Run(fmt.Sprint(dialect, " ", name), func(t *testing.T) {
				s := newSandbox(t)
				s.apply(t, dialect, plan)
				words := strings.Fields(tt.program)
				s.RunInput(t, strings.NewReplacer("; ", ";\n", " }", "\n}").Replace(tt.input), words[0], words[1:]...)
				r := s.effect(t, plan, interfaces)
				if r.Answer != tt.whole[i] {
					t.Errorf("got %s, want %s: %v", r.Answer, tt.whole[i], r.Differences)
				}
				said := func(r effect.Result) (all []string) {
					for _, n := range r.Beside {
						all = append(all, n.String())
					}
					return all
				}
				if all := said(r); !slices.ContainsFunc(all, func(x string) bool { return strings.HasPrefix(x, tt.said) }) && (tt.said != "" || len(all) > 0) {
					t.Errorf("got %q, want %q", all, tt.said)
				}
				if tt.table == "" {
					return
				}
				accepting := plan
				accepting.Accepted = []string{tt.table}
				r = s.effect(t, accepting, interfaces)
				if all := said(r); r.Answer != tt.whole[2] || !slices.ContainsFunc(all, func(x string) bool {
					return strings.HasPrefix(x, tt.said) && strings.HasSuffix(x, "; accepted by the node's configuration (accepted_tables)")
				}) {
					t.Errorf("accepted: got %s %v, want %s of %q", r.Answer, r.Differences, tt.whole[2], all)
				}
			})
		}
	}
}

// Of tables without end a few are told, within the work for them.
func TestBesideIsBounded(t *testing.T) {
	nstest.Require(t, "nft")
	plan := plans.DualStack(t)
	s := newSandbox(t)
	s.write(t, plan)
	var b strings.Builder
	for i := range 3 * mostNeighbours {
		fmt.Fprintf(&b, "table inet t%d {\nchain c {\ntype filter hook output priority 10;\ncounter\n}\n}\n", i)
	}
	s.RunInput(t, b.String(), "nft", "-f", "-")
	if r := s.effect(t, plan, generate.Interfaces(plan, addresses)); len(r.Beside) != mostNeighbours || r.Beside[0].Answer != effect.Equal {
		t.Errorf("got %v", r.Beside)
	}
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/traffic"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/effect"
)

func consulPod(config string, dualStack bool) rules.Pod {
	return rules.Pod{Namespace: "shop", Name: "cart", IPs: []netip.Addr{classScenes[0].Own, classScenes[1].Own}, Annotations: map[string]string{
		"consul.hashicorp.com/connect-inject-status": "injected", "consul.hashicorp.com/transparent-proxy-status": "enabled",
		"consul.hashicorp.com/dual-stack": fmt.Sprint(dualStack), "consul.hashicorp.com/redirect-traffic-config": config}}
}

// consulCase is what Consul's injector says of a pod.
type consulCase struct {
	config    string // without the keys that it must have
	dualStack bool
}

func (c consulCase) text() string {
	return `{"ProxyUserID":"5995","ProxyInboundPort":20000` + c.config + `}`
}

func (c consulCase) plan(t *testing.T) rules.Plan {
	t.Helper()
	return meshtest.Plan(t, consul.New(consul.Standard()), consulPod(c.text(), c.dualStack))
}

// consulCases are those that both versions of the library can do. Ranges of ports are left out, which 0.18 hands to
// iptables as they are, and so are ranges of addresses in a dual-stack pod, one family of which it fails on.
var consulCases = map[string]consulCase{
	"nothing said":               {"", false},
	"excluded ports":             {`,"ExcludeInboundPorts":["20200","20300","20400"],"ExcludeOutboundPorts":["80","443"]`, false},
	"excluded ranges":            {`,"ExcludeOutboundCIDRs":["10.1.2.3/8","192.0.2.1","198.51.100.0/24"]`, false},
	"extra users":                {`,"ExcludeUIDs":["5996","0","1000"]`, false},
	"lookups at a port":          {`,"ConsulDNSIP":"127.0.0.1","ConsulDNSPort":8600`, false},
	"lookups at a port only":     {`,"ConsulDNSPort":8600`, false},
	"lookups at an address":      {`,"ConsulDNSIP":"10.0.0.10"`, false},
	"another outbound port":      {`,"ProxyOutboundPort":15002`, false},
	"everything":                 {`,"ConsulDNSIP":"127.0.0.1","ConsulDNSPort":8600,"ExcludeInboundPorts":["20200"],"ExcludeOutboundPorts":["80"],"ExcludeOutboundCIDRs":["10.0.0.0/8"],"ExcludeUIDs":["5996"]`, false},
	"dual stack":                 {"", true},
	"dual stack, lookups":        {`,"ConsulDNSIP":"::1","ConsulDNSPort":8600`, true},
	"dual stack, by a port only": {`,"ConsulDNSPort":8600`, true},
	"dual stack, by an address":  {`,"ConsulDNSIP":"fd00::10"`, true},
	"dual stack, exclusions":     {`,"ExcludeInboundPorts":["20200","20300"],"ExcludeOutboundPorts":["80","443"],"ExcludeUIDs":["5996","0"]`, true},
}

// The library of Consul's own CNI plugin, version 0.18.1, leaves the same lines in the kernel as ours. A short run has
// some of the cases.
func TestConsulsLibraryLeavesTheSameRules(t *testing.T) {
	nstest.Require(t, "iptables", "ip6tables")
	firewalls := map[string]*backend.Backend{}
	for _, variant := range variants {
		firewalls[variant] = labtest.Firewall(t, variant)
	}
	for _, name := range sample.Of(t, 4, slices.Sorted(maps.Keys(consulCases))) {
		c := consulCases[name]
		t.Run(name, func(t *testing.T) {
			theirs := nstest.New(t)
			consulWrites(t, theirs, "0.18", c.text(), c.dualStack)
			want := withoutChains(labtest.Shown(t, theirs.Path, "")) // it makes some that it leaves empty
			if len(want) < 6 {
				t.Fatalf("too few rules: %q", want)
			}
			plan := c.plan(t)
			for _, variant := range variants {
				ours := nstest.New(t)
				if _, err := firewalls[variant].Apply(t.Context(), opened(t, ours), plan); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, withoutChains(labtest.Shown(t, ours.Path, tools(variant)))); diff != "" {
					t.Errorf("%s (-theirs +ours):\n%s", variant, diff)
				}
			}
		})
	}
}

func withoutChains(shown []string) []string {
	return slices.DeleteFunc(shown, func(line string) bool { return strings.Contains(line, " -N ") })
}

// consulWrites lets Consul's library write into the namespace: 0.18.1 by iptables, 0.19.0 a table of nf_tables. Each is in
// a program of its own, which integration/runtimes/build.sh builds.
func consulWrites(t *testing.T, ns *nstest.Namespace, version, config string, dualStack bool) {
	t.Helper()
	nstest.Require(t, "nft")
	binaries, err := lab.FindBinaries()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(binaries, "consul-"+version, "consul-"+version)
	if _, err := os.Stat(program); err != nil {
		nstest.Lack(t, "a runtime: Consul's library (make runtimes builds it): "+err.Error())
	}
	ns.RunInput(t, config, program, fmt.Sprintf("-dual-stack=%t", dualStack))
}

// What nft lists of the library's table and of ours is the same, as far as a packet of either family can come in it,
// but for these lines of the library: what we have instead, or "".
var (
	inEveryTable = map[string]string{ // ours comes before whatever stands where iptables has its chains
		"output: type nat hook output priority -100; policy accept;":         "output: type nat hook output priority -101; policy accept;",
		"prerouting: type nat hook prerouting priority -100; policy accept;": "prerouting: type nat hook prerouting priority -101; policy accept;",
	}
	inOneTable = map[string]map[string]string{
		// Without an address both loopbacks are meant, where 0.18 means ::1. The injector never leaves it out.
		"dual stack, by a port only": {
			"ip output: ip daddr 127.0.0.1 udp dport 53 jump CONSUL_DNS_REDIRECT":               "",
			"ip output: ip daddr 127.0.0.1 tcp dport 53 jump CONSUL_DNS_REDIRECT":               "",
			"ip CONSUL_DNS_REDIRECT: ip daddr 127.0.0.1 udp dport 53 dnat ip to 127.0.0.1:8600": "",
			"ip CONSUL_DNS_REDIRECT: ip daddr 127.0.0.1 tcp dport 53 dnat ip to 127.0.0.1:8600": "",
		},
		// IPv4 meets a target of IPv6, and the kernel passes over it.
		"dual stack, by an address": {
			"ip output: udp dport 53 jump CONSUL_DNS_REDIRECT":          "",
			"ip output: tcp dport 53 jump CONSUL_DNS_REDIRECT":          "",
			"ip CONSUL_DNS_REDIRECT: udp dport 53 dnat ip6 to fd00::10": "",
			"ip CONSUL_DNS_REDIRECT: tcp dport 53 dnat ip6 to fd00::10": "",
		},
	}
)

// The library's version 0.19.0 leaves the same lines as we do natively; and packets for everybody and everything that
// our plan speaks of end by its table where the plan says.
func TestConsulsLibraryLeavesTheSameTable(t *testing.T) {
	firewall := labtest.Firewall(t, backend.NFTables)
	cases := maps.Clone(consulCases)
	maps.Copy(cases, map[string]consulCase{
		"ranges of ports":         {`,"ExcludeInboundPorts":["8080:8090","20200"],"ExcludeOutboundPorts":["3000:3010","80"]`, false},
		"ranges of both families": {`,"ExcludeOutboundCIDRs":["10.1.2.3/8","fd00::1/8"]`, false},
		"dual stack, everything":  {`,"ConsulDNSIP":"::1","ConsulDNSPort":8600,"ExcludeInboundPorts":["20200"],"ExcludeOutboundPorts":["80"],"ExcludeOutboundCIDRs":["10.0.0.0/8","fd00::/8"],"ExcludeUIDs":["5996"]`, true},
	})
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			plan, theirs, ours := c.plan(t), nstest.New(t), nstest.New(t)
			theirs.Peer(t, "10.9.0.0/24", "fd09::/64")
			consulWrites(t, theirs, "0.19", c.text(), c.dualStack)
			if _, err := firewall.Apply(t.Context(), opened(t, ours), plan); err != nil {
				t.Fatal(err)
			}
			known := maps.Clone(inEveryTable)
			maps.Copy(known, inOneTable[name])
			var want []string
			for _, line := range listed(t, theirs) {
				instead, differs := known[line]
				if !differs {
					instead = line
				}
				delete(known, line)
				if instead != "" {
					want = append(want, instead)
				}
			}
			if len(known) > 0 {
				t.Errorf("lines that the library is known to leave, but does not: %q", slices.Sorted(maps.Keys(known)))
			}
			if diff := cmp.Diff(want, listed(t, ours)); diff != "" {
				t.Errorf("(-theirs +ours):\n%s", diff)
			}
			checks, err := traffic.Run(t.Context(), opened(t, theirs), plan)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(traffic.Summary(checks))
			if traffic.Counts(checks)[traffic.Right] < 8 {
				t.Errorf("too little was proved: %s", traffic.Summary(checks))
			}
			for _, c := range checks {
				if c.Verdict == traffic.Wrong {
					t.Error(c)
				}
			}
		})
	}
}

// listed returns the one table that nft lists in the namespace, as packets of IPv4 and of IPv6 meet it: a line for
// each rule of each chain that they can come to, with the chain's name, or its hook's. Two tables that say the same
// in other words have the same lines:
//   - What asks for the other family is left out, and what only asks for this one is not asked, so that a chain for
//     both families is as one for each. What follows where all return is left out too.
//   - What a chain goes to for good stands in its place. The family and the table that we put before names are cut off.
//   - A rule with a set is one rule for each element, without its comment.
//   - Neighbours that return are sorted: whichever comes first, the packet returns.
func listed(t *testing.T, ns *nstest.Namespace) []string {
	t.Helper()
	text := ns.Run(t, "nft", "-n", "-s", "list", "ruleset")
	if tables := len(nftTable.FindAllString(text, -1)); tables != 1 {
		t.Fatalf("%d tables, want one:\n%s", tables, text)
	}
	v := view{sets: map[string][]string{}, chains: map[string][]string{}}
	for _, m := range nftSet.FindAllStringSubmatch(text, -1) {
		v.sets[m[1]] = strings.FieldsFunc(m[2], func(r rune) bool { return strings.ContainsRune(", \t\n", r) })
	}
	bases := map[string]string{} // by what they say of themselves
	for _, m := range nftChain.FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(nftComment.ReplaceAllString(m[2], "")) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "type ") {
				bases[line] = m[1]
				continue
			}
			v.chains[m[1]] = append(v.chains[m[1]], line)
		}
	}
	var lines []string
	for _, says := range slices.Sorted(maps.Keys(bases)) {
		hook := strings.Fields(says)[3]
		lines = append(lines, hook+": "+says)
		for _, f := range [][2]string{{"ip", "2"}, {"ip6", "10"}} {
			v.family, v.number = f[0], f[1]
			lines = append(lines, v.from(bases[says], hook)...)
		}
	}
	return lines
}

var (
	nftTable   = regexp.MustCompile(`(?m)^table `)
	nftSet     = regexp.MustCompile(`\tset (\S+) \{[^{]*elements = \{([^}]*)\}`)
	nftChain   = regexp.MustCompile(`(?s)\tchain (\S+) \{\n(.*?)\t\}\n`)
	nftComment = regexp.MustCompile(` comment "[^"]*"`)
	nftElement = regexp.MustCompile(`@\S+`)
)

// view is a table as packets of one family meet it.
type view struct {
	sets, chains   map[string][]string
	family, number string // as nft and the kernel know it
}

// from returns the lines of a chain, and of those that it jumps to behind them.
func (v view) from(chain, name string) []string {
	var lines, next []string
	short := func(chain string) string { return strings.TrimPrefix(strings.TrimPrefix(chain, v.family+"-"), "nat-") }
	for _, rule := range v.rules(chain) {
		if condition, to, jumps := strings.Cut(rule, "jump "); jumps {
			rule = condition + "jump " + short(to)
			if !slices.Contains(next, to) {
				next = append(next, to)
			}
		}
		lines = append(lines, v.family+" "+name+": "+rule)
	}
	sortReturns(lines)
	for _, to := range next {
		lines = append(lines, v.from(to, short(to))...)
	}
	return lines
}

// rules returns what a chain says of the family.
func (v view) rules(chain string) []string {
	var rules []string
	for _, rule := range v.chains[chain] {
		if asked, ok := strings.CutPrefix(rule, "meta nfproto "); ok {
			number, then, _ := strings.Cut(asked, " ")
			if number != v.number {
				continue
			}
			rule = then
		}
		if family, _, _ := strings.Cut(rule, " "); family != v.family && (family == "ip" || family == "ip6") {
			continue
		}
		if rule == "return" {
			break
		}
		if to, ok := strings.CutPrefix(rule, "goto "); ok {
			return append(rules, v.rules(to)...)
		}
		set := nftElement.FindString(rule)
		if set == "" {
			rules = append(rules, rule)
			continue
		}
		for _, element := range v.sets[set[1:]] {
			rules = append(rules, strings.Replace(rule, set, element, 1))
		}
	}
	return rules
}

func sortReturns(lines []string) {
	returns := func(line string) bool { return strings.HasSuffix(line, " return") }
	for i := 0; i < len(lines); i++ {
		first := i
		for i < len(lines) && returns(lines[i]) {
			i++
		}
		slices.Sort(lines[first:i])
	}
}

// Packets of every class end by the library's table where they should by our rules.
func TestConsulsTableDoesTheSame(t *testing.T) {
	m := classedMeshes()[1]
	if m.name != "consul" {
		t.Fatal(m.name)
	}
	for _, s := range classScenes {
		config, dualStack := m.annotations(s.Family)["consul.hashicorp.com/redirect-traffic-config"], s.Family == rules.IPv6
		h := newHouse(t, m.probe)
		consulWrites(t, h.pod, "0.19", config, dualStack)
		h.classes(t, m, s, meshtest.Plan(t, m.mesh, consulPod(config, dualStack)))
	}
}

// What becomes of a lookup by IPv4 where the library's lines for a dual-stack pod are others than ours.
func TestConsulsTableOfDualStackDiffers(t *testing.T) {
	for name, want := range map[string]struct{ theirs, ours string }{
		"dual stack, by a port only": {"redirected 8600", "delivered 53"},
		"dual stack, by an address":  {"delivered 53", "delivered 53"},
	} {
		t.Run(name, func(t *testing.T) {
			c, h := consulCases[name], newHouse(t, 20200)
			consulWrites(t, h.pod, "0.19", c.text(), c.dualStack)
			lookup := classScenes[0].Sent(app, rules.UDP, classScenes[0].Loopback, 53)
			if got := h.hall.send(t.Context(), h.inPod, lookup); got != heardAt(want.theirs) {
				t.Errorf("by the library's table: %s, want %s", got, heardAt(want.theirs))
			}
			path, err := effect.Trace(c.plan(t), lookup, classInterfaces)
			if err != nil {
				t.Fatal(err)
			}
			if got := meshtest.End(path.End); got != want.ours {
				t.Errorf("by our rules: %s, want %s", got, want.ours)
			}
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

var addresses = []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}

func (s sandbox) effect(t testing.TB, plan rules.Plan, interfaces []rules.Interface) effect.Result {
	t.Helper()
	have := rules.Plan{Routes: plan.Routes, Loopback: plan.Loopback}
	r, err := Tables{}.Effect(t.Context(), s.ns, plan, have, interfaces)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What either dialect writes does in the kernel what the plan says, and with a rule less it does what the plan without
// that rule does.
func TestEffectOfPlans(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	for range 12 {
		drawn := generate.Draw(random)
		plan, interfaces := drawn.Plan, drawn.Interfaces
		less, removed := withoutOne(random, plan)
		pod := effect.NewPod(interfaces)
		var want effect.Answer
		for _, family := range []rules.Family{rules.IPv4, rules.IPv6} {
			want = max(want, effect.Compare(pod, effect.OfPlan(pod, plan, family), effect.OfPlan(pod, less, family)).Answer)
		}
		for _, dialect := range []Dialect{IPTables, Native} {
			s := newSandbox(t)
			for _, tt := range []struct {
				plan rules.Plan
				want effect.Answer
			}{{plan, effect.Equal}, {less, want}} {
				if _, err := New(dialect).Apply(t.Context(), s.ns, tt.plan); err != nil {
					t.Fatal(err)
				}
				if r := s.effect(t, plan, interfaces); r.Answer != tt.want {
					t.Errorf("%s without %q: got %s, want %s: %v\n%s", dialect, removed, r.Answer, tt.want, r.Differences, s.Run(t, "nft", "list", "ruleset"))
				}
				removed = "nothing"
			}
		}
	}
}

// withoutOne leaves a rule out.
func withoutOne(random *rand.Rand, plan rules.Plan) (less rules.Plan, removed string) {
	less = plan
	if plan.V4.Empty() {
		return less, "nothing"
	}
	less.V4.Tables = slices.Clone(plan.V4.Tables)
	t := &less.V4.Tables[random.IntN(len(less.V4.Tables))]
	t.Chains = slices.Clone(t.Chains)
	c := &t.Chains[random.IntN(len(t.Chains))]
	if len(c.Rules) == 0 {
		return less, "nothing"
	}
	i := random.IntN(len(c.Rules))
	removed = fmt.Sprintf("-A %s %s", c.Name, c.Rules[i])
	c.Rules = slices.Delete(slices.Clone(c.Rules), i, i+1)
	return less, removed
}

// theirSets are sets of another table, one of each kind that matters.
const theirSets = `set blocked { type ipv4_addr; flags dynamic,timeout; }
set some { type ipv4_addr; flags interval; elements = { 203.0.113.0/24, 192.0.2.1 }; }
set none { type ipv4_addr; }
set kept { type ipv4_addr; }
ct helper ftp { type "ftp" protocol tcp; }
counter calls { }
`

// Tables of others beside a plan's rules, as docker, Telepresence and the like write them.
func TestEffectOfOthers(t *testing.T) {
	nstest.Require(t, "nft")
	plan := plans.DualStack(t)
	interfaces := generate.Interfaces(plan, addresses)
	for name, tt := range map[string]struct {
		chain string
		want  effect.Answer
	}{
		"nat that accepts, first":             {"type nat hook output priority -110; policy accept; accept", effect.Equal},
		"nat that translates, first":          {"type nat hook output priority -110; policy accept; ip protocol tcp tcp dport 443 dnat ip to 203.0.113.1", effect.Less},
		"nat that translates, last":           {"type nat hook output priority -90; policy accept; tcp dport 443 dnat ip to 203.0.113.1", effect.More},
		"nat of the same priority":            {"type nat hook output priority -100; policy accept; tcp dport 443 redirect to :9000", effect.CannotTell},
		"nat of one priority that counts":     {"type nat hook output priority -100; policy accept; counter", effect.Equal},
		"ports of a set, first":               {"type nat hook output priority -110; policy accept; tcp dport { 80, 443 } redirect to :9000", effect.Less},
		"a range of ports, first":             {"type nat hook output priority -110; policy accept; tcp dport 400-500 redirect to :9000", effect.Less},
		"a range of addresses":                {"type nat hook output priority -110; policy accept; ip daddr 10.96.0.0/12 ip protocol tcp dnat ip to 10.0.0.1", effect.Less},
		"a user's":                            {"type nat hook output priority -110; policy accept; meta skuid 1000 meta l4proto tcp redirect to :9000", effect.Less},
		"notrack early":                       {"type filter hook output priority -350; policy accept; tcp dport 443 notrack", effect.Less},
		"notrack too late":                    {"type filter hook output priority -150; policy accept; tcp dport 443 notrack", effect.Equal},
		"notrack at tracking's place":         {"type filter hook output priority -200; policy accept; tcp dport 443 notrack", effect.CannotTell},
		"a connection's helper":               {"type filter hook output priority -150; policy accept; tcp dport 443 ct helper set \"ftp\"", effect.CannotTell},
		"a named counter":                     {"type filter hook output priority 0; policy accept; tcp dport 21 counter name \"calls\"", effect.Equal},
		"a limit before accept":               {"type filter hook output priority 0; policy accept; limit rate 5/second accept", effect.Equal},
		"a limit before nat":                  {"type nat hook output priority -110; policy accept; limit rate 5/second meta l4proto tcp redirect to :9000", effect.CannotTell},
		"a policy of drop":                    {"type filter hook input priority 0; policy drop; tcp dport 15006 accept", effect.More},
		"masquerade":                          {"type nat hook postrouting priority 100; policy accept; oifname \"eth0\" masquerade", effect.Equal},
		"a mark that nobody asks for":         {"type filter hook output priority -150; policy accept; meta mark set 0x7", effect.Equal},
		"a verdict of a map":                  {"type filter hook output priority 0; policy accept; tcp dport vmap { 443 : drop }", effect.CannotTell},
		"a log, then nothing":                 {"type filter hook output priority 0; policy accept; log prefix \"x\" counter", effect.Equal},
		"what is asked after something":       {"type filter hook output priority -350; policy accept; meta mark set 0x7 tcp dport 443 notrack", effect.Less},
		"another family's":                    {"type nat hook output priority -110; policy accept; meta nfproto ipv6 tcp dport 443 drop", effect.More},
		"interfaces by their beginning":       {"type nat hook output priority -110; policy accept; oifname \"et*\" tcp dport 443 redirect to :9000", effect.Less},
		"an interface that is not there":      {"type nat hook output priority -110; policy accept; oifname \"wlan0\" tcp dport 443 redirect to :9000", effect.Equal},
		"what a dynamic set holds is dropped": {"type filter hook output priority -150; policy accept; ip daddr @blocked drop", effect.More},
		"what a dynamic set holds, first":     {"type nat hook output priority -110; policy accept; ip daddr @blocked meta l4proto tcp redirect to :9000", effect.CannotTell},
		"what a named set holds, first":       {"type nat hook output priority -110; policy accept; ip daddr @some meta l4proto tcp redirect to :9000", effect.Less},
		"what a named set does not hold":      {"type nat hook output priority -110; policy accept; ip daddr != @some meta l4proto tcp redirect to :9000", effect.Less},
		"what an empty set holds, first":      {"type nat hook output priority -110; policy accept; ip daddr @none meta l4proto tcp redirect to :9000", effect.Equal},
		"what packets put into a set":         {"type nat hook output priority -110; policy accept; meta l4proto tcp update @kept { ip daddr }; ip daddr @kept meta l4proto tcp redirect to :9000", effect.CannotTell},
		"addresses with ports of a set":       {"type nat hook output priority -110; policy accept; ip daddr . tcp dport { 203.0.113.1 . 443 } redirect to :9000", effect.CannotTell},
		"an address by a map":                 {"type nat hook output priority -110; policy accept; meta l4proto tcp dnat ip to tcp dport map { 443 : 203.0.113.1 }", effect.CannotTell},
		"ports of a set that accepts":         {"type nat hook output priority -110; policy accept; tcp dport { 80, 443 } accept", effect.Equal},
		"half of all addresses, by a set":     {"type nat hook output priority -110; policy accept; ip daddr { 0.0.0.0/1, 240.0.0.0-255.255.255.255 } meta l4proto tcp redirect to :9000", effect.Less},
		"users of a set":                      {"type nat hook output priority -110; policy accept; meta skuid { 1000, 1001 } meta l4proto tcp redirect to :9000", effect.Less},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.write(t, plan)
			s.RunInput(t, "table inet other {\n"+theirSets+"chain c {\n"+
				strings.ReplaceAll(tt.chain, "; ", ";\n")+"\n}\n}\n", "nft", "-f", "-")
			if r := s.effect(t, plan, interfaces); r.Answer != tt.want {
				t.Errorf("got %s, want %s: %v", r.Answer, tt.want, r.Differences)
			}
		})
	}
}

// Istio's own rules in two dialects, of the same settings. Its iptables tool stands for the plan.
func TestEffectOfIstiosTwoTools(t *testing.T) {
	nstest.Require(t, "nft")
	file, err := os.ReadFile("testdata/istio-two-tools.txt")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	var names []string
	for part := range strings.SplitSeq("\n"+string(file), "\n-- ") {
		head, body, ok := strings.Cut(part, " --\n")
		name, native := strings.CutSuffix(head, " nft")
		if ok && native {
			names = append(names, name)
		}
		sections[head] = body
	}
	interfaces := []rules.Interface{{Name: "eth0", Addresses: addresses}, {Name: "eth1"}, {Name: "not-istio-nic"}}
	var answers strings.Builder
	for _, name := range names {
		s := newSandbox(t)
		s.RunInput(t, sections[name+" nft"], "nft", "-f", "-")
		for _, family := range []rules.Family{rules.IPv4, rules.IPv6} {
			text, ok := sections[name+map[rules.Family]string{rules.IPv4: " save4", rules.IPv6: " save6"}[family]]
			if !ok {
				continue
			}
			saved, err := rules.ParseSave(family, strings.NewReader(text+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			pod := effect.NewPod(interfaces)
			routes := []rules.PolicyRoute{{Family: family, Mark: 1337, Table: 133}}
			plan, have := effect.NewSide(pod, family, routes, nil), effect.NewSide(pod, family, routes, nil)
			plan.AddTables(pod, saved)
			held, err := read(s.dial(t))
			if err == nil {
				err = held.addTo(have, pod, family, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			r := effect.Compare(pod, plan, have)
			fmt.Fprintf(&answers, "%s %s: %s\n", name, family, r.Answer)
			for _, d := range r.Differences {
				fmt.Fprintf(&answers, "    %s: %s\n", d.Answer, d)
			}
		}
	}
	golden.Check(t, "istio-two-tools.golden", answers.String())
}

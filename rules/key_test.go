// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// The key is kept beside the rules and read by later versions: it must not change with the program.
func TestKeyIsForEver(t *testing.T) {
	plan := rules.Plan{V4: small(t), Routes: []rules.PolicyRoute{{Family: rules.IPv4, Mark: 0x42, Table: 7}},
		Loopback: []netip.Prefix{netip.MustParsePrefix("::6/128")}}
	for want, p := range map[string]rules.Plan{"e3b0c44298fc1c149afbf4c8996fb924": {}, "10fa962dd0986896ae2938dad3c4139a": plan} {
		if got := p.Key(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestKey(t *testing.T) {
	lo, other := netip.MustParsePrefix("::6/128"), netip.MustParsePrefix("::7/128")
	r4, r6 := rules.PolicyRoute{Family: rules.IPv4, Mark: 1, Table: 2}, rules.PolicyRoute{Family: rules.IPv6, Mark: 1, Table: 2}
	plan := func() rules.Plan {
		return rules.Plan{V4: small(t), V6: small(t), Routes: []rules.PolicyRoute{r4, r6}, Loopback: []netip.Prefix{lo, other}}
	}
	for _, tt := range []struct {
		name string
		edit func(*rules.Plan)
		same bool
	}{
		{"nothing", func(*rules.Plan) {}, true},
		{"notes", func(p *rules.Plan) { p.Notes = []string{"x"} }, true},
		{"footprint", func(p *rules.Plan) { p.Footprint = ours }, true},
		{"a reason", func(p *rules.Plan) { p.V4.Tables[0].Chains[0].Rules[0].Why = "x" }, true},
		{"the family's name", func(p *rules.Plan) { p.V4.Family, p.V6.Family = 0, 0 }, true},
		{"order of routes", func(p *rules.Plan) { slices.Reverse(p.Routes) }, true},
		{"order of addresses", func(p *rules.Plan) { slices.Reverse(p.Loopback) }, true},
		{"order of chains", func(p *rules.Plan) { slices.Reverse(p.V6.Tables[0].Chains) }, true},
		{"an empty table", func(p *rules.Plan) { p.V4.Tables = append(p.V4.Tables, rules.Table{Name: "raw"}) }, true},
		{"an empty chain", func(p *rules.Plan) {
			p.V4.Tables[0].Chains = append(p.V4.Tables[0].Chains, rules.Chain{Name: "INPUT", Builtin: true})
		}, true},

		{"order of rules", func(p *rules.Plan) { slices.Reverse(p.V4.Tables[0].Chains[0].Rules) }, false},
		{"a rule less", func(p *rules.Plan) { p.V4.Tables[0].Chains[3].Rules = nil }, false},
		{"a rule twice", func(p *rules.Plan) {
			c := &p.V6.Tables[0].Chains[2]
			c.Rules = append(c.Rules, c.Rules...)
		}, false},
		{"another table", func(p *rules.Plan) { p.V4.Tables[0].Name = "raw" }, false},
		{"another chain", func(p *rules.Plan) { p.V4.Tables[0].Chains[2].Name = "OUR_OLD" }, false},
		{"one family", func(p *rules.Plan) { p.V6 = rules.Ruleset{} }, false},
		{"the other family", func(p *rules.Plan) { p.V4 = rules.Ruleset{} }, false},
		{"a route less", func(p *rules.Plan) { p.Routes = p.Routes[:1] }, false},
		{"another route's table", func(p *rules.Plan) { p.Routes[0].Table = 3 }, false},
		{"another route's mark", func(p *rules.Plan) { p.Routes[0].Mark = 3 }, false},
		{"a route of the other family", func(p *rules.Plan) { p.Routes[0].Family = rules.IPv6 }, false},
		{"an address less", func(p *rules.Plan) { p.Loopback = p.Loopback[1:] }, false},
		{"no routes and addresses", func(p *rules.Plan) { p.Routes, p.Loopback = nil, nil }, false},
	} {
		edited := plan()
		tt.edit(&edited)
		if same := edited.Key() == plan().Key(); same != tt.same {
			t.Errorf("%s: the same key: %t", tt.name, same)
		}
	}
}

// A key belongs to one plan, and the plan stays as it is.
func TestKeysDiffer(t *testing.T) {
	texts := map[string]string{}
	for _, p := range plans(t) {
		text := fmt.Sprintf("%s %s %v %v", p.plan.Rulesets()[0], p.plan.Rulesets()[1], p.plan.Routes, p.plan.Loopback)
		key := p.plan.Key()
		if other, ok := texts[key]; ok && other != text {
			t.Errorf("%s: key %s is another plan's", p.name, key)
		}
		texts[key] = text
		if again := fmt.Sprintf("%s %s %v %v", p.plan.Rulesets()[0], p.plan.Rulesets()[1], p.plan.Routes, p.plan.Loopback); again != text || p.plan.Key() != key {
			t.Errorf("%s: the key changed the plan", p.name)
		}
	}
	if len(texts) < 40 {
		t.Errorf("only %d keys", len(texts))
	}
}

// holding returns the kernels of a namespace that holds the plan, with rules of others around it.
func holding(t *testing.T, plan rules.Plan, crowded bool) []*kernel {
	t.Helper()
	var kernels []*kernel
	for _, want := range plan.Rulesets() {
		k := newKernel(want.Family)
		k.apply(t, want, istio.New(istio.Defaults{}).Footprint())
		if crowded {
			sprinkle(t, k)
			k.apply(t, want, istio.New(istio.Defaults{}).Footprint())
		}
		k.holds(t, want, istio.New(istio.Defaults{}).Footprint())
		kernels = append(kernels, k)
	}
	return kernels
}

// readBack is what an auditor knows of a namespace: our part of its rules, and its routes and addresses.
func readBack(t *testing.T, kernels []*kernel, plan rules.Plan) rules.Plan {
	t.Helper()
	f := istio.New(istio.Defaults{}).Footprint()
	return rules.Plan{V4: kernels[0].state(t).Own(f), V6: kernels[1].state(t).Own(f), Routes: plan.Routes, Loopback: plan.Loopback}
}

// placeOnly reports whether a plan has exceptions for rerouted interfaces that only their place shows to be
// ours: no rule of that chain jumps to a chain of ours, and the excluded interfaces are fewer.
func placeOnly(plan rules.Plan) bool {
	return slices.ContainsFunc(plan.Rulesets(), func(rs rules.Ruleset) bool {
		prerouting, output := chainOf(rs, "PREROUTING"), chainOf(rs, "OUTPUT")
		jumps := slices.ContainsFunc(prerouting, func(r rules.Rule) bool { _, jump := r.Target.(rules.Jump); return jump })
		return !jumps && len(prerouting) > 0 && len(prerouting) != len(output)-1 // the last of OUTPUT is the jump
	})
}

func chainOf(rs rules.Ruleset, name string) []rules.Rule {
	c, _ := rs.Table("nat").Chain(name)
	return c.Rules
}

// What a kernel holds has the key of the plan it was given, except where only a place tells a rule of ours.
func TestKeyOfTheKernel(t *testing.T) {
	all := plans(t)
	for seed := range uint64(100) {
		pod, defaults := randomPod(rand.New(rand.NewPCG(seed, 1)))
		all = append(all, namedPlan{fmt.Sprint("seed ", seed), planFor(t, defaults, pod)})
	}
	exceptions := 0
	for _, p := range all {
		want := !placeOnly(p.plan)
		if !want {
			exceptions++
		}
		for _, crowded := range []bool{false, true} {
			if crowded && !want {
				continue // such an exception cannot be held behind the rules of others: see TestEveryPlanAmongOthers
			}
			got := readBack(t, holding(t, p.plan, crowded), p.plan)
			if same := got.Key() == p.plan.Key(); same != want {
				t.Errorf("%s, among others %t: the same key: %t, want %t\n%s%s", p.name, crowded, same, want, got.V4, got.V6)
			}
		}
	}
	if exceptions == 0 || exceptions > len(all)/4 {
		t.Errorf("%d of %d plans have exceptions that only their place shows", exceptions, len(all))
	}
}

// Whatever is changed among our rules, and whatever is put before them, changes the key; what is put behind
// them does not.
func TestKeyOfAChangedKernel(t *testing.T) {
	for _, p := range plans(t) {
		if placeOnly(p.plan) {
			continue
		}
		kernels, key := holding(t, p.plan, false), p.plan.Key()
		for i, rs := range p.plan.Rulesets() {
			for _, table := range rs.Tables {
				for _, c := range table.Chains {
					for text, same := range map[string]bool{
						fmt.Sprintf("-D %s 1", c.Name):                            false,
						fmt.Sprintf("-I %s 1 -d 192.0.2.1/32 -j ACCEPT", c.Name):  false,
						fmt.Sprintf("-I %s 1 -p tcp -m comment -j LOG", c.Name):   false,
						fmt.Sprintf("-A %s -d 192.0.2.1/32 -j ACCEPT", c.Name):    c.Builtin,
						fmt.Sprintf("-A %s -p tcp -m comment -j LOG", c.Name):     c.Builtin,
						fmt.Sprintf("-A %s -p tcp -m tcp --dport 1 -j X", c.Name): c.Builtin,
						fmt.Sprintf("-A %s %s", c.Name, c.Rules[len(c.Rules)-1]):  false,
					} {
						if strings.HasPrefix(text, "-A") && strings.HasSuffix(text, "-j RETURN") && c.Builtin {
							continue // the same exception again is somebody else's
						}
						changed := slices.Clone(kernels)
						changed[i] = kernels[i].clone()
						if err := changed[i].restore("*" + table.Name + "\n:X - [0:0]\n" + text + "\nCOMMIT\n"); err != nil {
							t.Fatal(err)
						}
						if got := readBack(t, changed, p.plan).Key() == key; got != same {
							t.Errorf("%s: %s %s: the same key: %t", p.name, table.Name, text, got)
						}
					}
				}
			}
		}
		if t.Failed() {
			return // one plan explains it
		}
	}
}

func TestOwn(t *testing.T) {
	k := filled(t, small(t).String()+"*nat\n:THEIRS - [0:0]\n:OUR_OLD - [0:0]\n-A THEIRS -j OUR_OLD\n-A PREROUTING -i eth7 -j RETURN\n"+
		"-A OUTPUT -j THEIRS\nCOMMIT\n*mangle\n-A INPUT -m mark --mark 0x42 -j ACCEPT\nCOMMIT\n*raw\n:OUR_IN - [0:0]\nCOMMIT\n")
	got := k.state(t).Own(ours)
	if want := small(t); got.String() != want.String() || got.Family != want.Family || len(got.Tables) != 1 {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if err := k.restore("*nat\n-I OUTPUT 1 -p tcp -j ACCEPT\n-I OUTPUT 2 -p udp -m comment -j LOG\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	crowded := small(t)
	output := &crowded.Tables[0].Chains[1]
	output.Rules = append([]rules.Rule{rules.ParseRule("-p tcp -j ACCEPT"), rules.ParseRule("-p udp -m comment -j LOG")}, output.Rules...)
	if got := k.state(t).Own(ours); got.String() != crowded.String() {
		t.Errorf("got:\n%s\nwant:\n%s", got, crowded)
	}
	if got := k.state(t).Own(rules.Footprint{}); !got.Empty() {
		t.Errorf("nothing of ours:\n%s", got)
	}
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/recorded"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

func corpus(t *testing.T) []recorded.Case {
	t.Helper()
	cases, err := recorded.Cases()
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

// addresses returns the case's addresses with their prefix lengths.
func addresses(c recorded.Case) []string {
	var texts []string
	for _, ip := range c.PodIPs {
		texts = append(texts, ip.String())
	}
	return texts
}

// podOf gives the case's addresses along, so that one namespace serves for all cases.
func podOf(c recorded.Case, path string) rules.Pod {
	pod := c.Pod()
	pod.NetNS = path
	return pod
}

// Every recorded line, with both kinds of iptables; a second time changes nothing. A short run has some of the cases.
func TestConformance(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		e := newEnforcer(t, variant, istio.Standard())
		for _, c := range sample.Of(t, 4, corpus(t)) {
			t.Run(c.Name, func(t *testing.T) {
				ns := nstest.New(t, addresses(c)...)
				pod := podOf(c, ns.Path)
				pod.IPs = nil // they are in the namespace
				if o := protect(t, e, pod); !o.Changed {
					t.Error("says that nothing was changed in an empty namespace")
				}
				expect(t, ns, variant, c.Expect)
				if o := protect(t, e, pod); o.Changed {
					t.Error("a second time changed something")
				}
				expect(t, ns, variant, c.Expect)
			})
		}
	})
}

// Any case over any other gives exactly the other. What could be left of a case is its frame, so that all pairs of frames are
// tried, by cases at random, and each case after and before another one; `make differential` tries all 1,560 ordered pairs, and a
// short run some.
func TestConformanceAfterAnyOther(t *testing.T) {
	seed := sample.Seed(t)
	t.Logf("MESHNETD_SEED=%d", seed)
	onVariants(t, func(t *testing.T, variant string) {
		e := newEnforcer(t, variant, istio.Standard())
		ns := nstest.New(t)
		var last string
		for _, c := range sample.Of(t, 16, inTurn(corpus(t), rand.New(rand.NewPCG(seed, 0)))) {
			protect(t, e, podOf(c, ns.Path))
			expect(t, ns, variant, c.Expect)
			if t.Failed() {
				t.Fatalf("%s over %s", c.Name, last)
			}
			last = c.Name
		}
	})
}

// inTurn returns cases in an order in which all that is to be tried follows the other.
func inTurn(cases []recorded.Case, random *rand.Rand) (order []recorded.Case) {
	pairs := func(count int, pick func(i int) recorded.Case) {
		for i := range count {
			order = append(order, pick(i))
			for j := i + 1; j < count; j++ { // there and back
				order = append(order, pick(j), pick(i))
			}
		}
	}
	if os.Getenv("MESHNETD_EVERY_PAIR") != "" {
		pairs(len(cases), func(i int) recorded.Case { return cases[i] })
		return order
	}
	var frames [][]recorded.Case
	for _, c := range cases {
		if i := slices.IndexFunc(frames, func(f []recorded.Case) bool { return frame(f[0].Expect) == frame(c.Expect) }); i >= 0 {
			frames[i] = append(frames[i], c)
		} else {
			frames = append(frames, []recorded.Case{c})
		}
	}
	pairs(len(frames), func(i int) recorded.Case { return frames[i][random.IntN(len(frames[i]))] })
	for _, i := range random.Perm(len(cases)) {
		order = append(order, cases[i])
	}
	return order
}

// frame is what of a state outlives other rules in it: tables and chains, routes and addresses.
func frame(s recorded.State) string {
	heads := slices.DeleteFunc(slices.Concat(s.IPTables, s.IP6Tables), func(line string) bool { return !strings.ContainsAny(line[:1], "*:") })
	return strings.Join(slices.Concat(heads, s.Rule4, s.Rule6, s.Route4, s.Route6, s.Lo), "\n")
}

// expect compares the namespace with the recorded state. The order of tables and of chains is nobody's
// business; that of rules within a chain is.
func expect(t *testing.T, ns *nstest.Namespace, variant string, want recorded.State) {
	t.Helper()
	const divider = "@@@"
	v := tools(variant)
	commands := []string{"iptables" + v + "-save", "ip6tables" + v + "-save", "ip rule", "ip -6 rule",
		"ip -4 route show table all", "ip -6 route show table all", "ip -o addr show dev lo"}
	parts := strings.Split(ns.Run(t, "sh", "-ec", strings.Join(commands, "; echo "+divider+"; ")), divider+"\n")
	got := recorded.State{IPTables: lines(parts[0]), IP6Tables: lines(parts[1]), Rule4: containing("fwmark", lines(parts[2])),
		Rule6: containing("fwmark", lines(parts[3])), Route4: lines(parts[4]), Route6: lines(parts[5])}
	for _, line := range lines(parts[6]) {
		got.Lo = append(got.Lo, strings.Fields(line)[3])
	}
	got.Route4, got.Route6 = ofTable133(got.Route4), ofTable133(got.Route6)
	got.IPTables, got.IP6Tables = normal(got.IPTables), normal(got.IP6Tables)
	want.IPTables, want.IP6Tables = normal(want.IPTables), normal(want.IP6Tables)
	slices.Sort(got.Lo)
	slices.Sort(want.Lo)
	if diff := cmp.Diff(clean(want), clean(got)); diff != "" {
		t.Errorf("(-recorded +kernel):\n%s", diff)
	}
}

var counters = regexp.MustCompile(` \[\d+:\d+\]$`)

// normal sorts tables and chains and drops tables that hold nothing.
func normal(save []string) []string {
	var tables []string
	var header string
	chains := map[string][]string{}
	for _, line := range save {
		line = counters.ReplaceAllString(line, "")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "*"):
			header, chains = line, map[string][]string{}
		case line == "COMMIT":
			if text := table(header, chains); text != "" {
				tables = append(tables, text)
			}
		default:
			name := strings.Fields(strings.TrimPrefix(strings.TrimPrefix(line, ":"), "-A "))[0]
			chains[name] = append(chains[name], line)
		}
	}
	slices.Sort(tables)
	return tables
}

func table(header string, chains map[string][]string) string {
	var text []string
	empty := true
	for _, lines := range chains {
		text = append(text, strings.Join(lines, "\n"))
		empty = empty && len(lines) == 1 && !strings.HasSuffix(lines[0], " -")
	}
	if empty {
		return ""
	}
	slices.Sort(text)
	return header + "\n" + strings.Join(text, "\n")
}

func lines(text string) []string {
	var trimmed []string
	for line := range strings.Lines(text) {
		trimmed = append(trimmed, strings.TrimSpace(line))
	}
	return trimmed
}

func containing(word string, all []string) []string {
	return slices.DeleteFunc(all, func(line string) bool { return !strings.Contains(line, word) })
}

// ofTable133 keeps the routes of Istio's table and drops its name, as `ip route show table 133` does.
func ofTable133(routes []string) []string {
	var own []string
	for _, line := range containing("table 133", routes) {
		own = append(own, strings.Join(strings.Fields(strings.Replace(line, "table 133", "", 1)), " "))
	}
	return own
}

// clean makes absent and empty lists equal.
func clean(s recorded.State) recorded.State {
	for _, list := range []*[]string{&s.IPTables, &s.IP6Tables, &s.Rule4, &s.Rule6, &s.Route4, &s.Route6, &s.Lo} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	return s
}

// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
)

func TestBuilder(t *testing.T) {
	var b rules.Builder
	b.Append("raw", "OUTPUT", "why", rules.Return)
	b.Append("nat", "OUR_B", "", rules.Return)
	b.Append("nat", "POSTROUTING", "", rules.Return)
	b.Append("nat", "OUTPUT", "", rules.Drop)
	b.Append("nat", "OUR_A", "", rules.Return)
	b.Prepend("nat", "OUTPUT", rules.Rule{Target: rules.Return})
	b.Append("nat", "PREROUTING", "", rules.Return)
	rs := b.Ruleset(rules.IPv6)

	want := "*nat\n:OUR_A - [0:0]\n:OUR_B - [0:0]\n-A PREROUTING -j RETURN\n-A OUTPUT -j RETURN\n-A OUTPUT -j DROP\n" +
		"-A POSTROUTING -j RETURN\n-A OUR_A -j RETURN\n-A OUR_B -j RETURN\nCOMMIT\n" +
		"*raw\n-A OUTPUT -j RETURN\nCOMMIT\n"
	if diff := cmp.Diff(want, rs.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if rs.Family != rules.IPv6 || rs.Empty() {
		t.Errorf("family %s, empty %t", rs.Family, rs.Empty())
	}
	chain, ok := rs.Table("raw").Chain("OUTPUT")
	if !ok || !chain.Builtin || chain.Rules[0].Why != "why" {
		t.Errorf("raw OUTPUT is %+v", chain)
	}
	if n := (rules.Plan{V4: rs, V6: rs}).Rules(); n != 14 {
		t.Errorf("%d rules, want 14", n)
	}
}

func TestZeroPlan(t *testing.T) {
	var p rules.Plan
	sets := p.Rulesets()
	if len(sets) != 2 || sets[0].Family != rules.IPv4 || sets[1].Family != rules.IPv6 {
		t.Errorf("rule sets are %+v", sets)
	}
	if p.Rules() != 0 || sets[0].String() != "" || !sets[1].Empty() {
		t.Errorf("the zero plan is not empty")
	}
	if c, ok := sets[0].Table("nat").Chain("X"); ok || c.Name != "X" {
		t.Errorf("got %+v, %t", c, ok)
	}
}

func TestPod(t *testing.T) {
	pod := rules.Pod{Namespace: "shop", Name: "cart", Containers: []rules.Container{
		{Name: "istio-proxy", Args: []string{"first"}}, {Name: "app"}, {Name: "istio-proxy", Args: []string{"last"}}}}
	if got := pod.String(); got != "shop/cart" {
		t.Errorf("got %q", got)
	}
	pod.SandboxID = "0123456789abcdef"
	if got := pod.String(); got != "shop/cart (sandbox 0123456789ab)" {
		t.Errorf("got %q", got)
	}
	if c := pod.Container("istio-proxy"); c == nil || c.Args[0] != "last" {
		t.Errorf("got %+v, want the last container of that name", c)
	}
	if c := pod.Container("other"); c != nil {
		t.Errorf("got %+v", c)
	}
}

// What a pod's author writes is quoted in an event and in the log, at each attempt: at most so much of it.
func TestInputErrorIsBounded(t *testing.T) {
	long := strings.Repeat("ü", 100_000)
	err := &rules.InputError{Place: "annotation a", Value: long, Problem: "item 1, " + long + ", is no port"}
	if text := err.Error(); len(text) > 700 || !utf8.ValidString(text) || !strings.Contains(text, "item 1") || !strings.HasSuffix(text, "...") {
		t.Errorf("%d bytes: %q", len(text), text)
	}
}

func TestInputError(t *testing.T) {
	err := &rules.InputError{Place: "annotation a", Value: "x\ny", Problem: "no"}
	if got, want := err.Error(), `annotation a: "x\ny": no`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

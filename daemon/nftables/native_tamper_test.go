// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// Whatever somebody does to the table is found, said in words, seen in the fingerprint, and put right; until
// then the table is not taken for anybody's plan.
func TestNativeFindsWhatOthersDo(t *testing.T) {
	nstest.Require(t, "nft")
	plan := everyExpression()
	const first = "nat-OUTPUT"
	for name, tt := range map[string]struct {
		commands string // of nft; HANDLE is that of the first rule of nat-OUTPUT
		want     string // among the differences
	}{
		"table deleted":         {"delete table inet meshnetd", "missing: the whole table"},
		"all flushed":           {"flush table inet meshnetd", "missing: nat-OWN"},
		"table off":             {"add table inet meshnetd { flags dormant; }", "off: the whole table is dormant"},
		"chain flushed":         {"flush chain inet meshnetd nat-OWN", "missing: nat-OWN ! -d 127.0.0.1/32 -p tcp"},
		"plan flushed":          {"flush chain inet meshnetd plan", "missing: plan -4 *filter"},
		"rule deleted":          {"delete rule inet meshnetd nat-OUTPUT handle HANDLE", "missing: nat-OUTPUT -s 127.0.0.6/32 -o lo -j RETURN"},
		"rule added":            {"add rule inet meshnetd nat-OUTPUT accept", "unexpected: nat-OUTPUT (a rule of immediate)"},
		"rule before ours":      {"insert rule inet meshnetd nat-OUTPUT meta mark 5 accept", "unexpected: nat-OUTPUT (a rule of meta, cmp, immediate)"},
		"comment changed":       {`replace rule inet meshnetd nat-OUTPUT handle HANDLE oifname "lo" ip saddr 127.0.0.6 return comment "x"`, "unexpected: nat-OUTPUT x"},
		"other address":         {`replace rule inet meshnetd nat-OUTPUT handle HANDLE oifname "lo" ip saddr 127.0.0.7 return`, "missing: nat-OUTPUT -s 127.0.0.6/32"},
		"rule moved to the end": {`delete rule inet meshnetd nat-OUTPUT handle HANDLE; add rule inet meshnetd nat-OUTPUT oifname "lo" ip saddr 127.0.0.6 return`, "missing: nat-OUTPUT"},
		"chain of others":       {"add chain inet meshnetd others", "unexpected: others"},
		"hook of others":        {"add chain inet meshnetd others { type filter hook output priority -400; policy accept; }", "unexpected: others (has type filter hook 3 priority -400 policy 1, want no hook)"},
		"policy":                {"add chain inet meshnetd nat-OUTPUT { policy drop; }", "changed: nat-OUTPUT (has type nat hook 3 priority -101 policy 0, want"},
		"set of others":         {"add set inet meshnetd others { type inet_service; }", "unexpected: set others"},
		"counter":               {"add counter inet meshnetd others; add rule inet meshnetd nat-OWN counter name others", "unexpected: nat-OWN (a rule of objref)"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.native(t, plan)
			before := s.fingerprint(t)
			list := s.Run(t, "nft", "-a", "list", "chain", "inet", "meshnetd", first)
			handle := regexp.MustCompile(`return comment .*# handle (\d+)`).FindStringSubmatch(list)[1]
			s.RunInput(t, strings.ReplaceAll(tt.commands, "HANDLE", handle), "nft", "-f", "-")
			if tt.want == "" {
				s.holds(t, plan)
				return
			}
			s.finds(t, plan, tt.want)
			if s.fingerprint(t) == before {
				t.Error("the fingerprint does not show it")
			}
			v4, v6, err := New(Native).Own(t.Context(), s.ns, plan.Footprint)
			if err != nil || !v4.Empty() || !v6.Empty() {
				t.Errorf("a plan is read from it: %v\n%s%s", err, v4, v6)
			}
			if !s.native(t, plan) {
				t.Error("nothing is put right")
			}
			s.holds(t, plan)
		})
	}
}

// finds fails unless one of the differences begins like that.
func (s sandbox) finds(t testing.TB, plan rules.Plan, want string) {
	t.Helper()
	diffs, err := New(Native).Verify(t.Context(), s.ns, plan)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, d := range diffs {
		if d.Table != "inet meshnetd" || d.Family != 0 {
			t.Errorf("%+v is not said to be of the table", d)
		}
		text := strings.Join(strings.Fields(fmt.Sprintf("%s: %s %s", d.Kind, d.Chain, d.Rule)), " ")
		if strings.HasPrefix(text, want) {
			return
		}
		all = append(all, text)
	}
	t.Errorf("want %q, found\n%s", want, strings.Join(all, "\n"))
}

// Elements of a set that rules use cannot be changed at all, but the set can be made again without one, or
// with one more, together with its rules. That is the same for numbers and for addresses.
func TestNativeFindsElements(t *testing.T) {
	nstest.Require(t, "nft")
	plan := everyExpression()
	for name, tt := range map[string]struct{ old, new, want string }{
		"comment on the table": {"table inet meshnetd {", "table inet meshnetd {\n\tcomment \"x\"", "changed: what the table itself says"},
		"port missing":         {"elements = { 53, 15008 }", "elements = { 53 }", "missing: 15008 in set ports-4"},
		"port more":            {"elements = { 53, 15008 }", "elements = { 53, 54, 15008 }", "unexpected: 54 in set ports-4"},
		"user missing":         {"type uid\n\t\tflags constant\n\t\telements = { 5, 6 }", "type uid\n\t\tflags constant\n\t\telements = { 5 }", "missing: 6 in set users-1"},
		"range wider":          {"192.168.0.0/17", "192.168.0.0/16", "missing: the end before 192.168.128.0 in set ranges-ip-1"},
		"range more":           {"10.0.0.0/7,", "10.0.0.0/7, 13.0.0.0/8,", "unexpected: 13.0.0.0 in set ranges-ip-1"},
		"can be changed":       {"type inet_service\n\t\tflags constant\n\t\telements = { 53, 15008 }", "type inet_service\n\t\telements = { 53, 15008 }", "changed: set ports-4"},
		"lasts some time":      {"type inet_service\n\t\tflags constant\n\t\telements = { 53, 15008 }", "type inet_service\n\t\tflags timeout\n\t\telements = { 53 timeout 1h, 15008 }", "unexpected: 53 in set ports-4"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.native(t, plan)
			for _, command := range []string{"delete element inet meshnetd ports-4 { 53 }", "add element inet meshnetd ports-4 { 99 }"} {
				if err := s.Command("nft", command).Run(); err == nil {
					t.Errorf("%s: the kernel lets it", command)
				}
			}
			text := s.Run(t, "nft", "list", "table", "inet", "meshnetd")
			if !strings.Contains(text, tt.old) {
				t.Fatal("the table is not what this test changes")
			}
			s.RunInput(t, "delete table inet meshnetd\n"+strings.Replace(text, tt.old, tt.new, 1), "nft", "-f", "-")
			s.finds(t, plan, tt.want)
			if !s.native(t, plan) {
				t.Error("nothing is put right")
			}
			s.holds(t, plan)
		})
	}
}

// What others write is shown without what a terminal would take for more than text.
func TestNativeDescribes(t *testing.T) {
	for comment, want := range map[string]string{"-j RETURN": "-j RETURN", "a" + lineBreak + "b" + lineBreak: "a; b", "\x1b[2J\n": `"\x1b[2J\n"`, "\xff": `"\xff"`, "": "(a rule of immediate)"} {
		var r nativeRule
		r.comment = comment
		immediate(&r.expressions, accept, "")
		s, err := native{chains: []nativeChain{{name: "a", rules: []nativeRule{r}}}}.state()
		if err != nil {
			t.Fatal(err)
		}
		if got := describe(s.rules[0]); got != want {
			t.Errorf("%q is shown as %s, want %s", comment, got, want)
		}
	}
}

// The smallest changes are found too: rules that only change places, one letter of a comment, one bit of an
// expression.
func TestNativeFindsSmallChanges(t *testing.T) {
	const where = "nat-ISTIO_OUTPUT"
	for name, tt := range map[string]struct {
		change func(list []nativeRule)
		want   string
	}{
		"order":   {func(list []nativeRule) { list[0], list[1] = list[1], list[0] }, "out of order: nat-ISTIO_OUTPUT -p udp -m udp --dport 15020 -j RETURN"},
		"comment": {func(list []nativeRule) { list[0].comment = strings.ToLower(list[0].comment) }, "unexpected: nat-ISTIO_OUTPUT -p tcp -m tcp --dport 15020 -j return"},
		"expression": {func(list []nativeRule) {
			list[2].expressions = bytes.Replace(list[2].expressions, []byte{127, 0, 0, 6}, []byte{127, 0, 0, 7}, 1)
		}, "missing: nat-ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN"},
		"nothing": {func([]nativeRule) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			plan := plans.DualStack(t)
			s.native(t, plan)
			n, err := compile(plan)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(n.chains, func(c nativeChain) bool { return c.name == where })
			tt.change(n.chains[i].rules)
			b := newBatch(nil)
			b.flush(nativeFamily, nativeTable, where)
			for _, r := range n.chains[i].rules {
				if err := b.newRule(nativeFamily, nativeTable, where, 0, r.from, r.appendTo); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.dial(t).transact(b); err != nil {
				t.Fatal(err)
			}
			if tt.want == "" {
				s.holds(t, plan)
				return
			}
			s.finds(t, plan, tt.want)
		})
	}
}

// A rule is held only with everything that it is, and with nothing besides.
func TestHeldRules(t *testing.T) {
	n, err := compile(plans.DualStack(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := n.state()
	if err != nil || !n.holdsRules(s) {
		t.Fatalf("its own rules are not held: %v", err)
	}
	rule, o := n.chains[0].rules[0], chainObject(n.chains[0].name).of(s.rules)[0]
	for name, change := range map[string]func(o *object){
		"expressions": func(o *object) { o.text[2*attributeHeader+len(o.table)+len(o.chain)+attributeHeader]++ },
		"comment":     func(o *object) { o.text[len(o.text)-2]++ },
		"another attribute": func(o *object) {
			o.text = append(attribute{unix.NFTA_RULE_COMPAT, []byte{0, 0, 0, 6}}.appendTo(nil), o.text...)
		},
	} {
		changed := o
		changed.text = slices.Clone(o.text)
		if change(&changed); !o.holds(rule) || changed.holds(rule) {
			t.Errorf("%s: held %t, and when changed %t", name, o.holds(rule), changed.holds(rule))
		}
	}
}

// A table of that name in another family is somebody else's.
func TestNativeTableOfAnotherFamily(t *testing.T) {
	s := newSandbox(t)
	err := s.dial(t).do(table(unix.NFT_MSG_NEWTABLE, create, unix.NFPROTO_IPV4, nativeTable), chain(create, unix.NFPROTO_IPV4, nativeTable, "nat-OUTPUT"))
	if err != nil {
		t.Fatal(err)
	}
	s.native(t, plans.DualStack(t))
	s.holds(t, plans.DualStack(t))
	s.native(t, plans.Nothing())
	if text := s.Run(t, "nft", "list", "tables"); text != "table ip meshnetd\n" {
		t.Errorf("left are %q", text)
	}
}

// Each dialect replaces what the other wrote, in one transaction that leaves nothing of it.
func TestDialectsReplaceEachOther(t *testing.T) {
	s := newSandbox(t)
	others := []command{table(unix.NFT_MSG_NEWTABLE, create, unix.NFPROTO_INET, "others")}
	if err := s.dial(t).do(others...); err != nil {
		t.Fatal(err)
	}
	cases := sample.Of(t, 10, plans.Recorded(t))
	for i, c := range cases {
		plan, next := plans.Of(t, istio.Standard(), c.Pod()), plans.Of(t, istio.Standard(), cases[(i+1)%len(cases)].Pod())
		s.native(t, plan)
		s.holds(t, plan)
		s.write(t, next) // as iptables does
		if diffs, err := New(IPTables).Verify(t.Context(), s.ns, next); err != nil || len(diffs) > 0 {
			t.Fatalf("%s: %v %v", c.Name, err, diffs)
		}
		if text := s.Run(t, "nft", "list", "tables"); strings.Contains(text, "meshnetd") {
			t.Fatalf("%s: the native table is left", c.Name)
		}
		if diffs, err := New(Native).Verify(t.Context(), s.ns, next); err != nil || len(diffs) == 0 {
			t.Fatalf("%s: rules of iptables are taken for the native table: %v", c.Name, err)
		}
		s.native(t, plan)
		if text := s.Run(t, "nft", "list", "ruleset"); strings.Contains(text, "\tchain ISTIO_") || strings.Contains(text, "jump ISTIO_") {
			t.Fatalf("%s: rules of iptables are left:\n%s", c.Name, text)
		}
		if diffs, err := New(IPTables).Verify(t.Context(), s.ns, plan); err != nil || len(diffs) == 0 {
			t.Fatalf("%s: the native table is taken for rules of iptables: %v", c.Name, err)
		}
	}
	s.native(t, plans.Nothing())
	s.holds(t, plans.Nothing())
	if text := s.Run(t, "nft", "list", "tables"); strings.Contains(text, "meshnetd") || !strings.Contains(text, "inet others") {
		t.Errorf("left are\n%s", text)
	}
}

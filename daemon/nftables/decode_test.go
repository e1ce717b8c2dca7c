// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// encoded returns the expressions of a rule as they are sent.
func encoded(t testing.TB, family rules.Family, r rules.Rule) []byte {
	t.Helper()
	var w wire
	if err := appendRule(&w, family, r); err != nil {
		t.Fatal(err)
	}
	return attributesOf(t, w)[unix.NFTA_RULE_EXPRESSIONS]
}

func attributesOf(t testing.TB, list []byte) map[uint16][]byte {
	t.Helper()
	values := map[uint16][]byte{}
	if err := eachAttribute(list, func(a attribute) error { values[a.kind] = a.value; return nil }); err != nil {
		t.Fatal(err)
	}
	return values
}

// otherMeshes are rules with what only other meshes than Istio use.
var otherMeshes = []rules.Rule{
	{Match: []rules.Match{rules.Protocol(rules.TCP), rules.ToAny(rules.PortRange{First: 80, Last: 80}, rules.PortRange{First: 8000, Last: 8010}, rules.PortRange{First: 0, Last: 65535}),
		rules.Comment("proxy-init/ignore-port-80")}, Target: rules.Return},
	{Match: []rules.Match{rules.Protocol(rules.UDP), rules.ToAny(rules.PortRange{First: 53, Last: 53})}, Target: rules.Return},
	{Match: []rules.Match{rules.OwnerUIDs(1001, 1005)}, Target: rules.Return},
	{Match: []rules.Match{rules.Comment("plain")}, Target: rules.Jump("OTHER")},
	{Match: []rules.Match{rules.Protocol(rules.UDP)}, Target: rules.DNAT{To: netip.MustParseAddr("127.0.0.1"), Port: 8600}},
	{Target: rules.DNAT{To: netip.MustParseAddr("10.0.0.10")}},
}

// everyRule calls fn with the rules of all recorded cases and of many random settings.
func everyRule(t testing.TB, fn func(rules.Family, rules.Rule)) {
	t.Helper()
	all := []rules.Plan{}
	for _, c := range plans.Recorded(t) {
		all = append(all, plans.Of(t, istio.Standard(), c.Pod()))
	}
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		all = append(all, generate.Draw(random).Plan)
	}
	for _, r := range otherMeshes {
		fn(rules.IPv4, r)
		if _, four := r.Target.(rules.DNAT); !four {
			fn(rules.IPv6, r)
		}
	}
	fn(rules.IPv6, rules.Rule{Match: []rules.Match{rules.Protocol(rules.TCP)}, Target: rules.DNAT{To: netip.IPv6Loopback(), Port: 8600}})
	for _, plan := range all {
		for _, rs := range plan.Rulesets() {
			for _, table := range rs.Tables {
				for _, c := range table.Chains {
					for _, r := range c.Rules {
						fn(rs.Family, r)
					}
				}
			}
		}
	}
}

// What is written is read as the same rule.
func TestRulesAreReadAsWritten(t *testing.T) {
	everyRule(t, func(family rules.Family, r rules.Rule) {
		got, err := decodeRule(family, encoded(t, family, r))
		if err != nil || got.String() != r.String() {
			t.Fatalf("%s %s\nis read as %s, %v", family, r, got, err)
		}
	})
}

// No byte of a rule is overlooked: with any bit of any value changed, it is another rule or a foreign one. A short run
// has some kinds of rules.
func TestEveryBitCounts(t *testing.T) {
	type ofFamily struct {
		family rules.Family
		rule   rules.Rule
	}
	var all []ofFamily
	seen := map[string]bool{}
	everyRule(t, func(family rules.Family, r rules.Rule) {
		if kinds := kindsOf(r); !seen[kinds] {
			seen[kinds] = true
			all = append(all, ofFamily{family, r})
		}
	})
	if len(all) < 20 {
		t.Errorf("only %d kinds of rules", len(all))
	}
	for _, one := range sample.Of(t, 12, all) {
		family, r := one.family, one.rule
		whole := encoded(t, family, r)
		nothing := make([]byte, len(whole))
		saysNothing(nothing, whole, "")
		for i := range whole {
			for bit := range 8 {
				if nothing[i]&(1<<bit) != 0 {
					continue
				}
				changed := slices.Clone(whole)
				changed[i] ^= 1 << bit
				if got, err := decodeRule(family, changed); err == nil && got.String() == r.String() {
					t.Fatalf("%s: bit %d of byte %d of %x does not count", r, bit, i, whole)
				}
			}
		}
	}
}

func kindsOf(r rules.Rule) string {
	var kinds strings.Builder
	for word := range strings.FieldsSeq(r.String()) {
		if strings.HasPrefix(word, "-") || strings.HasPrefix(word, "!") || word == strings.ToUpper(word) {
			kinds.WriteString(word + " ")
		}
	}
	return kinds.String()
}

// saysNothing marks the bits of a list of attributes that mean nothing: padding, the flags of attributes, how
// often a counter counted.
func saysNothing(nothing, list []byte, expression string) {
	const flags = 0xc0 // in the second byte of the kind
	for at := 0; at < len(list); {
		length := int(binary.NativeEndian.Uint16(list[at:]))
		kind := binary.NativeEndian.Uint16(list[at+2:])
		nothing[at+3] |= flags
		value, marks := list[at+attributeHeader:at+length], nothing[at+attributeHeader:at+length]
		switch {
		case kind == unix.NFTA_EXPR_NAME && expression == "element":
			expression = name(value)
		case expression == "counter":
			for i := range marks {
				marks[i] = 0xff
			}
		case kind&unix.NLA_F_NESTED != 0 && expression == "":
			saysNothing(marks, value, "element")
		case kind&unix.NLA_F_NESTED != 0:
			saysNothing(marks, value, expression)
		}
		for i := at + length; i < min(at+netlink.Aligned(length), len(list)); i++ {
			nothing[i] = 0xff
		}
		at += netlink.Aligned(length)
	}
}

// What is written with a kind of ours, and says what none of ours would, is somebody else's.
func TestOthersOfOurKinds(t *testing.T) {
	for _, tt := range []struct {
		rule rules.Rule
		want string
	}{
		{rules.Rule{Match: []rules.Match{rules.Comment("x y")}, Target: rules.Jump("A")}, "(as nft shows it: match comment -j A )"},
		{rules.Rule{Match: []rules.Match{rules.Comment("")}, Target: rules.Return}, "(as nft shows it: match comment )"},
		{rules.Rule{Match: []rules.Match{rules.Comment(`x"`)}, Target: rules.Return}, "(as nft shows it: match comment )"},
		{rules.Rule{Match: []rules.Match{rules.ToAny(rules.PortRange{First: 1, Last: 1})}, Target: rules.Return}, "(as nft shows it: match multiport )"},
		{rules.Rule{Match: []rules.Match{rules.Protocol(rules.TCP), rules.ToAny(rules.PortRange{First: 2, Last: 1})}, Target: rules.Return}, "(as nft shows it: match multiport )"},
		{rules.Rule{Match: []rules.Match{rules.OwnerUIDs(2, 1)}, Target: rules.Return}, "(as nft shows it: match owner )"},
	} {
		if got, err := decodeRule(rules.IPv4, encoded(t, rules.IPv4, tt.rule)); err != nil || got.String() != tt.want {
			t.Errorf("%s is read as %q, %v; want %q", tt.rule, got, err, tt.want)
		}
	}
}

// Other versions of iptables write some conditions in another way.
func TestOtherVersions(t *testing.T) {
	old := func(name string, info []byte, target func(*wire)) []byte {
		var w wire
		list := w.nest(unix.NFTA_RULE_EXPRESSIONS)
		extension(&w, "match", name, 1, info)
		target(&w)
		w.end(list)
		return attributesOf(t, w)[unix.NFTA_RULE_EXPRESSIONS]
	}
	accepts := func(w *wire) { immediate(w, accept, "") }
	mark := make([]byte, markLength)
	copy(mark, []byte{0x39, 5, 0, 0, 0xff, 0xff, 0xff, 0xff, 1})
	partly := slices.Clone(mark)
	partly[4] = 0
	var protocol wire
	list := protocol.nest(unix.NFTA_RULE_EXPRESSIONS)
	payload(&protocol, unix.NFT_PAYLOAD_NETWORK_HEADER, 9, 1)
	compare(&protocol, unix.NFT_CMP_EQ, []byte{unix.IPPROTO_TCP})
	accepts(&protocol)
	protocol.end(list)
	for _, tt := range []struct {
		list []byte
		want string
	}{
		{old("mark", mark, accepts), "-m mark ! --mark 0x539 -j ACCEPT"},
		{old("mark", partly, accepts), "(as nft shows it: match mark )"},
		{old("quota2", mark, func(w *wire) { immediate(w, unix.NFT_JUMP, "A") }), "(as nft shows it: match quota2 -j A )"},
		{old("quota2", mark, func(w *wire) { immediate(w, unix.NFT_GOTO, "A") }), "(as nft shows it: match quota2 immediate -j A )"},
		{attributesOf(t, protocol)[unix.NFTA_RULE_EXPRESSIONS], "-p tcp -j ACCEPT"},
		{nil, ""}, // which counts
	} {
		if got, err := decodeRule(rules.IPv4, tt.list); err != nil || got.String() != tt.want {
			t.Errorf("got %q, %v; want %q", got, err, tt.want)
		}
	}
}

// Whatever the kernel may send, nothing panics, and what is taken for a rule of ours is written as it came.
func FuzzDecodeRule(f *testing.F) {
	seen := map[string]bool{}
	everyRule(f, func(family rules.Family, r rules.Rule) {
		if kinds := kindsOf(r); !seen[kinds] {
			seen[kinds] = true
			f.Add(family == rules.IPv6, encoded(f, family, r))
		}
	})
	f.Fuzz(func(t *testing.T, six bool, list []byte) {
		family := rules.IPv4
		if six {
			family = rules.IPv6
		}
		r, err := decodeRule(family, list)
		if _, foreign := r.Target.(rules.Foreign); err != nil || foreign {
			return
		}
		var w wire
		if err := appendRule(&w, family, r); err != nil {
			t.Fatalf("read as %s, which cannot be written: %v", r, err)
		}
		again, err := decodeRule(family, attributesOf(t, w)[unix.NFTA_RULE_EXPRESSIONS])
		if err != nil || again.String() != r.String() {
			t.Fatalf("read as %s, written and read as %s, %v", r, again, err)
		}
	})
}

// Whatever an answer holds, reading it does not panic.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add(packet(0xa00, unix.NLM_F_MULTI, 2, 0, 0, 0, 'o'), packet(unix.NLMSG_DONE, unix.NLM_F_MULTI, 0, 0, 0, 0))
	f.Fuzz(func(_ *testing.T, first, second []byte) {
		a := answer{seq: 7}
		if a.add(first) == nil {
			_ = a.add(second)
		}
		for _, m := range a.messages {
			for _, read := range []func(message, []byte) (object, error){readTable, readChain, readRule} {
				_, _ = read(m, nil)
			}
		}
		_, _, _ = verdictOf(first)
	})
}

// Where thousands of rules in a built-in chain are ours, and rules of others follow, each of the plan's finds its place in one go.
func TestEditsOfThousandsOfRules(t *testing.T) {
	const many, wanted, nat, output = 16 << 10, 256, "nat", "OUTPUT"
	have := decoded{Ruleset: rules.Ruleset{Family: rules.IPv4}, handles: map[rules.Place][]uint64{}}
	e := rules.Edit{Table: nat}
	var handles []uint64
	for i := range many {
		e.Delete = append(e.Delete, rules.Place{Chain: output, Index: many - 1 - i})
		handles = append(handles, uint64(i))
	}
	for range wanted {
		e.Insert = append(e.Insert, rules.Insertion{Place: rules.Place{Chain: output}, Rule: rules.Rule{Target: rules.Accept}, Builtin: true, BeforeOthers: true})
	}
	have.handles[rules.Place{Chain: nat + " " + output}] = append(handles, many)
	b := newBatch(nil)
	defer b.release()
	s := state{tables: []object{{family: unix.NFPROTO_IPV4, table: []byte(nat + "\x00")}}}
	if err := appendEdits(b, s, have, []rules.Edit{e}); err != nil || b.changes() != many+wanted {
		t.Errorf("%d changes, %v", b.changes(), err)
	}
	if before := have.firstKept(e, output); before != many {
		t.Errorf("before rule %d", before)
	}
}

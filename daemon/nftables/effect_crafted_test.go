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

// crafted is a rule, in a table called other, that nft does not write, as whoever has NET_ADMIN in a pod can.
func crafted(t *testing.T, s sandbox, family byte, chain string, write func(*wire)) {
	t.Helper()
	b := newBatch(nil)
	defer b.release()
	err := b.newRule(family, "other", chain, 0, nil, func(w *wire) error {
		list := w.nest(unix.NFTA_RULE_EXPRESSIONS)
		write(w)
		w.end(list)
		return nil
	})
	if err == nil {
		err = s.dial(t).transact(b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// socketInto loads something that the model does not know. Its attributes have other numbers than those of most loads.
func socketInto(w *wire, register uint32) {
	expression(w, "socket", func() {
		w.number(1, 2) // NFTA_SOCKET_KEY: NFT_SOCKET_WILDCARD
		w.number(2, register)
	})
}

// device loads the name of the interface that a packet has there.
func device(w *wire, chain string, register uint32) {
	expression(w, "meta", func() {
		w.number(unix.NFTA_META_KEY, map[string]uint32{"out": unix.NFT_META_OIFNAME, "in": unix.NFT_META_IIFNAME}[chain])
		w.number(unix.NFTA_META_DREG, register)
	})
}

func compareWith(w *wire, register, operator uint32, data []byte) {
	expression(w, "cmp", func() {
		w.number(unix.NFTA_CMP_SREG, register)
		w.number(unix.NFTA_CMP_OP, operator)
		value(w, unix.NFTA_CMP_DATA, data)
	})
}

// Rules that seem to stop all packets, and stop few or none, are not taken for rules that stop all.
func TestEffectOfRulesThatSeemToStopAll(t *testing.T) {
	nstest.Require(t, "nft")
	plan := plans.DualStack(t)
	interfaces := generate.Interfaces(plan, addresses)
	for name, writes := range map[string][]func(w *wire, chain string){
		"a load of the owner, that nobody asks about": {func(w *wire, _ string) { meta(w, unix.NFT_META_SKUID) }},
		"a load from behind the packet":               {func(w *wire, _ string) { payload(w, unix.NFT_PAYLOAD_TRANSPORT_HEADER, 200, 4) }},
		"a load of what a new connection has not": {func(w *wire, _ string) {
			expression(w, "ct", func() {
				w.number(unix.NFTA_CT_KEY, unix.NFT_CT_HELPER)
				w.number(unix.NFTA_CT_DREG, register)
			})
		}},
		"an interface that is called as a pattern": {func(w *wire, chain string) {
			device(w, chain, register)
			compare(w, unix.NFT_CMP_EQ, append([]byte("+"), make([]byte, unix.IFNAMSIZ-1)...))
		}},
		"interfaces' names with more behind their ends": {func(w *wire, chain string) {
			device(w, chain, register)
			compare(w, unix.NFT_CMP_EQ, []byte("eth0\x00x"))
		}, func(w *wire, chain string) {
			device(w, chain, register)
			compare(w, unix.NFT_CMP_EQ, []byte("lo\x00x"))
		}},
		"a register that is written over": {func(w *wire, chain string) {
			device(w, chain, unix.NFT_REG32_01)
			store(w, register, []byte("aaaabbbbccccdddd"))
			compareWith(w, unix.NFT_REG32_01, unix.NFT_CMP_NEQ, []byte("bbbbccccdddd\x00\x00\x00\x00"))
		}},
		"a register that something unknown writes": {func(w *wire, _ string) {
			meta(w, unix.NFT_META_L4PROTO)
			socketInto(w, register)
			compare(w, unix.NFT_CMP_NEQ, []byte{0})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.RunInput(t, "table inet other {\nchain out { type filter hook output priority -350; }\nchain in { type filter hook prerouting priority -350; }\n}\n", "nft", "-f", "-")
			for _, chain := range []string{"out", "in"} {
				for _, write := range writes {
					crafted(t, s, unix.NFPROTO_INET, chain, func(w *wire) {
						write(w, chain)
						immediate(w, drop, "")
					})
				}
			}
			if r := s.effect(t, plan, interfaces); r.Answer != effect.Less && r.Answer != effect.CannotTell {
				t.Errorf("got %s: %s", r.Answer, s.Run(t, "nft", "list", "ruleset"))
			}
		})
	}
}

// Rules before the plan's that seem to let no packet out, and may let all out, are not taken for rules that let none out.
func TestEffectOfRulesThatSeemToLetNothingOut(t *testing.T) {
	nstest.Require(t, "nft")
	plan := plans.DualStack(t)
	interfaces := generate.Interfaces(plan, addresses)
	const sctp = 132
	for name, write := range map[string]func(w *wire, s sandbox){
		"a register that something unknown writes": func(w *wire, _ sandbox) {
			meta(w, unix.NFT_META_L4PROTO)
			socketInto(w, register)
			compare(w, unix.NFT_CMP_EQ, []byte{sctp})
		},
		"an empty set that packets write to": func(w *wire, s sandbox) {
			s.RunInput(t, "add set ip other kept { type ipv4_addr; }\n", "nft", "-f", "-")
			crafted(t, s, unix.NFPROTO_IPV4, "c", func(w *wire) {
				payload(w, unix.NFT_PAYLOAD_NETWORK_HEADER, source4+4, 4)
				expression(w, "dynset", func() {
					w.text(unix.NFTA_DYNSET_SET_NAME, "kept")
					w.number(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_ADD)
					w.number(unix.NFTA_DYNSET_SREG_KEY, register)
				})
			})
			payload(w, unix.NFT_PAYLOAD_NETWORK_HEADER, source4+4, 4)
			expression(w, "lookup", func() {
				w.text(unix.NFTA_LOOKUP_SET, "kept")
				w.number(unix.NFTA_LOOKUP_SREG, register)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.write(t, plan)
			s.RunInput(t, "table ip other {\nchain c { type nat hook output priority -110; }\n}\n", "nft", "-f", "-")
			crafted(t, s, unix.NFPROTO_IPV4, "c", func(w *wire) {
				write(w, s)
				redirect(w, 9000)
			})
			if r := s.effect(t, plan, interfaces); r.Answer != effect.CannotTell {
				t.Errorf("got %s: %s", r.Answer, s.Run(t, "nft", "list", "ruleset"))
			}
		})
	}
	t.Run("a table that is called as ours", func(t *testing.T) {
		s := newSandbox(t)
		s.write(t, plan)
		s.RunInput(t, "table inet "+nativeTable+" {\nset kept { type ipv4_addr; flags dynamic,timeout; }\nchain c {\ntype nat hook output priority -110;\n"+
			"ip daddr @kept meta l4proto tcp redirect to :9000\n}\n}\n", "nft", "-f", "-")
		if r := s.effect(t, plan, interfaces); r.Answer != effect.CannotTell {
			t.Errorf("got %s", r.Answer)
		}
	})
}

// A goto behind an action leaves the chain that it stands in, and what stands before a condition that no packet meets is
// done.
func TestEffectOfActionsBeforeConditions(t *testing.T) {
	nstest.Require(t, "nft")
	plan := plans.DualStack(t)
	interfaces := generate.Interfaces(plan, addresses)
	for name, rule := range map[string]string{
		"a goto":   "meta mark set 0x7 meta l4proto tcp goto empty",
		"a return": "meta mark set 0x7 meta l4proto tcp return",
		"notrack":  "notrack meta nfproto ipv6 drop",
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.write(t, plan)
			place := "ip nat OUTPUT"
			if name == "notrack" {
				place = "inet other first"
				s.RunInput(t, "table inet other {\nchain first { type filter hook output priority -350; }\n}\n", "nft", "-f", "-")
			}
			s.RunInput(t, "add chain ip nat empty\ninsert rule "+place+" "+rule+"\n", "nft", "-f", "-")
			if r := s.effect(t, plan, interfaces); r.Answer != effect.Less {
				t.Errorf("got %s: %v", r.Answer, r.Differences)
			}
		})
	}
}

// What TPROXY does not take, since it is of another protocol, is not taken for stopped.
func TestEffectOfTProxyOfAll(t *testing.T) {
	nstest.Require(t, "nft")
	var b rules.Builder
	b.Append("mangle", "PREROUTING", "", rules.Drop, rules.Protocol(rules.ICMP))
	plan := rules.Plan{V4: b.Ruleset(rules.IPv4)}
	s := newSandbox(t)
	s.RunInput(t, "table ip other {\nchain in { type filter hook prerouting priority -150; }\n}\n", "nft", "-f", "-")
	crafted(t, s, unix.NFPROTO_IPV4, "in", func(w *wire) {
		store(w, register, []byte{0x3a, 0x9e})
		expression(w, "tproxy", func() {
			w.number(tproxyFamily, unix.NFPROTO_IPV4)
			w.number(tproxyPort, register)
		})
	})
	if r := s.effect(t, plan, generate.Interfaces(plan, addresses)); r.Answer != effect.Less {
		t.Errorf("got %s: %v", r.Answer, r.Differences)
	}
}

// A set that is larger than what is read may hold anything. It does not keep the rest from being read, and what it holds is
// not taken in by the fingerprint; what a smaller one holds is.
func TestEffectOfLargeSets(t *testing.T) {
	nstest.Require(t, "nft")
	plan := plans.DualStack(t)
	interfaces := generate.Interfaces(plan, addresses)
	for name, tt := range map[string]struct {
		elements int
		want     effect.Answer
		counts   bool // in the fingerprint
	}{
		"small": {100, effect.Less, true},
		"large": {60_000, effect.CannotTell, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.write(t, plan)
			s.RunInput(t, "table inet other {\nset many { type ipv4_addr; }\nchain c {\ntype nat hook output priority -110;\n"+
				"ip daddr @many meta l4proto tcp redirect to :9000\n}\n}\n", "nft", "-f", "-")
			var elements []string
			for i := range tt.elements {
				elements = append(elements, fmt.Sprintf("20.%d.%d.%d", i>>16, i>>8&0xff, i&0xff))
			}
			for some := range slices.Chunk(elements, 1000) { // as many as an unprivileged user's socket sends at once
				s.RunInput(t, "add element inet other many { "+strings.Join(some, ", ")+" }\n", "nft", "-f", "-")
			}
			if r := s.effect(t, plan, interfaces); r.Answer != tt.want {
				t.Errorf("got %s: %v", r.Answer, r.Differences)
			}
			before := s.fingerprint(t)
			s.Run(t, "nft", "add element inet other many { 21.0.0.1 }")
			if counts := s.fingerprint(t) != before; counts != tt.counts {
				t.Errorf("another element counts: %t", counts)
			}
			c := s.dial(t)
			for range 2 { // the rest of an answer is in nobody's way
				c.forget()
				if err := s.ns.Do(func() error { _, err := read(c); return err }); err != nil {
					t.Error(err)
				}
			}
			if diffs, err := New(IPTables).Verify(t.Context(), s.ns, plan); err != nil || len(diffs) > 0 {
				t.Errorf("%v, %v", diffs, err)
			}
		})
	}
}

// The interfaces of a rule of iptables-legacy are those that the kernel compares with, whatever bytes stand there.
func TestLegacyNamesOfInterfaces(t *testing.T) {
	pod := effect.NewPod([]rules.Interface{{Name: "eth0", Addresses: addresses}})
	for name, tt := range map[string]struct {
		name, mask string
		want       effect.Set
	}{
		"all that begin so":       {"eth", "\xff\xff\xff", pod.Prefixed("eth")},
		"one":                     {"eth0\x00", "\xff\xff\xff\xff\xff", pod.Interface("eth0")},
		"one with a plus":         {"+\x00", "\xff\xff", pod.Interface("+")},
		"more behind a zero byte": {"eth0\x00x", "\xff\xff\xff\xff\xff\xff", effect.Set{}},
	} {
		t.Run(name, func(t *testing.T) {
			packet := make([]byte, 84) // struct ipt_ip
			copy(packet[packet4.interfaces:], tt.name)
			copy(packet[packet4.interfaces+2*unix.IFNAMSIZ:], tt.mask)
			var r effect.Rule
			p := program{view: view{pod: pod, family: rules.IPv4}, rule: &r}
			p.addressed(packet)
			if len(r.Conditions) != 1 {
				t.Fatalf("got %v", r.Conditions)
			}
			if got := r.Conditions[0].Set; !got.Without(tt.want).Empty() || !tt.want.Without(got).Empty() {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// Whatever a rule says, it is understood or not, and nothing that it says makes more of it.
func FuzzEffectOfRules(f *testing.F) {
	for _, dialect := range []func(*wire){
		func(w *wire) {
			meta(w, unix.NFT_META_SKUID)
			compare(w, unix.NFT_CMP_EQ, []byte{1, 2, 3, 4})
			redirect(w, 9000)
		},
		func(w *wire) {
			payload(w, unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4)
			bitwise(w, []byte{255, 255, 0, 0}, false)
			immediate(w, accept, "")
		},
		func(w *wire) {
			extension(w, "match", "comment", 0, make([]byte, 256))
			immediate(w, unix.NFT_JUMP, "c")
		},
	} {
		var w wire
		dialect(&w)
		f.Add([]byte(w))
	}
	f.Fuzz(func(t *testing.T, expressions []byte) {
		table, chain := []byte("t\x00"), []byte("c\x00")
		s := state{chains: []object{{family: unix.NFPROTO_IPV4, table: table, chain: chain, hook: hook{"filter", unix.NF_INET_LOCAL_OUT, 0, accept}}},
			rules: []object{{family: unix.NFPROTO_IPV4, table: table, chain: chain, expressions: expressions}}}
		pod := effect.NewPod([]rules.Interface{{Name: "eth0", Addresses: addresses}})
		side := effect.NewSide(pod, rules.IPv4, nil, nil)
		if err := s.addTo(side, pod, rules.IPv4, nil); err == nil {
			effect.Compare(pod, effect.NewSide(pod, rules.IPv4, nil, nil), side)
		}
	})
}

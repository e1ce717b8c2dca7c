// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// holds fails where the namespace does not hold a plan in the native dialect, and only that, or where the plan
// cannot be read back.
func (s sandbox) holds(t testing.TB, plan rules.Plan) {
	t.Helper()
	tables := New(Native)
	diffs, err := tables.Verify(t.Context(), s.ns, plan)
	if err != nil || len(diffs) > 0 {
		t.Fatalf("%v; differences: %v", err, diffs)
	}
	v4, v6, err := tables.Own(t.Context(), s.ns, plan.Footprint)
	if err != nil {
		t.Fatal(err)
	}
	back := rules.Plan{V4: v4, V6: v6, Routes: plan.Routes, Loopback: plan.Loopback}
	if back.Key() != plan.Key() {
		t.Errorf("the plan read back is another one:\n%s%s", v4, v6)
	}
}

func (s sandbox) native(t testing.TB, plan rules.Plan) (changed bool) {
	t.Helper()
	changed, err := New(Native).Apply(t.Context(), s.ns, plan)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// Every recorded pod's plan is written, found to be there, read back, and written once only.
func TestNativeHoldsRecordedPlans(t *testing.T) {
	s := newSandbox(t)
	for _, c := range plans.Recorded(t) {
		t.Run(c.Name, func(t *testing.T) {
			plan := plans.Of(t, istio.Standard(), c.Pod())
			s.native(t, plan)
			s.holds(t, plan)
			if s.native(t, plan) {
				t.Error("a second time changes something")
			}
			if text := s.Run(t, "nft", "list", "ruleset"); strings.Contains(text, "xt ") || strings.Contains(text, "# ") {
				t.Errorf("not all is of nf_tables' own kind:\n%s", text)
			}
		})
	}
}

// What nobody thinks of is written and read back too: random rules, with every match and target where it may
// stand. A failure names its seed.
func TestNativeHoldsRandomPlans(t *testing.T) {
	s := newSandbox(t)
	for _, seed := range sample.Seeds(t, 20, 100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			plan := randomPlan(rand.New(rand.NewPCG(seed, 0)))
			s.native(t, plan)
			s.holds(t, plan)
			if s.native(t, plan) {
				t.Error("a second time changes something")
			}
		})
	}
}

// randomPlan draws rules from few values, so that many could become one and many overlap.
func randomPlan(random *rand.Rand) rules.Plan {
	draw := draw{random}
	for {
		hooks := map[string]string{} // those of one table are the same in both families, as they are in the plan of any mesh
		for _, table := range drawnTables {
			hooks[table] = pick(draw, hooksOfTables[table]...)
		}
		plan := rules.Plan{V4: draw.ruleset(rules.IPv4, hooks), V6: draw.ruleset(rules.IPv6, hooks)}
		switch draw.IntN(4) {
		case 0:
			plan.V6 = rules.Ruleset{}
		case 1:
			plan.V6 = draw.alike(plan.V4)
		}
		if _, err := compile(plan); !errors.Is(err, errDeep) {
			return plan
		}
	}
}

type draw struct{ *rand.Rand }

// one is true once in so many times.
func (d draw) one(in int) bool { return d.IntN(in) == 0 }

func pick[T any](d draw, values ...T) T { return values[d.IntN(len(values))] }

var hooksOfTables = map[string][]string{"raw": {"PREROUTING", "OUTPUT"}, "mangle": {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	"nat": {"PREROUTING", "OUTPUT"}, "filter": {"INPUT", "FORWARD", "OUTPUT"}}

var drawnTables = []string{"raw", "mangle", "nat", "filter"}

func (d draw) ruleset(family rules.Family, hooks map[string]string) rules.Ruleset {
	var b rules.Builder
	for _, table := range drawnTables {
		hook := hooks[table]
		own := []string{"A", "B", "C"} // each jumps to later ones only
		for i := range own {
			if !d.one(3) {
				b.Append(table, hook, "", rules.Jump(own[i]), d.conditions(family, table, hook)...)
			}
			for range d.IntN(12) {
				d.rules(&b, family, table, own[i], hook, own[i+1:])
			}
			b.Append(table, own[i], "", rules.Return)
		}
		d.rules(&b, family, table, hook, hook, own)
	}
	return b.Ruleset(family)
}

// alike returns rules of IPv6 as a mesh writes them beside those of IPv4: the same, but for addresses and some that are left out.
func (d draw) alike(four rules.Ruleset) rules.Ruleset {
	var b rules.Builder
	for _, table := range four.Tables {
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				if len(r.Match) > 0 && d.one(6) {
					continue
				}
				match := slices.Clone(r.Match)
				for i, m := range match {
					if _, ok := m.Value.(rules.Addresses); ok {
						match[i].Value = rules.Destination(d.prefix(rules.IPv6)).Value
					}
				}
				switch t := r.Target.(type) {
				case rules.DNAT:
					r.Target = rules.DNAT{To: netip.IPv6Loopback(), Port: t.Port}
				case rules.TProxy:
					r.Target = rules.TProxy{Port: t.Port, Addr: netip.IPv6Unspecified(), Mark: t.Mark}
				case rules.RejectWith:
					if t == rules.RejectPort4 {
						r.Target = rules.RejectPort
					}
				}
				b.Append(table.Name, c.Name, "", r.Target, match...)
			}
		}
	}
	return b.Ruleset(rules.IPv6)
}

// rules adds one, or a row of them that are a list.
func (d draw) rules(b *rules.Builder, family rules.Family, table, chain, hook string, below []string) {
	match := d.conditions(family, table, hook)
	target := d.target(family, table, hook, below, &match)
	b.Append(table, chain, "", target, match...)
	for range d.IntN(4) {
		row := slices.Clone(match)
		for i, m := range row {
			switch v := m.Value.(type) {
			case rules.Port:
				if m.Field == rules.FieldSourcePort {
					continue
				}
				row[i].Value = rules.Port{Protocol: v.Protocol, Number: d.port()}
				if !m.Not && d.one(2) {
					row[i] = rules.ToAny(d.ports())
				}
			case rules.PortList:
				row[i] = rules.ToAny([]rules.PortRange{d.ports(), d.ports()}[:1+d.IntN(2)]...)
			case rules.Addresses:
				if m.Field == rules.FieldDestination {
					row[i].Value = rules.Addresses{Prefix: d.prefix(family)}
				}
			}
		}
		b.Append(table, chain, "", target, row...)
	}
}

func (d draw) port() uint16 { return pick[uint16](d, 1, 2, 53, 80, 443, 65535) }

func (d draw) prefix(family rules.Family) netip.Prefix {
	four := []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/16", "10.1.2.3/32", "11.0.0.0/8", "128.0.0.0/1", "0.0.0.0/1", "255.255.255.255/32", "10.128.0.0/9", "0.0.0.0/0", "127.0.0.1/32"}
	six := []string{"fd00::/8", "fd00::/16", "fd00::5/16", "fd00::1/128", "fe00::/8", "8000::/1", "::/1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "fd80::/9", "::/0", "::1/128"}
	if family == rules.IPv6 {
		four = six
	}
	return netip.MustParsePrefix(pick(d, four...))
}

// conditions come in any order.
func (d draw) conditions(family rules.Family, table, hook string) []rules.Match {
	var match []rules.Match
	maybe := func(in int, m rules.Match) {
		if d.one(in) {
			match = append(match, m)
		}
	}
	protocol := pick(d, rules.TCP, rules.UDP)
	maybe(4, rules.NotIf(d.one(4), rules.Destination(d.prefix(family))))
	maybe(8, rules.Source(d.prefix(family)))
	if hook == "OUTPUT" {
		maybe(4, rules.OutInterface(pick(d, "lo", "eth0", "eth+")))
		maybe(4, rules.NotIf(d.one(3), rules.OwnerUID(d.Uint32N(3))))
		maybe(8, rules.OwnerUIDs(d.Uint32N(3), pick(d, 3, 256, uint32(1337))))
		maybe(4, rules.NotIf(d.one(2), rules.OwnerGID(d.Uint32N(3))))
		maybe(8, rules.NotIf(d.one(2), rules.OwnerGID(d.Uint32N(3))))
	} else if hook != "POSTROUTING" {
		maybe(4, rules.InInterface(pick(d, "lo", "eth0", "eth+")))
	}
	maybe(8, rules.Comment(pick(d, "proxy-init/a", "b", "c:1,2")))
	maybe(6, rules.InState(rules.CTState(1+d.IntN(31))))
	maybe(6, rules.NotIf(d.one(3), rules.PacketMark(d.Uint32N(3))))
	if table != "raw" {
		maybe(6, rules.ConnMark(d.Uint32N(3)))
	}
	if d.one(2) {
		match = append(match, rules.Protocol(protocol))
		switch d.IntN(5) {
		case 3:
			match = append(match, rules.ToAny([]rules.PortRange{d.ports(), d.ports(), d.ports()}[:1+d.IntN(3)]...))
		case 0:
			match = append(match, rules.NotIf(d.one(4), rules.DestinationPort(protocol, d.port())))
		case 1:
			match = append(match, rules.SourcePort(protocol, d.port()))
		case 2:
			match = append(match, rules.ToNone([]uint16{d.port(), d.port()}[:1+d.IntN(2)]...))
		}
	}
	d.Shuffle(len(match), func(i, j int) {
		if a, b := rules.Protocol(protocol), match[i]; a == b || match[j] == a { // iptables wants it before the ports
			return
		}
		match[i], match[j] = match[j], match[i]
	})
	return match
}

// ports draws a port, or a range of them.
func (d draw) ports() rules.PortRange {
	first := d.port()
	return rules.PortRange{First: first, Last: max(first, pick(d, first, 443, 15008, 65535))}
}

// target adds the protocol where it needs one.
func (d draw) target(family rules.Family, table, hook string, below []string, match *[]rules.Match) rules.Target {
	targets := []rules.Target{rules.Return, rules.Return, rules.Accept, rules.Drop, rules.SetMark(d.Uint32N(3))}
	if table != "raw" {
		targets = append(targets, rules.SetConnMark(d.Uint32N(3)), rules.SaveMark{}, rules.RestoreMark{})
	}
	for _, chain := range below {
		targets = append(targets, rules.Jump(chain), rules.Jump(chain))
	}
	tcp := rules.Protocol(rules.TCP)
	any := netip.IPv4Unspecified()
	own := netip.MustParseAddr("127.0.0.1")
	if family == rules.IPv6 {
		any, own = netip.IPv6Unspecified(), netip.IPv6Loopback()
	}
	needsTCP := []rules.Target{}
	switch {
	case table == "raw":
		targets = append(targets, rules.CTZone(1), rules.CTZone(2))
	case table == "nat":
		needsTCP = append(needsTCP, rules.Redirect{Port: 1}, rules.Redirect{Port: 2}, rules.DNAT{To: own, Port: 53}, rules.DNAT{To: own})
	case table == "filter":
		needsTCP = append(needsTCP, rules.RejectReset)
		if family == rules.IPv6 {
			targets = append(targets, rules.RejectPort)
		} else {
			targets = append(targets, rules.RejectPort4)
		}
	case hook == "PREROUTING":
		needsTCP = append(needsTCP, rules.TProxy{Port: 1, Addr: any, Mark: 1}, rules.TProxy{Port: 1, Addr: own, Mark: 2})
	}
	for _, m := range *match {
		if m == rules.Protocol(rules.UDP) {
			return pick(d, targets...)
		}
	}
	target := pick(d, append(targets, needsTCP...)...)
	if slices.Contains(needsTCP, target) && !slices.Contains(*match, tcp) {
		*match = append(*match, tcp)
	}
	return target
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
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

// What stands in the table does to any packet what the plan's rules do, taken one by one as iptables does.
// A failure names its seed.
func TestNativeDoesWhatThePlanSays(t *testing.T) {
	for _, seed := range sample.Seeds(t, 100, 500) {
		random := draw{rand.New(rand.NewPCG(seed, 1))}
		plan := randomPlan(random.Rand)
		if seed%50 == 0 {
			cases := plans.Recorded(t)
			plan = plans.Of(t, istio.Standard(), cases[int(seed/50)%len(cases)].Pod())
		}
		n, err := compile(plan)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for range 200 {
			set := pick(random, plan.Rulesets()...)
			at := pick(random, nativeHooks...)
			before := random.packet(set.Family, at[1])
			want, got := before, before
			iptables{set.Table(at[0])}.run(at[1], &want)
			m := machine{native: n}
			if err := m.run(at[0]+"-"+at[1], &got); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if got != want {
				t.Fatalf("seed %d: %v: %+v\nnative makes of it %+v\niptables would     %+v\n%s", seed, at, before, got, want, set)
			}
		}
	}
}

// packet draws one of the values that random rules ask for.
func (d draw) packet(family rules.Family, hook string) passing {
	p := passing{family: family, protocol: pick(d, rules.TCP, rules.TCP, rules.UDP, ""), socket: hook == "OUTPUT" && !d.one(4),
		uid: pick(d, 0, 1, 2, 3, 256, uint32(1337)), gid: pick(d, 0, 1, 2, 3, uint32(1337)), state: 1 << d.IntN(5), mark: pick(d, 0, 1, 2, uint32(0x539)),
		connection: pick(d, 0, 1, 2, uint32(0x539)), listener: !d.one(3)}
	p.source = netip.AddrPortFrom(d.address(family), d.anyPort())
	p.dest = netip.AddrPortFrom(d.address(family), d.anyPort())
	if hook != "OUTPUT" && hook != "POSTROUTING" {
		p.in = pick(d, "lo", "eth0", "eth1", "net1")
	}
	if hook == "OUTPUT" || hook == "FORWARD" || hook == "POSTROUTING" {
		p.out = pick(d, "lo", "eth0", "eth1", "net1")
	}
	if !p.tracked() {
		p.connection = 0
	}
	return p
}

func (d draw) anyPort() uint16 {
	return pick(d, d.port(), d.port(), uint16(15008), 15020, 8080, d.port()+1, d.port()-1)
}

// address draws the first or last address of a range, or one beside it.
func (d draw) address(family rules.Family) netip.Addr {
	prefix := d.prefix(family)
	if d.one(4) {
		prefix = netip.MustParsePrefix("127.0.0.6/32")
		if family == rules.IPv6 {
			prefix = netip.MustParsePrefix("::6/128")
		}
	}
	begin, end := prefix.Addr(), after(prefix)
	if end.IsValid() {
		return pick(d, begin, end, end.Prev())
	}
	return begin
}

// iptables does what xtables does with the rules of one table, one after the other.
type iptables struct{ rules.Table }

func (x iptables) run(chain string, p *passing) { x.chain(chain, p) }

func (x iptables) chain(name string, p *passing) (ended bool) {
	c, _ := x.Chain(name)
	for _, r := range c.Rules {
		if slices.ContainsFunc(r.Match, func(m rules.Match) bool { return !p.meets(m) }) {
			continue
		}
		switch target := r.Target.(type) {
		case rules.Jump:
			if x.chain(string(target), p) {
				return true
			}
		case rules.Verdict:
			if target == rules.Return {
				return false
			}
			p.end = strings.ToLower(string(target))
			return true
		case rules.Redirect:
			p.end = fmt.Sprint("redirect ", target.Port)
			return true
		case rules.DNAT:
			port := target.Port
			if port == 0 {
				port = p.dest.Port()
			}
			p.end = fmt.Sprint("dnat ", netip.AddrPortFrom(target.To, port))
			return true
		case rules.TProxy:
			p.end = "drop"
			if p.listener {
				p.end, p.mark = fmt.Sprint("tproxy ", netip.AddrPortFrom(target.Addr, target.Port)), target.Mark
			}
			return true
		case rules.RejectWith:
			p.end = "reject " + string(target)
			return true
		case rules.SetMark:
			p.mark = uint32(target)
		case rules.SetConnMark:
			p.remember(uint32(target))
		case rules.SaveMark:
			p.remember(p.mark)
		case rules.RestoreMark:
			if p.tracked() {
				p.mark = p.connection
			}
		case rules.CTZone:
			if p.state != rules.StateUntracked { // which xt_CT leaves alone, and nft_ct by itself would track
				p.setZone(uint16(target))
			}
		}
	}
	return false
}

func (p *passing) meets(m rules.Match) bool {
	if len(m.Ports()) > 0 && p.protocol == "" {
		return false
	}
	return p.has(m) != m.Not
}

func (p *passing) has(m rules.Match) bool {
	is := func(pattern, name string) bool {
		begin, open := strings.CutSuffix(pattern, "+")
		return name == pattern || open && strings.HasPrefix(name, begin)
	}
	switch v := m.Value; m.Field {
	case rules.FieldProtocol:
		return v == rules.Transport(p.protocol)
	case rules.FieldSource:
		return v.(rules.Addresses).Contains(p.source.Addr())
	case rules.FieldDestination:
		return v.(rules.Addresses).Contains(p.dest.Addr())
	case rules.FieldIn:
		return is(string(v.(rules.Link)), p.in)
	case rules.FieldOut:
		return is(string(v.(rules.Link)), p.out)
	case rules.FieldSourcePort:
		return p.source.Port() == v.(rules.Port).Number
	case rules.FieldDestinationPort:
		return p.dest.Port() == v.(rules.Port).Number
	case rules.FieldDestinationPorts:
		return v.(rules.PortList).Contains(p.dest.Port())
	case rules.FieldComment:
		return true
	case rules.FieldUID:
		return p.socket && v.(rules.IDs).First <= p.uid && p.uid <= v.(rules.IDs).Last
	case rules.FieldGID:
		return p.socket && v.(rules.IDs).First == p.gid
	case rules.FieldCTState:
		return p.state&v.(rules.CTState) != 0
	case rules.FieldMark:
		return p.mark == uint32(v.(rules.Mark))
	case rules.FieldConnMark:
		return p.tracked() && p.connection == uint32(v.(rules.Mark))
	}
	return false
}

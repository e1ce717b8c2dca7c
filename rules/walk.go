// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"net/netip"
	"slices"
)

// track runs the raw table, before connection tracking, and then looks up the packet's connection (nf_conntrack_in in
// net/netfilter/nf_conntrack_core.c).
func (t *trace) track(chain string) error {
	t.packet.State, t.packet.ConnMark = StateInvalid, 0
	if err := t.table("raw", chain); err != nil || t.done {
		return err
	}
	t.packet.State, t.packet.ConnMark = t.state, t.connMark
	return nil
}

// nat runs the nat table. The kernel does so once per connection for its destination, at PREROUTING or OUTPUT, and once
// for its source, at INPUT or POSTROUTING; what comes of the first packet, be it nothing, holds for the rest
// (nf_nat_inet_fn in net/netfilter/nf_nat_core.c).
func (t *trace) nat(chain string) error {
	settled := &t.destination
	if chain == "INPUT" || chain == "POSTROUTING" {
		settled = &t.source
	}
	if !t.packet.first() || *settled {
		return nil
	}
	*settled = true
	return t.table("nat", chain)
}

// tables runs one table after the other, until one of them ends the packet.
func (t *trace) tables(chain string, tables ...string) error {
	for _, table := range tables {
		if err := t.table(table, chain); err != nil || t.done {
			return err
		}
	}
	return nil
}

// verdict is what a chain returns to the one that jumped to it.
type verdict uint8

const (
	goOn verdict = iota // continue with the next rule
	stop                // leave the table at this hook: accepted, or the packet has ended
)

// table walks a built-in chain; its policy is to accept.
func (t *trace) table(table, chain string) error {
	i := slices.IndexFunc(t.rules.Tables, func(x Table) bool { return x.Name == table })
	if i < 0 {
		return nil
	}
	h := hook{table: t.rules.Tables[i], name: chain}
	_, err := t.chain(h, chain, 0)
	return err
}

// hook is the place in the kernel at which a table runs.
type hook struct {
	table Table
	name  string // the built-in chain
}

// chain walks the rules of a chain. The kernel refuses a loop of jumps when it is written.
func (t *trace) chain(h hook, name string, depth int) (verdict, error) {
	i := slices.IndexFunc(h.table.Chains, func(c Chain) bool { return c.Name == name })
	switch {
	case i < 0 && depth == 0:
		return goOn, nil
	case i < 0:
		return stop, fmt.Errorf("table %s has no chain %s", h.table.Name, name)
	case depth > len(h.table.Chains):
		return stop, fmt.Errorf("table %s: the jumps to chain %s are a loop", h.table.Name, name)
	}
	for n, r := range h.table.Chains[i].Rules {
		fail := func(err error) (verdict, error) {
			return stop, fmt.Errorf("table %s, chain %s, rule %d, %s: %w", h.table.Name, name, n+1, r, err)
		}
		matches, err := t.matches(h, r)
		if err != nil {
			return fail(err)
		}
		if !matches {
			continue
		}
		step := len(t.path.Steps)
		t.path.Steps = append(t.path.Steps, Step{Table: h.table.Name, Chain: name, Index: n + 1, Rule: r})
		if jump, ok := r.Target.(Jump); ok {
			v, err := t.chain(h, string(jump), depth+1)
			if err != nil || v == stop {
				return v, err
			}
			continue
		}
		if r.Target == Return {
			return goOn, nil
		}
		v, note, err := t.target(h, r.Target)
		if err != nil {
			return fail(err)
		}
		t.path.Steps[step].Note = note
		if v == stop {
			return stop, nil
		}
	}
	return goOn, nil
}

// matches reports whether every condition of a rule holds. Only packets that are sent have an owner (the hooks of
// net/netfilter/xt_owner.c).
func (t *trace) matches(h hook, r Rule) (bool, error) {
	for _, m := range r.Match {
		switch m.(type) {
		case OwnerUID, OwnerUIDs, OwnerGID:
			if h.name != "OUTPUT" && h.name != "POSTROUTING" {
				return false, fmt.Errorf("the kernel refuses an owner at %s", h.name)
			}
		}
		if !m.holds(t.packet) {
			return false, nil
		}
	}
	return true, nil
}

// target executes a rule's target, except for jumps and returns.
func (t *trace) target(h hook, target Target) (verdict, string, error) {
	if !allowed(h, target) {
		return stop, "", fmt.Errorf("the kernel refuses this target in table %s at %s", h.table.Name, h.name)
	}
	switch target := target.(type) {
	case Verdict:
		if target == Drop {
			t.end(Dropped, "")
		}
		if target == Drop || target == Accept {
			return stop, "", nil
		}
	case Counting:
		return goOn, "counted", nil
	case SetMark:
		t.packet.Mark = uint32(target)
		return goOn, "", nil
	case SaveMark:
		if t.packet.tracked() {
			t.connMark, t.packet.ConnMark = t.packet.Mark, t.packet.Mark
		}
		return goOn, fmt.Sprintf("the connection's mark is %#x", t.connMark), nil
	case RestoreMark:
		if t.packet.tracked() {
			t.packet.Mark = t.packet.ConnMark
		}
		return goOn, fmt.Sprintf("mark %#x", t.packet.Mark), nil
	case CTZone:
		return goOn, t.zone(target), nil
	case Redirect:
		return stop, t.redirect(h, target), nil
	case DNAT:
		note, err := t.dnat(target)
		return stop, note, err
	case TProxy:
		return stop, t.tproxy(target), nil
	case RejectWith:
		switch {
		case target == RejectReset && t.packet.Protocol != TCP:
			return stop, "", fmt.Errorf("the kernel refuses a TCP reset for %s", t.packet.Protocol)
		case target == RejectPort && t.packet.Family() != IPv6, target == RejectPort4 && t.packet.Family() != IPv4:
			return stop, "", fmt.Errorf("the kernel refuses an answer of the other family's ICMP")
		}
		t.end(Refused, "")
		return stop, "", nil
	case Foreign:
		return stop, "", fmt.Errorf("a rule of somebody else decides here: it cannot be known how")
	}
	return stop, "", fmt.Errorf("the tracer does not know target %T %v", target, target)
}

// allowed tells where a target may stand (table and hooks in the registrations of net/netfilter/xt_*.c).
func allowed(h hook, target Target) bool {
	switch target.(type) {
	case Redirect, DNAT:
		return h.table.Name == "nat" && (h.name == "PREROUTING" || h.name == "OUTPUT")
	case TProxy:
		return h.table.Name == "mangle" && h.name == "PREROUTING"
	case CTZone:
		return h.table.Name == "raw"
	case RejectWith:
		return h.table.Name == "filter"
	}
	return true
}

// zone sets the connection's zone, which the first rule that names one decides. A packet that came in by lo has its
// connection already (net/netfilter/xt_CT.c).
func (t *trace) zone(zone CTZone) string {
	if t.looped || t.zoned {
		return "the zone is chosen already"
	}
	t.zoned = true
	if t.state&(StateInvalid|StateUntracked) == 0 {
		t.path.End.Zone = uint16(zone)
	}
	t.packet.State = StateNew // what a rule of raw sees from here on is the zone's template
	return ""
}

// redirect sends the packet to the loopback address, or where it arrived, to that interface's first address
// (net/netfilter/nf_nat_redirect.c).
func (t *trace) redirect(h hook, to Redirect) string {
	addr := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if t.packet.Family() == IPv6 {
		addr = netip.IPv6Loopback()
	}
	if h.name == "PREROUTING" {
		if addr = t.primary(t.packet.In); !addr.IsValid() {
			t.end(Dropped, "")
			return "interface " + t.packet.In + " has no address to redirect to"
		}
	}
	t.redirected = true
	t.packet.Destination = netip.AddrPortFrom(addr, to.Port)
	return "to " + t.packet.Destination.String()
}

// dnat sends the packet to the address that the rule names (net/netfilter/nf_nat_core.c).
func (t *trace) dnat(to DNAT) (string, error) {
	if to.To.Is6() != (t.packet.Family() == IPv6) {
		return "", fmt.Errorf("the kernel refuses %s, which is of the other family", to.To)
	}
	port := to.Port
	if port == 0 {
		port = t.packet.Destination.Port()
	}
	t.redirected = true
	t.packet.Destination = netip.AddrPortFrom(to.To, port)
	return "to " + t.packet.Destination.String(), nil
}

// primary returns the address of an interface that REDIRECT uses: for a link-local IPv6 destination a link-local one,
// otherwise a global one if there is any.
func (t *trace) primary(name string) netip.Addr {
	six, local := t.packet.Family() == IPv6, t.packet.Destination.Addr().IsLinkLocalUnicast()
	var last netip.Addr
	for _, i := range t.interfaces {
		if i.Name != name {
			continue
		}
		for _, addr := range i.Addresses {
			if addr.Is6() != six {
				continue
			}
			if !six || addr.IsLinkLocalUnicast() == local {
				return addr
			}
			if !local && !last.IsValid() {
				last = addr
			}
		}
	}
	return last
}

// tproxy gives the packet to the listener. A connection that exists has its socket already: a transparent
// one is the proxy's own, any other loses the packet (tproxy_tg4 in net/netfilter/xt_TPROXY.c).
func (t *trace) tproxy(to TProxy) string {
	if t.state == StateEstablished && !t.packet.Transparent {
		t.end(Dropped, "")
		return "the connection's own socket is not transparent"
	}
	t.packet.Mark, t.held = to.Mark, true
	if t.state != StateEstablished {
		t.listener = to.Port
	}
	return fmt.Sprintf("mark %#x", to.Mark)
}

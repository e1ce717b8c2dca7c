// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// Witnesses returns packets of one family that meet every rule of its rule set that a packet can meet, and
// such that just miss it: in each condition one that fulfils it and one that does not, by every owner and to
// every kind of address.
func Witnesses(rs rules.Ruleset, interfaces []rules.Interface) []rules.Packet {
	w := witnesses{scene: newScene(rs, interfaces), seen: map[rules.Packet]bool{}}
	bases := w.bases()
	for _, base := range bases {
		w.add(base)
	}
	for _, table := range rs.Tables {
		for _, c := range table.Chains {
			if c.Builtin {
				w.chain(bases, table, c, nil)
			}
		}
	}
	return w.all
}

// Meets reports whether a packet matched that rule, counted from 1, of a chain on its way.
func Meets(p rules.Path, table, chain string, index int) bool {
	return slices.ContainsFunc(p.Steps, func(s rules.Step) bool { return s.Table == table && s.Chain == chain && s.Index == index })
}

type witnesses struct {
	scene
	all  []rules.Packet
	seen map[rules.Packet]bool
}

func (w *witnesses) add(p rules.Packet) {
	if p.Direction == rules.Inbound { // what only a socket has
		p.Socket, p.UID, p.GID, p.Mark = false, 0, 0, 0
	}
	if p.State&(rules.StateRelated|rules.StateEstablished) == 0 { // what only a connection has that exists
		p.ConnMark, p.Transparent = 0, false
	}
	if !w.seen[p] {
		w.seen[p] = true
		w.all = append(w.all, p)
	}
}

// bases are packets that no rule has asked for anything: by every owner, to every kind of address, and of other protocols from
// the pod and to it.
func (w *witnesses) bases() []rules.Packet {
	all := w.begin(rules.TCP, w.destinations)
	for _, protocol := range w.protocols {
		all = append(all, w.begin(protocol, []netip.Addr{w.outside, w.own})...)
	}
	return all
}

// begin returns the packets of a protocol, and to some addresses.
func (w *witnesses) begin(protocol string, destinations []netip.Addr) []rules.Packet {
	var all []rules.Packet
	for _, dst := range destinations {
		for _, o := range w.owners {
			all = append(all, rules.Packet{Protocol: protocol, Out: "eth0", State: rules.StateNew, Socket: o.socket, UID: o.uid, GID: o.gid,
				Source: netip.AddrPortFrom(w.own, 40000), Destination: netip.AddrPortFrom(dst, 9999)})
		}
	}
	for _, name := range w.names {
		for _, dst := range []netip.Addr{w.own, w.outside} { // the latter for somebody behind the pod
			all = append(all, rules.Packet{Direction: rules.Inbound, Protocol: protocol, In: name, Out: "eth0", State: rules.StateNew,
				Source: netip.AddrPortFrom(w.far, 40000), Destination: netip.AddrPortFrom(dst, 9999)})
		}
	}
	return all
}

// chain adds the packets for the rules of a chain, which is reached by the conditions of the jumps to it.
func (w *witnesses) chain(bases []rules.Packet, table rules.Table, c rules.Chain, way []rules.Match) {
	meeting := make([][]edit, len(c.Rules))
	for i, r := range c.Rules {
		meeting[i] = w.meetAll(r.Match)
	}
	for i, r := range c.Rules {
		conditions := append(slices.Clone(way), r.Match...)
		variants := w.variants(conditions)
		met := w.meetAll(conditions)
		for _, base := range bases {
			for _, edits := range variants {
				p := edited(edited(base, met), edits)
				w.add(p)
				for _, later := range meeting[i+1:] { // meets both, if any packet does
					w.add(edited(p, later))
				}
			}
		}
		if jump, ok := r.Target.(rules.Jump); ok {
			if next, ok := table.Chain(string(jump)); ok && len(way) < 10 {
				w.chain(bases, table, next, conditions)
			}
		}
	}
}

// variants are what may be done to a packet that meets all the conditions: nothing, and what for each of them makes it meet that in
// another way or just miss it.
func (w *witnesses) variants(all []rules.Match) [][]edit {
	variants := [][]edit{nil}
	for _, m := range all {
		for _, e := range slices.Concat(w.meet(m), w.miss(m)) {
			variants = append(variants, edits(e))
		}
	}
	return variants
}

// meetAll returns an edit for each condition that one can fulfil.
func (w *witnesses) meetAll(all []rules.Match) (first []edit) {
	for _, m := range all {
		if edits := w.meet(m); len(edits) > 0 {
			first = append(first, edits[0])
		}
	}
	return first
}

func edited(p rules.Packet, edits []edit) rules.Packet {
	for _, e := range edits {
		e(&p)
	}
	return p
}

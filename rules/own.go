// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"
	"strings"
)

func (f Footprint) chain(c Chain) bool { return !c.Builtin && f.Has(c.Name) }

// Has reports whether a chain of that name is ours wherever it stands: a lockdown's is any mesh's, and nobody's without one.
func (f Footprint) Has(chain string) bool {
	return slices.Contains(f.Chains, chain) || len(f.Chains) > 0 && isLockdown(chain)
}

// ownership says whose rule it is.
type ownership uint8

const (
	theirs  ownership = iota
	perhaps           // ours by its place only: replaced together with our rules, but no difference by itself
	certain           // ours
)

// ownRules tells for each rule of each chain of a table whether it is ours. In our own chains, every rule is. In built-in
// chains, the rules that jump to our chains or use our marks or comments are ("anchors"), and so are the interface
// exceptions that go with them ("by this interface: RETURN"). A table without any of our chains or comments holds nothing
// of ours.
func ownRules(t Table, ours Footprint) map[string][]ownership {
	own := make(map[string][]ownership, len(t.Chains))
	ours = ours.in(t)
	present := ours.present(t)
	for _, c := range t.Chains {
		own[c.Name] = make([]ownership, len(c.Rules))
		switch {
		case !present:
		case c.Builtin:
			ours.mark(own[c.Name], c, t)
		case ours.chain(c):
			for i := range c.Rules {
				own[c.Name][i] = certain
			}
		}
	}
	return own
}

// mark tells which rules of a built-in chain are ours: the anchors, and every exception before the last anchor. Of the
// exceptions after it, the first ones are ours, as many as vouched counts. In a chain without anchors, exceptions at the
// head may be those of rerouted interfaces.
func (f Footprint) mark(own []ownership, c Chain, t Table) {
	last := f.lastAnchor(c)
	vouched := f.vouchedExceptions(c, t)
	rerouted := 0
	if c.Name == "PREROUTING" && last < 0 && f.reroutesWithoutAnchor(t) {
		rerouted = reroutedAtTheHead(c, f.excludedInterfaces(t))
	}
	for i, r := range c.Rules {
		iface, exception := r.interfaceReturn()
		switch {
		case f.anchor(r):
			own[i] = certain
		case i < rerouted:
			own[i] = perhaps
		case exception && (i < last || vouched[iface] > 0):
			vouched[iface]--
			own[i] = certain
		}
	}
}

// reroutedAtTheHead counts the exceptions at the head of a chain that stand before those of excluded interfaces, since
// those of rerouted ones are written first.
func reroutedAtTheHead(c Chain, excluded []string) int {
	const end = "\n" // in no name, so that one search finds the last place
	var names strings.Builder
	names.WriteString(end)
	for _, r := range c.Rules {
		iface, exception := r.interfaceReturn()
		if !exception {
			break
		}
		names.WriteString(iface + end)
	}
	head := names.String()
	last := strings.LastIndex(head, end+strings.Join(append(excluded, ""), end))
	return strings.Count(head[:max(last, 0)], end)
}

// excludedInterfaces returns the interfaces of the exceptions before the last anchor of OUTPUT.
func (f Footprint) excludedInterfaces(t Table) []string {
	var names []string
	output, _ := t.Chain("OUTPUT")
	for _, r := range output.Rules[:f.lastAnchor(output)+1] {
		if iface, ok := r.interfaceReturn(); ok {
			names = append(names, iface)
		}
	}
	return names
}

// vouchedExceptions counts, by interface, the exceptions of a chain that other rules of ours prove to be ours: an excluded
// interface has one in OUTPUT too, before the anchor there; a rerouted interface is named by anchors.
func (f Footprint) vouchedExceptions(c Chain, t Table) map[string]int {
	count := map[string]int{}
	for _, iface := range f.excludedInterfaces(t) {
		count[iface]++
	}
	same := map[string]int{} // an interface that is listed twice has each anchor twice
	rerouted := map[string]int{}
	for _, r := range c.Rules {
		for _, m := range r.On(FieldIn) {
			if f.anchor(r) {
				same[r.String()]++
				rerouted[m.link()] = max(rerouted[m.link()], same[r.String()])
			}
		}
	}
	for iface, n := range rerouted {
		count[iface] += n
	}
	return count
}

// reroutesWithoutAnchor reports whether interfaces may be rerouted although no anchor names them: where no range is
// captured, no rule sends anything to the chain for rerouted traffic.
func (f Footprint) reroutesWithoutAnchor(t Table) bool {
	if _, ok := t.Chain(f.Reroute); !ok {
		return false
	}
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			if f.chain(c) && r.Target == Jump(f.Reroute) && r.byAddressOnly() {
				return false
			}
		}
	}
	return true
}

func (r Rule) byAddressOnly() bool {
	return !slices.ContainsFunc(r.Match, func(m Match) bool { return m.Field != FieldDestination })
}

func (f Footprint) lastAnchor(c Chain) int {
	for i := len(c.Rules) - 1; i >= 0; i-- {
		if f.anchor(c.Rules[i]) {
			return i
		}
	}
	return -1
}

// anchor reports whether a rule of a built-in chain can only be ours.
func (f Footprint) anchor(r Rule) bool {
	if jump, ok := r.Target.(Jump); ok && f.Has(string(jump)) {
		return true
	}
	if mark, ok := r.Target.(SetMark); ok && slices.Contains(f.Marks, uint32(mark)) {
		return true
	}
	if f.comments(r) {
		return true
	}
	return slices.ContainsFunc(r.Match, func(m Match) bool {
		mark, ok := m.Value.(Mark)
		return ok && slices.Contains(f.Marks, uint32(mark))
	})
}

// comments reports whether a rule has one of our comments.
func (f Footprint) comments(r Rule) bool {
	return len(f.Comments) > 0 && slices.ContainsFunc(r.Match, func(m Match) bool {
		c, ok := m.Value.(Text)
		return ok && slices.ContainsFunc(f.Comments, func(prefix string) bool { return strings.HasPrefix(string(c), prefix) })
	})
}

// interfaceReturn reports whether a rule is nothing but "by this interface: RETURN", and which one.
func (r Rule) interfaceReturn() (string, bool) {
	if r.Target != Return || len(r.Match) != 1 {
		return "", false
	}
	link, ok := r.Match[0].Value.(Link)
	return string(link), ok
}

// SPDX-License-Identifier: Apache-2.0

package rules

import "slices"

func (f Footprint) chain(c Chain) bool { return !c.Builtin && slices.Contains(f.Chains, c.Name) }

// ownRules tells for each rule of each chain of a table whether it is ours. All rules of our chains are.
// Of the built-in chains, those are that jump to our chains or use our marks ("anchors"), and the
// interface exceptions that belong to them. Without one of our chains a table holds nothing of ours.
func ownRules(t Table, ours Footprint) map[string][]bool {
	own := make(map[string][]bool, len(t.Chains))
	present := slices.ContainsFunc(t.Chains, ours.chain)
	excepted := ours.exceptedInterfaces(t)
	for _, c := range t.Chains {
		flags := make([]bool, len(c.Rules))
		own[c.Name] = flags
		if !present || (!c.Builtin && !ours.chain(c)) {
			continue
		}
		last := ours.lastAnchor(c)
		var seen []string // of the same exception twice, the first is ours
		for i, r := range c.Rules {
			iface, isReturn := r.interfaceReturn()
			switch {
			case !c.Builtin, ours.anchor(r):
				flags[i] = true
			case isReturn && i < last:
				flags[i] = true
			case isReturn && slices.Contains(excepted, iface) && !slices.Contains(seen, iface):
				flags[i] = true
			}
			if isReturn {
				seen = append(seen, iface)
			}
		}
	}
	return own
}

// exceptedInterfaces returns the interfaces that our rules name beyond doubt: those returned before an
// anchor of OUTPUT, and those of anchors themselves.
func (f Footprint) exceptedInterfaces(t Table) []string {
	var names []string
	output, _ := t.Chain("OUTPUT")
	for _, r := range output.Rules[:f.lastAnchor(output)+1] {
		if iface, ok := r.interfaceReturn(); ok {
			names = append(names, iface)
		}
	}
	prerouting, _ := t.Chain("PREROUTING")
	for _, r := range prerouting.Rules {
		for _, m := range r.Match {
			if iface, ok := m.(InInterface); ok && f.anchor(r) {
				names = append(names, string(iface))
			}
		}
	}
	return names
}

func (f Footprint) lastAnchor(c Chain) int {
	for i := len(c.Rules) - 1; i >= 0; i-- {
		if f.anchor(c.Rules[i]) {
			return i
		}
	}
	return -1
}

// anchor tells whether a rule of a built-in chain can only be ours.
func (f Footprint) anchor(r Rule) bool {
	if jump, ok := r.Target.(Jump); ok && slices.Contains(f.Chains, string(jump)) {
		return true
	}
	if mark, ok := r.Target.(SetMark); ok && slices.Contains(f.Marks, uint32(mark)) {
		return true
	}
	for _, m := range r.Match {
		switch m := m.(type) {
		case PacketMark:
			if slices.Contains(f.Marks, m.Mark) {
				return true
			}
		case ConnMark:
			if slices.Contains(f.Marks, m.Mark) {
				return true
			}
		}
	}
	return false
}

// interfaceReturn tells whether a rule is nothing but "by this interface: RETURN", and which one.
func (r Rule) interfaceReturn() (string, bool) {
	if r.Target != Return || len(r.Match) != 1 {
		return "", false
	}
	switch m := r.Match[0].(type) {
	case InInterface:
		return string(m), true
	case OutInterface:
		return string(m), true
	}
	return "", false
}

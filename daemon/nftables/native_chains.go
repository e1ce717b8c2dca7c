// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// translation turns the chains of one table of both families into chains of the own table.
type translation struct {
	*compiler
	table     string
	four, six printedTable
}

// deepest is how many chains can lead into each other (NFT_JUMP_STACK_SIZE). The kernel counts a goto like a jump.
const deepest = 16

// errDeep is returned for a plan that the kernel would refuse.
var errDeep = errors.New("too many jumps into each other, or rules about what is not of an owner")

// chain translates a chain and those that it jumps to, and returns how many chains it is deep.
func (t *translation) chain(name string) (depth int, err error) {
	full := t.name(name, 0)
	if depth, ok := t.depths[full]; ok {
		if depth == 0 {
			return 0, fmt.Errorf("the jumps to chain %s are a loop", name)
		}
		return depth, nil
	}
	t.depths[full] = 0
	place := len(t.chains)
	four, has4 := t.four.chain(name)
	six, has6 := t.six.chain(name)
	either := has4 && has6 || four.Builtin || six.Builtin
	parts, depth, err := t.parts(name, merged(four, six, t.once), either)
	if err != nil {
		return 0, err
	}
	if depth > deepest {
		return 0, fmt.Errorf("chain %s: %w: %d deep, and the kernel takes %d", name, errDeep, depth, deepest)
	}
	t.depths[full] = depth
	t.chains = slices.Insert(t.chains, place, parts...)
	return depth, nil
}

// name returns the name of a chain's part.
func (t *translation) name(chain string, part int) string {
	full := t.table + "-" + chain
	if part > 0 {
		full += "/" + strconv.Itoa(part+1)
	}
	return full
}

// parts writes a chain, split where a rule is for packets that are not an owner's. Those include packets without a socket,
// for which no owner expression is ever true. So the owner's packets go past the rule instead, to the next part, by a goto,
// which leaves RETURN its meaning.
// Packets of either family may meet the chain, or those of one only.
func (t *translation) parts(chain string, lines []*line, either bool) (parts []nativeChain, depth int, err error) {
	part := nativeChain{name: t.name(chain, 0)}
	for i, l := range lines {
		c, err := t.condition(l, either)
		acts, err2 := t.target(chain, l)
		below, err3 := t.jump(l)
		if err := errors.Join(err, err2); err != nil {
			return nil, 0, fmt.Errorf("chain %s: %q: %w", chain, l.text, err)
		}
		if err3 != nil {
			return nil, 0, err3
		}
		depth = max(depth, len(parts)+1+below)
		text, next := l.String(), ""
		if counter := l.Counter(chain); counter != "" {
			text = counter + counterEnd + text
		}
		if len(c.without) > 0 && i+1 < len(lines) {
			next = t.name(chain, len(parts)+1)
		}
		for _, not := range c.without {
			part.rules = append(part.rules, t.rule("unless: "+text, &l.Rule, func(w *wire) { c.appendTo(w); not(w); goOn(w, next) }))
		}
		for i, then := range acts {
			comment := text
			if i > 0 {
				comment = "otherwise: " + text
			}
			part.rules = append(part.rules, t.rule(comment, &l.Rule, func(w *wire) { c.appendTo(w); then(w) }))
		}
		if next != "" {
			part.rules = append(part.rules, t.rule("what follows in "+chain, nil, func(w *wire) { goOn(w, next) }))
			parts = append(parts, part)
			part = nativeChain{name: next}
		}
	}
	return append(parts, part), max(depth, len(parts)+1), nil
}

// counterEnd stands in the comment of a rule that counts for a lockdown, behind the name of its counter.
const counterEnd = ": "

// goOn leads to the next part of a chain, or to the chain's end.
func goOn(w *wire, next string) {
	if next == "" {
		immediate(w, unix.NFT_RETURN, "")
		return
	}
	immediate(w, unix.NFT_GOTO, next)
}

// String returns the first of the rules, and how many more there are.
func (l *line) String() string {
	text := l.text
	if more := len(l.values) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// jump translates the chain that a line leads to and returns how deep it is.
func (t *translation) jump(l *line) (depth int, err error) {
	to, jumps := l.Target.(rules.Jump)
	if !jumps {
		return 0, nil
	}
	_, has4 := t.four.chain(string(to))
	_, has6 := t.six.chain(string(to))
	if l.family != rules.IPv6 && !has4 || l.family != rules.IPv4 && !has6 {
		return 0, fmt.Errorf("no chain %s", to)
	}
	return t.chain(string(to))
}

// once reports whether meeting a target twice has the same effect as meeting it once. It has not where a chain marks a
// packet that then returns to other rules.
func (t *translation) once(target rules.Target) bool {
	jump, ok := target.(rules.Jump)
	return !ok || !t.marks(string(jump), 0)
}

// marks reports whether a chain may leave something behind on a packet that returns from it.
func (t *translation) marks(name string, depth int) bool {
	four, _ := t.four.chain(name)
	six, _ := t.six.chain(name)
	return slices.ContainsFunc(slices.Concat(four.Rules, six.Rules), func(r rules.Rule) bool {
		switch target := r.Target.(type) {
		case rules.SetMark, rules.SetConnMark, rules.SaveMark, rules.RestoreMark, rules.CTZone:
			return true
		case rules.Jump:
			return depth > deepest || t.marks(string(target), depth+1)
		}
		return false
	})
}

// act is what a rule does with a packet that meets its condition.
type act func(*wire)

// target returns what the rules of a chain do that stand for a target: one, and for TPROXY a second one. A lockdown's count, too.
func (t *translation) target(chain string, l *line) ([]act, error) {
	if err := suits(t.table, l.Rule); err != nil {
		return nil, err
	}
	count := func(w *wire) {
		if l.Counter(chain) != "" {
			counter(w)
		}
	}
	switch target := l.Target.(type) {
	case rules.Jump:
		return []act{func(w *wire) { immediate(w, unix.NFT_JUMP, t.name(string(target), 0)) }}, nil
	case rules.Verdict:
		code, err := verdictCode(target)
		return []act{func(w *wire) { count(w); immediate(w, code, "") }}, err
	case rules.Redirect:
		return []act{func(w *wire) { redirect(w, target.Port) }}, nil
	case rules.DNAT:
		if rules.FamilyOf(target.To) != l.family {
			return nil, fmt.Errorf("%s is no address of this family", target.To)
		}
		return []act{func(w *wire) { translate(w, l.family, target) }}, nil
	case rules.TProxy:
		if rules.FamilyOf(target.Addr) != l.family {
			return nil, fmt.Errorf("%s is no address of this family", target.Addr)
		}
		return []act{
			func(w *wire) { handOver(w, l.family, target) },
			func(w *wire) { immediate(w, drop, "") }, // without a listener, packets must not go around the proxy
		}, nil
	case rules.SetMark:
		return []act{func(w *wire) { storeNumber(w, uint32(target)); setMark(w) }}, nil
	case rules.SetConnMark:
		return []act{func(w *wire) { counter(w); storeNumber(w, uint32(target)); setConnection(w, unix.NFT_CT_MARK) }}, nil
	case rules.SaveMark:
		return []act{func(w *wire) { meta(w, unix.NFT_META_MARK); setConnection(w, unix.NFT_CT_MARK) }}, nil
	case rules.RestoreMark:
		return []act{func(w *wire) { connection(w, unix.NFT_CT_MARK); setMark(w) }}, nil
	case rules.CTZone:
		// For a packet that somebody exempted from tracking, the kernel would begin to track it.
		return []act{func(w *wire) { notUntracked(w); storeZone(w, uint16(target)); setConnection(w, unix.NFT_CT_ZONE) }}, nil
	case rules.RejectWith:
		if _, known := xtRejects[max(l.family, rules.IPv4)][target]; !known {
			return nil, fmt.Errorf("%s is no answer of this family", target)
		}
		return []act{func(w *wire) { count(w); reject(w, target) }}, nil
	}
	return nil, fmt.Errorf("%T cannot be written by netlink", l.Target)
}

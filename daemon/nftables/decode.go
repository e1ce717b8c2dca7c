// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// decoded is the tables of iptables of one family as values, and where their rules are in the kernel.
type decoded struct {
	rules.Ruleset
	handles map[rules.Place][]uint64 // by table and chain; Index is not used
	strange []rules.Difference       // chains that are not hooked as iptables hooks them, tables that are off
}

func (d decoded) handle(table, chain string, index int) uint64 {
	return d.handles[rules.Place{Chain: table + " " + chain}][index]
}

// has reports whether there is a chain.
func (d decoded) has(table, chain string) bool {
	_, found := d.handles[rules.Place{Chain: table + " " + chain}]
	return found
}

// firstKept returns the handle of the first rule of a built-in chain that an edit leaves there. Rules are deleted from the end of
// each chain on.
func (d decoded) firstKept(e rules.Edit, chain string) uint64 {
	handles := d.handles[rules.Place{Chain: e.Table + " " + chain}]
	kept := 0
	for _, gone := range slices.Backward(e.Delete) {
		if gone == (rules.Place{Chain: chain, Index: kept}) {
			kept++
		}
	}
	if kept == len(handles) {
		return 0
	}
	return handles[kept]
}

// decode reads the tables of iptables. A rule that meshnetd does not know how to write is rules.Foreign.
func (s state) decode(family rules.Family) (decoded, error) {
	d := decoded{Ruleset: rules.Ruleset{Family: family}, handles: map[rules.Place][]uint64{}}
	nf := nfFamily(family)
	for _, t := range s.tables {
		if t.family != nf || !t.ofIPTables() {
			continue
		}
		table := rules.Table{Name: name(t.table)}
		if t.dormant {
			d.strange = append(d.strange, rules.Difference{Family: family, Table: table.Name, Kind: "table is off (dormant)"})
		}
		for _, c := range s.chains {
			if c.family != nf || !bytes.Equal(c.table, t.table) {
				continue
			}
			chain, handles, err := decodeChain(family, c, c.of(s.rules))
			if err != nil {
				return d, err
			}
			if want, base := baseHooks[[2]string{table.Name, chain.Name}]; (base || c.hook.kind != "") && !c.hook.like(want) {
				d.strange = append(d.strange, rules.Difference{Family: family, Table: table.Name, Chain: chain.Name, Kind: "not hooked as iptables does"})
			}
			table.Chains = append(table.Chains, chain)
			d.handles[rules.Place{Chain: table.Name + " " + chain.Name}] = handles
		}
		d.Tables = append(d.Tables, table)
	}
	return d, nil
}

// like leaves the policy alone, which others may set.
func (h hook) like(other hook) bool {
	return h.kind == other.kind && h.number == other.number && h.priority == other.priority
}

func decodeChain(family rules.Family, c object, list []object) (rules.Chain, []uint64, error) {
	chain := rules.Chain{Name: name(c.chain), Builtin: c.hook.kind != ""}
	handles := make([]uint64, 0, len(list))
	for _, o := range list {
		r, err := decodeRule(family, o.expressions)
		if err != nil {
			return chain, nil, err
		}
		chain.Rules = append(chain.Rules, r)
		handles = append(handles, o.handle)
	}
	return chain, handles, nil
}

// reader decodes the expressions of one rule, one after the other.
type reader struct {
	family   rules.Family
	rule     rules.Rule
	loaded   load
	protocol string // with ports that the rule matches
	foreign  []string
}

// load is what the register holds.
type load struct {
	location
	mask []byte // nil is all bits
}

// decodeRule fails where the kernel's answer cannot be read. Anything unknown, down to an attribute, makes the rule
// Foreign, so that a decoded rule never does more than it says.
func decodeRule(family rules.Family, expressions []byte) (rules.Rule, error) {
	r := reader{family: family}
	err := eachExpression(expressions, func(kind string, a attributes) error {
		r.take(kind, a)
		return nil
	})
	if err != nil {
		return rules.Rule{}, err
	}
	if r.loaded.from != "" {
		r.unknown("without a comparison")
	}
	if r.rule.Target == nil {
		r.rule.Target = rules.Count
	}
	if len(r.foreign) > 0 {
		words := append([]string{"(as nft shows it:"}, r.foreign...)
		if jump, ok := r.rule.Target.(rules.Jump); ok {
			words = append(words, "-j", string(jump))
		}
		return rules.Rule{Target: rules.Foreign(strings.Join(append(words, ")"), " "))}, nil
	}
	return r.rule, nil
}

// attributes are those of an expression, by number. Numbers beyond the known ones set unknown.
type attributes struct {
	values  [8][]byte
	unknown bool
}

// eachExpression calls fn for every expression of a list.
func eachExpression(list []byte, fn func(kind string, a attributes) error) error {
	return eachAttribute(list, func(element attribute) error {
		kind, a, err := splitExpression(element.value)
		if err != nil {
			return err
		}
		a.unknown = a.unknown || element.kind != unix.NFTA_LIST_ELEM
		return fn(kind, a)
	})
}

func splitExpression(element []byte) (kind string, data attributes, err error) {
	err = eachAttribute(element, func(a attribute) error {
		switch a.kind {
		case unix.NFTA_EXPR_NAME:
			kind = exactly(a.value)
		case unix.NFTA_EXPR_DATA:
			return eachAttribute(a.value, func(a attribute) error {
				if int(a.kind) >= len(data.values) || data.values[a.kind] != nil {
					data.unknown = true
					return nil
				}
				data.values[a.kind] = a.value
				return nil
			})
		default:
			data.unknown = true
		}
		return nil
	})
	return kind, data, err
}

// number returns the value of an attribute of four bytes; a missing one is not ok.
func (a attributes) number(kind int) (n uint32, ok bool) {
	v := a.values[kind]
	if len(v) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(v), true
}

// only reports whether there are no other attributes than these.
func (a attributes) only(kinds ...int) bool {
	n := 0
	for _, v := range a.values {
		if v != nil {
			n++
		}
	}
	for _, kind := range kinds {
		if a.values[kind] != nil {
			n--
		}
	}
	return n == 0 && !a.unknown
}

func (r *reader) unknown(what string) { r.foreign = append(r.foreign, what) }

func (r *reader) take(name string, a attributes) {
	if name == "counter" && !a.unknown {
		return
	}
	text := name
	ok := r.rule.Target == nil // nothing follows a target
	switch name {
	case "meta", "payload":
		ok = ok && r.load(name, a)
	case "bitwise":
		ok = ok && r.mask(a)
	case "cmp":
		ok = ok && r.compare(a)
	case "match", "target":
		text += " " + unix.ByteSliceToString(a.values[unix.NFTA_MATCH_NAME])
		ok = ok && r.extended(name, a)
	case "immediate":
		ok = r.verdict(a) && ok
	default:
		ok = false
	}
	if !ok {
		r.unknown(text)
	}
}

func (r *reader) load(name string, a attributes) bool {
	if r.loaded.from != "" { // what was loaded before was never used
		return false
	}
	l := load{location: location{from: name}}
	var ok, known bool
	var into uint32
	if name == "meta" {
		l.key, ok = a.number(unix.NFTA_META_KEY)
		into, known = a.number(unix.NFTA_META_DREG)
		ok = ok && known && a.only(unix.NFTA_META_KEY, unix.NFTA_META_DREG)
	} else {
		var o1, o2 bool
		l.key, ok = a.number(unix.NFTA_PAYLOAD_BASE)
		l.offset, o1 = a.number(unix.NFTA_PAYLOAD_OFFSET)
		l.length, o2 = a.number(unix.NFTA_PAYLOAD_LEN)
		into, known = a.number(unix.NFTA_PAYLOAD_DREG)
		ok = ok && o1 && o2 && known && a.only(unix.NFTA_PAYLOAD_BASE, unix.NFTA_PAYLOAD_OFFSET, unix.NFTA_PAYLOAD_LEN, unix.NFTA_PAYLOAD_DREG)
	}
	r.loaded = l
	return ok && into == register
}

// compare turns a comparison of what is loaded into a match.
func (r *reader) compare(a attributes) bool {
	from, ok := a.number(unix.NFTA_CMP_SREG)
	operator, ok2 := a.number(unix.NFTA_CMP_OP)
	data := dataOf(a.values[unix.NFTA_CMP_DATA])
	l := r.loaded
	r.loaded = load{}
	if !ok || !ok2 || from != register || operator > unix.NFT_CMP_NEQ || !a.only(unix.NFTA_CMP_SREG, unix.NFTA_CMP_OP, unix.NFTA_CMP_DATA) {
		return false
	}
	m, ok := r.matchOf(l, data, operator == unix.NFT_CMP_NEQ)
	if !ok {
		return false
	}
	if name, ok := m.Value.(rules.Transport); ok && (name == rules.TCP || name == rules.UDP) {
		r.protocol = string(name)
	}
	r.rule.Match = append(r.rule.Match, m)
	return true
}

// mask reads "register & mask".
func (r *reader) mask(a attributes) bool {
	from, ok := a.number(unix.NFTA_BITWISE_SREG)
	into, ok2 := a.number(unix.NFTA_BITWISE_DREG)
	mask, xor := dataOf(a.values[unix.NFTA_BITWISE_MASK]), dataOf(a.values[unix.NFTA_BITWISE_XOR])
	operation, given := a.number(bitwiseOperation)
	if given && operation != 0 || !a.only(unix.NFTA_BITWISE_SREG, unix.NFTA_BITWISE_DREG, unix.NFTA_BITWISE_LEN,
		unix.NFTA_BITWISE_MASK, unix.NFTA_BITWISE_XOR, bitwiseOperation) {
		return false
	}
	length, ok3 := a.number(unix.NFTA_BITWISE_LEN)
	if !ok || !ok2 || !ok3 || from != register || into != register || r.loaded.mask != nil {
		return false
	}
	if int(length) != len(mask) || !bytes.Equal(xor, make([]byte, length)) {
		return false
	}
	r.loaded.mask = mask
	return true
}

// bitwiseOperation is NFTA_BITWISE_OP; 0 is the only one of older kernels.
const bitwiseOperation = 6

// exactly returns a name that ends with one zero byte, else "", which is no name.
func exactly(value []byte) string {
	if n := name(value); len(value) == len(n)+1 {
		return n
	}
	return ""
}

// only returns the value of a list's single attribute; nil where there is another one.
func only(list []byte, kind uint16) (value []byte) {
	n := 0
	err := eachAttribute(list, func(a attribute) error {
		if n++; a.kind == kind {
			value = a.value
		}
		return nil
	})
	if err != nil || n != 1 {
		return nil
	}
	return value
}

// dataOf returns the value of data.
func dataOf(list []byte) []byte { return only(list, unix.NFTA_DATA_VALUE) }

// extended reads a match or target of xtables.
func (r *reader) extended(kind string, a attributes) (ok bool) {
	revision, ok := a.number(unix.NFTA_MATCH_REV)
	if !ok || !a.only(unix.NFTA_MATCH_NAME, unix.NFTA_MATCH_REV, unix.NFTA_MATCH_INFO) {
		return false
	}
	extension, info := exactly(a.values[unix.NFTA_MATCH_NAME]), a.values[unix.NFTA_MATCH_INFO]
	if kind == "target" {
		r.rule.Target, ok = decodeTarget(r.family, extension, revision, info)
		return ok
	}
	m, ok := decodeMatch(extension, revision, info)
	r.rule.Match = append(r.rule.Match, m)
	switch v := m.Value.(type) {
	case rules.PortList:
		return ok && r.protocol != "" && sayable(m)
	case rules.IDs:
		return ok && (v.First == v.Last || sayable(m))
	case rules.Text:
		return ok && sayable(m)
	}
	return ok
}

// sayable reports whether a match survives printing and parsing. Somebody else's need not: a comment may be several words,
// and a range may end before it begins.
func sayable(m rules.Match) bool {
	again := rules.ParseRule(rules.Rule{Match: []rules.Match{m}, Target: rules.Return}.String())
	return again.Target == rules.Target(rules.Return)
}

func (r *reader) verdict(a attributes) bool {
	code, chain, known := verdictIn(a)
	if !known {
		return false
	}
	into, ok := a.number(unix.NFTA_IMMEDIATE_DREG)
	ok = ok && into == unix.NFT_REG_VERDICT && a.only(unix.NFTA_IMMEDIATE_DREG, unix.NFTA_IMMEDIATE_DATA)
	if code == unix.NFT_JUMP || code == unix.NFT_GOTO {
		r.rule.Target = rules.Jump(chain)
		return ok && chain != "" && code == unix.NFT_JUMP
	}
	v, named := verdicts[code]
	r.rule.Target = v
	return ok && named && chain == ""
}

// verdictIn returns the verdict of an immediate, and the chain that it leads to; false where it has anything else.
func verdictIn(a attributes) (code int32, chain string, ok bool) {
	strange := false
	err := eachAttribute(only(a.values[unix.NFTA_IMMEDIATE_DATA], unix.NFTA_DATA_VERDICT), func(a attribute) error {
		switch a.kind {
		case unix.NFTA_VERDICT_CODE:
			code, ok = int32(a.number()), len(a.value) == 4
		case unix.NFTA_VERDICT_CHAIN:
			chain = exactly(a.value)
		default:
			strange = true
		}
		return nil
	})
	return code, chain, ok && !strange && err == nil
}

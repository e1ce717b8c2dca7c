// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/rules"
)

// The iptables dialect: rules as iptables-nft 1.8.8 and newer writes them, byte for byte, so that its
// programs show and change them.

// baseHooks says how iptables-nft hooks the chains of its tables.
var baseHooks = map[[2]string]hook{
	{"raw", "PREROUTING"}:     {"filter", unix.NF_INET_PRE_ROUTING, -300, accept},
	{"raw", "OUTPUT"}:         {"filter", unix.NF_INET_LOCAL_OUT, -300, accept},
	{"mangle", "PREROUTING"}:  {"filter", unix.NF_INET_PRE_ROUTING, -150, accept},
	{"mangle", "INPUT"}:       {"filter", unix.NF_INET_LOCAL_IN, -150, accept},
	{"mangle", "FORWARD"}:     {"filter", unix.NF_INET_FORWARD, -150, accept},
	{"mangle", "OUTPUT"}:      {"route", unix.NF_INET_LOCAL_OUT, -150, accept},
	{"mangle", "POSTROUTING"}: {"filter", unix.NF_INET_POST_ROUTING, -150, accept},
	{"nat", "PREROUTING"}:     {"nat", unix.NF_INET_PRE_ROUTING, -100, accept},
	{"nat", "INPUT"}:          {"nat", unix.NF_INET_LOCAL_IN, 100, accept},
	{"nat", "OUTPUT"}:         {"nat", unix.NF_INET_LOCAL_OUT, -100, accept},
	{"nat", "POSTROUTING"}:    {"nat", unix.NF_INET_POST_ROUTING, 100, accept},
	{"filter", "INPUT"}:       {"filter", unix.NF_INET_LOCAL_IN, 0, accept},
	{"filter", "FORWARD"}:     {"filter", unix.NF_INET_FORWARD, 0, accept},
	{"filter", "OUTPUT"}:      {"filter", unix.NF_INET_LOCAL_OUT, 0, accept},
}

// nfFamily is a family as nf_tables numbers it.
func nfFamily(f rules.Family) byte { return netlink.Family(f) }

// ip is the reverse of nfFamily, for an object of iptables.
func (o object) ip() rules.Family {
	if o.family == unix.NFPROTO_IPV6 {
		return rules.IPv6
	}
	return rules.IPv4
}

// appendRule writes a rule as iptables-nft does: interfaces, protocol and addresses first, extensions in
// their order, a counter, the target.
func appendRule(w *wire, family rules.Family, r rules.Rule) error {
	list := w.nest(unix.NFTA_RULE_EXPRESSIONS)
	protocol := byte(0)
	for order := range extensions + 1 {
		for _, m := range r.Match {
			if fields[m.Field].order != order {
				continue
			}
			if xt := xtMatches[m.Field]; xt.name != "" && !xt.old {
				extension(w, "match", xt.name, xt.revision, xt.info(m))
			} else {
				appendAsk(w, family, m)
			}
			if name, ok := m.Value.(rules.Transport); ok {
				protocol = protocolNumbers[string(name)]
			}
		}
	}
	counter(w)
	if err := appendTarget(w, family, r.Target); err != nil {
		return err
	}
	w.end(list)
	if protocol != 0 { // extensions ask for it
		compat := w.nest(unix.NFTA_RULE_COMPAT)
		w.number(unix.NFTA_RULE_COMPAT_PROTO, uint32(protocol))
		w.number(unix.NFTA_RULE_COMPAT_FLAGS, 0)
		w.end(compat)
	}
	return nil
}

func appendTarget(w *wire, family rules.Family, t rules.Target) error {
	switch t := t.(type) {
	case rules.Jump:
		immediate(w, unix.NFT_JUMP, string(t))
	case rules.Verdict:
		code, err := verdictCode(t)
		if err != nil {
			return err
		}
		immediate(w, code, "")
	case rules.Redirect, rules.DNAT, rules.TProxy, rules.SetMark, rules.SetConnMark, rules.SaveMark, rules.RestoreMark, rules.CTZone, rules.RejectWith:
		name, revision, info := xtTarget(family, t)
		extension(w, "target", name, revision, info)
	default:
		return fmt.Errorf("%T cannot be written by netlink", t)
	}
	return nil
}

func verdictCode(v rules.Verdict) (int32, error) {
	for code, verdict := range verdicts {
		if v == verdict {
			return code, nil
		}
	}
	return 0, fmt.Errorf("verdict %s cannot be written by netlink", v)
}

var verdicts = map[int32]rules.Verdict{unix.NFT_RETURN: rules.Return, accept: rules.Accept, drop: rules.Drop}

// appendEdits writes what turns the tables of one family into what a plan wants.
func appendEdits(b *batch, s state, have decoded, edits []rules.Edit) error {
	nf := nfFamily(have.Family)
	for _, e := range edits {
		if !s.hasTable(nf, e.Table) {
			b.newTable(nf, e.Table)
		}
		for _, name := range e.Empty {
			if have.has(e.Table, name) {
				b.flush(nf, e.Table, name)
			} else {
				b.newChain(nf, e.Table, name, hook{})
			}
		}
		for _, place := range e.Delete {
			b.deleteRule(nf, e.Table, place.Chain, have.handle(e.Table, place.Chain, place.Index))
		}
		if err := appendInsertions(b, nf, have, e); err != nil {
			return err
		}
		for _, name := range e.Drop {
			b.deleteChain(nf, e.Table, name)
		}
	}
	return nil
}

// appendInsertions adds rules behind the others of their chain, or where those of somebody else are there,
// before the first of them.
func appendInsertions(b *batch, nf byte, have decoded, e rules.Edit) error {
	var made []string
	for i := range e.Insert {
		in := &e.Insert[i]
		if in.Builtin && !have.has(e.Table, in.Chain) && !slices.Contains(made, in.Chain) {
			h, ok := baseHooks[[2]string{e.Table, in.Chain}]
			if !ok {
				return fmt.Errorf("table %s has no chain %s", e.Table, in.Chain)
			}
			b.newChain(nf, e.Table, in.Chain, h)
			made = append(made, in.Chain)
		}
		before := uint64(0)
		if in.BeforeOthers {
			before = have.firstKept(e, in.Chain)
		}
		if err := b.newRule(nf, e.Table, in.Chain, before, &in.Rule, func(w *wire) error { return appendRule(w, have.Family, in.Rule) }); err != nil {
			return err
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// condition is what a packet must meet, in the order in which it is asked.
type condition struct {
	asks    []ask
	without []ask // owners that it must not have
}

var errNoProtocol = errors.New("asks for ports without a protocol")

// suits returns an error for a rule that iptables would refuse too, and for one in raw that asks about the connection: a
// zone that was just chosen looks like one there, and differently in the two dialects.
func suits(table string, r rules.Rule) error {
	asked := func(m rules.Match) bool { return slices.Contains(r.Match, m) }
	tcp, udp := rules.Protocol(rules.TCP), rules.Protocol(rules.UDP)
	connection := len(r.On(rules.FieldConnMark)) > 0
	switch r.Target.(type) {
	case rules.Redirect, rules.DNAT, rules.TProxy: // DNAT may go without where it leaves the port
		if d, ok := r.Target.(rules.DNAT); ok && d.Port == 0 {
			break
		}
		if !asked(tcp) && !asked(udp) {
			return errNoProtocol
		}
	case rules.RejectWith:
		if r.Target == rules.Target(rules.RejectReset) && !asked(tcp) {
			return errors.New("resets what need not be TCP")
		}
	case rules.SetConnMark, rules.SaveMark, rules.RestoreMark:
		connection = true
	}
	if connection && table == "raw" {
		return errors.New("there is no connection in raw yet whose mark could be known")
	}
	return nil
}

// ask loads something of the packet and compares it, or ends the rule.
type ask func(*wire)

func (c condition) appendTo(w *wire) {
	for _, a := range c.asks {
		a(w)
	}
}

// condition translates those of a line, and makes the sets that it needs. Where packets of either family come, a line of one
// asks for it.
func (t *translation) condition(l *line, either bool) (condition, error) {
	var c condition
	var protocols []string
	isAddress := func(m rules.Match) bool { _, ok := m.Value.(rules.Addresses); return ok }
	asked := false
	askFamily := func() {
		if !asked {
			c.asks = append(c.asks, func(w *wire) { matchFamily(w, l.family) })
		}
		asked = true
	}
	if either && l.family != both && !slices.ContainsFunc(l.Match, isAddress) {
		askFamily()
	}
	without := map[rules.Field][]rules.Match{}
	for i, m := range l.Match {
		if p := protocolOf(m); p != "" && !slices.Contains(protocols, p) {
			protocols = append(protocols, p)
			c.asks = append(c.asks, func(w *wire) { appendAsk(w, l.family, rules.Protocol(p)) })
		}
		if isAddress(m) {
			askFamily() // for nft to show it as such, the family must be asked first
		}
		_, owner := m.Value.(rules.IDs)
		switch {
		case m.Field == rules.FieldProtocol:
			continue
		case m.Field == rules.FieldDestinationPorts && len(protocols) == 0:
			return c, errNoProtocol
		case owner && m.Not:
			without[m.Field] = append(without[m.Field], rules.Not(m))
			continue
		}
		a, err := t.ask(l.family, m, l.listAt(i))
		if err != nil {
			return c, err
		}
		c.asks = append(c.asks, a)
	}
	for _, f := range []rules.Field{rules.FieldUID, rules.FieldGID} {
		if owners := without[f]; len(owners) > 0 {
			a, err := t.ask(l.family, owners[0], owners)
			if err != nil {
				return c, err
			}
			c.without = append(c.without, a)
		}
	}
	return c, nil
}

// ask translates one condition; values are what it may be in its place.
func (t *translation) ask(family rules.Family, m rules.Match, values []rules.Match) (ask, error) {
	if a, ok := m.Value.(rules.Addresses); ok && rules.FamilyOf(a.Addr()) != family {
		return nil, fmt.Errorf("%s is no address of this family", a)
	}
	list, listed := m.Value.(rules.PortList)
	single := listed && len(list.All()) == 1 && list.All()[0].First == list.All()[0].Last
	if len(values) <= 1 && (!listed || single) {
		return func(w *wire) { appendAsk(w, family, m) }, nil
	}
	if len(values) <= 1 {
		values = []rules.Match{m}
	}
	set, flags := t.set(setOf(values)), uint32(0)
	if m.Not {
		flags = unix.NFT_LOOKUP_F_INV
	}
	return func(w *wire) { locationOf(m.Field, family).load(w); lookup(w, set, flags) }, nil
}

func matchFamily(w *wire, family rules.Family) {
	meta(w, unix.NFT_META_NFPROTO)
	compare(w, unix.NFT_CMP_EQ, []byte{nfFamily(family)})
}

func notUntracked(w *wire) { compareState(w, rules.StateUntracked, unix.NFT_CMP_EQ) }

func compareState(w *wire, m rules.CTState, withNone uint32) {
	connection(w, unix.NFT_CT_STATE)
	bitwise(w, binary.NativeEndian.AppendUint32(nil, uint32(states(m, nfStates))), true)
	compare(w, withNone, make([]byte, 4))
}
